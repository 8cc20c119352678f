"""Every study of a dataset opened once, all faults listed, and the results kept until a file or dataset.json changes."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unet4d.datasets.cases import Case, Dataset
from unet4d.datasets.dataset import find_case_issues
from unet4d.datasets.issues import ERROR, Issue, sort_issues
from unet4d.datasets.verify.dataset_checks import check_across, check_shared_stems
from unet4d.datasets.verify.image_checks import check_image
from unet4d.datasets.verify.label_checks import check_label
from unet4d.datasets.verify.study_properties import StudyProperties
from unet4d.datasets.verify.summary import make_fingerprint
from unet4d.errors import InputError, Unet4DError
from unet4d.system.digests import Stamp, settled, stamp
from unet4d.system.failures import failure_of_study
from unet4d.system.files import read_json, write_json
from unet4d.system.progress_bar import ProgressBar
from unet4d.system.threads import each_done

RESULTS_VERSION = 3
"""Raised whenever the same files would give other results."""
FINGERPRINT_FILE = "fingerprint.json"
PARALLEL_STUDIES = 4
"""Studies read at the same time, at most; each takes little more than a frame and its labels of memory."""

Result = tuple[StudyProperties | None, tuple[Issue, ...]]
StudyCheck = Callable[[Case], tuple[Result, bool]]
"""Checks a study; returns what was found, and whether the study's files alone decided that, not the machine or a bug."""


@dataclass(frozen=True)
class Verification:
    """What was found.

    Attributes:
        root: the dataset's folder.
        faults: errors first.
        studies: what each study is like whose image can be read, in the order of dataset.json.
        opened: how many studies were opened; the results of the others were kept from before.
        kept: the file the results lie in; None where none could be written.
    """

    root: Path
    faults: tuple[Issue, ...]
    studies: tuple[StudyProperties, ...]
    opened: int = 0
    kept: Path | None = None

    @property
    def errors(self) -> int:
        """How many faults keep a training from starting."""
        return sum(fault.severity == ERROR for fault in self.faults)

    @property
    def warnings(self) -> int:
        """How many faults somebody should look at."""
        return len(self.faults) - self.errors

    @property
    def facts(self) -> Mapping[str, StudyProperties]:
        """Case to what its study is like."""
        return {study.case: study for study in self.studies}

    def fingerprint(self) -> dict[str, Any]:
        """All studies and what they have in common, fit for JSON."""
        return make_fingerprint(self.studies)


def stream_studies(dataset: Dataset, cases: Sequence[Case]) -> tuple[StudyCheck, int]:
    """Return the check that reads a study frame by frame, and how many studies are checked at once."""
    return lambda case: check_study(case, dataset), min(PARALLEL_STUDIES, os.cpu_count() or 1)


def verify_dataset(
    dataset: Dataset,
    keep_in: Path | None = None,
    checks: Callable[[Dataset, Sequence[Case]], tuple[StudyCheck, int]] = stream_studies,
) -> Verification:
    """Look for everything that is wrong with a dataset whose dataset.json can be understood.

    Args:
        dataset: as `open_dataset` gives it; its files need not be there.
        keep_in: the folder with the results of the last time, which gets those of this time; studies whose files and entry in
            dataset.json have not changed since are not opened again. None: nothing is kept. It is the folder of this dataset
            alone: results of studies that are not of it are dropped.
        checks: from the studies to check to the function that checks one, and how many at once.
    """
    root = dataset.root
    cases = (*dataset.training, *dataset.test)
    now_ns = time.time_ns()
    stamps = [[stamp(file) if file.is_file() else [] for file in case.files] for case in cases]
    keys = [_key(case, dataset, of_files) for case, of_files in zip(cases, stamps, strict=True)]
    may_keep = {
        key: all(settled(one, now_ns) for one in of_files if one) for key, of_files in zip(keys, stamps, strict=True)
    }
    known = _kept(keep_in / FINGERPRINT_FILE) if keep_in else {}
    todo = [i for i, key in enumerate(keys) if key not in known]
    path = keep_in / FINGERPRINT_FILE if keep_in else None
    try:
        _check_into(known, may_keep, [(keys[i], cases[i]) for i in todo], *checks(dataset, [cases[i] for i in todo]))
    finally:
        if path and todo:
            path = _keep(path, known, may_keep)
    results = [known[key] for key in keys]
    faults = [fault.below(root) for fault in find_case_issues(dataset)]
    faults += [fault for _, found in results for fault in found]
    studies = [(case, facts) for case, (facts, _) in zip(cases, results, strict=True) if facts]
    faults += [fault.below(root) for fault in (*check_shared_stems(dataset), *check_across(dataset, studies))]
    return Verification(root, tuple(sort_issues(faults)), tuple(facts for _, facts in studies), len(todo), path)


def _check_into(
    known: dict[str, Result],
    may_keep: dict[str, bool],
    todo: Sequence[tuple[str, Case]],
    check: StudyCheck,
    at_once: int,
) -> None:
    """Check these studies, several at once, and note each result under its key as soon as it is there."""
    done = each_done(lambda study: check(study[1]), todo, at_once)
    for (key, _), (result, is_of_files) in ProgressBar(done, "verifying", len(todo), unit="study"):
        known[key] = result
        may_keep[key] &= is_of_files


def check_study(
    case: Case, dataset: Dataset, image_array: np.ndarray | None = None, label_array: np.ndarray | None = None
) -> tuple[Result, bool]:
    """Check a study, see `StudyCheck`; of files whose arrays are given the headers alone are read.

    Args:
        case: the study.
        dataset: its dataset.
        image_array: (C, T, X, Y, Z) float32, as `Case.image` reads it.
        label_array: (T, X, Y, Z) uint8, as `read_labelled` reads it.
    """
    try:
        image = check_image(case, dataset.channel_names, dataset.time, image_array)
        labels = check_label(case, dataset, image, label_array)
    except Exception as error:
        failure = failure_of_study(error)
        fault = Issue("unreadable", f"{case.images[0]}: {failure}", str(case.images[0]), case.name)
        return (None, (fault.below(dataset.root),)), isinstance(failure, InputError)
    return (image.facts, tuple(fault.below(dataset.root) for fault in (*image.faults, *labels))), True


def _key(case: Case, dataset: Dataset, stamps: Sequence[Stamp]) -> str:
    """Changes with the study's files, its entry in dataset.json, and what that says of all studies."""
    files = [(str(file.relative_to(dataset.root)), one) for file, one in zip(case.files, stamps, strict=True)]
    said = [case.name, case.subject, case.labelled_frames, case.frame_duration_s, case.channels_last, case.channels]
    shape = sorted(case.label) if isinstance(case.label, Mapping) else None
    of_all = [dataset.labels, dataset.time, dataset.channel_names, case.channel_kinds]
    return hashlib.sha256(json.dumps([RESULTS_VERSION, files, said, shape, of_all]).encode()).hexdigest()[:32]


def _kept(path: Path) -> dict[str, Result]:
    """The results that lie in a file, by key; none where it is missing, damaged or of another version."""
    try:
        entry = read_json(path)
        if entry["version"] != RESULTS_VERSION or entry.pop("digest") != _digest(entry):
            return {}
        studies = [StudyProperties.from_dict(study) for study in entry["studies"]]
        return {
            row["key"]: (
                None if row["study"] is None else studies[row["study"]],
                tuple(Issue(**fault) for fault in row["faults"]),
            )
            for row in entry["verified"]
        }
    except (InputError, LookupError, TypeError, ValueError, AttributeError):
        return {}


def _digest(entry: Mapping[str, Any]) -> str:
    """Return a digest of what a file of results holds, so that one that was changed by hand or by a fault is not used."""
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()[:32]


def _keep(path: Path, results: Mapping[str, Result], keys: Mapping[str, bool]) -> Path | None:
    """Write what the studies of these keys are like, and the results of those that may be remembered; None if it cannot be done."""
    studies: list[StudyProperties] = []
    rows = []
    for key in [key for key in keys if key in results]:
        facts, faults = results[key]
        if keys[key]:
            rows.append({"key": key, "study": len(studies) if facts else None, "faults": [asdict(f) for f in faults]})
        studies += [facts] if facts else []
    entry = {"version": RESULTS_VERSION, **make_fingerprint(studies), "verified": rows}
    try:
        write_json(path, {**entry, "digest": _digest(entry)})
    except (Unet4DError, OSError):
        return None
    return path
