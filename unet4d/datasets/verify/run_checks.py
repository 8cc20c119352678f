"""The verification of a dataset: each study opened once, all issues listed, results kept until a file changes."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unet4d.datasets.cases import Case, Dataset
from unet4d.datasets.dataset import find_case_issues
from unet4d.datasets.issues import ERROR, Issue, sort_issues
from unet4d.datasets.partial_labels import WHOLE
from unet4d.datasets.verify.dataset_checks import check_across, check_shared_stems
from unet4d.datasets.verify.dataset_summary import dataset_summary
from unet4d.datasets.verify.image_checks import check_image
from unet4d.datasets.verify.label_checks import check_label
from unet4d.datasets.verify.study_properties import StudyProperties
from unet4d.errors import InputError, Unet4DError
from unet4d.system.digests import Stamp, settled, stamp
from unet4d.system.environment import available_cores
from unet4d.system.failures import failure_of_study
from unet4d.system.files import read_json, write_json
from unet4d.system.progress_bar import ProgressBar
from unet4d.system.threads import each_done

RESULTS_VERSION = 3
"""Raised whenever the same files would give other results."""
FINGERPRINT_FILE = "fingerprint.json"
PARALLEL_STUDIES = 4
"""Studies read at the same time, at most; each takes little more memory than a frame and its labels."""

CheckResult = tuple[StudyProperties | None, tuple[Issue, ...]]
StudyCheck = Callable[[Case], tuple[CheckResult, bool]]
"""Checks a study; returns the result, and whether it depends on the study's files alone, not on the machine or a bug."""
PrepareChecks = Callable[[Dataset, Sequence[Case]], tuple[StudyCheck, int]]
"""From the studies to check to the function that checks one, and the number of studies that are checked at once."""


@dataclass(frozen=True)
class Verification:
    """The result of a verification.

    Attributes:
        root: the dataset's folder.
        issues: errors first.
        studies: properties of each study with a readable image, in the order of dataset.json.
        opened: number of opened studies; the results of the others were kept from before.
        kept: the file of the results; None where none could be written.
    """

    root: Path
    issues: tuple[Issue, ...]
    studies: tuple[StudyProperties, ...]
    opened: int = 0
    kept: Path | None = None

    @property
    def errors(self) -> int:
        """Return the number of issues that keep a training from starting."""
        return sum(issue.severity == ERROR for issue in self.issues)

    @property
    def warnings(self) -> int:
        """Return the number of issues that the user should look at."""
        return len(self.issues) - self.errors

    @property
    def properties(self) -> Mapping[str, StudyProperties]:
        """Return the properties of each case by its name."""
        return {study.case: study for study in self.studies}

    def dataset_summary(self) -> dict[str, Any]:
        """Return all studies and their summary, as plain values."""
        return dataset_summary(self.studies)


def stream_studies(dataset: Dataset, cases: Sequence[Case]) -> tuple[StudyCheck, int]:
    """Return the check that reads a study frame by frame, and the number of studies that are checked at once."""
    return lambda case: check_study(case, dataset), min(PARALLEL_STUDIES, available_cores())


def verify_dataset(
    dataset: Dataset, keep_in: Path | None = None, checks: PrepareChecks = stream_studies
) -> Verification:
    """Find every mistake in a dataset with a readable dataset.json.

    Args:
        dataset: as `open_dataset` returns it; its files need not be there.
        keep_in: the folder with the results of the last time, which gets those of this time. Studies with the same files
            and the same entry in dataset.json are not opened again. None: nothing is kept. The folder belongs to this
            dataset alone: results of other studies are dropped.
        checks: prepares the check of studies.
    """
    cases, now_ns = dataset.cases, time.time_ns()
    stamps = [[stamp(file) if file.is_file() else [] for file in case.files] for case in cases]
    keys = [_key(case, dataset, of_files) for case, of_files in zip(cases, stamps, strict=True)]
    may_keep = {
        key: all(settled(taken, now_ns) for taken in of_files if taken)
        for key, of_files in zip(keys, stamps, strict=True)
    }
    path = keep_in / FINGERPRINT_FILE if keep_in else None
    results = _read_results(path) if path else {}
    todo = [(key, case) for key, case in zip(keys, cases, strict=True) if key not in results]
    if todo:
        check, at_once = checks(dataset, [case for _, case in todo])
        try:
            done = each_done(lambda study: check(study[1]), todo, at_once)
            for (key, _), (result, is_of_files) in ProgressBar(done, "verifying", len(todo), unit="study"):
                results[key] = result
                may_keep[key] &= is_of_files
        finally:
            path = _write_results(path, results, may_keep) if path else None
    studies = [(case, found) for case, key in zip(cases, keys, strict=True) if (found := results[key][0])]
    across = (*find_case_issues(dataset), *check_shared_stems(dataset), *check_across(dataset, studies))
    issues = [issue.below(dataset.root) for issue in across] + [issue for key in keys for issue in results[key][1]]
    return Verification(dataset.root, tuple(sort_issues(issues)), tuple(study for _, study in studies), len(todo), path)


def check_study(
    case: Case, dataset: Dataset, image_array: np.ndarray | None = None, label_array: np.ndarray | None = None
) -> tuple[CheckResult, bool]:
    """Check a study, see `StudyCheck`; where its arrays are given, only the headers of its files are read.

    `image_array` is (C, T, X, Y, Z) float32 as of `Case.image`, `label_array` (T, X, Y, Z) uint8 as of `read_labelled`.
    """
    try:
        image = check_image(case, dataset.channel_names, dataset.time, image_array)
        labels = check_label(case, dataset, image, label_array)
    except Exception as error:
        failure = failure_of_study(error)
        issue = Issue.of("unreadable", case.images[0], str(failure), case.name)
        return (None, (issue.below(dataset.root),)), isinstance(failure, InputError)
    return (image.properties, tuple(issue.below(dataset.root) for issue in (*image.issues, *labels))), True


def _key(case: Case, dataset: Dataset, stamps: Sequence[Stamp]) -> str:
    """Return a key that changes with the study's files, its entry in dataset.json, and what that has of all studies."""
    files = [(str(file.relative_to(dataset.root)), taken) for file, taken in zip(case.files, stamps, strict=True)]
    entry = [case.name, case.subject, case.labelled_frames, case.frame_duration_s, case.channels_last, case.channels]
    frames = sorted(case.label) if isinstance(case.label, Mapping) else None
    of_all: list[Any] = [dataset.labels, dataset.time, dataset.channel_names, case.channel_kinds]
    if case.partial != WHOLE or dataset.ignore is not None:
        of_all += [dataset.ignore, case.partial.plain()]
    return hashlib.sha256(json.dumps([RESULTS_VERSION, files, entry, frames, of_all]).encode()).hexdigest()[:32]


def _digest(entry: Mapping[str, Any]) -> str:
    """Return a digest of a file of results, so that one that was changed by hand or is damaged is not used."""
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()[:32]


def _read_results(path: Path) -> dict[str, CheckResult]:
    """Read the results of a file, by key; none where it is missing, damaged or of another version."""
    try:
        entry = read_json(path)
        if entry["version"] != RESULTS_VERSION or entry.pop("digest") != _digest(entry):
            return {}
        studies = {None: None} | {i: StudyProperties.from_dict(study) for i, study in enumerate(entry["studies"])}
        return {
            row["key"]: (studies[row["study"]], tuple(Issue(**i) for i in row["faults"])) for row in entry["verified"]
        }
    except (InputError, LookupError, TypeError, ValueError, AttributeError):
        return {}


def _write_results(path: Path, results: Mapping[str, CheckResult], may_keep: Mapping[str, bool]) -> Path | None:
    """Write the properties of all studies, and the results that may be kept; return None where it is not possible."""
    studies: list[StudyProperties] = []
    rows = []
    for key, keeps in may_keep.items():
        if key in results:
            study, issues = results[key]
            place = len(studies) if study else None
            rows += [{"key": key, "study": place, "faults": [asdict(issue) for issue in issues]}] if keeps else []
            studies += [study] if study else []
    entry = {"version": RESULTS_VERSION, **dataset_summary(studies), "verified": rows}
    try:
        write_json(path, {**entry, "digest": _digest(entry)})
    except (Unet4DError, OSError):
        return None
    return path
