"""A dataset that is fit to train on: read, and verified unless that is skipped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from unet4d.datasets.cases import Dataset
from unet4d.datasets.dataset import open_dataset, read_dataset
from unet4d.datasets.issues import ERROR
from unet4d.datasets.verify.run_checks import PrepareChecks, Verification, stream_studies, verify_dataset
from unet4d.datasets.verify.study_properties import StudyProperties
from unet4d.errors import InputError
from unet4d.system.files import PathLike
from unet4d.system.text import count, shorten_list

logger = logging.getLogger(__name__)

MOST_REPORTED = 3
"""Errors in the message; `unet4d verify` lists all."""


def load_verified_dataset(
    path: PathLike,
    keep_in: Callable[[Path], Path | None],
    skip_verify: bool = False,
    checks: PrepareChecks = stream_studies,
) -> tuple[Dataset, Mapping[str, StudyProperties]]:
    """Read a dataset, refuse one with errors, and print the number of warnings.

    Args:
        path: the folder, or the `dataset.json` in it.
        keep_in: from the dataset's folder to the folder of its results, which no other dataset shares.
        skip_verify: read dataset.json only, and check that its files are there.
        checks: prepares the check of studies, see `verify_dataset`.

    Returns:
        The dataset, and the properties of each case; none where verification is skipped.

    Raises:
        InputError: there is no dataset, or it has errors.
    """
    if skip_verify:
        return read_dataset(path), {}
    dataset = open_dataset(path)
    found = verify_dataset(dataset, keep_in(dataset.root), checks)
    if found.errors:
        raise InputError(_error_message(found))
    if found.warnings:
        warnings = count(found.warnings, "warning")
        logger.warning(f"{warnings} about {dataset.root}; see them: unet4d verify {dataset.root}")
    return dataset, found.properties


def _error_message(found: Verification) -> str:
    """Return the first few errors on one line, their files named from the working folder."""
    errors = [issue for issue in found.issues if issue.severity == ERROR]
    messages = [
        f"{found.root}{'/' if issue.message.startswith((issue.file, 'dataset.json')) else ': '}{issue.message}"
        for issue in errors
    ]
    if len(errors) == 1:
        return messages[0]
    listed = shorten_list((f"({i}) {message}" for i, message in enumerate(messages, 1)), MOST_REPORTED, "; ")
    return f"{found.root} has {count(len(errors), 'error')}: {listed}; all of them: unet4d verify {found.root}"
