"""Scores on the pages: the tables of an evaluation, of all studies and of each one."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unet4d.errors import InputError
from unet4d.evaluation.results import ADVICE, EvaluationResults, read_evaluation
from unet4d.evaluation.tables import (
    MEASURE_NAMES,
    METRICS_CSV,
    SUMMARY_JSON,
    cardiac_table,
    curve_table,
    format_range,
    temporal_table,
)
from unet4d.report.pages.template import PageTable, flatten
from unet4d.report.pictures.render import class_color
from unet4d.system.csv_file import Row
from unet4d.system.text import count, format_number

logger = logging.getLogger(__name__)

_OVERLAP = {"dice": "Dice", "hd95_mm": "HD95 mm", "asd_mm": "ASD mm", "nsd": "NSD"}


class ScoreSection(NamedTuple):
    """Scores as a page shows them: a lead, tables, facts (name, value), words to explain, notes; and the mean foreground Dice."""

    dice: float | None
    tables: Sequence[PageTable]
    words: Sequence[str]
    lead: str = ""
    facts: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()


class ReportScores(NamedTuple):
    """Scores of all studies together, and of each scored study."""

    summary: ScoreSection
    cases: Mapping[str, ScoreSection]


def read_scores(path: Path) -> ReportScores:
    """Read an evaluation into the tables of the pages; warn where metrics.csv is missing.

    Raises:
        InputError: there is no evaluation, or it is damaged or of another version.
    """
    results = read_evaluation(path, required=(), optional=(METRICS_CSV,))
    note = ""
    if METRICS_CSV not in results.tables:
        note = f"{METRICS_CSV} is missing beside {SUMMARY_JSON}: the pages show no scores of single classes."
        logger.warning(note)
    rows: dict[str, list[Row]] = {}
    for row in results.tables.get(METRICS_CSV, ()):
        rows.setdefault(row["case"], []).append(row)
    summary = results.summary
    try:
        cases = {name: _case_section(results, entry, rows.get(name, ())) for name, entry in summary["per_case"].items()}
        return ReportScores(_summary_section(summary, note), cases)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        path = results.folder / SUMMARY_JSON
        raise InputError(f"{path} is damaged or of another version ({error!r}); {ADVICE}") from error


def _summary_section(summary: Mapping[str, Any], note: str) -> ScoreSection:
    """Return the scores of every class over all studies; agreement of a heart and temporal metrics where there are any."""
    classes = summary["classes"]
    head = ["class", "Dice, mean ± SD", "n", "95 % CI", "HD95 mm, mean", "median", "n", "volume bias mL", "absolute mL"]
    head += ["one empty", "both empty"]
    colors = [class_color(entry["value"]) for entry in classes.values()]
    tables = [PageTable(head, [_class_row(name, entry) for name, entry in classes.items()], colors)]
    curves = curve_table(summary.get("curves") or ())
    others = (cardiac_table(summary.get("heart") or {}), curves, temporal_table(classes))
    tables += [PageTable(head, rows) for head, rows in others if rows]
    scored = f"{count(summary['cases'], 'case')} of {count(summary['subjects'], 'subject')}, "
    scored += count(summary["labelled_frames"], "labelled frame")
    if missing := summary.get("without_prediction"):
        scored += f" ({len(missing)} references without prediction left out)"
    return ScoreSection(
        summary["mean_foreground_dice"],
        tables,
        [name for table in tables for name in table.head]
        + ["mean foreground Dice", "own frames", *MEASURE_NAMES.values()],
        lead=f"{scored}; mean over classes of the mean Dice {format_number(summary['mean_foreground_dice'], 3)}.",
        notes=[
            str(text) for text in (note, summary["convention"], summary["averaging"], summary.get("intervals")) if text
        ],
    )


def _class_row(name: str, entry: Mapping[str, Any]) -> list[str]:
    dice, distance, error = entry["dice"], entry["hd95_mm"], entry["volume_error_ml"]
    interval = (entry.get("ci95") or {}).get("dice")
    return [
        name, f"{format_number(dice['mean'], 3)} ± {format_number(dice['std'], 3)}", str(dice["n"]), format_range(interval, 3),
        format_number(distance["mean"], 2), format_number(distance["median"], 2), str(distance["n"]),
        format_number(error["bias"], 2), format_number(error["mean_absolute"], 2),
        str(entry["n_one_empty"]), str(entry["n_both_empty"]),
    ]  # fmt: skip


def _case_section(results: EvaluationResults, entry: Mapping[str, Any], rows: Sequence[Row]) -> ScoreSection:
    """Return the scores of one study: the mean of each class over its labelled frames, and the facts of the summary."""
    by_class: dict[str, list[Row]] = {}
    for row in rows:
        by_class.setdefault(row["class"], []).append(row)
    cells = []
    for name, own in by_class.items():
        cells.append([name, str(len(own))])
        for column in _OVERLAP:
            values = [results.number(METRICS_CSV, row, column) for row in own if row[column]]
            fewer = f" (n = {len(values)})" if len(values) < len(own) else ""
            cells[-1].append(f"{np.mean(values):.3g}{fewer}" if values else "-")
    tables = [PageTable(["class", "frames", *_OVERLAP.values()], cells)] if cells else []
    dice = entry.get("mean_foreground_dice")
    dice = float(dice) if isinstance(dice, (int, float)) else None
    words = [*(tables[0].head if tables else ()), "reference", "prediction", "mean foreground Dice"]
    return ScoreSection(dice, tables, words, facts=flatten({**entry, "mean_foreground_dice": format_number(dice, 3)}))
