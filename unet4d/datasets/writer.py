"""The folder of a dataset while it is written: new at first, complete once its dataset.json is there.

A command that was stopped in between left a mark in the folder. The same command removes images/ and labels/ in it and
begins again. A folder with anything else belongs to the user and stays as it is.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from unet4d.datasets.dataset_json import parse_dataset
from unet4d.errors import InputError
from unet4d.system.files import check_writable, read_json, write_text, writing

_MARK = ".unet4d-incomplete"
_PARTS = ("images", "labels")


def check_fillable(folder: Path) -> None:
    """Check that `fill_dataset_folder` can make a folder, without changing anything.

    Raises:
        InputError: it is a file, or has anything that an earlier `fill_dataset_folder` did not leave there.
        Unet4DError: it may not be written to.
    """
    if (folder / "dataset.json").exists():
        raise InputError(f"{folder} holds a dataset already; give a new folder, or remove this one first")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, expected a new or empty folder; give another path")
    if folder.exists() and any(folder.iterdir()) and not (folder / _MARK).is_file():
        raise InputError(f"{folder} is not empty, expected a new or empty folder; give another path or empty it first")
    check_writable(folder)


@contextlib.contextmanager
def fill_dataset_folder(folder: Path) -> Iterator[None]:
    """Make a folder, in which the caller writes images/, labels/ and, last, dataset.json.

    Afterwards images/ and labels/ have the files that dataset.json names, and no other.

    Raises:
        InputError: as `check_fillable`.
        Unet4DError: it may not be written to, or the disk is full.
    """
    check_fillable(folder)
    for part in _PARTS:
        if (folder / part).is_dir():
            with writing(folder / part):
                shutil.rmtree(folder / part)
    write_text(
        folder / _MARK, "Without dataset.json this folder is incomplete; the command that began it fills it anew.\n"
    )
    yield
    json = folder / "dataset.json"
    named = {file for case in parse_dataset(read_json(json), json).cases for file in case.files}
    for file in [file for part in _PARTS for file in (folder / part).glob("*") if file not in named]:
        file.unlink()
    (folder / _MARK).unlink()
