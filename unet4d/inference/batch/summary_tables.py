"""The tables of a folder of predictions, written from the records of all jobs, processes and calls that share it.

OUT/volumes.csv       case, frame, time_s, class, value, volume_ml: one row per frame and class
OUT/measures.csv      one row per case: heart rate, body surface area, measures of each class, flags; see case_measures.py
OUT/intensity.csv, uptake.csv, flow.csv, flow_volumes.csv   with --curves, see evaluation/curve_tables.py
OUT/prediction.json   {"labels": {name: value}, "roles": {name: structure}, "version": ..., "cases": {case: {"image", "time",
                      "model", "settings", "postprocessing", "conditions"}}}; in place of "model", "models": [...] of several
                      together; and "fold", of the network that was used, where the case was held out by a fold; "curves", the
                      options of --curves; with regions "regions": {name: {"values": [...], "paint": value}}

The tables follow the records: after each case while that costs little, and always at the end. A run that is killed leaves tables
that lack some cases, and the next one completes them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from unet4d.datasets.label_maps import PREDICTION_JSON
from unet4d.evaluation.curve_tables import CURVE_TABLES, curve_tables
from unet4d.inference.batch.case_measures import MEASURES, measure_case
from unet4d.inference.batch.case_records import HIDDEN_FOLDER, CaseRecord, CaseRecords
from unet4d.metrics.cardiac_structures import NO_STRUCTURE, Roles
from unet4d.metrics.regions import ClassValue, Regions, classes_of, describe_values
from unet4d.system.csv_file import Table, csv_text
from unet4d.system.documents import write_document
from unet4d.system.environment import VERSION
from unet4d.system.files import remove_partial, write_text, writing
from unet4d.system.lock import exclusive_lock

TABLE_FILES = (PREDICTION_JSON, "volumes.csv", MEASURES.file, *(table.file for table in CURVE_TABLES))
VOLUMES = Table(
    "volumes.csv",
    "case, frame and class",
    {
        "case": "name of the study",
        "frame": "number of the frame, from 0",
        "time_s": "time of the frame from the first, s; blank where the frame duration is unknown",
        "class": "name of the class",
        "value": "label value; of a region all of its values, 1+2+3",
        "volume_ml": "voxels of the class times the volume of one, mL",
    },
)
_PAUSE_FACTOR = 20
"""The tables are written again when this many times as long has passed as it took the last time."""
_TRIES = 10


class SummaryTables:
    """The tables of a folder.

    Args:
        records: of the cases in the folder.
        labels: class name to value, background first.
        roles: the structure of a heart that each class is, see `find_roles`.
        regions: unions of the labels, which are measured in place of them.
    """

    def __init__(self, records: CaseRecords, labels: Mapping[str, int], roles: Roles, regions: Regions):
        self.records, self.labels, self.roles, self.regions = records, dict(labels), dict(roles), dict(regions)
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
        records, classes = self.records.read_all(), classes_of(self.labels, self.regions)
        regions = {name: region.as_dict() for name, region in self.regions.items()}
        about = {
            "labels": self.labels,
            **({"regions": regions} if regions else {}),
            "roles": {name: self.roles.get(name, NO_STRUCTURE) for name in classes},
            "version": VERSION,
            "cases": {case: record["entry"] for case, record in records.items()},
        }
        header, *measured = [measure_case(record, list(classes), self.roles) for record in ({}, *records.values())]
        rows = [["" if value is None else value for value in row.values()] for row in measured]
        volumes = [row for case, record in records.items() for row in _volume_rows(case, record, classes)]
        prediction_json, volumes_csv, measures_csv = (self.records.out / name for name in TABLE_FILES[:3])
        # first of all, because it marks a folder of predictions, see PredictionFolder
        write_document(prediction_json, "prediction", about)
        write_text(measures_csv, csv_text([list(header), *rows]))
        write_text(volumes_csv, VOLUMES.text(volumes))
        for file, text in curve_tables(records, classes).items():
            write_text(self.records.out / file, text)

    def _stamps(self) -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in self.records.folder.glob("*.json") if path.exists()}


def _volume_rows(case: str, record: CaseRecord, classes: Mapping[str, ClassValue]) -> list[Sequence[Any]]:
    """Return the rows of a case in volumes.csv."""
    duration_s, volumes = record.get("frame_duration_s"), record.get("volumes_ml", {})
    return [
        [
            case,
            t,
            "" if duration_s is None else round(t * duration_s, 6),
            name,
            describe_values(value),
            volumes[name][t],
        ]
        for t in range(int(record.get("frames", 0)))
        for name, value in classes.items()
        if name in volumes
    ]
