"""The files of an evaluation, read again: what each case was worth, to be paired with another method's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unet4d.errors import InputError
from unet4d.evaluation.tables import MEASURES_CSV, METRICS_CSV, SUMMARY_JSON, TEMPORAL_CSV
from unet4d.system.csv_file import Row, read_table
from unet4d.system.files import read_json

_NEEDED = {
    METRICS_CSV: (
        "case",
        "subject",
        "frame",
        "class",
        "dice",
        "hd95_mm",
        "asd_mm",
        "nsd",
        "reference_ml",
        "prediction_ml",
    ),
    MEASURES_CSV: ("case", "subject", "class", "reference_ef_percent", "matched_ef_percent", "reference_mass_g"),
    TEMPORAL_CSV: ("case", "subject", "class", "time", "roughness", "flicker_components", "closure"),
}


@dataclass(frozen=True)
class EvaluationResults:
    """What `evaluate` wrote to a folder.

    Attributes:
        folder: that it wrote to.
        summary: summary.json.
        tables: file name to its rows, column to text.
    """

    folder: Path
    summary: dict[str, Any]
    tables: dict[str, list[Row]]

    @property
    def cases(self) -> list[str]:
        """The scored cases, in order."""
        return list(self.summary["per_case"])

    def of_cases(self, cases: Sequence[str]) -> EvaluationResults:
        """The same with the rows of these cases alone."""
        kept = set(cases)
        tables = {name: [row for row in rows if row["case"] in kept] for name, rows in self.tables.items()}
        return EvaluationResults(self.folder, self.summary, tables)

    def number(self, row: Row, column: str) -> float:
        """What stands in a column; NaN where it is blank. Raises InputError where it is no number."""
        text = row.get(column, "")
        try:
            return float(text) if text else math.nan
        except ValueError as error:
            raise InputError(
                f"{self.folder}: {column} of case {row['case']} is {text!r}; wanted a number; evaluate again"
            ) from error


def read_evaluation(folder: Path) -> EvaluationResults:
    """Read the folder that `evaluate` wrote.

    Raises:
        InputError: a file is missing, or is not what this version writes.
    """
    again = f"give the --out folder of `unet4d evaluate`, or run it again to {folder}"
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; {again}")
    missing = [name for name in (SUMMARY_JSON, *_NEEDED) if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} has no {', '.join(missing)}; {again}")
    summary = read_json(folder / SUMMARY_JSON)
    known = summary if isinstance(summary, dict) else {}
    if not isinstance(known.get("per_case"), dict) or not isinstance(known.get("tolerance_mm"), (int, float)):
        raise InputError(f"{folder / SUMMARY_JSON} is no summary that this version of evaluate wrote; {again}")
    return EvaluationResults(
        folder, summary, {name: read_table(folder / name, columns, again) for name, columns in _NEEDED.items()}
    )
