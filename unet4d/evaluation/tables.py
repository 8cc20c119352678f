"""The tables of an evaluation: a row a frame, a case or a class for files, and the summary for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from unet4d.evaluation.cardiac_function import AT_REFERENCE_FRAMES, MEASURES
from unet4d.evaluation.case_scores import CaseScores
from unet4d.evaluation.fold_summary import format_folds
from unet4d.evaluation.temporal import TEMPORAL_QUANTITIES
from unet4d.images.time_axis import time_axis
from unet4d.system.text import count, format_number

METRICS_CSV, VOLUMES_CSV, MEASURES_CSV = "metrics.csv", "volumes_compared.csv", "measures.csv"
TEMPORAL_CSV, SUMMARY_JSON = "temporal.csv", "summary.json"
OUTPUT_FILES = {
    METRICS_CSV: "every labelled frame",
    VOLUMES_CSV: "every frame",
    MEASURES_CSV: "every heart's volumes, ejection fraction, mass",
    TEMPORAL_CSV: "every case over time",
    SUMMARY_JSON: "this summary",
}
PER_FRAME = ["dice", "hd95_mm", "asd_mm", "nsd", "reference_ml", "prediction_ml"]
Rows = Iterator[list[Any]]


def metric_rows(scored: Sequence[CaseScores], classes: Mapping[str, int]) -> Rows:
    """metrics.csv: a row a labelled frame and class."""
    yield ["case", "subject", "frame", "class", "value", *PER_FRAME, "tp", "fp", "fn"]
    for s in scored:
        measured = {"dice": s.dice, **vars(s.surface), "reference_ml": s.reference_ml, "prediction_ml": s.prediction_ml}
        for t in np.flatnonzero(s.labelled):
            for k, (name, value) in enumerate(classes.items()):
                ratios = [_cell(measured[column][t, k]) for column in PER_FRAME]
                counts = [int(array[t, k]) for array in (s.counts.tp, s.counts.fp, s.counts.fn)]
                yield [s.name, s.subject, int(t), name, value, *ratios, *counts]


def volume_rows(scored: Sequence[CaseScores], classes: Mapping[str, int]) -> Rows:
    """volumes_compared.csv: a row a frame, labelled or not, and class."""
    yield ["case", "frame", "time_s", "class", "reference_ml", "prediction_ml"]
    for s in scored:
        for t in range(len(s.labelled)):
            time = "" if s.frame_duration_s is None else round(t * s.frame_duration_s, 6)
            for k, name in enumerate(classes):
                yield [s.name, t, time, name, _cell(s.reference_ml[t, k]), _cell(s.prediction_ml[t, k])]


def measure_rows(scored: Sequence[CaseScores]) -> Rows:
    """measures.csv: a row a case and class of a heart."""
    columns = [
        *(f"reference_{key}" for key in MEASURES),
        *(f"matched_{key}" for key in AT_REFERENCE_FRAMES),
        *(f"prediction_{key}" for key in MEASURES),
    ]
    yield ["case", "subject", "class", "role", "time", "frame_duration_s", "labelled_frames", *columns]
    for s in scored:
        for one in s.heart:
            values = [
                *(getattr(one.reference, key) for key in MEASURES),
                *(getattr(one.matched, key) for key in AT_REFERENCE_FRAMES),
                *(getattr(one.prediction, key) for key in MEASURES),
            ]
            about = [s.name, s.subject, one.name, one.role, _time(s), _cell(s.frame_duration_s), int(s.labelled.sum())]
            yield [*about, *map(_cell, values)]


def temporal_rows(scored: Sequence[CaseScores], classes: Mapping[str, int]) -> Rows:
    """temporal.csv: a row a case and class."""
    yield ["case", "subject", "class", "time", "frames", *TEMPORAL_QUANTITIES]
    for s in scored:
        for k, name in enumerate(classes):
            values = [_cell(getattr(s.over_time, quantity)[k]) for quantity in TEMPORAL_QUANTITIES]
            yield [s.name, s.subject, name, _time(s), len(s.labelled), *values]


def format_summary(summary: Mapping[str, Any]) -> str:
    """The summary for a terminal: what each class scored, what a heart's measures miss, what happens over time."""
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
    """Lines of columns: the first to the left, the others to the right."""
    first, *others = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join(
            [f"{name:<{first}}", *(f"{cell:>{width}}" for cell, width in zip(cells, others, strict=True))]
        ).rstrip()
        for name, *cells in (head, *rows)
    ]


def _overlap_lines(summary: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, entry in summary["classes"].items():
        dice, distance, error = entry["dice"], entry["hd95_mm"], entry["volume_error_ml"]
        rows.append([
            name, format_number(dice["mean"], 3), str(dice["n"]), format_interval(entry["ci95"]["dice"], 3),
            format_number(entry["nsd"]["mean"], 3),
            format_number(distance["mean"], 2), format_number(entry["asd_mm"]["mean"], 2), str(distance["n"]),
            format_number(error["bias"], 2),
            str(error["n"]), str(entry["n_one_empty"]), str(entry["n_both_empty"]),
        ])  # fmt: skip
    mean, of_mean = summary["mean_foreground_dice"], summary["mean_foreground_dice_ci95"]
    head = ["class", "Dice", "n", "95 % CI", "NSD", "HD95 mm", "ASD mm", "n", "bias mL", "n", "one empty", "both empty"]
    rows.append(["mean over classes", format_number(mean, 3), "", format_interval(of_mean, 3), *[""] * (len(head) - 4)])
    return align_columns(head, rows)


def _heart_lines(heart: Mapping[str, Any]) -> list[str]:
    """Errors at the reference's frames; and with the prediction's own, of the fraction and of the rate, which has no others."""
    rows = []
    for name, entry in heart.items():
        own = {f"{key}, own frames": entry["own_frames"].get(key) for key in ("ef_percent", "peak_filling_ml_per_s")}
        for key, found in {**entry["at_reference_frames"], **own}.items():
            if found:
                limits = None if found["lower"] is None else [found["lower"], found["upper"]]
                undefined = f" ({found['n_undefined']} undefined)" if found["n_undefined"] else ""
                rows.append([
                    f"{name}: {key}", f"{found['n']}{undefined}", format_number(found["reference"], 1),
                    format_number(found["prediction"], 1),
                    format_number(found["bias"], 2), format_interval(found["ci95"], 2), format_interval(limits, 2),
                    format_number(found["mean_absolute"], 2),
                ])  # fmt: skip
    head = ["at the reference's frames", "n", "reference", "prediction", "bias", "95 % CI", "limits", "mean error"]
    return align_columns(head, rows) if rows else []


def _temporal_lines(classes: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, entry in classes.items():
        found = entry["temporal"]
        if found["frame_to_frame_dice"]["n"]:
            keys = (
                "roughness",
                "frame_to_frame_dice",
                "frame_to_frame_excess",
                "flicker_components",
                "flicker_voxels",
                "closure",
            )
            digits = (4, 3, 3, 1, 1, 3)
            rows.append([name, *(format_number(found[key]["mean"], d) for key, d in zip(keys, digits, strict=True))])
    head = ["mean over cases", "roughness", "frame-to-frame Dice", "excess", "flicker", "its voxels", "closure"]
    return align_columns(head, rows) if rows else []


def format_interval(found: Sequence[float] | None, digits: int) -> str:
    """An interval for a table; a dash where there is none."""
    return "-" if found is None else f"{found[0]:.{digits}f} to {found[1]:.{digits}f}"


def _time(scores: CaseScores) -> str:
    return time_axis(scores.cyclic)


def _cell(value: float | str | None) -> float | int | str:
    """A number for a table; blank where it is undefined."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, int):
        return value
    return round(float(value), 6) if np.isfinite(value) else ""
