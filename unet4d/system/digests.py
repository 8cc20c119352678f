"""Digests of the bytes of files, and a memo of them, so that gigabytes are not read again at every start."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from unet4d.errors import InputError, Unet4DError
from unet4d.system.files import read_json, write_json
from unet4d.system.progress_bar import ProgressBar
from unet4d.system.regular_files import new_digest, open_regular
from unet4d.system.threads import each_done

SETTLED_S = 3.0
"""A file changed so shortly ago is not remembered: it could change once more within the tick of the file system's clock."""

Stamp = list[int]
"""Size, times of change of content and of inode in ns, inode: while they stay, so does what the file holds."""


class DigestMemo:
    """Digests of files, remembered in a JSON file for as long as the files' stamps stay.

    Args:
        path: of the JSON file. Where it is missing or damaged, nothing is known; where it cannot be written, nothing is kept.
    """

    def __init__(self, path: Path):
        self._path, self._now_ns, self._rows, self._lock = path, time.time_ns(), dict[str, Any](), Lock()
        with contextlib.suppress(InputError):
            rows = read_json(path)
            self._rows = rows if isinstance(rows, dict) else {}

    def find(self, file: Path, taken: Stamp) -> str | None:
        """Return the digest of a file with the stamp `taken`; None where it is unknown."""
        row = self._rows.get(str(file.resolve()))
        if isinstance(row, list) and len(row) == 2 and row[0] == taken and isinstance(row[1], str):
            return row[1]
        return None

    def add(self, file: Path, taken: Stamp, digest: str) -> None:
        """Note a digest; `taken` is the stamp from before the file was read, and from after this memo was made."""
        if settled(taken, self._now_ns):
            self._rows[str(file.resolve())] = [taken, digest]

    def write(self) -> None:
        """Write the JSON file."""
        with self._lock, contextlib.suppress(Unet4DError, OSError):
            write_json(self._path, dict(self._rows))


def content_digests(files: Sequence[Path], memo: DigestMemo, threads: int = 1) -> dict[Path, str]:
    """Return a digest of the bytes of each file, whatever its name and times.

    Args:
        files: each is read only where the memo does not know it as it is now.
        memo: gets what was read, and is written.
        threads: how many files are read at once.

    Raises:
        InputError: a file is missing or cannot be read.
    """
    stamps = {path: stamp(path) for path in files}
    known = {path: memo.find(path, taken) for path, taken in stamps.items()}
    digests = {path: digest for path, digest in known.items() if digest is not None}
    new = [path for path in stamps if path not in digests]
    if not new:
        return digests
    try:
        read = each_done(_digest, new, max(1, threads))
        for path, digest in ProgressBar(read, "reading", len(new), leave=False, unit="file"):
            digests[path] = digest
            memo.add(path, stamps[path], digest)
    finally:
        memo.write()
    return digests


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp(path: Path) -> Stamp:
    """Return what a file is known by without being read. Raises InputError where it is missing."""
    try:
        about = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return [about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino]


def settled(taken: Stamp, now_ns: int) -> bool:
    """Return whether what is read of a file may be remembered under its stamp, which was taken after `now_ns`."""
    return max(taken[1:3]) < now_ns - int(SETTLED_S * 1e9)


def _digest(path: Path) -> str:
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, new_digest).hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path} cannot be read ({error.strerror}); give a file that is there and may be read")
