"""One pass over the label files of a study: what is wrong with them, and how much of each class they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from unet4d.datasets.case_labels import frame_beyond_message, frame_count_message, unknown_value_message
from unet4d.datasets.cases import Case, Dataset
from unet4d.datasets.issues import Issue
from unet4d.datasets.verify.header_checks import check_space, find_grid_issue
from unet4d.datasets.verify.image_checks import CheckedImage
from unet4d.datasets.verify.mirrored_labels import describe_mirroring, subsample
from unet4d.errors import InputError
from unet4d.images.image4d import round_labels
from unet4d.images.nifti import affine_of, open_nifti, spacing_of
from unet4d.system.text import describe_frames

VALUES = 256
_FEW = 0.5  # of all frames; where no more than this share holds a label, somebody drew those only


@dataclass
class _Seen:
    """What the passes leave.

    Attributes:
        counts: frame to its voxels of each value, (256,); of the frames that could be read.
        files: frame to the file it came from.
        compared: frame to its reduced label, of the frames with a reduced image (mirrored_labels.py).
        voxel_ml: volume of a voxel.
        wrong: of the file being read: voxels that are no whole numbers from 0 to 255, by frame, and the first in words.
    """

    counts: dict[int, np.ndarray] = field(default_factory=dict)
    digests: dict[int, bytes] = field(default_factory=dict)
    files: dict[int, Path] = field(default_factory=dict)
    compared: dict[int, np.ndarray] = field(default_factory=dict)
    voxel_ml: float = 0.0
    is_whole: bool = True
    wrong: dict[int, int] = field(default_factory=dict)
    first_wrong: str = ""


def check_label(case: Case, dataset: Dataset, image: CheckedImage, array: np.ndarray | None = None) -> list[Issue]:
    """Read every label file of a study once and complete the facts of its image; files that are not there are skipped.

    Args:
        case: the study.
        dataset: its dataset.
        image: its checked image, which gets the facts about the label.
        array: (T, X, Y, Z) uint8, the label where it is in memory already; then of its files the headers alone are read.
    """
    seen = _Seen()
    files = [(None, case.label)] if isinstance(case.label, Path) else list((case.label or {}).items())
    faults = [
        fault for frame, file in files if file.is_file() for fault in _check_file(case, file, frame, image, seen, array)
    ]
    frames = image.facts.frames if image.facts else None
    labelled = list(case.labelled_frames or range(frames or len(seen.counts)))
    beyond = [t for t in labelled if frames is not None and t >= frames]
    if beyond:
        json = dataset.root / "dataset.json"
        message = frame_beyond_message(case, max(beyond), frames or 0)
        faults.append(Issue("frames", message, str(json), case.name))
        seen.is_whole = False
    labelled = [t for t in labelled if t in seen.counts]
    faults += _unknown_values(case, dataset, seen, labelled)
    if seen.is_whole and seen.counts:
        faults += _empty_or_not(case, seen, labelled)
        faults += _mirrored(case, seen, image)
    if image.facts and seen.counts:
        drawn = any(seen.counts[t][1:].any() for t in labelled)
        digest = hashlib.sha256(b"".join(seen.digests[t] for t in labelled)).hexdigest()[:32] if drawn else ""
        volumes = {
            name: tuple(round(float(seen.counts[t][value] * seen.voxel_ml), 4) for t in labelled)
            for name, value in dataset.labels
            if value
        }
        image.facts = replace(image.facts, labelled_frames=tuple(labelled), volumes_ml=volumes, drawn=digest)
    return faults


def _check_file(
    case: Case, file: Path, frame: int | None, image: CheckedImage, seen: _Seen, array: np.ndarray | None
) -> Iterator[Issue]:
    """One file: of all frames, or of one."""
    seen.wrong, seen.first_wrong = {}, ""
    try:
        with open_nifti(file) as (header, shape, volumes):
            yield from check_space(case, file, header, shape)
            seen.voxel_ml = float(np.prod(spacing_of(affine_of(header)))) / 1000
            if image.header is not None:
                first = case.images[0]
                fault = find_grid_issue(case, file, header, shape[1:], first, image.header, image.shape[1:])
                if fault:
                    yield fault
                wanted = 1 if frame is not None or case.channels_last else image.shape[0]
                if words := frame_count_message(case, file, shape[0], wanted):
                    yield Issue("frames", words, str(file), case.name)
                if fault or words:
                    seen.is_whole = False
            frames: Iterable[np.ndarray] = volumes
            if array is not None:
                frames = array if frame is None else array[frame : frame + 1]
            for t, volume in enumerate(frames):
                _look(frame if frame is not None else t, volume, file, seen, image)
    except InputError as error:
        seen.is_whole = False
        yield Issue("unreadable", str(error), str(file), case.name)
    if seen.wrong:
        seen.is_whole = False
        more = len(seen.wrong) - 1
        others = f", and more in {more} other frame{'s' * (more > 1)}" if more else ""
        message = (
            f"{file}: label value {seen.first_wrong} ({next(iter(seen.wrong.values()))} such in this frame{others}); wanted "
            "whole numbers from 0 to 255; correct the label map"
        )
        yield Issue("label-not-whole", message, str(file), case.name)


def _look(t: int, volume: np.ndarray, file: Path, seen: _Seen, image: CheckedImage) -> None:
    """Count the values of one frame (X, Y, Z); what `read_label` would refuse is noted and counted as background."""
    whole, wrong = round_labels(volume)
    if wrong.any():
        voxel = tuple(int(i) for i in np.argwhere(wrong)[0])
        seen.first_wrong = seen.first_wrong or f"{volume[voxel]:g} at frame {t}, voxel {voxel}"
        seen.wrong[t] = int(np.count_nonzero(wrong))
    values = np.where(wrong, 0, whole).astype(np.uint8)
    seen.counts[t] = np.bincount(values.ravel(order="K"), minlength=VALUES)
    seen.digests[t] = hashlib.sha256(values.tobytes(order="F")).digest()
    seen.files[t] = file
    if t in image.compared:
        seen.compared[t] = subsample(values)


def _mirrored(case: Case, seen: _Seen, image: CheckedImage) -> Iterator[Issue]:
    """Yield a fault where mirrored labels would fit the image far better."""
    frames = sorted(seen.compared)
    words = describe_mirroring([image.compared[t] for t in frames], [seen.compared[t] for t in frames])
    if words:
        file = seen.files[frames[0]]
        message = f"{file}: the label of case {case.name} seems to be mirrored: {words}; look at both together and turn its array"
        yield Issue("label-mirrored", message, str(file), case.name)


def _unknown_values(case: Case, dataset: Dataset, seen: _Seen, labelled: list[int]) -> Iterator[Issue]:
    """Values on labelled frames that the dataset does not name, one fault a file and value."""
    found: dict[tuple[Path, int], list[int]] = {}
    for t in labelled:
        for value in set(np.flatnonzero(seen.counts[t]).tolist()) - set(dataset.label_values):
            found.setdefault((seen.files[t], value), []).append(t)
    for (file, value), frames in sorted(found.items()):
        message = unknown_value_message(case, dataset, file, value, describe_frames(frames))
        yield Issue("label-value", message, str(file), case.name)


def _empty_or_not(case: Case, seen: _Seen, labelled: list[int]) -> Iterator[Issue]:
    """Labelled frames that are empty, and unlabelled ones that are not."""
    drawn = sorted(t for t, counts in seen.counts.items() if counts[1:].any())
    empty = [t for t in labelled if t not in drawn]
    first = case.label if isinstance(case.label, Path) else seen.files[min(seen.files)]
    if case.labelled_frames is None and empty and 0 < len(drawn) <= _FEW * len(labelled):
        message = (
            f"{first}: of {len(labelled)} frames only {describe_frames(drawn)} hold{'s' * (len(drawn) == 1)} a label, and "
            f'dataset.json says that all are labelled; if nobody drew the others, give the case "labelled_frames": {drawn}'
        )
        yield Issue("labelled-frames", message, str(first), case.name)
        return
    by_file: dict[Path, list[int]] = {}
    for t in empty:
        by_file.setdefault(seen.files[t], []).append(t)
    for file, frames in by_file.items():
        are = "is" if len(frames) == 1 else "are"
        message = (
            f"{file}: {describe_frames(frames)} of case {case.name} {are} labelled and {are} empty; if nobody drew "
            f'{"it" if len(frames) == 1 else "them"}, correct "labelled_frames" in dataset.json'
        )
        yield Issue("empty-label", message, str(file), case.name)
    extra = [t for t in drawn if t not in labelled]
    if extra:
        are, hold = ("is", "holds") if len(extra) == 1 else ("are", "hold")
        message = (
            f'{first}: {describe_frames(extra)} of case {case.name} {hold} a label and {are} not in "labelled_frames"; if '
            f"somebody drew {'it' if len(extra) == 1 else 'them'} to be learnt from, add {'it' if len(extra) == 1 else 'them'}"
        )
        yield Issue("unlabelled-drawn", message, str(first), case.name)
