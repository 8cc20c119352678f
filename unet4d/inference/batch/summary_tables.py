"""The tables of a folder of predictions, written from the records of all jobs, processes and calls that share it.

OUT/volumes.csv       case, frame, time_s, class, value, volume_ml: one row per frame and class
OUT/measures.csv      one row per case: heart rate, body surface area, measures of each class, flags; see case_measures.py
OUT/prediction.json   {"labels": {name: value}, "roles": {name: structure}, "version": ..., "cases": {case: {"image", "time",
                      "model", "settings", "postprocessing", "conditions"}}}; in place of "model", "models": [...] of several
                      together; and "fold", of the network that was used, where the case was held out by a fold
OUT/summary.json      each case's frames, seconds and measures of its volume curves; what failed and why; totals, hardware, versions

The tables follow the records: after each case while that costs little, and always at the end. A run that is killed leaves tables
that lack some cases, and the next one completes them.
"""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from unet4d.datasets.label_maps import PREDICTION_JSON
from unet4d.evaluation.cardiac_function import measure_cardiac_function
from unet4d.inference.batch.case_measures import measure_case
from unet4d.inference.batch.case_records import HIDDEN_FOLDER, CaseRecord, CaseRecords
from unet4d.metrics.cardiac_structures import NO_STRUCTURE, Roles, find_roles
from unet4d.system.csv_file import csv_text
from unet4d.system.environment import VERSION, versions
from unet4d.system.files import remove_partial, write_json, write_text, writing
from unet4d.system.lock import exclusive_lock

VOLUMES_FILE, MEASURES_FILE, SUMMARY_FILE = "volumes.csv", "measures.csv", "summary.json"
VOLUME_COLUMNS = ["case", "frame", "time_s", "class", "value", "volume_ml"]
TABLE_FILES = (VOLUMES_FILE, MEASURES_FILE, PREDICTION_JSON, SUMMARY_FILE)
_PAUSE_FACTOR = 20
"""The tables are written again when this many times as long has passed as it took the last time."""
_TRIES = 10


class SummaryTables:
    """The tables of a folder.

    Args:
        records: of the cases in the folder.
        labels: class name to value, background first.
        roles: the structure of a heart that each class is, see `find_roles`.
    """

    def __init__(self, records: CaseRecords, labels: Mapping[str, int], roles: Roles):
        self.records, self.labels, self.roles = records, dict(labels), dict(roles)
        self._due_s = 0.0

    def write(self, always: bool = False) -> None:
        """Write all of them, each whole or not at all, if it is time to, or `always`.

        Raises:
            Unet4DError: the disk is full or the folder cannot be written to.
        """
        begin_s, out = time.monotonic(), self.records.out
        if not always and begin_s < self._due_s:
            return
        with writing(out):
            (out / HIDDEN_FOLDER).mkdir(parents=True, exist_ok=True)
            with exclusive_lock(out / HIDDEN_FOLDER / "lock") as is_held:
                for name in TABLE_FILES if is_held else ():
                    remove_partial(out, name)
                for _ in range(_TRIES):
                    before = self._stamps()
                    self._write_all()
                    # Without a lock, another process may have added a case meanwhile.
                    if is_held or before == self._stamps():
                        break
        self._due_s = time.monotonic() + _PAUSE_FACTOR * (time.monotonic() - begin_s)

    def _write_all(self) -> None:
        out, records = self.records.out, self.records.read_all()
        entries = {case: record["entry"] for case, record in records.items()}
        # First of all, because it marks a folder of predictions, see PredictionFolder.
        classes = [name for name, value in self.labels.items() if value]
        roles = {name: self.roles.get(name, NO_STRUCTURE) for name in classes}
        write_json(out / PREDICTION_JSON, {"labels": self.labels, "roles": roles, "version": VERSION, "cases": entries})
        measured = [measure_case(record, classes, self.roles) for record in ({}, *records.values())]
        cells = [["" if value is None else value for value in row.values()] for row in measured[1:]]
        write_text(out / MEASURES_FILE, csv_text([list(measured[0]), *cells]))
        rows = [row for case, record in records.items() for row in _volume_rows(case, record, self.labels)]
        write_text(out / VOLUMES_FILE, csv_text([VOLUME_COLUMNS, *rows]))
        write_json(out / SUMMARY_FILE, _summary(records, self.records.read_failures()))

    def _stamps(self) -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in self.records.folder.glob("*.json") if path.exists()}


def _volume_rows(case: str, record: CaseRecord, labels: Mapping[str, int]) -> list[Sequence[Any]]:
    """Return the rows of a case in volumes.csv."""
    duration_s, volumes = record.get("frame_duration_s"), record.get("volumes_ml", {})
    return [
        [case, t, "" if duration_s is None else round(t * duration_s, 6), name, value, volumes[name][t]]
        for t in range(int(record.get("frames", 0)))
        for name, value in labels.items()
        if name in volumes
    ]


def _summary(records: Mapping[str, CaseRecord], failed: Mapping[str, str]) -> dict[str, Any]:
    """Return the content of summary.json."""
    made = [record["made"] for record in records.values()]
    return {
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "totals": {
            "cases": len(records),
            "frames": sum(record.get("frames", 0) for record in records.values()),
            "seconds": round(sum(sum(record.get("seconds", {}).values()) for record in records.values()), 2),
            "failed": len(failed),
        },
        "failed": dict(failed),
        "settings": _distinct(one.get("settings") for one in made),
        "models_sha256": _distinct(one.get("models") for one in made),
        "hardware": _distinct(record.get("hardware") for record in records.values()),
        "versions": versions(),
        "cases": {case: record.get("summary", {}) for case, record in records.items()},
    }


def _distinct(values: Iterable[Any]) -> list[Any]:
    """Return each value once, in the order in which they come."""
    return [json.loads(text) for text in dict.fromkeys(json.dumps(value, sort_keys=True) for value in values)]


def summarize_curves(
    curves: Mapping[str, Sequence[float]], frame_duration_s: float | None, cyclic: bool, roles: Roles | None = None
) -> dict[str, dict[str, Any]]:
    """Return the measures of a study's volume curves: function of a heart's ventricles, mass of its myocardium, range of all.

    Args:
        curves: class name to (T,) mL.
        frame_duration_s: seconds from frame to frame; None where unknown.
        cyclic: whether the last frame leads into the first.
        roles: the structure of a heart that each class is; None goes by their names.
    """
    roles = find_roles(curves) if roles is None else roles
    arrays = {name: np.array(curve, np.float64) for name, curve in curves.items()}
    cardiac = measure_cardiac_function(arrays, frame_duration_s, cyclic, roles)
    found: dict[str, dict[str, Any]] = {}
    for name, curve in curves.items():
        role = {"role": roles[name]} if name in roles else {}
        measures = {
            "mean_ml": float(np.mean(curve)),
            "min_ml": min(curve),
            "max_ml": max(curve),
            **cardiac.get(name, {}),
        }
        found[name] = role | {
            key: round(value, 6) if isinstance(value, float) else value for key, value in measures.items()
        }
    return found
