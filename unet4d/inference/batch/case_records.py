"""What is known of each case that was predicted into a folder: from what it was made, and which files hold it.

OUT/.unet4d/cases/<case>.json    written last, when all files of the case are there: what has no record is not complete
    "made"       what decides the answer: inputs by size and time, their frame duration and kinds of channels where a header or an
                 option says them, models by SHA-256, settings, version; where that is equal, it is not made again. What
                 computed it, and with how much memory, is no part of it.
    "files"      relative path to size and SHA-256
    "entry"      its place in prediction.json; "volumes_ml", "frame_duration_s", "summary": what the tables say of it
OUT/.unet4d/failed/<case>.json   why the last try at a case failed
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unet4d.datasets.study import Study
from unet4d.errors import InputError
from unet4d.system.files import read_json, remove_partial, write_json

HIDDEN, CASES, FAILED = ".unet4d", "cases", "failed"
Record = dict[str, Any]
Stamp = list[Any]
"""Path, size and time of change in ns of an input; size and time are None where it is not there."""


def stamps(study: Study) -> list[Stamp]:
    """How all files that a study is read from stand now, by path."""
    return [_stamp(path) for path in sorted(path.absolute() for path in study.files)]


def inputs_in_record(taken: Sequence[Stamp]) -> dict[str, Any]:
    """What a record says of the inputs: how many, how large, and a digest of their paths, sizes and times.

    No paths: DICOM folders carry patients' names, which stay out of what is written.
    """
    text = json.dumps(list(taken))
    size = sum(size or 0 for _, size, _ in taken)
    return {"files": len(taken), "bytes": size, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def check_unchanged(before: Sequence[Stamp], study: Study) -> None:
    """See that no file of a study changed since its stamps were taken.

    Raises:
        InputError: one did; names it.
    """
    for earlier, now in zip(before, stamps(study), strict=True):
        if earlier != now:
            came = f"from {_size(earlier)} to {_size(now)}" if earlier[1] != now[1] else "and kept its size"
            raise InputError(
                f"{now[0]} changed while it was read ({came}); wanted a file that is complete; wait until it is written or copied, "
                "and predict again with --continue"
            )


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Records:
    """The records in a folder of predictions.

    Args:
        out: the folder; need not be there.
    """

    def __init__(self, out: Path):
        self.out, self.cases, self.failed = out, out / HIDDEN / CASES, out / HIDDEN / FAILED

    def path(self, case: str) -> Path:
        """Where the record of a case lies."""
        return self.cases / f"{case}.json"

    def read(self, path: Path) -> Record | None:
        """A record; None where there is none, or none that can be understood."""
        with contextlib.suppress(InputError):
            found = read_json(path)
            if isinstance(found, dict) and all(isinstance(found.get(key), dict) for key in ("made", "files", "entry")):
                return found
        return None

    def is_complete(self, case: str, made: Mapping[str, Any], formats: Sequence[str]) -> bool:
        """Whether a case was made of the same, in these formats or more, and every file of it is there as it was written."""
        record = self.read(self.path(case))
        if record is None or record["made"] != made or not _are_in(formats, record.get("formats")):
            return False
        return all(self._is_whole(name, known) for name, known in record["files"].items())

    def is_there(self, record: Mapping[str, Any]) -> bool:
        """Whether every file of a record is there, whole or not."""
        return all((self.out / name).is_file() for name in record["files"])

    def begin(self, case: str) -> list[Path]:
        """Forget a case that is about to be written anew; gives the files that it had."""
        record = self.read(self.path(case))
        _remove(self.path(case))
        remove_partial(self.cases, f"{glob.escape(case)}.json")
        return [path for name in record["files"] if (path := self._inside(name))] if record else []

    def keep(self, case: str, record: Record, files: Sequence[Path]) -> None:
        """Record a case whose files are all written."""
        about = {
            path.relative_to(self.out).as_posix(): {"bytes": path.stat().st_size, "sha256": digest(path)}
            for path in files
        }
        write_json(self.path(case), {**record, "files": about})
        self.forget_failure(case)

    def forget_failure(self, case: str) -> None:
        """A case that failed once is whole now."""
        _remove(self._failure(case))

    def keep_failure(self, case: str, reason: str) -> None:
        """Record why a case failed."""
        write_json(self._failure(case), {"case": case, "reason": reason})

    def _failure(self, case: str) -> Path:
        """Return where the failure of a case lies; a case may have failed because its name is too long for a file."""
        name = case if len(os.fsencode(case)) <= 200 else hashlib.sha256(os.fsencode(case)).hexdigest()
        return self.failed / f"{name}.json"

    def failures(self) -> dict[str, str]:
        """Case to the reason for which the last try at it failed."""
        found: dict[str, str] = {}
        for path in self.failed.glob("*.json"):
            with contextlib.suppress(InputError, LookupError, TypeError):  # one that was damaged is of no use
                about = read_json(path)
                found[str(about["case"])] = str(about["reason"])
        return found

    def _is_whole(self, name: str, known: Any) -> bool:
        path = self._inside(name)
        if path is None or not isinstance(known, dict):
            return False
        try:
            return path.stat().st_size == known.get("bytes") and digest(path) == known.get("sha256")
        except OSError:
            return False

    def _inside(self, name: str) -> Path | None:
        """The file of this name, unless the record was changed so as to name one elsewhere."""
        path = Path(name)
        return None if path.is_absolute() or ".." in path.parts else self.out / path


def _stamp(path: Path) -> Stamp:
    try:
        about = path.stat()
    except OSError:
        return [str(path), None, None]
    return [str(path), about.st_size, about.st_mtime_ns]


def _size(stamp: Stamp) -> str:
    return "no file" if stamp[1] is None else f"{stamp[1]} bytes"


def _are_in(formats: Sequence[str], recorded: Any) -> bool:
    """Return whether the formats of a record include all of these."""
    return isinstance(recorded, list) and all(one in recorded for one in formats)


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
