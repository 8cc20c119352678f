"""The tables of a folder of predictions, made from the records of everybody who writes there: jobs of an array, processes, calls.

OUT/volumes.csv       case, frame, time_s, class, value, volume_ml: a row a frame and class
OUT/prediction.json   {"labels": {name: value}, "version": ..., "cases": {case: {"image", "time", "model", "settings",
                      "postprocessing"}}}; in place of "model", "models": [...] where several answered together; and "fold", whose
                      network it was, where the case was held out by a fold
OUT/summary.json      each case's frames, seconds and what its volume curves say; what failed and why; totals, hardware, versions

The records are the truth and the tables follow: with each case while that costs little, and at the end in any case. A run that is
killed leaves tables of some cases less, and the next one mends them.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unet4d.datasets.convert.file_names import natural_key
from unet4d.datasets.label_maps import PREDICTION_JSON
from unet4d.inference.batch.case_records import HIDDEN, Record, Records
from unet4d.system.csv_file import csv_text
from unet4d.system.environment import versions
from unet4d.system.files import remove_partial, write_json, write_text, writing
from unet4d.system.lock import exclusive_lock
from unet4d.system.version import VERSION

VOLUMES, SUMMARY = "volumes.csv", "summary.json"
COLUMNS = ["case", "frame", "time_s", "class", "value", "volume_ml"]
TABLES = (VOLUMES, PREDICTION_JSON, SUMMARY)
_SPARING = 20
"""The tables are written anew when this many times as long has passed as it took the last time."""
_TRIES = 10


@dataclass(frozen=True)
class _Row:
    """What the tables say of a case, kept so that no record is read twice."""

    stamp: tuple[int, int, int]
    record: Record
    volumes: str


class Tables:
    """The tables of a folder.

    Args:
        out: the folder.
        labels: class name to value, background first.
        records: of the same folder.
    """

    def __init__(self, out: Path, labels: Mapping[str, int], records: Records):
        self.out, self.labels, self.records = out, dict(labels), records
        self._rows: dict[str, _Row] = {}
        self._due = 0.0

    def write(self, always: bool = False) -> None:
        """Write all three, each whole or not at all, if it is time to.

        Args:
            always: do so however shortly ago it was done.

        Raises:
            Unet4DError: the disk is full or the folder cannot be written to.
        """
        if not always and time.monotonic() < self._due:
            return
        began = time.monotonic()
        with writing(self.out):
            (self.out / HIDDEN).mkdir(parents=True, exist_ok=True)
            with exclusive_lock(self.out / HIDDEN / "lock") as alone:
                for name in TABLES if alone else ():
                    remove_partial(self.out, name)
                for _ in range(_TRIES):
                    seen = self._read()
                    self._write_all()
                    if alone or seen == self._stamps():  # without a lock, somebody may have added a case meanwhile
                        break
        self._due = time.monotonic() + _SPARING * (time.monotonic() - began)

    def _write_all(self) -> None:
        there = {
            case: row for case, row in sorted(self._rows.items(), key=lambda row: natural_key(row[0]))
            if self.records.is_there(row.record)
        }  # fmt: skip
        entries = {case: row.record["entry"] for case, row in there.items()}
        about = {"labels": self.labels, "version": VERSION, "cases": entries}
        write_json(self.out / PREDICTION_JSON, about)  # first of all, see PredictionFolder
        write_text(self.out / VOLUMES, ",".join(COLUMNS) + "\n" + "".join(row.volumes for row in there.values()))
        failed = dict(sorted(self.records.failures().items(), key=lambda failure: natural_key(failure[0])))
        write_json(self.out / SUMMARY, _summary({case: row.record for case, row in there.items()}, failed))

    def _read(self) -> dict[str, tuple[int, int, int]]:
        """Read the records that are new or were changed, forget those that are gone; gives what was seen."""
        seen = self._stamps()
        self._rows = {case: row for case, row in self._rows.items() if seen.get(case) == row.stamp}
        for case in seen.keys() - self._rows.keys():
            record = self.records.read(self.records.path(case))
            if record is not None:
                self._rows[case] = _Row(seen[case], record, _volume_rows(case, record, self.labels))
        return seen

    def _stamps(self) -> dict[str, tuple[int, int, int]]:
        found: dict[str, tuple[int, int, int]] = {}
        if self.records.cases.is_dir():
            with os.scandir(self.records.cases) as entries:
                for entry in entries:
                    if entry.name.endswith(".json") and not entry.name.startswith("."):
                        with contextlib.suppress(FileNotFoundError):
                            about = entry.stat()
                            found[entry.name.removesuffix(".json")] = (about.st_mtime_ns, about.st_size, about.st_ino)
        return found


def _volume_rows(case: str, record: Record, labels: Mapping[str, int]) -> str:
    """The rows of a case in volumes.csv."""
    step, volumes = record.get("frame_duration_s"), record.get("volumes_ml", {})
    rows = [
        [case, t, "" if step is None else round(t * step, 6), name, value, volumes[name][t]]
        for t in range(int(record.get("frames", 0)))
        for name, value in labels.items()
        if name in volumes
    ]
    return csv_text(rows)


def _summary(records: Mapping[str, Record], failed: Mapping[str, str]) -> dict[str, Any]:
    """The content of summary.json."""
    made = [record["made"] for record in records.values()]
    seconds = [sum(record.get("seconds", {}).values()) for record in records.values()]
    return {
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "totals": {
            "cases": len(records),
            "frames": sum(record.get("frames", 0) for record in records.values()),
            "seconds": round(sum(seconds), 2),
            "failed": len(failed),
        },
        "failed": dict(failed),
        "settings": _distinct(one.get("settings") for one in made),
        "models_sha256": _distinct(one.get("models") for one in made),
        "hardware": _distinct(record.get("hardware") for record in records.values()),
        "versions": versions(),
        "cases": {case: record.get("summary", {}) for case, record in records.items()},
    }


def _distinct(values: Any) -> list[Any]:
    """Each value once, in the order in which they come."""
    return [json.loads(text) for text in dict.fromkeys(json.dumps(value, sort_keys=True) for value in values)]
