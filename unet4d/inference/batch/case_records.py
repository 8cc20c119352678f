"""The records of a folder of predictions: what each case was made from, and which files hold it.

OUT/.unet4d/cases/<case>.json    written last, when all files of the case are there: a case without a record is not complete
    "made"       what decides the label map: inputs by size and time, their frame duration and kinds of channels where a header or
                 an option gives them, models by SHA-256, settings, version; where that is equal, the case is not made again.
                 The device and the memory are no part of it.
    "formats"    the outputs that were asked for, see formats.py
    "files"      relative path to SHA-256
    "entry"      the case's entry in prediction.json; "frames", "frame_duration_s", "volumes_ml", "vitals", "flags",
                 "flag_keys": its part of the other tables; "seconds", "hardware"
    "intensity", "flow", "channel_kinds", "baseline_frames"   curves, where they were asked for, see evaluation/signal_curves.py
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unet4d.datasets.convert.file_names import natural_key
from unet4d.datasets.study import Study
from unet4d.errors import InputError
from unet4d.system.digests import file_sha256, stamp
from unet4d.system.documents import write_document
from unet4d.system.files import read_json, remove_partial

HIDDEN_FOLDER = ".unet4d"
CaseRecord = dict[str, Any]
InputStamp = list[Any]
"""Path, size and time of change in ns of an input; size and time are None where the file is missing."""


def input_stamps(study: Study) -> list[InputStamp]:
    """Return the stamps of all files that a study is read from, sorted by path."""
    return [_stamp(path) for path in sorted(path.absolute() for path in study.files)]


def _stamp(path: Path) -> InputStamp:
    with contextlib.suppress(InputError):
        return [str(path), *stamp(path)[:2]]
    return [str(path), None, None]


def describe_inputs(stamps: Sequence[InputStamp]) -> str:
    """Return what a record holds of the inputs, a digest of their paths, sizes and times.

    It holds no paths: DICOM folders carry patients' names, which stay out of what is written.
    """
    return hashlib.sha256(json.dumps(list(stamps)).encode()).hexdigest()


def check_unchanged(before: Sequence[InputStamp], study: Study) -> None:
    """Raise InputError, naming the file, where a file of a study changed since its stamps were taken."""
    for earlier, now in zip(before, input_stamps(study), strict=True):
        if earlier != now:
            raise InputError(
                f"{now[0]} changed while it was read, expected a complete file; wait until it is written or copied, and predict "
                "again with --continue"
            )


class CaseRecords:
    """The records in a folder of predictions."""

    def __init__(self, out: Path):
        self.out, self.folder = out, out / HIDDEN_FOLDER / "cases"

    def path(self, case: str) -> Path:
        """Return the file of a case's record."""
        return self.folder / f"{case}.json"

    def read(self, case: str) -> CaseRecord | None:
        """Return the record of a case; None where there is none, or a damaged one, or one that names files elsewhere."""
        with contextlib.suppress(InputError, LookupError, TypeError):
            record = read_json(self.path(case))
            names = [Path(name) for name in record["files"]]
            if any(name.is_absolute() or ".." in name.parts for name in names):
                return None
            if all(isinstance(record[key], dict) for key in ("made", "files", "entry")):
                return {"formats": [], **record}
        return None

    def read_all(self) -> dict[str, CaseRecord]:
        """Return the records of all cases that have all their files, whole or not, sorted by name."""
        names = sorted((path.stem for path in self.folder.glob("[!.]*.json")), key=natural_key)
        records = {case: record for case in names if (record := self.read(case))}
        return {case: one for case, one in records.items() if all((self.out / name).is_file() for name in one["files"])}

    def read_complete(self, case: str, made: Mapping[str, Any], outputs: Sequence[str]) -> CaseRecord | None:
        """Return the record of a case that was made from the same, in these outputs or more, with files as they were written."""
        record = self.read(case)
        if record is None or record["made"] != made:
            return None
        with contextlib.suppress(OSError, TypeError, ValueError):  # a file is gone, or the record damaged
            has_outputs = set(outputs) <= set(record["formats"])
            if has_outputs and all(file_sha256(self.out / name) == known for name, known in record["files"].items()):
                return record
        return None

    def remove(self, case: str) -> list[Path]:
        """Remove the record of a case that is about to be written anew; return the files that it had."""
        record = self.read(case) or {"files": {}}
        self.path(case).unlink(missing_ok=True)
        remove_partial(self.folder, f"{glob.escape(case)}.json")
        return [self.out / name for name in record["files"]]

    def write(self, case: str, record: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Write the record of a case that has all its files."""
        digests = {path.relative_to(self.out).as_posix(): file_sha256(path) for path in files}
        write_document(self.path(case), "case-record", {**record, "files": digests})
