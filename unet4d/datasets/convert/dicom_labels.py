"""Labels of DICOM studies from segmentations (SEG) and structure sets (RTSTRUCT) that refer to their images.

A part of a drawing belongs to the frame and slice of the image that it refers to. A part without a reference is placed by its
position, where only one frame of one study lies there, or where it has a TemporalPositionIndex. A frame counts as drawn if a
part is of one of its slices; its other slices are background.

Segments and ROIs become classes by their names, through the user's table if there is one. Of a segment the label is tried first,
then its description and the meaning of its code.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from unet4d.datasets.convert.layout_options import LayoutOptions
from unet4d.datasets.study import StudyLabel
from unet4d.errors import InputError
from unet4d.images.dicom.drawings import Drawing, Part
from unet4d.images.dicom.instance import Plane
from unet4d.images.dicom.rasterize import contour_pixels, distance_mm, frame_pixels, lies_on
from unet4d.images.dicom.volume4d import SliceStack, decode_frames
from unet4d.images.image4d import Image4D
from unet4d.images.segmentations import name_key, with_background
from unet4d.system.class_values import BACKGROUND, is_name
from unet4d.system.text import count, short_repr, shorten_list, suggest_names

logger = logging.getLogger(__name__)

_MOST_CLASSES = 255


@dataclass(frozen=True)
class PlacedPart:
    """A part of a drawing on the plane of frame t and slice z of a study."""

    drawing: Drawing
    part: Part
    t: int
    z: int
    plane: Plane


@dataclass(frozen=True)
class _Location:
    """A plane of a study."""

    study: int
    t: int
    z: int
    plane: Plane


class _PlaceError(Exception):
    """A part has no place in a study; the message is the reason."""

    def __init__(self, studies: set[int], reason: str) -> None:
        super().__init__(reason)
        self.studies = studies


def find_labels(
    drawings: Sequence[Drawing], stacks: Sequence[Sequence[SliceStack | InputError]], options: LayoutOptions
) -> tuple[list[partial[StudyLabel] | None], dict[str, int]]:
    """Find the label of each study, and the classes of all; pixels are not read.

    A drawing that is of none of the studies is reported and ignored, and so are those of its parts that are of none.

    Args:
        drawings: of the source.
        stacks: of each study, one per channel.
        options: of the user.

    Returns:
        for each study the function that reads its label, given the image; None where nothing was drawn.
        class name to label value, background at 0; empty where nothing was drawn.

    Raises:
        InputError: the user's table names a segment that no drawing has, or a class that `labels` does not name; too many
            classes.
    """
    placed: list[list[PlacedPart]] = [[] for _ in stacks]
    faults: list[dict[str, None]] = [{} for _ in stacks]
    index = _PlaneIndex(stacks)
    used = []
    for drawing in sorted(drawings, key=lambda drawing: (*drawing.series.sort_key, str(drawing.file))):
        of_none = 0
        for part in drawing.parts:
            try:
                found = index.locate(drawing, part)
            except _PlaceError as error:
                for study in error.studies:
                    faults[study][f"{drawing.title}: {error}"] = None
                continue
            of_none += not found
            for at in found:
                placed[at.study].append(PlacedPart(drawing, part, at.t, at.z, at.plane))
        used += [drawing] if of_none < len(drawing.parts) else []
        _report(drawing, of_none)
    classes = _Classes(used, options)
    labels: list[partial[StudyLabel] | None] = []
    for parts, reasons in zip(placed, faults, strict=True):
        has_label = bool(parts or reasons)
        labels.append(partial(read_drawn_label, tuple(parts), classes, tuple(reasons)) if has_label else None)
    return labels, classes.values if used else {}


def files_of(label: partial[StudyLabel] | None) -> tuple[Path, ...]:
    """Return the files that a label of `find_labels` is read from."""
    return tuple(dict.fromkeys(one.drawing.file for one in label.args[0])) if label else ()


def _report(drawing: Drawing, of_none: int) -> None:
    """Report what of a drawing is left out, and a drawing that no person made."""
    parts = len(drawing.parts)
    what = "contour" if drawing.kind == "RT Structure Set" else "frame"
    if of_none == parts:
        reason = (
            f"none of its {count(parts, what)} is of an image of a study here" if parts else "nothing is drawn in it"
        )
        logger.warning(f"ignored: {drawing.title}: {reason}")
        return
    if of_none:
        logger.warning(f"ignored: {of_none} of {count(parts, what)} of {drawing.title}: of images of no study here")
    if drawing.skipped:
        logger.warning(
            f"ignored: {count(drawing.skipped, what)} of {drawing.title}: points or open lines, which hold no area"
        )
    if drawing.algorithm:
        logger.warning(
            f"{drawing.title}: drawn by {drawing.algorithm} without a person; leave it out if it should not teach"
        )


class _PlaneIndex:
    """The planes of all studies by the image that they come from."""

    def __init__(self, stacks: Sequence[Sequence[SliceStack | InputError]]) -> None:
        self._of: dict[str, list[_Location]] = {}
        every = [(study, stack) for study, channels in enumerate(stacks) for stack in channels]
        for study, stack in every:
            if isinstance(stack, InputError):
                continue
            for t, frame in enumerate(stack.planes):
                for z, plane in enumerate(frame):
                    self._of.setdefault(plane.instance, []).append(_Location(study, t, z, plane))

    def locate(self, drawing: Drawing, part: Part) -> list[_Location]:
        """Return the planes that a part was drawn on; none where it is of no image here.

        Raises:
            _PlaceError: it lies elsewhere than the image it refers to, or refers to several frames without its time.
        """
        if not part.references:
            return self._locate_by_position(drawing, part)
        found = [
            at
            for uid, frame in dict.fromkeys(part.references)
            for at in self._of.get(uid, ())
            if frame is None or at.plane.index == frame
        ]
        on_plane = [at for at in found if lies_on(part, at.plane)]
        if found and not on_plane:
            off = min(distance_mm(part, at.plane) for at in found)
            raise _PlaceError(
                {at.study for at in found},
                f"{_name(part)} lies {off:.3g} mm off the image that it refers to, expected on it; export it again",
            )
        if len({(at.t, at.z) for at in on_plane}) > 1 and part.time is not None:
            on_plane = [at for at in on_plane if at.t == part.time - 1]
        if len({(at.t, at.z) for at in on_plane}) > 1:
            raise _PlaceError(
                {at.study for at in on_plane},
                f"{_name(part)} refers to {len(on_plane)} images at its place, expected one; export it with a reference to it",
            )
        return on_plane

    def _locate_by_position(self, drawing: Drawing, part: Part) -> list[_Location]:
        if part.place is None and part.points_mm is None:
            return []
        uids = drawing.instances or self._of.keys()
        here = [at for uid in uids for at in self._of.get(uid, ())]
        here = [at for at in here if at.plane.series.study == drawing.series.study and lies_on(part, at.plane)]
        if part.time is not None:
            here = [at for at in here if at.t == part.time - 1]
        if len({(at.study, at.t) for at in here}) > 1:
            raise _PlaceError(
                {at.study for at in here},
                f"{_name(part)} names no image, and {len(here)} images lie at its place, expected a reference to one of them; "
                "export it with references",
            )
        return here


def _name(part: Part) -> str:
    return f"{'frame' if part.points_mm is None else 'contour'} {part.index}"


class _Classes:
    """The class of each segment.

    Attributes:
        values: class name to label value, background at 0.
    """

    def __init__(self, drawings: Sequence[Drawing], options: LayoutOptions) -> None:
        table = {name_key(name): given for name, given in (options.segments or {}).items()}
        self._table, self._is_given = table, bool(options.labels)
        self.values: dict[str, int] = with_background(options.labels) if options.labels else {BACKGROUND: 0}
        names = {name_key(name) for drawing in drawings for texts in drawing.names for name in texts}
        for name, given in (options.segments or {}).items():
            if drawings and name_key(name) not in names:
                known = shorten_list(dict.fromkeys(texts[0] for drawing in drawings for texts in drawing.names))
                raise InputError(
                    f"segments names {short_repr(name)}, which no drawing here has; they have {known}; correct it"
                )
            if self._is_given and given and self._value(given) is None:
                raise InputError(
                    f"segments gives {short_repr(name)} the class {short_repr(given)}{suggest_names(given, self.values)}, expected "
                    f"one of {', '.join(self.values)}; name it in labels"
                )
        for texts in (texts for drawing in drawings for texts in drawing.names) if not self._is_given else ():
            name = self._chosen(texts)
            if name and self._value(name) is None:
                self.values[name] = len(self.values)
        if len(self.values) > _MOST_CLASSES + 1:
            raise InputError(
                f"the drawings name {len(self.values) - 1} classes, expected at most {_MOST_CLASSES}; give labels"
            )

    def value_of(self, texts: Sequence[str]) -> int | None:
        """Return the label value of a segment by its names; None where the user leaves it out.

        Raises:
            InputError: no class has one of its names.
        """
        name = self._chosen(texts)
        if not name:
            return None
        value = self._value(name)
        if value is None:
            classes = ", ".join(self.values)
            raise InputError(
                f"got a segment {short_repr(name)}{suggest_names(name, self.values)}, expected one of {classes}; name it in "
                f"labels, or give its class, nothing to leave it out: --segments '{{{name}: {list(self.values)[-1]}}}'"
            )
        return value

    def _chosen(self, texts: Sequence[str]) -> str:
        """Return the name of the class of a segment: in the user's table, else the first that names a class; "": left out."""
        for text in texts:
            if text and name_key(text) in self._table:
                return self._table[name_key(text)]
        usable = [text for text in texts if is_name(text)]
        known = [text for text in usable if self._is_given and self._value(text) is not None]
        return next(iter(known or usable), "unnamed")

    def _value(self, name: str) -> int | None:
        keys = {name_key(known): value for known, value in self.values.items()}
        return keys.get(name_key(name))


def read_drawn_label(
    parts: Sequence[PlacedPart], classes: _Classes, faults: Sequence[str], image: Image4D
) -> StudyLabel:
    """Read the label of a study from its drawings.

    Args:
        parts: with their frames and slices.
        classes: of all segments.
        faults: parts without a place.
        image: of the study.

    Raises:
        InputError: a fault; a segment without a class; classes that overlap; two drawings of one class on one image that
            differ; pixels that are cut off or damaged.
    """
    if faults:
        raise InputError(shorten_list(faults, 2, "; "))
    label = np.zeros((image.frames, *image.grid), dtype=np.uint8)
    drawn: dict[tuple[int, int, int], tuple[Drawing, np.ndarray]] = {}
    for drawing in dict.fromkeys(one.drawing for one in parts):
        for (t, z, value), mask in _masks(drawing, [one for one in parts if one.drawing is drawing], classes).items():
            other, same = drawn.setdefault((t, z, value), (drawing, mask))
            where = f"frame {t}, slice {z}"
            if not np.array_equal(same, mask):
                name = _class_name(classes, value)
                raise InputError(
                    f"{other.title} and {drawing.file} draw {name} differently in {where}, expected one drawing; remove one"
                )
            shared = np.unique(label[t, :, :, z][mask & (label[t, :, :, z] != value) & (label[t, :, :, z] != 0)])
            if len(shared) and value:
                raise InputError(
                    f"{drawing.title}: {_class_name(classes, value)} overlaps {_class_name(classes, int(shared[0]))} in {where}, "
                    "expected each pixel in one class; redraw it, or leave one out: --segments '{NAME: }'"
                )
            if value:
                label[t, :, :, z][mask] = value
    frames = tuple(sorted({one.t for one in parts}))
    return label, None if len(frames) == image.frames else frames


def _class_name(classes: _Classes, value: int) -> str:
    return next(name for name, known in classes.values.items() if known == value)


def _masks(drawing: Drawing, parts: Sequence[PlacedPart], classes: _Classes) -> dict[tuple[int, int, int], np.ndarray]:
    """Return the pixels (X, Y) of each frame, slice and label value that a drawing fills."""
    regions: dict[tuple[int, int, int], np.ndarray] = {}
    found: dict[tuple[int, int, int], np.ndarray] = {}
    try:
        used = {one.part.segment for one in parts}
        segments = range(len(drawing.names)) if None in used else sorted(one for one in used if one is not None)
        values = {segment: classes.value_of(drawing.names[segment]) for segment in segments}
        for segment, t, z, mask in _drawn_pixels(drawing, parts):
            old = regions.get((t, z, segment), np.zeros_like(mask))
            regions[t, z, segment] = old | mask if drawing.kind != "RT Structure Set" else old ^ mask  # a hole
    except InputError as error:
        named = str(drawing.file) in str(error)
        raise InputError(str(error) if named else f"{drawing.title}: {error}") from error
    for (t, z, segment), mask in regions.items():
        value = values[segment]
        if value is not None:
            found[t, z, value] = found.get((t, z, value), np.zeros_like(mask)) | mask
    return found


def _drawn_pixels(drawing: Drawing, parts: Sequence[PlacedPart]) -> Iterator[tuple[int, int, int, np.ndarray]]:
    """Yield segment, frame, slice and pixels (X, Y) of each part."""
    if drawing.kind == "RT Structure Set":
        for one in parts:
            assert one.part.segment is not None
            yield one.part.segment, one.t, one.z, contour_pixels(one.part, one.plane)
        return
    indices = sorted({one.part.index for one in parts})
    frames = dict(zip(indices, decode_frames(drawing.file, indices), strict=True))
    for one in parts:
        pixels = frames[one.part.index]
        if one.part.segment is not None:
            yield one.part.segment, one.t, one.z, frame_pixels(pixels != 0, one.part, one.plane)
            continue
        for segment, number in enumerate(drawing.numbers):
            yield segment, one.t, one.z, frame_pixels(pixels == number, one.part, one.plane)
