"""Regular files opened to read; pipes and devices, which may never end, are refused at once."""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path

from unet4d.errors import InputError


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Open a regular file to read its bytes. Every file that a user names is opened here.

    Opening a named pipe waits until another program writes to it, and a device may have no end: both are refused at once.

    Raises:
        InputError: the path leads to a pipe, a socket or a device.
        OSError: as `open` raises; IsADirectoryError for a folder.
    """
    try:
        file = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise _not_regular(path) from error
        raise
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise _not_regular(path)
    return file


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def check_file_or_folder(path: str | os.PathLike[str]) -> None:
    """Raise InputError if something is at `path` that is neither a file nor a folder."""
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise _not_regular(path)


def _not_regular(path: str | os.PathLike[str]) -> InputError:
    return InputError(f"{path} is a pipe, a socket or a device, expected a regular file; copy its content to a file")
