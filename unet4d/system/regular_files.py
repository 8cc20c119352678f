"""Regular files opened to read: pipes and devices, which may never end, are refused; digests can be taken of what is read."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import io
import os
import stat
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from unet4d.errors import InputError
from unet4d.system.operating_system import open_without_waiting

new_digest = functools.partial(hashlib.blake2b, digest_size=16)
"""Starts the digest of a file's bytes."""
_BLOCK = 2**16
_recorded: ContextVar[dict[Path, str] | None] = ContextVar("recorded", default=None)


@contextlib.contextmanager
def record_digests() -> Iterator[dict[Path, str]]:
    """Give a dict that gets the digest of each file which this thread opens by `open_regular` inside and reads to its end."""
    found: dict[Path, str] = {}
    token = _recorded.set(found)
    try:
        yield found
    finally:
        _recorded.reset(token)


class _DigestedFile(io.FileIO):
    """A file opened to read that notes the digest of its bytes as it is closed, if all of them were read."""

    def __init__(self, path: str | os.PathLike[str], found: dict[Path, str]):
        super().__init__(path, "rb", opener=open_without_waiting)
        self._path, self._found, self._digest, self._done = Path(path), found, new_digest(), 0

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer; bytes that a seek has skipped are read for the digest alone."""
        start = self.tell()
        if start > self._done:
            self.seek(self._done)
            self._digest.update(io.FileIO.read(self, start - self._done))
            self._done = start
        size = super().readinto(buffer) or 0
        if start + size > self._done:
            self._digest.update(memoryview(buffer).cast("B")[self._done - start : size])
            self._done = start + size
        return size

    read = io.RawIOBase.read  # type: ignore[assignment]  # by readinto
    readall = io.RawIOBase.readall

    def close(self) -> None:
        """Close the file and note its digest."""
        if not self.closed and self._done == os.fstat(self.fileno()).st_size:
            self._found[self._path] = self._digest.hexdigest()
        super().close()


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Open a regular file to read its bytes. Every file that a user names is opened here.

    Opening a named pipe waits until another program writes to it, and a device may have no end: both are refused at once.

    Raises:
        InputError: the path leads to a pipe, a socket or a device.
        OSError: as `open` raises; IsADirectoryError for a folder.
    """
    try:
        found = _recorded.get()
        if found is None:
            file = open(path, "rb", opener=open_without_waiting)  # noqa: SIM115
        else:
            file = io.BufferedReader(_DigestedFile(path, found), _BLOCK)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise _not_regular(path) from error
        raise
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise _not_regular(path)
    return file


def check_file_or_folder(path: str | os.PathLike[str]) -> None:
    """Raise InputError if something is at `path` that is neither a file nor a folder."""
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise _not_regular(path)


def _not_regular(path: str | os.PathLike[str]) -> InputError:
    return InputError(f"{path} is a pipe, a socket or a device, expected a regular file; copy its content to a file")
