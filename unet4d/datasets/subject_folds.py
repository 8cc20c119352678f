"""Folds of a dataset by subject: the split into training and validation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from unet4d.config import FOLDS
from unet4d.datasets.cases import Case, Dataset
from unet4d.errors import InputError
from unet4d.system.text import count, suggest_names


def number_of_folds(subjects: int, asked: int | None = None) -> int:
    """Return the number of folds that was asked for; else 5, or as many as there are training subjects."""
    return asked or min(FOLDS, subjects)


def describe_fewer_folds(dataset: Dataset, asked: int | None = None) -> str:
    """Return a line to print where a dataset has fewer folds than 5 because it has fewer subjects; else an empty text."""
    folds = number_of_folds(len(dataset.subjects), asked)
    if asked or folds == FOLDS:
        return ""
    return f"{count(folds, 'labelled subject')}: {count(folds, 'fold')} instead of {FOLDS}; --data.folds sets another number"


def split_folds(dataset: Dataset, folds: int | None = None, seed: int = 0) -> list[list[str]]:
    """Return the subjects held out in each fold: each training subject exactly once, fold sizes equal to within one.

    Depends on the subjects' names and the seed alone: neither on the order in the file nor on library versions.

    Raises:
        InputError: fewer than 2 folds, or fewer subjects than folds.
    """
    folds = number_of_folds(len(dataset.subjects), folds)
    subjects = sorted(
        dataset.subjects, key=lambda s: hashlib.sha256(f"{seed}/{s}".encode(errors="backslashreplace")).digest()
    )
    if not 2 <= folds <= len(subjects):
        advice = "set folds, or name the validation subjects"
        if len(subjects) == 1:
            advice = "label another subject, or train without validation: --data.val_subjects '[]'"
        raise InputError(
            f"got {count(folds, 'fold')} of {count(len(subjects), 'labelled subject')} ({dataset.root}), expected 2 or more folds, "
            f"and a subject or more in each; {advice}"
        )
    return [sorted(subjects[k::folds]) for k in range(folds)]


def split_cases(
    dataset: Dataset, fold: int, folds: int | None = None, seed: int = 0, val_subjects: Sequence[str] | None = None
) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """Return the training cases and the validation cases of one fold, in the dataset's order.

    Args:
        dataset: of which the training cases are split.
        fold: from 0.
        folds: None: as `number_of_folds`.
        seed: of the split.
        val_subjects: subjects to validate on, in place of those of `fold`.

    Raises:
        InputError: no such fold or subject, or no subject left to train on.
    """
    if val_subjects is None:
        folds = number_of_folds(len(dataset.subjects), folds)
        if not 0 <= fold < folds:
            raise InputError(f"got fold {fold}, expected 0 to {folds - 1} of {count(folds, 'fold')}; choose another")
        val_subjects = split_folds(dataset, folds, seed)[fold]
    for subject in val_subjects:
        if subject not in dataset.subjects:
            near = suggest_names(subject, dataset.subjects)
            some = ", ".join(dataset.subjects[:5]) + ", ..." * (len(dataset.subjects) > 5)
            raise InputError(
                f"no training case has the subject {subject!r}{near}, expected those of {dataset.root}, such as {some}; correct it"
            )
    if set(val_subjects) == set(dataset.subjects):
        raise InputError(
            f"got all {len(dataset.subjects)} subjects held out, expected some to train on; hold out fewer"
        )
    training = tuple(case for case in dataset.training if case.subject not in val_subjects)
    return training, tuple(case for case in dataset.training if case.subject in val_subjects)
