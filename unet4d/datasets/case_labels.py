"""Labels of a case: read on the grid of its image, and mapped between label values and class indices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unet4d.datasets.cases import Case, Dataset
from unet4d.errors import InputError
from unet4d.images.image4d import Image4D, read_label
from unet4d.system.class_values import IGNORE, IGNORE_NAME
from unet4d.system.text import count


def read_labelled(case: Case, dataset: Dataset, image: Image4D) -> tuple[np.ndarray, np.ndarray]:
    """Read a case's label on the grid of its image.

    Returns:
        label: (T, X, Y, Z) uint8, values as in the files (see `to_classes`), and `ignored_value` in undrawn voxels; unchecked on
            the unlabelled frames of a 4D file, where it means nothing.
        labelled: (T,) bool.

    Raises:
        InputError: no label; another grid or number of frames than the image's; a value on a labelled frame that
            the dataset does not name, or `annotated_labels` does not; slices outside the study; a labelled frame without a drawn
            voxel; weights that are all 0.
    """
    if case.label is None:
        raise InputError(f"case {case.name} has no label, expected one in dataset.json; add it")
    frames = range(image.frames) if case.labelled_frames is None else case.labelled_frames
    if max(frames) >= image.frames:
        raise InputError(frame_beyond_message(case, max(frames), image.frames))
    if isinstance(case.label, Path):
        files = dict.fromkeys(frames, case.label)
        label = read_label(case.label, like=image)
        _check_frames(case, case.label, len(label), image.frames)
    else:
        files = dict(case.label)
        label = np.zeros((image.frames, *image.grid), dtype=np.uint8)
        for frame, file in files.items():
            volumes = read_label(file, like=image)
            _check_frames(case, file, len(volumes), 1)
            label[frame] = volumes[0]
    if fault := case.partial.find_fault(frames, image.grid[-1]):
        raise InputError(f"case {case.name}: {fault}")
    for frame in frames:
        drawn = case.partial.drawn_slices(frame)
        values = label[frame] if drawn is None else label[frame][..., list(drawn)]
        counts = np.bincount(values.ravel(), minlength=256)
        unknown = sorted(set(np.flatnonzero(counts).tolist()) - set(known_values(case, dataset)))
        if unknown:
            raise InputError(unknown_value_message(case, dataset, files[frame], unknown[0], f"frame {frame}"))
        if dataset.ignore is not None and counts[dataset.ignore] == counts.sum():
            raise InputError(undrawn_frame_message(case, files[frame], f"frame {frame}"))
        if drawn is not None:
            case.partial.hide_undrawn(label[frame], frame, dataset.ignored_value)
    labelled = np.zeros(image.frames, dtype=bool)
    labelled[list(frames)] = True
    return label, labelled


def to_classes(label: np.ndarray, label_values: Sequence[int], ignored: int | None = None) -> np.ndarray:
    """Map label values (uint8) to class indices (uint8), same shape: `ignored` to IGNORE, others without a class to background."""
    classes = np.zeros(256, dtype=np.uint8)
    classes[list(label_values)] = np.arange(len(label_values))
    if ignored is not None:
        classes[ignored] = IGNORE
    return classes[label]


def known_values(case: Case, dataset: Dataset) -> list[int]:
    """Return the values that drawn voxels of a case may have in its label files, and "ignore"."""
    annotated = case.partial.annotated
    values = list(dataset.label_values if annotated is None else (0, *annotated))
    return values if dataset.ignore is None else [*values, dataset.ignore]


def undrawn_frame_message(case: Case, file: Path, frames: str) -> str:
    """Return the message about labelled frames of ignored voxels alone; `frames` describes them."""
    return (
        f"{file}: every voxel of {frames} of case {case.name} is {IGNORE_NAME}, expected drawn ones; take it out of "
        '"labelled_frames"'
    )


def frame_beyond_message(case: Case, frame: int, frames: int) -> str:
    """Return the message about a labelled frame beyond the image's frames."""
    return (
        f"case {case.name}: frame {frame} is in labelled_frames, expected frames 0 to {frames - 1}, which the image has; "
        "correct dataset.json"
    )


def unknown_value_message(case: Case, dataset: Dataset, file: Path, value: int, frames: str) -> str:
    """Return the message about a label value that the dataset does not name; `frames` describes its frames."""
    known = known_values(case, dataset)
    if value in dataset.label_values:
        advice = f', as its "annotated_labels" says; add {value} there, or correct the label map'
    else:
        advice = "; name it in dataset.json or correct the label map"
    return f"{file}: label value {value} in {frames} of case {case.name}, expected one of {known}{advice}"


def frame_count_message(case: Case, file: Path, got: int, expected: int) -> str:
    """Return the message about a label file with another number of frames than expected; empty where the numbers agree."""
    if got == expected:
        return ""
    other = "the image" if isinstance(case.label, Path) else "a file for one frame"
    frames = count(got, "frame")
    return f"{file}: the label of case {case.name} has {frames}, {other} {expected}; expected equal numbers; correct it"


def _check_frames(case: Case, file: Path, got: int, expected: int) -> None:
    if message := frame_count_message(case, file, got, expected):
        raise InputError(message)
