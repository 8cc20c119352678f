"""What files hold, as digests, and a memo of them, so that gigabytes are not read again at every start."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unet4d.errors import InputError, Unet4DError
from unet4d.system.files import read_json, write_json
from unet4d.system.progress_bar import ProgressBar
from unet4d.system.regular_files import open_regular
from unet4d.system.threads import each_done

SETTLED_S = 3.0
"""A file changed so shortly ago is not remembered: it could change once more within the tick of the file system's clock."""

Stamp = list[int]
"""Size, times of change of content and of inode in ns, inode: while they stay, so does what the file holds."""


def content_digests(files: Sequence[Path], memo: Path, threads: int = 1) -> dict[Path, str]:
    """A digest of the bytes of each file, whatever its name and times.

    Args:
        files: each is read only where the memo does not know it as it is now.
        memo: a JSON file; one that is damaged, or cannot be written, costs time and nothing else.
        threads: how many files are read at once.

    Raises:
        InputError: a file is missing or cannot be read.
    """
    now_ns = time.time_ns()
    known, stamps = _remembered(memo), {path: stamp(path) for path in files}
    digests = {path: known[str(path.resolve())][1] for path in stamps if _is_known(path, stamps[path], known)}
    new = [path for path in stamps if path not in digests]
    if not new:
        return digests
    try:
        read = each_done(_digest, new, max(1, threads))
        for path, digest in ProgressBar(read, "reading", len(new), leave=False, unit="file"):
            digests[path] = digest
            if settled(stamps[path], now_ns):
                known[str(path.resolve())] = [stamps[path], digest]
    finally:
        with contextlib.suppress(Unet4DError, OSError):
            write_json(memo, known)
    return digests


def stamp(path: Path) -> Stamp:
    """What a file is known by without being read. Raises InputError where it is missing."""
    try:
        about = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return [about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino]


def settled(taken: Stamp, now_ns: int) -> bool:
    """Whether what is read of a file may be remembered under its stamp, which was taken after `now_ns`."""
    return max(taken[1:3]) < now_ns - int(SETTLED_S * 1e9)


def _remembered(memo: Path) -> dict[str, Any]:
    """What the memo says, by resolved path; nothing where it cannot be read."""
    with contextlib.suppress(InputError):
        known = read_json(memo)
        return known if isinstance(known, dict) else {}
    return {}


def _is_known(path: Path, taken: Stamp, known: dict[str, Any]) -> bool:
    row = known.get(str(path.resolve()))
    return isinstance(row, list) and len(row) == 2 and row[0] == taken and isinstance(row[1], str)


def _digest(path: Path) -> str:
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, functools.partial(hashlib.blake2b, digest_size=16)).hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path} cannot be read ({error.strerror}); give a file that is there and may be read")
