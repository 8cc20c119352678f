"""Tables of an evaluation: the rows of its CSV files, and the summary for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from unet4d.evaluation.cardiac_function import AT_REFERENCE_FRAMES, MEASURES
from unet4d.evaluation.curve_comparison import CURVE_QUANTITIES
from unet4d.evaluation.fold_summary import format_folds
from unet4d.system.csv_file import Table
from unet4d.system.text import count, format_number, format_significant

METRICS_CSV, VOLUMES_CSV, MEASURES_CSV = "metrics.csv", "volumes_compared.csv", "measures_compared.csv"
TEMPORAL_CSV, SUMMARY_JSON = "temporal.csv", "summary.json"
OUTPUT_FILES = {
    METRICS_CSV: "every labelled frame",
    VOLUMES_CSV: "every frame",
    MEASURES_CSV: "cardiac volumes, ejection fraction, mass of every case",
    TEMPORAL_CSV: "temporal metrics of every case",
    SUMMARY_JSON: "this summary",
}
_MEASURES = {
    "ed_frame": "end-diastole, where the curve is largest; of a myocardium that of its ventricle",
    "es_frame": "end-systole, where the curve is smallest",
    "edv_ml": "volume at end-diastole, mL",
    "esv_ml": "volume at end-systole, mL",
    "sv_ml": "stroke volume, EDV - ESV, mL",
    "ef_percent": "ejection fraction, 100 (EDV - ESV) / EDV, %",
    "peak_filling_ml_per_s": "peak filling rate, the largest rise from a frame to the next after end-systole, mL/s",
    "time_to_peak_filling_s": "from end-systole to the middle of that step, s",
    "mass_g": "mass of the myocardium at its ventricle's end-diastole, 1.05 g/mL, g",
}
_PARTS = {
    "reference": "reference",
    "matched": "prediction at the reference's frames",
    "prediction": "prediction at its own frames",
}
_CASE = {"case": "name of the study", "subject": "person or animal"}
_FRAME = {"frame": "number of the frame, from 0"}
_TIME = {"time": "cyclic or open"}
TABLES = {
    table.file: table
    for table in (
        Table(
            METRICS_CSV,
            "case, labelled frame and class",
            {
                **_CASE,
                **_FRAME,
                "class": "name of the class",
                "value": "label value; of a region all of its values, 1+2+3",
                "dice": "2 tp / (2 tp + fp + fn), 0 to 1",
                "hd95_mm": "95 % Hausdorff distance, mm",
                "asd_mm": "average symmetric surface distance, mm",
                "nsd": "normalized surface Dice, 0 to 1",
                "reference_ml": "volume of the reference, mL",
                "prediction_ml": "volume of the prediction, mL",
                "tp": "voxels in the class in both",
                "fp": "voxels in the class in the prediction alone",
                "fn": "voxels in the class in the reference alone",
            },
        ),
        Table(
            VOLUMES_CSV,
            "case, frame and class",
            {
                "case": _CASE["case"],
                **_FRAME,
                "time_s": "time of the frame from the first, s; blank where the frame duration is unknown",
                "class": "name of the class",
                "reference_ml": "volume of the reference, mL; blank in unlabelled frames",
                "prediction_ml": "volume of the prediction, mL",
            },
        ),
        Table(
            MEASURES_CSV,
            "case and class that is a ventricle or a myocardium",
            {
                **_CASE,
                "class": "name of the class",
                "role": "structure of the heart that it is",
                **_TIME,
                "frame_duration_s": "from frame to frame, s",
                "labelled_frames": "number of frames with a reference",
                **{f"reference_{key}": f"{_PARTS['reference']}: {_MEASURES[key]}" for key in MEASURES},
                **{f"matched_{key}": f"{_PARTS['matched']}: {_MEASURES[key]}" for key in AT_REFERENCE_FRAMES},
                **{f"prediction_{key}": f"{_PARTS['prediction']}: {_MEASURES[key]}" for key in MEASURES},
            },
        ),
        Table(
            TEMPORAL_CSV,
            "case and class",
            {
                **_CASE,
                "class": "name of the class",
                **_TIME,
                "frames": "number of frames",
                "roughness": "second difference of the prediction's volume curve, normalized",
                "reference_roughness": "the same of the reference",
                "frame_to_frame_dice": "mean Dice of the prediction in a frame and in the next, 0 to 1",
                "frame_to_frame_excess": "that Dice minus the reference's, mean over labelled pairs",
                "flicker_components": "connected components that exist in a single frame",
                "flicker_voxels": "voxels of these",
                "closure": "how much farther a cyclic curve ends from its beginning than it moves in a step, over its range",
                "reference_closure": "the same of the reference",
            },
        ),
    )
}
"""By file; docs/reference/metrics.md defines the columns."""
TABLE_COLUMNS = {file: list(table.columns) for file, table in TABLES.items()}
MEASURE_NAMES = {
    "edv_ml": "EDV mL",
    "esv_ml": "ESV mL",
    "sv_ml": "SV mL",
    "ef_percent": "EF %",
    "mass_g": "mass g",
    "peak_filling_ml_per_s": "filling mL/s",
}
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
        *_partial_lines(summary),
        "",
        *_overlap_lines(summary),
        "",
        "one empty: Dice and NSD 0, no distance; both empty: left out",
    ]
    curves = curve_table(summary.get("curves", ()))
    for head, rows in (cardiac_table(summary["heart"]), curves, temporal_table(summary["classes"])):
        if rows:
            lines += ["", *align_columns(head, rows)]
    if folds := summary.get("folds"):
        lines += ["", format_folds(folds)]
        if folds["without_fold"]:
            lines.append(f"cases held out by no fold, in none of these: {len(folds['without_fold'])}")
    return "\n".join(lines)


def _partial_lines(summary: Mapping[str, Any]) -> list[str]:
    """Return what was not drawn of the references, and so is not scored."""
    partial, lines = summary.get("partial_labels", {}), list[str]()
    if ignored := partial.get("ignored"):
        lines.append(
            f"ignored: {count(ignored['voxels'], 'voxel')} of {count(ignored['frames'], 'partly drawn frame')}, in no score; these "
            "frames have no reference volume"
        )
    if missing := partial.get("not_annotated"):
        names = sorted({name for names in missing.values() for name in names})
        lines.append(f"not annotated in {count(len(missing), 'case')}, and not scored there: {', '.join(names)}")
    if propagated := partial.get("propagated_frames"):
        lines.append(f"not scored: {count(propagated, 'propagated frame')}")
    return lines


def align_columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return one line per row, the first column aligned to the left, the others to the right."""
    first, *widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join([f"{name:<{first}}", *(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True))]).rstrip()
        for name, *cells in (head, *rows)
    ]


def format_range(interval: Sequence[float] | None, digits: int) -> str:
    """Return "lower to upper"; a dash where there is no interval."""
    return "-" if interval is None else f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}"


def cardiac_table(heart: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the errors of a summary at the reference's frames, and of some measures at the prediction's own."""
    rows = []
    for name, entry in heart.items():
        own = {f"{key}, own frames": entry["own_frames"].get(key) for key in ("ef_percent", "peak_filling_ml_per_s")}
        for key, found in {**entry["at_reference_frames"], **own}.items():
            if found:
                measure, _, suffix = key.partition(",")
                limits = None if found["lower"] is None else [found["lower"], found["upper"]]
                undefined = f" ({found['n_undefined']} undefined)" if found["n_undefined"] else ""
                rows.append([
                    f"{name}: {MEASURE_NAMES[measure]}{suffix and ','}{suffix}", f"{found['n']}{undefined}",
                    format_number(found["reference"], 1), format_number(found["prediction"], 1),
                    format_number(found["bias"], 2), format_range(found["ci95"], 2), format_range(limits, 2),
                    format_number(found["mean_absolute"], 2),
                ])  # fmt: skip
    return [
        "at the reference's frames",
        "n",
        "reference",
        "prediction",
        "bias",
        "95 % CI",
        "95 % limits",
        "mean error",
    ], rows


def curve_table(curves: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the agreement of curves of a summary."""
    rows = []
    for found in curves:
        name = CURVE_QUANTITIES[found["table"]][1][found["quantity"]]
        channel = f" of {found['channel']}" if "channel" in found else ""
        undefined = f" ({found['n_undefined']} undefined)" if found["n_undefined"] else ""
        values = [format_significant(found[key], 4) for key in ("reference", "prediction", "bias", "mean_absolute")]
        rows.append([f"{found['class']}: {name}{channel}", f"{found['n']}{undefined}", *values])
    return ["curves", "n", "reference", "prediction", "bias", "mean error"], rows


def temporal_table(classes: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the means of temporal metrics, for the classes of a summary that have any."""
    rows = []
    for name, entry in classes.items():
        found = entry.get("temporal")
        if found and found["frame_to_frame_dice"]["n"]:
            rows.append([name, *(format_number(found[key]["mean"], d) for key, (_, d) in SUMMARY_TEMPORAL.items())])
    return ["mean over cases", *(column for column, _ in SUMMARY_TEMPORAL.values())], rows


def _overlap_lines(summary: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, entry in summary["classes"].items():
        dice, distance, error = entry["dice"], entry["hd95_mm"], entry["volume_error_ml"]
        rows.append([
            name, format_number(dice["mean"], 3), str(dice["n"]), format_range(entry["ci95"]["dice"], 3),
            format_number(entry["nsd"]["mean"], 3), format_number(distance["mean"], 2),
            format_number(entry["asd_mm"]["mean"], 2), str(distance["n"]), format_number(error["bias"], 2),
            str(error["n"]), str(entry["n_one_empty"]), str(entry["n_both_empty"]),
        ])  # fmt: skip
    mean, of_mean = summary["mean_foreground_dice"], summary["mean_foreground_dice_ci95"]
    head = ["class", "Dice", "n", "95 % CI", "NSD", "HD95 mm", "ASD mm", "n", "bias mL", "n", "one empty", "both empty"]
    rows.append(["mean over classes", format_number(mean, 3), "", format_range(of_mean, 3), *[""] * (len(head) - 4)])
    return align_columns(head, rows)
