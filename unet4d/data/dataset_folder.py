"""A dataset folder while it is written: new at first, complete once its dataset.json is there.

What was stopped in between left a mark in the folder, and the same command fills it again; a folder that holds anything
else is somebody's, and stays as it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from unet4d.errors import InputError
from unet4d.files import check_writable, write_text

_MARK = ".unet4d-incomplete"


@contextlib.contextmanager
def filling(folder: Path) -> Iterator[None]:
    """Make a folder, in which the caller writes all files and dataset.json last.

    Raises:
        InputError: it is a file, or holds anything that an earlier `filling` did not leave there.
        Unet4DError: it may not be written to, or the disk is full.
    """
    if (folder / "dataset.json").exists():
        raise InputError(f"{folder} holds a dataset already; give a new folder, or remove this one first")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; wanted a new or empty folder: give another path")
    if folder.exists() and any(folder.iterdir()) and not (folder / _MARK).is_file():
        raise InputError(f"{folder} is not empty; wanted a new or empty folder: give another path or empty it first")
    check_writable(folder)
    write_text(folder / _MARK, "Without dataset.json this folder is incomplete; the command that began it goes on.\n")
    yield
    (folder / _MARK).unlink()
