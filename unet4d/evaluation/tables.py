"""Tables of an evaluation: the rows of its CSV files, and the summary for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from unet4d.evaluation.cardiac_function import AT_REFERENCE_FRAMES, MEASURES
from unet4d.evaluation.fold_summary import format_folds
from unet4d.evaluation.temporal import TEMPORAL_QUANTITIES
from unet4d.system.text import count, format_number

METRICS_CSV, VOLUMES_CSV, MEASURES_CSV = "metrics.csv", "volumes_compared.csv", "measures.csv"
TEMPORAL_CSV, SUMMARY_JSON = "temporal.csv", "summary.json"
OUTPUT_FILES = {
    METRICS_CSV: "every labelled frame",
    VOLUMES_CSV: "every frame",
    MEASURES_CSV: "cardiac volumes, ejection fraction, mass of every case",
    TEMPORAL_CSV: "temporal metrics of every case",
    SUMMARY_JSON: "this summary",
}
TABLE_COLUMNS = {
    METRICS_CSV: [
        *(
            "case",
            "subject",
            "frame",
            "class",
            "value",
            "dice",
            "hd95_mm",
            "asd_mm",
            "nsd",
            "reference_ml",
            "prediction_ml",
        ),
        *("tp", "fp", "fn"),
    ],
    VOLUMES_CSV: ["case", "frame", "time_s", "class", "reference_ml", "prediction_ml"],
    MEASURES_CSV: [
        *("case", "subject", "class", "role", "time", "frame_duration_s", "labelled_frames"),
        *(f"reference_{key}" for key in MEASURES),
        *(f"matched_{key}" for key in AT_REFERENCE_FRAMES),
        *(f"prediction_{key}" for key in MEASURES),
    ],
    TEMPORAL_CSV: ["case", "subject", "class", "time", "frames", *TEMPORAL_QUANTITIES],
}
"""Columns by file: metrics.csv has a row per labelled frame and class, volumes_compared.csv per frame and class, measures.csv per
case and cardiac class, temporal.csv per case and class."""
SUMMARY_TEMPORAL = {
    "roughness": ("roughness", 4),
    "frame_to_frame_dice": ("frame-to-frame Dice", 3),
    "frame_to_frame_excess": ("excess", 3),
    "flicker_components": ("flicker", 1),
    "flicker_voxels": ("flicker voxels", 1),
    "closure": ("closure", 3),
}
"""Temporal metrics of the printed summary: column and decimals."""


def csv_rows(file: str, rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Any]]:
    """Yield the header and the rows of a table, numbers rounded to 6 decimals, undefined ones blank."""
    yield TABLE_COLUMNS[file]
    for row in rows:
        cells = (row[column] for column in TABLE_COLUMNS[file])
        yield [_round(cell) if isinstance(cell, float) else "" if cell is None else cell for cell in cells]


def _round(value: float) -> float | str:
    return round(float(value), 6) if math.isfinite(value) else ""


def format_summary(summary: Mapping[str, Any]) -> str:
    """Return the summary for a terminal: scores of each class, errors of cardiac measures, temporal metrics, folds."""
    lines = [
        f"{count(summary['cases'], 'case')} of {count(summary['subjects'], 'subject')}, "
        f"{count(summary['labelled_frames'], 'labelled frame')}",
        "",
        *_overlap_lines(summary),
        "",
        "one empty: Dice and NSD 0, no distance; both empty: left out",
    ]
    for part in (_heart_lines(summary["heart"]), _temporal_lines(summary["classes"])):
        if part:
            lines += ["", *part]
    if folds := summary.get("folds"):
        lines += ["", format_folds(folds)]
        if folds["without_fold"]:
            lines.append(f"cases held out by no fold, in none of these: {len(folds['without_fold'])}")
    return "\n".join(lines)


def align_columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return one line per row, the first column aligned to the left, the others to the right."""
    first, *widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join([f"{name:<{first}}", *(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True))]).rstrip()
        for name, *cells in (head, *rows)
    ]


def format_interval(interval: Sequence[float] | None, digits: int) -> str:
    """Return "lower to upper"; a dash where there is no interval."""
    return "-" if interval is None else f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}"


def agreement_cells(found: Mapping[str, Any]) -> dict[str, str]:
    """Return a Bland-Altman agreement of the summary as text, by column of a table."""
    limits = None if found["lower"] is None else [found["lower"], found["upper"]]
    undefined = f" ({found['n_undefined']} undefined)" if found["n_undefined"] else ""
    return {
        "n": f"{found['n']}{undefined}",
        "reference": format_number(found["reference"], 1),
        "prediction": format_number(found["prediction"], 1),
        "bias": format_number(found["bias"], 2),
        "95 % CI": format_interval(found["ci95"], 2),
        "95 % limits": format_interval(limits, 2),
        "mean error": format_number(found["mean_absolute"], 2),
    }


def _overlap_lines(summary: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, entry in summary["classes"].items():
        dice, distance, error = entry["dice"], entry["hd95_mm"], entry["volume_error_ml"]
        rows.append([
            name, format_number(dice["mean"], 3), str(dice["n"]), format_interval(entry["ci95"]["dice"], 3),
            format_number(entry["nsd"]["mean"], 3), format_number(distance["mean"], 2),
            format_number(entry["asd_mm"]["mean"], 2), str(distance["n"]), format_number(error["bias"], 2),
            str(error["n"]), str(entry["n_one_empty"]), str(entry["n_both_empty"]),
        ])  # fmt: skip
    mean, of_mean = summary["mean_foreground_dice"], summary["mean_foreground_dice_ci95"]
    head = ["class", "Dice", "n", "95 % CI", "NSD", "HD95 mm", "ASD mm", "n", "bias mL", "n", "one empty", "both empty"]
    rows.append(["mean over classes", format_number(mean, 3), "", format_interval(of_mean, 3), *[""] * (len(head) - 4)])
    return align_columns(head, rows)


def _heart_lines(heart: Mapping[str, Any]) -> list[str]:
    """Return the errors at the reference's frames; ejection fraction and filling rate also at the prediction's own."""
    rows: dict[str, dict[str, str]] = {}
    for name, entry in heart.items():
        own = {f"{key}, own frames": entry["own_frames"].get(key) for key in ("ef_percent", "peak_filling_ml_per_s")}
        found = {**entry["at_reference_frames"], **own}
        rows |= {f"{name}: {key}": agreement_cells(agreement) for key, agreement in found.items() if agreement}
    if not rows:
        return []
    head = ["at the reference's frames", *next(iter(rows.values()))]
    return align_columns(head, [[name, *cells.values()] for name, cells in rows.items()])


def _temporal_lines(classes: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            name,
            *(format_number(entry["temporal"][key]["mean"], digits) for key, (_, digits) in SUMMARY_TEMPORAL.items()),
        ]
        for name, entry in classes.items()
        if entry["temporal"]["frame_to_frame_dice"]["n"]
    ]
    return (
        align_columns(["mean over cases", *(column for column, _ in SUMMARY_TEMPORAL.values())], rows) if rows else []
    )
