"""A dataset read from its folder: dataset.json, the checks of its cases that open no file, and its cache folder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from unet4d.datasets.cases import Dataset
from unet4d.datasets.dataset_json import parse_dataset
from unet4d.datasets.issues import Issue
from unet4d.errors import InputError
from unet4d.system.files import PathLike, checked_path, read_json
from unet4d.system.safe_paths import check_links
from unet4d.system.text import count, shorten_list

CACHE_FOLDER = ".unet4d-cache"
"""In the dataset's folder."""


def read_dataset(path: PathLike) -> Dataset:
    """Read and check a dataset; opens no image.

    Args:
        path: the folder, or the `dataset.json` in it.

    Raises:
        InputError: as `open_dataset`; missing images or labels; a case named twice; a subject in training and in test.
    """
    dataset = open_dataset(path)
    issues = find_case_issues(dataset)
    if issues and issues[0].kind == "missing-file":
        raise InputError(
            _missing_message(dataset.root / "dataset.json", [(issue.case, issue.file) for issue in issues])
        )
    if issues:
        raise InputError(issues[0].message)
    return dataset


def open_dataset(path: PathLike) -> Dataset:
    """Read a dataset's `dataset.json` alone: its files need not be there. To use them, call `read_dataset`.

    Raises:
        InputError: no such file; an unknown key, wrong type or value.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} is missing, expected a dataset folder, with dataset.json in it; give the path of one")
    if path.is_dir():
        if not (path / "dataset.json").is_file():
            what = "has no dataset.json" if any(path.iterdir()) else "is an empty folder"
            raise InputError(f"{path} {what}, expected a dataset folder; see docs/how-to/data.md")
        path = path / "dataset.json"
    return parse_dataset(read_json(path), path)


def find_case_issues(dataset: Dataset) -> list[Issue]:
    """Find names and subjects in more than one place, and missing files. Opens no file."""
    json = dataset.root / "dataset.json"
    names = Counter(case.name for case in dataset.cases)
    issues = [
        Issue.of("case-twice", json, f"{times} cases are named {name}, expected each name once; rename them", name)
        for name, times in names.items()
        if times > 1
    ]
    shared = {case.subject for case in dataset.training} & {case.subject for case in dataset.test}
    issues += [
        Issue.of(
            "subject-split", json, f"subject {subject} is in training and in test, expected either; move its cases"
        )
        for subject in sorted(shared)
    ]
    missing = {(case.name, file): None for case in dataset.cases for file in case.files if not file.is_file()}
    return issues + [
        Issue("missing-file", _missing_message(json, [(name, file)]), str(file), name) for name, file in missing
    ]


def choose_cache_dir(root: Path, named: str | None = None, elsewhere: Path | None = None) -> Path | None:
    """Return the folder for results about a dataset: `named`, else its own cache, else `elsewhere` if it is read-only.

    Raises:
        InputError: a name in `named` is too long; it would be its own folder, and a link there leads out of it.
    """
    if named:
        return checked_path(named)
    if not os.access(root, os.W_OK):
        return elsewhere
    check_links(root / CACHE_FOLDER, f"the cache of {root}", root)
    return root / CACHE_FOLDER


def _missing_message(path: Path, files: Sequence[tuple[str, Path | str]]) -> str:
    """Return the message about missing files, each with its case."""
    listed = shorten_list(f"{case}: {file}" for case, file in files)
    are = count(len(files), "file is", "files are")
    return f"{path}: {are} missing: {listed}; add them or correct the paths"
