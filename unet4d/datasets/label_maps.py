"""Label maps by study: a folder of predictions, and what they are scored against."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unet4d.datasets.dataset import Case, Dataset, read_dataset, read_labelled
from unet4d.errors import InputError
from unet4d.images.image4d import Image4D, read_label
from unet4d.images.nifti import frame_duration_s_of, read_header, studies_in
from unet4d.images.time_axis import TimeAxis, check_time_axis
from unet4d.system.class_values import class_fault
from unet4d.system.files import read_json
from unet4d.system.text import count, short_repr

PREDICTION = "prediction.json"
"""What `predict` writes beside its label maps: what their values mean, and how each was made."""


@dataclass(frozen=True)
class Reference:
    """One study to score against.

    Attributes:
        name: of the case; its prediction is `<name>.nii.gz`.
        subject: the person or animal.
        path: the file whose grid a prediction must have: the image of a case, or a label file that stands alone.
        case: the case in its dataset; None for a label file that stands alone.
    """

    name: str
    subject: str
    path: Path
    case: Case | None = None


def label_maps(folder: Path) -> dict[str, Path]:
    """Study name to file, for every .nii.gz and .nii of a folder, by name.

    Raises:
        InputError: no such folder, none in it, or two files of one name.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "is missing"
        raise InputError(f"{folder} {what}; give a folder of label maps, one <case>.nii.gz a study")
    found = studies_in(folder)
    if not found:
        raise InputError(
            f"{folder} holds no .nii.gz or .nii file; give a folder of label maps, one <case>.nii.gz a study"
        )
    return found


def find_references(path: Path) -> tuple[list[Reference], Dataset | None]:
    """The studies to score against, and the dataset they belong to, if any.

    Args:
        path: a dataset (folder or dataset.json); or a folder of label files. Where a dataset.json in the folder above,
            or the one above that, lists these very files, they are that dataset's cases: its labelled_frames tell
            frames that nobody drew from frames where a class is absent.

    Raises:
        InputError: nothing to score against, or a dataset.json with a mistake.
    """
    if path.is_file() and path.suffix != ".json":
        raise InputError(f"{path} is one file; give a dataset folder, its dataset.json, or a folder of label maps")
    if path.is_file() or (path / "dataset.json").is_file():
        dataset = read_dataset(path)
        cases = _labelled_cases(dataset)
        if not cases:
            raise InputError(f"{path}: no case has a label; wanted one or more to score against")
    else:
        maps = label_maps(path)
        owner = _owner(path)
        if owner is None:
            return [Reference(name, name, file) for name, file in maps.items()], None
        dataset = read_dataset(owner)
        cases = [
            case
            for case in _labelled_cases(dataset)
            if case.files[len(case.images)].resolve().is_relative_to(path.resolve())
        ]
    return [Reference(case.name, case.subject, case.images[0], case) for case in cases], dataset


def read_reference(reference: Reference, dataset: Dataset | None) -> tuple[np.ndarray, np.ndarray, Image4D]:
    """Read the reference label of a study; of its image, the header alone.

    Returns:
        label: (T, X, Y, Z) uint8.
        labelled: (T,) bool.
        like: the study's grid and frame duration, its voxels all 0 and taking no memory.
    """
    header, shape = read_header(reference.path)
    case = reference.case
    frames = 1 if case and case.channels_last else shape[0]
    duration = (case.frame_duration_s if case else None) or frame_duration_s_of(header)
    nothing = np.broadcast_to(np.float32(0), (1, frames, *shape[1:]))
    like = Image4D(nothing, header, duration, reference.path)
    if case is None or dataset is None:
        return read_label(reference.path), np.ones(frames, bool), like
    return *read_labelled(case, dataset, like), like


def chosen(references: list[Reference], cases: Sequence[str] | None) -> list[Reference]:
    """The references of these names, in their order; all where None. Raises InputError for a name that none has."""
    if cases is None:
        return references
    known = {one.name: one for one in references}
    unknown = [name for name in cases if name not in known]
    if unknown or not cases:
        came = f"cases {', '.join(unknown)} came, without a reference" if unknown else "an empty list of cases came"
        raise InputError(f"{came}; wanted some of {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(cases)]


def with_prediction(
    references: list[Reference], folder: Path, predicted_only: bool
) -> tuple[list[Reference], list[str]]:
    """The references to score, all unless `predicted_only`, and the names of those left out since they have no prediction."""
    if not predicted_only:
        return references, []
    maps = label_maps(folder)
    missing = [one.name for one in references if one.name not in maps]
    if len(missing) == len(references):
        raise InputError(
            f"{folder} has a prediction for none of the {count(len(references), 'reference')} ({missing[0]}, ...); wanted "
            "<case>.nii.gz for one or more"
        )
    return [one for one in references if one.name in maps], missing


def matched(references: Sequence[Reference], folder: Path, whole: bool) -> tuple[list[Path], list[str]]:
    """The prediction of each reference, and the names of predictions that have none; if `whole`, a warning tells them.

    Raises:
        InputError: a reference has no prediction.
    """
    maps = label_maps(folder)
    missing = [one.name for one in references if one.name not in maps]
    if missing:
        raise InputError(
            f"{folder} has no prediction for {len(missing)} of {count(len(references), 'reference')}: {', '.join(missing)}; add "
            "<case>.nii.gz for each, name the cases to score (--cases), or score what is there (--predicted_only)"
        )
    unmatched = [name for name in maps if name not in {one.name for one in references}]
    if unmatched and whole:
        match, are = ("matches", "is") if len(unmatched) == 1 else ("match", "are")
        print(
            f"warning: {count(len(unmatched), 'prediction')} {match} no reference and {are} not scored: {', '.join(unmatched)}",
            file=sys.stderr,
        )
    return [maps[one.name] for one in references], unmatched


def named_classes(dataset: Dataset | None, folders: Sequence[Path]) -> dict[str, int] | None:
    """Foreground class name to label value, from the dataset, else from a prediction.json in one of `folders`."""
    if dataset is not None:
        return {name: value for name, value in dataset.labels if value}
    for folder in folders:
        if (folder / PREDICTION).is_file():
            entry = read_json(folder / PREDICTION)
            labels = entry.get("labels") if isinstance(entry, dict) else None
            if not isinstance(labels, dict) or class_fault(labels.items()):
                raise InputError(
                    f'{folder / PREDICTION}: "labels" is {short_repr(labels)}; wanted {{"background": 0, ...}}'
                )
            return {name: value for name, value in labels.items() if value}
    return None


def recorded_folds(folder: Path) -> dict[str, int]:
    """Case to the fold that held it out, for those of which the prediction.json of a folder says it.

    Raises:
        InputError: a fold that is no number.
    """
    folds = {name: case["fold"] for name, case in _recorded(folder).items() if "fold" in case}
    for name, fold in folds.items():
        if type(fold) is not int or fold < 0:
            raise InputError(
                f'{folder / PREDICTION}: case {name}: "fold" is {short_repr(fold)}; wanted a number from 0; predict again'
            )
    return folds


def recorded_times(folder: Path) -> dict[str, TimeAxis]:
    """Case to "cyclic" or "open", for those of which the prediction.json of a folder says it.

    Raises:
        InputError: a time that is neither.
    """
    return {
        name: check_time_axis(case["time"], f'{folder / PREDICTION}: case {name}: "time"', "predict again")
        for name, case in _recorded(folder).items()
        if "time" in case
    }


def _recorded(folder: Path) -> dict[str, dict[str, Any]]:
    """What the prediction.json of a folder says of each case; nothing where it is missing or somebody else's."""
    path = folder / PREDICTION
    entry = read_json(path) if path.is_file() else None
    cases = entry.get("cases") if isinstance(entry, dict) else None
    return {name: case for name, case in cases.items() if isinstance(case, dict)} if isinstance(cases, dict) else {}


def _labelled_cases(dataset: Dataset) -> list[Case]:
    return [case for case in (*dataset.training, *dataset.test) if case.label is not None]


def _owner(folder: Path) -> Path | None:
    """The dataset.json above a folder that lists a file of the folder as a label; a foreign dataset.json is passed by."""
    folder = folder.resolve()
    for root in list(folder.parents)[:2]:
        entry = None
        if (root / "dataset.json").is_file():
            with contextlib.suppress(InputError):  # not ours to judge unless it lists these files
                entry = read_json(root / "dataset.json")
        parts = [entry.get(part) for part in ("training", "test")] if isinstance(entry, dict) else []
        for item in (item for part in parts if isinstance(part, list) for item in part):
            label = item.get("label") if isinstance(item, dict) else None
            for file in label.values() if isinstance(label, dict) else [label]:
                if isinstance(file, str) and (root / file).resolve().is_relative_to(folder):
                    return root / "dataset.json"
    return None
