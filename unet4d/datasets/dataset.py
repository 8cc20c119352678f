"""A dataset: read from its folder, its labelled frames, and its folds by subject."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unet4d.config import FOLDS
from unet4d.datasets.dataset_json import Case, Dataset, check_cases, parse_dataset
from unet4d.errors import InputError
from unet4d.images.image4d import Image4D, read_label
from unet4d.system.files import read_json
from unet4d.system.safe_paths import check_links
from unet4d.system.text import count, suggest_names

__all__ = [
    "Case",
    "Dataset",
    "cache_dir",
    "fewer_folds",
    "number_of_folds",
    "open_dataset",
    "read_dataset",
    "read_labelled",
    "split_cases",
    "split_folds",
    "to_classes",
    "to_values",
]

CACHE = ".unet4d-cache"
"""In the dataset's folder."""


def read_dataset(path: str | os.PathLike[str]) -> Dataset:
    """Read and check a dataset; opens no image.

    Args:
        path: the folder, or the `dataset.json` in it.

    Raises:
        InputError: as `open_dataset`; missing images or labels; a case named twice; a subject in training and in test.
    """
    dataset = open_dataset(path)
    check_cases(dataset)
    return dataset


def open_dataset(path: str | os.PathLike[str]) -> Dataset:
    """Read a dataset's `dataset.json` and nothing else: its files need not be there. Who uses them calls `read_dataset`.

    Raises:
        InputError: no such file; an unknown key, wrong type or value.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} is missing; wanted a dataset folder, with dataset.json in it; give the path of one")
    if path.is_dir():
        if not (path / "dataset.json").is_file():
            what = "has no dataset.json" if any(path.iterdir()) else "is an empty folder"
            raise InputError(f'{path} {what}; wanted a dataset folder: see "Your own data" in README.md')
        path = path / "dataset.json"
    return parse_dataset(read_json(path), path)


def cache_dir(root: Path, named: str | None = None, elsewhere: Path | None = None) -> Path | None:
    """Where what is worked out of a dataset is kept: `named`, else its own folder, else, where that is read-only, `elsewhere`.

    Raises:
        InputError: it would be its own folder, and a link there leads out of it.
    """
    if named:
        return Path(named)
    if not os.access(root, os.W_OK):
        return elsewhere
    check_links(root / CACHE, f"the cache of {root}", root)
    return root / CACHE


def read_labelled(case: Case, dataset: Dataset, image: Image4D) -> tuple[np.ndarray, np.ndarray]:
    """Read a case's label on the grid of its image.

    Returns:
        label: (T, X, Y, Z) uint8, values as in the files (see `to_classes`); what stands on unlabelled frames of a
            4D file is passed on unchecked, and means nothing.
        labelled: (T,) bool.

    Raises:
        InputError: no label; another grid or number of frames than the image's; a value on a labelled frame that
            the dataset does not name.
    """
    if case.label is None:
        raise InputError(f"case {case.name} has no label; wanted one in dataset.json")
    frames = range(image.frames) if case.labelled_frames is None else case.labelled_frames
    if max(frames) >= image.frames:
        raise InputError(beyond_the_image(case, max(frames), image.frames))
    if isinstance(case.label, Path):
        files = dict.fromkeys(frames, case.label)
        label = read_label(case.label, like=image)
        _check_frames(case, case.label, len(label), image.frames)
    else:
        files = dict(case.label)
        label = np.zeros((image.frames, *image.grid), dtype=np.uint8)
        for frame, file in files.items():
            one = read_label(file, like=image)
            _check_frames(case, file, len(one), 1)
            label[frame] = one[0]
    for frame in frames:
        present = np.flatnonzero(np.bincount(label[frame].ravel(), minlength=256))
        unknown = sorted(set(present.tolist()) - set(dataset.label_values))
        if unknown:
            raise InputError(unknown_value(case, dataset, files[frame], unknown[0], f"frame {frame}"))
    labelled = np.zeros(image.frames, dtype=bool)
    labelled[list(frames)] = True
    return label, labelled


def to_classes(label: np.ndarray, label_values: Sequence[int]) -> np.ndarray:
    """Label values (uint8) to class indices (uint8), same shape; values without a class become background."""
    table = np.zeros(256, dtype=np.uint8)
    table[list(label_values)] = np.arange(len(label_values))
    return table[label]


def to_values(classes: np.ndarray, label_values: Sequence[int]) -> np.ndarray:
    """Class indices to label values (uint8), same shape: undoes `to_classes`."""
    return np.asarray(label_values, dtype=np.uint8)[classes]


def number_of_folds(dataset: Dataset, asked: int | None = None) -> int:
    """Return the number of folds that was asked for; else 5, or as many as there are training subjects."""
    return asked or min(FOLDS, len(dataset.subjects))


def fewer_folds(dataset: Dataset, asked: int | None = None) -> str:
    """Return a line to print where a dataset has fewer folds than 5 because it has fewer subjects; else an empty text."""
    folds = number_of_folds(dataset, asked)
    if asked or folds == FOLDS:
        return ""
    return f"{count(folds, 'labelled subject')}: {count(folds, 'fold')} instead of {FOLDS}; --data.folds sets another number"


def split_folds(dataset: Dataset, folds: int | None = None, seed: int = 0) -> list[list[str]]:
    """The subjects held out in each fold: each training subject exactly once, fold sizes equal to within one.

    Depends on the subjects' names and the seed alone: neither on the order in the file nor on library versions.

    Raises:
        InputError: fewer than 2 folds, or fewer subjects than folds.
    """
    folds = number_of_folds(dataset, folds)
    subjects = sorted(
        dataset.subjects, key=lambda s: hashlib.sha256(f"{seed}/{s}".encode(errors="backslashreplace")).digest()
    )
    if not 2 <= folds <= len(subjects):
        came = f"{count(folds, 'fold')} of {count(len(subjects), 'labelled subject')}"
        raise InputError(
            f"{came} ({dataset.root}); wanted 2 or more folds, and a subject or more in each; set folds, or name the held-out "
            "subjects"
        )
    return [sorted(subjects[k::folds]) for k in range(folds)]


def split_cases(
    dataset: Dataset, fold: int, folds: int | None = None, seed: int = 0, held_out: Sequence[str] | None = None
) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """The training cases and the validation cases of one fold, in the dataset's order.

    Args:
        held_out: subjects to validate on, in place of those of `fold`.

    Raises:
        InputError: no such fold or subject, or nobody left to train on.
    """
    if held_out is None:
        folds = number_of_folds(dataset, folds)
        if not 0 <= fold < folds:
            raise InputError(
                f"got fold {fold}, expected 0 to {folds - 1} of {count(folds, 'fold')}; choose another --fold"
            )
        held_out = split_folds(dataset, folds, seed)[fold]
    for subject in held_out:
        if subject not in dataset.subjects:
            near = suggest_names(subject, dataset.subjects)
            some = ", ".join(dataset.subjects[:5]) + ", ..." * (len(dataset.subjects) > 5)
            raise InputError(
                f"no training case has the subject {subject!r}{near}; wanted those of {dataset.root}, such as {some}"
            )
    if set(held_out) == set(dataset.subjects):
        raise InputError(
            f"got all of {count(len(dataset.subjects), 'subject')} held out; wanted one or more left to train on"
        )
    training = tuple(case for case in dataset.training if case.subject not in held_out)
    return training, tuple(case for case in dataset.training if case.subject in held_out)


def beyond_the_image(case: Case, frame: int, frames: int) -> str:
    """What is said of a labelled frame that an image of so many frames does not have."""
    wanted = f"wanted frames 0 to {frames - 1}, for the image has {frames}"
    return f"case {case.name}: frame {frame} is said to be labelled; {wanted}; correct dataset.json"


def unknown_value(case: Case, dataset: Dataset, file: Path, value: int, where: str) -> str:
    """What is said of a label value that the dataset does not name; `where` are frames."""
    wanted = f"wanted one of {list(dataset.label_values)}; name it in dataset.json or correct the label map"
    return f"{file}: label value {value} in {where} of case {case.name}; {wanted}"


def other_frames(case: Case, file: Path, came: int, wanted: int) -> str:
    """What is said of a label file with another number of frames than wanted; empty where it is as wanted."""
    other = "the image" if isinstance(case.label, Path) else "a file for one frame"
    what = f"{file}: the label of case {case.name} has {count(came, 'frame')}, {other} {wanted}; expected equal numbers; correct it"
    return what if came != wanted else ""


def _check_frames(case: Case, file: Path, came: int, wanted: int) -> None:
    if wrong := other_frames(case, file, came, wanted):
        raise InputError(wrong)
