"""Checks of a study's labels: one pass over their files finds their issues and the volume of each class."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from unet4d.datasets.case_labels import (
    frame_beyond_message,
    frame_count_message,
    known_values,
    undrawn_frame_message,
    unknown_value_message,
)
from unet4d.datasets.cases import Case, Dataset
from unet4d.datasets.issues import Issue
from unet4d.datasets.verify.header_checks import check_space, find_grid_issue
from unet4d.datasets.verify.image_checks import CheckedImage
from unet4d.datasets.verify.mirrored_labels import describe_mirroring, subsample
from unet4d.errors import InputError
from unet4d.images.image4d import round_labels
from unet4d.images.nifti import affine_of, open_nifti, spacing_of
from unet4d.system.text import count, describe_frames

_FEW = 0.5  # of all frames; where no more than this share has a label, the others seem to be unlabelled


@dataclass
class _LabelPass:
    """The findings of the passes over a study's label files, by frame."""

    counts: dict[int, np.ndarray] = field(default_factory=dict)  # drawn voxels of each value, (256,)
    partial: set[int] = field(default_factory=set)  # frames with ignored voxels
    digests: dict[int, bytes] = field(default_factory=dict)
    files: dict[int, Path] = field(default_factory=dict)
    compared: dict[int, np.ndarray] = field(default_factory=dict)  # subsampled, see mirrored_labels.py
    voxel_ml: float = 0.0
    is_whole: bool = True  # all files fit the image and have valid values
    wrong: dict[int, int] = field(default_factory=dict)  # in the file being read: voxels that are no values
    first_wrong: str = ""


def check_label(case: Case, dataset: Dataset, image: CheckedImage, array: np.ndarray | None = None) -> list[Issue]:
    """Read every label file of a study once and complete the properties of its image; missing files are skipped.

    Where the label is in memory already, `array` (T, X, Y, Z) uint8, only the headers of its files are read.
    """
    seen = _LabelPass()
    files = [(None, case.label)] if isinstance(case.label, Path) else list((case.label or {}).items())
    issues: list[Issue] = []
    for frame, file in files:
        if file.is_file():
            issues += _check_file(case, dataset, file, frame, image, seen, array)
    frames = image.properties.frames if image.properties else None
    labelled = list(case.labelled_frames or range(frames or len(seen.counts)))
    beyond = [t for t in labelled if frames is not None and t >= frames]
    if beyond:
        json = dataset.root / "dataset.json"
        issues.append(Issue("frames", frame_beyond_message(case, max(beyond), frames or 0), str(json), case.name))
        seen.is_whole = False
    labelled = [t for t in labelled if t in seen.counts]
    issues += _unknown_values(case, dataset, seen, labelled)
    issues += _wrong_statements(case, dataset, seen, labelled, image)
    if seen.is_whole and seen.counts:
        issues += _empty_or_unlabelled(case, seen, labelled)
        issues += _mirrored(case, seen, image)
    if image.properties and seen.counts:
        any_label = any(seen.counts[t][1:].any() for t in labelled)
        digest = hashlib.sha256(b"".join(seen.digests[t] for t in labelled)).hexdigest()[:32] if any_label else ""
        volumes = {
            name: tuple(round(float(seen.counts[t][value] * seen.voxel_ml), 4) for t in labelled)
            for name, value in dataset.labels
            if value and value in known_values(case, dataset)
        }
        partial = tuple(t for t in labelled if t in seen.partial)
        image.properties = replace(
            image.properties,
            labelled_frames=tuple(labelled),
            volumes_ml=volumes,
            drawn=digest,
            partial_frames=partial,
        )
    return issues


def _check_file(
    case: Case,
    dataset: Dataset,
    file: Path,
    frame: int | None,
    image: CheckedImage,
    seen: _LabelPass,
    array: np.ndarray | None,
) -> Iterator[Issue]:
    seen.wrong, seen.first_wrong = {}, ""
    try:
        with open_nifti(file, only_header=array is not None) as (header, shape, volumes):
            yield from check_space(case, file, header, shape)
            seen.voxel_ml = float(np.prod(spacing_of(affine_of(header)))) / 1000
            if image.header is not None:
                issue = find_grid_issue(case, file, header, shape[1:], image.header, image.shape[1:])
                if issue:
                    yield issue
                expected = 1 if frame is not None or case.channels_last else image.shape[0]
                message = frame_count_message(case, file, shape[0], expected)
                if message:
                    yield Issue("frames", message, str(file), case.name)
                seen.is_whole &= not (issue or message)
            frames: Iterable[np.ndarray] = volumes
            if array is not None:
                frames = array if frame is None else array[frame : frame + 1]
            for t, volume in enumerate(frames):
                number = frame if frame is not None else t
                values = _look_at_frame(number, volume, file, seen)
                _count_drawn(case, dataset, number, values, seen, image)
    except InputError as error:
        seen.is_whole = False
        yield Issue("unreadable", str(error), str(file), case.name)
    if seen.wrong:
        seen.is_whole = False
        more = len(seen.wrong) - 1
        others = f", and more in {count(more, 'other frame')}" if more else ""
        text = (
            f"label value {seen.first_wrong} ({next(iter(seen.wrong.values()))} such in this frame{others}), expected whole "
            "numbers from 0 to 255; correct the label map"
        )
        yield Issue.of("label-not-whole", file, text, case.name)


def _look_at_frame(t: int, volume: np.ndarray, file: Path, seen: _LabelPass) -> np.ndarray:
    """Return the label values of one frame (X, Y, Z); values that `read_label` refuses are noted and become background."""
    whole, wrong = round_labels(volume)
    if wrong.any():
        voxel = tuple(int(i) for i in np.argwhere(wrong)[0])
        seen.first_wrong = seen.first_wrong or f"{volume[voxel]:g} at frame {t}, voxel {voxel}"
        seen.wrong[t] = int(np.count_nonzero(wrong))
    seen.files[t] = file
    return np.where(wrong, 0, whole).astype(np.uint8)


def _count_drawn(
    case: Case, dataset: Dataset, t: int, values: np.ndarray, seen: _LabelPass, image: CheckedImage
) -> None:
    """Count the drawn voxels of each value of one frame (X, Y, Z); slices that were not drawn are no part of its digest."""
    drawn = case.partial.drawn_slices(t)
    if drawn is None:
        seen.counts[t] = np.bincount(values.ravel(order="K"), minlength=256)
    else:
        inside = [z for z in drawn if z < values.shape[-1]]
        seen.counts[t] = np.bincount(values[..., inside].ravel(), minlength=256)
        case.partial.hide_undrawn(values, t, dataset.ignored_value)
    if dataset.ignore is not None and seen.counts[t][dataset.ignore]:
        seen.partial.add(t)
        seen.counts[t][dataset.ignore] = 0
    if seen.counts[t].sum() < values.size:
        seen.partial.add(t)
    seen.digests[t] = hashlib.sha256(values.tobytes(order="F")).digest()
    if t in image.compared and t not in seen.partial:
        seen.compared[t] = subsample(values)


def _wrong_statements(
    case: Case, dataset: Dataset, seen: _LabelPass, labelled: list[int], image: CheckedImage
) -> Iterator[Issue]:
    """Yield issues of what dataset.json says about partly drawn labels, and of frames of which nothing was drawn."""
    json = str(dataset.root / "dataset.json")
    fault = case.partial.find_fault(labelled, image.shape[-1] or None) if labelled else ""
    if fault:
        yield Issue("partial-label", f"{json}: case {case.name}: {fault}", json, case.name)
    if labelled and set(labelled) <= set(case.partial.propagated):
        text = (
            f'{json}: every labelled frame of case {case.name} is in "propagated_frames", expected a drawn one to evaluate on; '
            "draw one, or leave the case out of validation"
        )
        yield Issue("no-drawn-frame", text, json, case.name)
    for t in labelled:
        if not seen.counts[t].sum():
            yield Issue("partial-label", undrawn_frame_message(case, seen.files[t], f"frame {t}"), json, case.name)


def _mirrored(case: Case, seen: _LabelPass, image: CheckedImage) -> Iterator[Issue]:
    """Yield an issue where mirrored labels would fit the image far better."""
    frames = sorted(seen.compared)
    how = describe_mirroring([image.compared[t] for t in frames], [seen.compared[t] for t in frames])
    if how:
        text = f"the label of case {case.name} seems to be mirrored: {how}; look at both together and flip its array"
        yield Issue.of("label-mirrored", seen.files[frames[0]], text, case.name)


def _unknown_values(case: Case, dataset: Dataset, seen: _LabelPass, labelled: list[int]) -> Iterator[Issue]:
    """Yield an issue per file and value on labelled frames that the dataset does not name."""
    found: dict[tuple[Path, int], list[int]] = {}
    for t in labelled:
        for value in set(np.flatnonzero(seen.counts[t]).tolist()) - set(known_values(case, dataset)):
            found.setdefault((seen.files[t], value), []).append(t)
    for (file, value), frames in sorted(found.items()):
        message = unknown_value_message(case, dataset, file, value, describe_frames(frames))
        yield Issue("label-value", message, str(file), case.name)


def _empty_or_unlabelled(case: Case, seen: _LabelPass, labelled: list[int]) -> Iterator[Issue]:
    """Yield an issue for labelled frames that are empty, and for unlabelled frames with a label."""
    filled = sorted(t for t, counts in seen.counts.items() if counts[1:].any())
    empty = [t for t in labelled if t not in filled]
    first = case.label if isinstance(case.label, Path) else seen.files[min(seen.files)]
    if case.labelled_frames is None and empty and 0 < len(filled) <= _FEW * len(labelled):
        text = (
            f"of {len(labelled)} frames only {describe_frames(filled)} hold{'s' * (len(filled) == 1)} a label, and dataset.json "
            f'counts all as labelled; if the others are unlabelled, give the case "labelled_frames": {filled}'
        )
        yield Issue.of("labelled-frames", first, text, case.name)
        return
    by_file: dict[Path, list[int]] = {}
    for t in empty:
        by_file.setdefault(seen.files[t], []).append(t)
    for file, frames in by_file.items():
        are = "is" if len(frames) == 1 else "are"
        text = (
            f"{describe_frames(frames)} of case {case.name} {are} labelled and {are} empty; if unlabelled, correct "
            '"labelled_frames" in dataset.json'
        )
        yield Issue.of("empty-label", file, text, case.name)
    extra = [t for t in filled if t not in labelled]
    if extra:
        are, hold = ("is", "holds") if len(extra) == 1 else ("are", "hold")
        text = (
            f'{describe_frames(extra)} of case {case.name} {hold} a label and {are} not in "labelled_frames"; to train on it, add '
            "the number there"
        )
        yield Issue.of("unlabelled-drawn", first, text, case.name)
