"""A dataset that is fit to be learnt from: read, and unless told otherwise verified."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from unet4d.datasets.cases import Case, Dataset
from unet4d.datasets.dataset import open_dataset, read_dataset
from unet4d.datasets.issues import ERROR, Issue
from unet4d.datasets.verify.run_checks import StudyCheck, Verification, stream_studies, verify_dataset
from unet4d.datasets.verify.study_properties import StudyProperties
from unet4d.errors import InputError
from unet4d.system.text import count

MOST_REPORTED = 3
"""Errors that are told before the command ends; `unet4d verify` tells all."""


def load_verified_dataset(
    path: str | os.PathLike[str],
    keep_in: Callable[[Path], Path | None],
    skip_verify: bool = False,
    checks: Callable[[Dataset, Sequence[Case]], tuple[StudyCheck, int]] = stream_studies,
) -> tuple[Dataset, Mapping[str, StudyProperties]]:
    """Read a dataset and refuse one with errors; warnings are counted on one line.

    Args:
        path: the folder, or the `dataset.json` in it.
        keep_in: from the dataset's folder to the one that the results are kept in, which no other dataset shares, see
            `verify_dataset`.
        skip_verify: read dataset.json only, and see that its files are there.
        checks: how studies are read and checked, see `verify_dataset`.

    Returns:
        The dataset, and case to what its study is like; nothing of that where verification is skipped.

    Raises:
        InputError: there is no dataset, or it has errors.
    """
    if skip_verify:
        return read_dataset(path), {}
    dataset = open_dataset(path)
    found = verify_dataset(dataset, keep_in(dataset.root), checks)
    if found.errors:
        raise InputError(_errors_in_words(found))
    if found.warnings:
        plural = "s" * (found.warnings > 1)
        print(f"{found.warnings} warning{plural} about {dataset.root}; see them: unet4d verify {dataset.root}")
    return dataset, found.facts


def _errors_in_words(found: Verification) -> str:
    """The first few errors on one line."""
    errors = [fault for fault in found.faults if fault.severity == ERROR]
    told = [_with_root(fault, found.root) for fault in errors[:MOST_REPORTED]]
    if len(errors) == 1:
        return told[0]
    more = f"; and {len(errors) - MOST_REPORTED} more" if len(errors) > MOST_REPORTED else ""
    listed = "; ".join(f"({i}) {one}" for i, one in enumerate(told, 1))
    return f"{found.root} has {count(len(errors), 'error')}: {listed}{more}; all of them: unet4d verify {found.root}"


def _with_root(fault: Issue, root: Path) -> str:
    """A fault's message, with the file named from where the command was called."""
    begins_with_file = fault.message.startswith((fault.file, "dataset.json"))
    return f"{root}/{fault.message}" if begins_with_file else f"{root}: {fault.message}"
