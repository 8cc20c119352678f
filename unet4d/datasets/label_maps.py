"""Label maps by study: a folder of predictions, the references to score them against, and prediction.json."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unet4d.datasets.case_labels import read_labelled
from unet4d.datasets.cases import Case, Dataset
from unet4d.datasets.dataset import read_dataset
from unet4d.errors import InputError
from unet4d.images.image4d import Image4D, read_label
from unet4d.images.nifti import find_nifti_files, frame_duration_s_of, read_header
from unet4d.images.time_axis import TimeAxis, check_time_axis
from unet4d.metrics.cardiac_structures import Roles, find_roles, parse_roles
from unet4d.metrics.regions import ClassValue, classes_of, regions_from_dict
from unet4d.system.class_values import class_fault
from unet4d.system.files import read_json
from unet4d.system.text import count, short_repr

logger = logging.getLogger(__name__)

PREDICTION_JSON = "prediction.json"
"""The file that `predict` writes beside its label maps: the meaning of their values, and how each was made."""


@dataclass(frozen=True)
class Reference:
    """One study to score against.

    Attributes:
        name: of the case; its prediction is `<name>.nii.gz`.
        subject: the person or animal.
        path: the file with the grid that a prediction must have: the image of a case, or a label file without a case.
        case: the case in its dataset; None for a label file without one.
    """

    name: str
    subject: str
    path: Path
    case: Case | None = None


def find_label_maps(folder: Path) -> dict[str, Path]:
    """Map study name to file, for every .nii.gz and .nii of a folder, by name.

    Raises:
        InputError: no such folder, none in it, or two files of one name.
    """
    advice = "give a folder of label maps, one <case>.nii.gz per study"
    if not folder.is_dir():
        raise InputError(f"{folder} {'is a file' if folder.exists() else 'is missing'}; {advice}")
    found = find_nifti_files(folder)
    if not found:
        raise InputError(f"{folder} holds no .nii.gz or .nii file; {advice}")
    return found


def find_references(path: Path) -> tuple[list[Reference], Dataset | None]:
    """Find the studies to score against, and the dataset they belong to, if any.

    Args:
        path: a dataset (folder or dataset.json); or a folder of label files. Where a dataset.json in the folder above,
            or the one above that, lists these very files, they are that dataset's cases: its labelled_frames separate
            unlabelled frames from frames without a class.

    Raises:
        InputError: nothing to score against, or a dataset.json with a mistake.
    """
    if path.is_file() and path.suffix != ".json":
        raise InputError(f"{path} is one file; give a dataset folder, its dataset.json, or a folder of label maps")
    if path.is_file() or (path / "dataset.json").is_file():
        dataset = read_dataset(path)
        cases = [case for case in dataset.cases if case.has_drawn_frame]
        if not cases:
            raise InputError(f"{path}: no case has a drawn label, expected one or more; give another dataset")
    else:
        maps = find_label_maps(path)
        owner = _find_owner(path)
        if owner is None:
            return [Reference(name, name, file) for name, file in maps.items()], None
        dataset, folder = read_dataset(owner), path.resolve()
        labelled = [case for case in dataset.cases if case.has_drawn_frame]
        cases = [case for case in labelled if case.files[len(case.images)].resolve().is_relative_to(folder)]
    return [Reference(case.name, case.subject, case.images[0], case) for case in cases], dataset


def read_reference(reference: Reference, dataset: Dataset | None) -> tuple[np.ndarray, np.ndarray, Image4D]:
    """Read the reference label of a study; of its image, the header alone.

    Returns:
        label: (T, X, Y, Z) uint8, `Dataset.ignored_value` in undrawn voxels.
        labelled: (T,) bool, the frames to score: propagated ones are not.
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
    label, labelled = read_labelled(case, dataset, like)
    labelled[list(case.partial.propagated)] = False
    return label, labelled, like


def find_ignored(reference: Reference, dataset: Dataset | None, label: np.ndarray) -> np.ndarray | None:
    """Return the ignored voxels of a label of `read_reference` as a mask of its shape; None where there are none."""
    case = reference.case
    if case is None or dataset is None or (dataset.ignore is None and not case.partial.has_slices):
        return None
    ignored = label == dataset.ignored_value
    return ignored if ignored.any() else None


def select_references(references: list[Reference], cases: Sequence[str] | None) -> list[Reference]:
    """Return the references of these names, in their order; all where None. Raises InputError for an unknown name."""
    if cases is None:
        return references
    known = {reference.name: reference for reference in references}
    unknown = [name for name in cases if name not in known]
    if unknown or not cases:
        got = f"got cases {', '.join(unknown)}, without a reference" if unknown else "got an empty list of cases"
        raise InputError(f"{got}, expected some of {', '.join(known)}; correct the names")
    return [known[name] for name in dict.fromkeys(cases)]


def drop_unpredicted(
    references: list[Reference], folder: Path, predicted_only: bool
) -> tuple[list[Reference], list[str]]:
    """Return the references to score, all unless `predicted_only`, and the names of those without a prediction."""
    if not predicted_only:
        return references, []
    maps = find_label_maps(folder)
    missing = [reference.name for reference in references if reference.name not in maps]
    if len(missing) == len(references):
        raise InputError(
            f"{folder} has a prediction for none of the {count(len(references), 'reference')} ({missing[0]}, ...), expected "
            "<case>.nii.gz for one or more; give another folder"
        )
    return [reference for reference in references if reference.name in maps], missing


def match_predictions(references: Sequence[Reference], folder: Path, whole: bool) -> tuple[list[Path], list[str]]:
    """Return the prediction of each reference, and the names of predictions without one; if `whole`, warn about these.

    Raises:
        InputError: a reference has no prediction.
    """
    maps = find_label_maps(folder)
    names = {reference.name: None for reference in references}
    missing = [name for name in names if name not in maps]
    if missing:
        raise InputError(
            f"{folder} has no prediction for {len(missing)} of {count(len(references), 'reference')}: {', '.join(missing)}; add "
            "<case>.nii.gz for each, name the cases to score (--cases), or score what is there (--predicted_only)"
        )
    unmatched = [name for name in maps if name not in names]
    if unmatched and whole:
        match, are = ("matches", "is") if len(unmatched) == 1 else ("match", "are")
        logger.warning(
            f"{count(len(unmatched), 'prediction')} {match} no reference and {are} not scored: {', '.join(unmatched)}"
        )
    return [maps[name] for name in names], unmatched


def read_class_values(dataset: Dataset | None, folders: Sequence[Path]) -> dict[str, ClassValue] | None:
    """Return the value of each foreground class, or region, of the dataset, else of a prediction.json in one of `folders`."""
    if dataset is not None:
        return dataset.classes
    for path in (folder / PREDICTION_JSON for folder in folders):
        if path.is_file():
            entry = read_json(path)
            labels = entry.get("labels") if isinstance(entry, dict) else None
            if not isinstance(labels, dict) or class_fault(labels.items()):
                raise InputError(f'{path}: "labels" is {short_repr(labels)}, expected values by name; predict again')
            return classes_of(labels, regions_from_dict(entry.get("regions", {}), f'{path}: "regions"'))
    return None


def read_class_roles(classes: Sequence[str], given: Roles, folders: Sequence[Path]) -> dict[str, str]:
    """Return the structure of a heart that each class is: as a dataset says, else a prediction.json, else by its name.

    Args:
        classes: foreground classes.
        given: roles of the dataset; those of classes that are not here do not count.
        folders: of which the first prediction.json counts.

    Raises:
        InputError: a prediction.json with unknown structures.
    """
    known = {name: role for name, role in given.items() if name in classes}
    for path in (folder / PREDICTION_JSON for folder in folders if not known):
        if path.is_file():
            entry = read_json(path)
            roles = entry.get("roles", {}) if isinstance(entry, dict) else {}
            if not isinstance(roles, dict) or set(roles) <= set(classes):
                known = parse_roles(roles, classes, f'{path}: "roles"')
            break
    return find_roles(classes, known)


def read_recorded_folds(folder: Path) -> dict[str, int]:
    """Map each case to the fold that held it out, where the prediction.json of a folder has it.

    Raises:
        InputError: a fold that is no number.
    """
    folds = _recorded(folder, "fold")
    for name, fold in folds.items():
        if type(fold) is not int or fold < 0:
            raise InputError(
                f'{folder / PREDICTION_JSON}: case {name}: "fold" is {short_repr(fold)}, expected a number from 0; predict again'
            )
    return folds


def read_recorded_times(folder: Path) -> dict[str, TimeAxis]:
    """Map each case to "cyclic" or "open", where the prediction.json of a folder has it.

    Raises:
        InputError: a time that is neither.
    """
    where = f"{folder / PREDICTION_JSON}: case"
    times = _recorded(folder, "time")
    return {name: check_time_axis(time, f'{where} {name}: "time"', "predict again") for name, time in times.items()}


def read_recorded_conditions(folder: Path) -> dict[str, dict[str, Any]]:
    """Map each case to the conditions under which it was made, where the prediction.json of a folder has them."""
    return {name: entry for name, entry in _recorded(folder, "conditions").items() if isinstance(entry, dict)}


def read_recorded_curves(folder: Path) -> dict[str, Any]:
    """Map each case to the options of its curves, where the prediction.json of a folder has them; not checked."""
    return _recorded(folder, "curves")


def read_provenance(folders: Sequence[Path], case: str) -> dict[str, Any]:
    """Return what the first prediction.json in `folders` records of a case, after what it records of all; {} without one.

    Raises:
        InputError: a prediction.json that is not valid JSON.
    """
    for folder in folders:
        if (folder / PREDICTION_JSON).is_file():
            record = read_json(folder / PREDICTION_JSON)
            cases = record.get("cases") if isinstance(record, dict) else None
            entry = cases.get(case) if isinstance(cases, dict) else None
            if not isinstance(entry, dict):
                return {}
            return {
                name: value for name, value in record.items() if name not in ("schema", "cases", "labels", "roles")
            } | entry
    return {}


def _recorded(folder: Path, key: str) -> dict[str, Any]:
    """Map each case to its value of `key` in the prediction.json of a folder; empty where that is missing or foreign."""
    path = folder / PREDICTION_JSON
    entry = read_json(path) if path.is_file() else None
    cases = entry.get("cases") if isinstance(entry, dict) else None
    if not isinstance(cases, dict):
        return {}
    return {name: case[key] for name, case in cases.items() if isinstance(case, dict) and key in case}


def _find_owner(folder: Path) -> Path | None:
    """Find the dataset.json above a folder that lists a file of the folder as a label; a foreign dataset.json is ignored."""
    folder = folder.resolve()
    for root in list(folder.parents)[:2]:
        json = root / "dataset.json"
        with contextlib.suppress(InputError):  # it may be foreign, unless it lists these files
            if json.is_file() and any((root / file).resolve().is_relative_to(folder) for file in _label_files(json)):
                return json
    return None


def _label_files(json: Path) -> Iterator[str]:
    """Yield the label files that a dataset.json lists, which may be another program's."""
    entry = read_json(json)
    parts = [entry.get(part) for part in ("training", "test")] if isinstance(entry, dict) else []
    for item in (item for part in parts if isinstance(part, list) for item in part):
        label = item.get("label") if isinstance(item, dict) else None
        yield from (file for file in (label.values() if isinstance(label, dict) else [label]) if isinstance(file, str))
