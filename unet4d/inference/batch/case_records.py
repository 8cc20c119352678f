"""The records of a folder of predictions: what each case was made from, and which files hold it.

OUT/.unet4d/cases/<case>.json    written last, when all files of the case are there: a case without a record is not complete
    "made"       what decides the label map: inputs by size and time, their frame duration and kinds of channels where a header or
                 an option gives them, models by SHA-256, settings, version; where that is equal, the case is not made again.
                 The device and the memory are no part of it.
    "files"      relative path to size and SHA-256
    "entry"      the case's entry in prediction.json; "volumes_ml", "frame_duration_s", "vitals", "flags", "summary": its part of
                 the other tables
OUT/.unet4d/failed/*.json        why the last try at a case failed
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

from unet4d.datasets.convert.file_names import natural_key
from unet4d.datasets.study import Study
from unet4d.errors import InputError
from unet4d.system.digests import file_sha256, stamp
from unet4d.system.files import read_json, remove_partial, write_json

HIDDEN_FOLDER = ".unet4d"
CaseRecord = dict[str, Any]
InputStamp = list[Any]
"""Path, size and time of change in ns of an input; size and time are None where the file is missing."""


def input_stamps(study: Study) -> list[InputStamp]:
    """Return the stamps of all files that a study is read from, sorted by path."""
    return [_stamp(path) for path in sorted(path.absolute() for path in study.files)]


def describe_inputs(stamps: Sequence[InputStamp]) -> dict[str, Any]:
    """Return what a record holds of the inputs: their number and size, and a digest of their paths, sizes and times.

    It holds no paths: DICOM folders carry patients' names, which stay out of what is written.
    """
    size = sum(size or 0 for _, size, _ in stamps)
    digest = hashlib.sha256(json.dumps(list(stamps)).encode()).hexdigest()
    return {"files": len(stamps), "bytes": size, "sha256": digest}


def check_unchanged(before: Sequence[InputStamp], study: Study) -> None:
    """Raise InputError, naming the file, where a file of a study changed since its stamps were taken."""
    for earlier, now in zip(before, input_stamps(study), strict=True):
        if earlier != now:
            sizes = ["no file" if size is None else f"{size} bytes" for _, size, _ in (earlier, now)]
            change = f"from {sizes[0]} to {sizes[1]}" if earlier[1] != now[1] else "and kept its size"
            raise InputError(
                f"{now[0]} changed while it was read ({change}), expected a complete file; wait until it is written or copied, "
                "and predict again with --continue"
            )


class CaseRecords:
    """The records in a folder of predictions."""

    def __init__(self, out: Path):
        self.out, self.folder, self.failed = out, out / HIDDEN_FOLDER / "cases", out / HIDDEN_FOLDER / "failed"

    def path(self, case: str) -> Path:
        """Return the file of a case's record."""
        return self.folder / f"{case}.json"

    def read(self, case: str) -> CaseRecord | None:
        """Return the record of a case; None where there is none, or a damaged one."""
        with contextlib.suppress(InputError):
            record = read_json(self.path(case))
            if isinstance(record, dict) and all(
                isinstance(record.get(key), dict) for key in ("made", "files", "entry")
            ):
                return record
        return None

    def read_all(self) -> dict[str, CaseRecord]:
        """Return the records of all cases that have all their files, whole or not, sorted by name."""
        names = [path.stem for path in self.folder.glob("*.json") if not path.name.startswith(".")]
        records = {case: self.read(case) for case in sorted(names, key=natural_key)}
        return {
            case: record
            for case, record in records.items()
            if record is not None and all((self.out / name).is_file() for name in record["files"])
        }

    def is_complete(self, case: str, made: Mapping[str, Any], outputs: Sequence[str]) -> bool:
        """Return whether a case was made from the same, in these outputs or more, and all its files are as they were written."""
        record = self.read(case)
        if record is None or record["made"] != made:
            return False
        formats = record.get("formats")
        if not isinstance(formats, list) or not all(output in formats for output in outputs):
            return False
        return all(self._is_whole(name, known) for name, known in record["files"].items())

    def remove(self, case: str) -> list[Path]:
        """Remove the record of a case that is about to be written anew; return the files that it had."""
        record = self.read(case)
        self.path(case).unlink(missing_ok=True)
        remove_partial(self.folder, f"{glob.escape(case)}.json")
        return [path for name in record["files"] if (path := self._path_inside(name))] if record else []

    def write(self, case: str, record: CaseRecord, files: Sequence[Path]) -> None:
        """Write the record of a case that has all its files."""
        about = {
            path.relative_to(self.out).as_posix(): {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
            for path in files
        }
        write_json(self.path(case), {**record, "files": about})
        self.remove_failure(case)

    def update(self, case: str, values: Mapping[str, Any]) -> None:
        """Replace values in the record of a complete case, where they differ."""
        record = self.read(case) or {}
        if any(record.get(name) != value for name, value in values.items()):
            write_json(self.path(case), {**record, **values})

    def write_failure(self, case: str, reason: str) -> None:
        """Record why a case failed."""
        write_json(self._failure_path(case), {"case": case, "reason": reason})

    def remove_failure(self, case: str) -> None:
        """Remove the record of a failure, because the case is complete now."""
        self._failure_path(case).unlink(missing_ok=True)

    def read_failures(self) -> dict[str, str]:
        """Return the reason for which the last try at a case failed, by case, sorted by name."""
        found = list[tuple[Any, str]]()
        for path in self.failed.glob("*.json"):
            with contextlib.suppress(InputError, LookupError, TypeError, ValueError):  # a damaged one is ignored
                about = read_json(path)
                found.append((natural_key(str(about["case"])), str(about["reason"])))
        return {case: reason for (_, case), reason in sorted(found)}

    def _failure_path(self, case: str) -> Path:
        """Return the file of a failure; not by name, because a case may have failed for a name that is too long for a file."""
        return self.failed / f"{hashlib.sha256(os.fsencode(case)).hexdigest()}.json"

    def _is_whole(self, name: str, known: Any) -> bool:
        path = self._path_inside(name)
        if path is None or not isinstance(known, dict):
            return False
        try:
            return path.stat().st_size == known.get("bytes") and file_sha256(path) == known.get("sha256")
        except OSError:
            return False

    def _path_inside(self, name: str) -> Path | None:
        """Return the file of this name, unless the record was changed so as to name one outside the folder."""
        path = Path(name)
        return None if path.is_absolute() or ".." in path.parts else self.out / path


def _stamp(path: Path) -> InputStamp:
    with contextlib.suppress(InputError):
        return [str(path), *stamp(path)[:2]]
    return [str(path), None, None]
