"""Reader of an evaluation: summary.json and the tables beside it, as `unet4d evaluate` wrote them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unet4d.errors import InputError
from unet4d.evaluation.curve_comparison import FLOW_CSV, FLOW_VOLUMES_CSV, UPTAKE_CSV
from unet4d.evaluation.tables import MEASURES_CSV, METRICS_CSV, SUMMARY_JSON, TEMPORAL_CSV
from unet4d.system.csv_file import Row, read_table
from unet4d.system.documents import check_document
from unet4d.system.files import read_json
from unet4d.system.text import count, short_repr

ADVICE = "give the --out folder of `unet4d evaluate`, or run unet4d evaluate again"
COLUMNS: dict[str, tuple[str, ...]] = {
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
CURVE_COLUMNS = {
    UPTAKE_CSV: ("case", "subject", "class", "channel", "reference_time_to_peak_s", "matched_time_to_peak_s"),
    FLOW_CSV: ("case", "subject", "frame", "class", "reference_flow_ml_per_s", "prediction_flow_ml_per_s"),
    FLOW_VOLUMES_CSV: ("case", "subject", "class", "reference_net_ml", "prediction_net_ml"),
}  # fmt: skip


@dataclass(frozen=True)
class EvaluationResults:
    """Contents of an evaluation folder.

    Attributes:
        folder: the folder.
        summary: contents of summary.json.
        tables: file name to its rows, column to text.
    """

    folder: Path
    summary: dict[str, Any]
    tables: dict[str, list[Row]]

    @property
    def cases(self) -> list[str]:
        """Return the scored cases, in order."""
        return list(self.summary["per_case"])

    def select(self, cases: Sequence[str]) -> EvaluationResults:
        """Return the results with the rows of these cases only."""
        wanted = set(cases)
        tables = {name: [row for row in rows if row["case"] in wanted] for name, rows in self.tables.items()}
        return EvaluationResults(self.folder, self.summary, tables)

    def number(self, file: str, row: Row, column: str) -> float:
        """Return the number in a column of a row of `file`; NaN where it is blank. Raises InputError for other text."""
        text = row.get(column, "")
        try:
            return float(text) if text else math.nan
        except ValueError as error:
            raise InputError(
                f"{self.folder / file}: {column} of case {row['case']} is {short_repr(text)}, expected a number; {ADVICE}"
            ) from error


def read_evaluation(
    path: Path, required: Sequence[str] = tuple(COLUMNS), optional: Sequence[str] = ()
) -> EvaluationResults:
    """Read an evaluation.

    Args:
        path: the folder that `evaluate` wrote, or its summary.json.
        required: names of the tables that must be there.
        optional: names of the tables that are read where they are there.

    Raises:
        InputError: a file is missing, damaged or of another version; metrics.csv and summary.json do not belong together.
    """
    if path.is_file() and path.name != SUMMARY_JSON:
        raise InputError(f"{path} is a file, expected a folder with {SUMMARY_JSON}; {ADVICE}")
    folder = path.parent if path.is_file() else path
    missing = [name for name in (SUMMARY_JSON, *required) if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder / missing[0]} is missing; {ADVICE}")
    summary = read_json(folder / SUMMARY_JSON)
    contents = summary if isinstance(summary, dict) else {}
    if not isinstance(contents.get("per_case"), dict) or not isinstance(contents.get("tolerance_mm"), (int, float)):
        raise InputError(f"{folder / SUMMARY_JSON} is no summary of an evaluation by this version; {ADVICE}")
    check_document(contents, "evaluation", folder / SUMMARY_JSON)
    names = [*required, *(name for name in optional if (folder / name).exists())]
    columns = COLUMNS | CURVE_COLUMNS
    results = EvaluationResults(folder, contents, {n: read_table(folder / n, columns[n], ADVICE) for n in names})
    if METRICS_CSV in results.tables:
        _check_complete(results)
    return results


def _check_complete(results: EvaluationResults) -> None:
    """Raise InputError unless metrics.csv has the cases of the summary, and one row per labelled frame and class."""
    rows, summary, path = results.tables[METRICS_CSV], results.summary, results.folder / METRICS_CSV
    frames, classes = summary.get("labelled_frames"), summary.get("classes")
    if type(frames) is int and isinstance(classes, dict) and len(rows) != frames * len(classes):
        raise InputError(
            f"{path} has {count(len(rows), 'row')}, expected {frames * len(classes)}, as summary.json counts; {ADVICE}"
        )
    others = sorted(set(results.cases) ^ {row["case"] for row in rows})
    if others:
        raise InputError(f"{path} and summary.json differ in case {short_repr(others[0])}; {ADVICE}")
