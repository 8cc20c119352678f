"""One pass over the files of a study's image, frame by frame: what is wrong with them, and what they hold."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from unet4d.datasets.cases import Case, channel_count_message
from unet4d.datasets.issues import Issue
from unet4d.datasets.verify.frame_order import describe_misplaced_frames, thumbnail
from unet4d.datasets.verify.header_checks import check_header, check_space, find_grid_issue
from unet4d.datasets.verify.mirrored_labels import choose_frames, subsample
from unet4d.datasets.verify.study_properties import INTENSITY_PERCENTILES, StudyProperties
from unet4d.errors import InputError
from unet4d.images.channels import MAP, reorient_channels
from unet4d.images.grid import WorkingGrid
from unet4d.images.nifti import Header, open_nifti
from unet4d.images.time_axis import TimeAxis
from unet4d.system.text import count, describe_frames

SAMPLED_VOXELS = 1_000_000
"""Voxels of a channel, evenly spread, that its percentiles are taken from when it has more."""

Shape = tuple[int, int, int, int]


@dataclass
class _Seen:
    """What one pass over a file leaves: a row or a word a frame, and a sample of the voxels."""

    file: Path
    digests: list[str] = field(default_factory=list)
    constant: list[int] = field(default_factory=list)
    thumbnails: list[np.ndarray] = field(default_factory=list)
    samples: list[np.ndarray] = field(default_factory=list)
    bad: int = 0
    first_bad: str = ""

    def alike(self) -> list[list[int]]:
        """The frames that hold more than one value, those that are the same voxel by voxel together."""
        frames: dict[str, list[int]] = {}
        for t, digest in enumerate(self.digests):
            if t not in self.constant:
                frames.setdefault(digest, []).append(t)
        return list(frames.values())


@dataclass
class CheckedImage:
    """A study's image after its pass.

    Attributes:
        faults: all that was found.
        facts: what it is like; None where the first channel's file is missing or cannot be read.
        header: of that file, with `shape` (T, X, Y, Z); None likewise, and then nothing is compared with it.
        compared: frame to its reduced voxels, of the frames to compare with their labels (mirrored_labels.py).
    """

    faults: list[Issue]
    facts: StudyProperties | None = None
    header: Header | None = None
    shape: Shape = (0, 0, 0, 0)
    compared: dict[int, np.ndarray] = field(default_factory=dict)


def check_image(
    case: Case, channel_names: tuple[str, ...], time: TimeAxis | None, array: np.ndarray | None = None
) -> CheckedImage:
    """Read every file of a study's image once; files that are not there are skipped.

    Args:
        case: the study.
        channel_names: of the dataset.
        time: "cyclic", "open" or None.
        array: (C, T, X, Y, Z) float32, the image where it is in memory already; then of its files the headers alone are read.
    """
    checked = CheckedImage([])
    passes: list[_Seen] = []
    for place, (file, kind) in enumerate(zip(case.images, case.channel_kinds, strict=False)):
        if file.is_file():
            seen = _Seen(file)
            checked.faults += _check_file(case, place, kind == MAP, checked, seen, time, array)
            passes.append(seen)
    checked.faults += _same_channels(case, passes)
    if checked.header is None:
        return checked
    checked.facts = facts = StudyProperties.of_header(case, checked.header, checked.shape)
    grid = WorkingGrid.of(facts.matrix, facts.size)
    try:
        reorient_channels(case.channel_kinds, grid.order, grid.flips, case.images[0])
    except InputError as error:
        checked.faults.append(Issue("channels", str(error), str(case.images[0]), case.name))
    digest = hashlib.sha256(" ".join(one for seen in passes for one in seen.digests).encode()).hexdigest()[:32]
    tells = any(len(seen.constant) < len(seen.digests) for seen in passes)
    sampled = [[s] for s in passes[0].samples] if case.channels_last else [seen.samples for seen in passes]
    names = [name for name, file in zip(channel_names, case.images, strict=False) if file.is_file()]
    intensities = {
        name: tuple(float(f"{p:.6g}") for p in np.percentile(np.concatenate(samples), INTENSITY_PERCENTILES))
        for name, samples in zip(channel_names if case.channels_last else names, sampled, strict=False)
        if sum(map(len, samples))
    }
    checked.facts = replace(facts, intensities=intensities, voxels=digest if tells else "")
    return checked


def _check_file(
    case: Case,
    place: int,
    is_map: bool,
    checked: CheckedImage,
    seen: _Seen,
    time: TimeAxis | None,
    array: np.ndarray | None,
) -> Iterator[Issue]:
    """The file at one place of a case's images. That at place 0 gives `checked` its header."""
    file = seen.file
    try:
        with open_nifti(file) as (header, shape, volumes):
            frames: Iterable[np.ndarray] = volumes
            if array is not None:
                frames = array[:, 0] if case.channels_last else array[place, : shape[0]]
            if place == 0:
                checked.header, checked.shape = header, shape
                yield from check_header(case, header, shape, time)
                if case.channels_last and shape[0] != case.channels:
                    yield Issue("channels", channel_count_message(case, shape[0]), str(file), case.name)
            else:
                yield from check_space(case, file, header, shape)
                yield from _check_beside(case, file, header, shape, is_map, checked)
            compared = choose_frames(_labelled(case, shape[0])) if place == 0 else ()
            for t, volume in enumerate(frames):
                _look(t, volume, max(1, math.prod(shape) // SAMPLED_VOXELS), seen)
                if t in compared:
                    checked.compared[t] = subsample(volume).astype(np.float32)
    except InputError as error:
        yield Issue("unreadable", str(error), str(file), case.name)
    if seen.bad:
        message = (
            f"{file}: {seen.bad} of {math.prod(shape)} voxels are NaN or infinite, the first at {seen.first_bad}; wanted "
            "finite values; replace them (by 0 outside the body, say) or export the study again"
        )
        yield Issue("not-finite", message, str(file), case.name)
    if seen.constant:
        yield _constant(case, seen, is_map)
    if not (is_map or case.channels_last):
        yield from _check_frames(case, seen, time == "cyclic")


def _labelled(case: Case, frames: int) -> Sequence[int]:
    """Return the labelled frames of a case; `frames` is the number of frames of its image."""
    if case.label is None or case.channels_last:
        return ()
    return range(frames) if case.labelled_frames is None else case.labelled_frames


def _check_beside(
    case: Case, file: Path, header: Header, shape: Shape, is_map: bool, checked: CheckedImage
) -> Iterator[Issue]:
    """Whether a later channel has the grid of the first one, and as many frames, or one as a map."""
    fault = None
    if checked.header is not None:
        ours, wanted = (shape[1:], checked.shape[1:]) if is_map else (shape, checked.shape)
        fault = find_grid_issue(case, file, header, ours, case.images[0], checked.header, wanted)
    if fault and fault.kind == "frames" and shape[0] == 1:
        hint = 'if it holds for all frames, such as a T1 map, say "map" in channel_kinds of dataset.json'
        yield replace(fault, message=f"{fault.message}; {hint}")
    elif fault:
        yield fault
    elif is_map and shape[0] != 1:
        message = f"{file}: {count(shape[0], 'frame')} came for a map; wanted one 3D image that holds for all frames"
        yield Issue("frames", message, str(file), case.name)


def _look(t: int, volume: np.ndarray, step: int, seen: _Seen) -> None:
    """Note what one frame (X, Y, Z) holds."""
    with np.errstate(over="ignore", invalid="ignore"):
        frame = np.asarray(volume, dtype=np.float32)
    finite = np.isfinite(frame)
    while math.gcd(step, frame.size) > 1:  # else the sample would keep to some of the slices
        step += 1
    flat = frame.reshape(-1, order="F")
    if finite.all():
        seen.samples.append(flat[::step].copy())
        seen.thumbnails.append(thumbnail(frame))
        if flat.max() == flat.min():
            seen.constant.append(t)
    else:
        first = tuple(int(i) for i in np.argwhere(~finite)[0])
        seen.first_bad = seen.first_bad or f"frame {t}, voxel {first}"
        seen.bad += int(np.count_nonzero(~finite))
    seen.digests.append(hashlib.sha256(flat.tobytes()).hexdigest()[:32])


def _constant(case: Case, seen: _Seen, is_map: bool) -> Issue:
    """What is said of frames, of channels in one file, or of a map, that hold one value."""
    if len(seen.constant) == len(seen.digests):
        what = "the map is" if is_map else "the whole image is"
    else:
        which = describe_frames(seen.constant, "channel" if case.channels_last else "frame")
        what = f"{which} hold{'s' * (len(seen.constant) == 1)}"
    message = f"{seen.file}: {what} one single value; see what went wrong, or leave out what was not acquired"
    return Issue("constant-frame", message, str(seen.file), case.name)


def _same_channels(case: Case, passes: list[_Seen]) -> Iterator[Issue]:
    """Channels that repeat another one, in files of their own or in one."""
    todo = "put the right one in its place, or leave it out of all studies"
    if case.channels_last:
        for seen in passes:
            for alike in seen.alike():
                if len(alike) > 1:
                    which = describe_frames(alike, "channel")
                    message = f"{seen.file}: {which} are the same voxel by voxel; {todo}"
                    yield Issue("image-twice", message, str(seen.file), case.name)
        return
    first: dict[tuple[str, ...], _Seen] = {}
    for seen in passes:
        like = first.setdefault(tuple(seen.digests), seen)
        if like is not seen and seen.alike():
            message = f"{seen.file}: this channel of case {case.name} holds the same voxels as {like.file}; {todo}"
            yield Issue("image-twice", message, str(seen.file), case.name)


def _check_frames(case: Case, seen: _Seen, cyclic: bool) -> Iterator[Issue]:
    """Frames that repeat another one, or stand at the wrong place."""
    file, last, frames = seen.file, len(seen.digests) - 1, seen.alike()
    for alike in frames:
        if len(alike) > 1:
            what = f"{describe_frames(alike)} are the same voxel by voxel"
            if cyclic and alike == [0, last]:
                what = f"its last frame, {last}, repeats frame 0, and a cycle counts it once"
            message = f"{file}: {what}; leave out the repeated ones, or export the study again"
            yield Issue("duplicate-frame", message, str(file), case.name)
    if seen.bad or len(seen.thumbnails) < len(seen.digests):
        return
    own = [alike[0] for alike in frames]
    wrong = describe_misplaced_frames(np.stack([seen.thumbnails[t] for t in own]), own, cyclic) if len(own) > 1 else ""
    if wrong:
        message = f"{file}: {wrong}; watch it as a film and put the frames in the order of their acquisition"
        yield Issue("frame-order", message, str(file), case.name)
