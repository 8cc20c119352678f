"""Curves over references beside those over predictions, on the same images: signal, uptake of contrast agent, and flow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from unet4d.datasets.study import Study
from unet4d.evaluation.curve_tables import (
    CURVE_TABLES,
    FLOW_VOLUMES,
    FLOWS,
    INTENSITIES,
    UPTAKES,
    CurveRecord,
    curve_rows,
)
from unet4d.evaluation.signal_curves import FLOW, CurveOptions, as_curve, measure_curves
from unet4d.images.time_axis import time_axis
from unet4d.metrics.regions import ClassValue
from unet4d.system.csv_file import Table

_KEYS = ("case", "subject", "frame", "time_s", "class", "value", "channel")
"""Columns that identify a row; all others are values."""
_PARTS = {
    "reference": "reference, at its frames",
    "matched": "prediction, at the reference's frames",
    "prediction": "prediction, at all frames",
}


def _compared(table: Table) -> Table:
    """Return the table that has the values of reference and prediction in one row."""
    parts = _PARTS if table is UPTAKES else {name: _PARTS[name] for name in ("reference", "prediction")}
    keys = {"case": table.columns["case"], "subject": "person or animal"}
    keys |= {name: meaning for name, meaning in table.columns.items() if name in _KEYS}
    values = {
        f"{part}_{name}": f"{of}: {meaning}"
        for part, of in parts.items()
        for name, meaning in table.columns.items()
        if name not in _KEYS
    }
    return Table(table.file.replace(".csv", "_compared.csv"), table.row, keys | values)


COMPARED_CURVES = {table.file: _compared(table) for table in CURVE_TABLES}
"""Name of a table of curves to the table that compares them."""
INTENSITY_CSV, UPTAKE_CSV, FLOW_CSV, FLOW_VOLUMES_CSV = (
    COMPARED_CURVES[table.file].file for table in (INTENSITIES, UPTAKES, FLOWS, FLOW_VOLUMES)
)
CURVE_QUANTITIES = {
    INTENSITY_CSV: ("prediction", {"mean": "mean signal"}),
    UPTAKE_CSV: (
        "matched",
        {
            "peak_enhancement_percent": "peak enhancement %",
            "time_to_peak_s": "time to peak s",
            "wash_in_percent_per_s": "wash-in %/s",
            "wash_out_percent_per_s": "wash-out %/s",
        },
    ),
    FLOW_CSV: ("prediction", {"mean_speed_cm_per_s": "mean speed cm/s", "flow_ml_per_s": "flow mL/s"}),
    FLOW_VOLUMES_CSV: ("prediction", {"net_ml": "net flow mL", "regurgitant_fraction_percent": "regurgitant %"}),
}
"""Table to the part of it that is compared with the reference, and the columns that the summary has, with their names."""


def measure_both(
    study: Study,
    channels: Mapping[str, str],
    label: np.ndarray,
    reference: np.ndarray | None,
    known: np.ndarray | None,
    classes: Mapping[str, ClassValue],
    options: CurveOptions,
    *,
    affine: np.ndarray,
    frame_duration_s: float | None,
    cyclic: bool,
) -> dict[str, CurveRecord]:
    """Measure the curves of a study over its prediction, and over its reference where that is whole.

    A flow is positive in the direction in which more of the prediction's goes; the reference's has the sign that agrees with it.

    Args:
        study: of which the image is read, once for each label.
        channels: name to kind.
        label: (T, X, Y, Z), the prediction.
        reference: (T, X, Y, Z); None without one.
        known: (T, K) bool, where the reference is whole; None without a reference.
        classes: the K classes, name to label value, or region.
        options: what to measure.
        affine: (4, 4), voxel to mm.
        frame_duration_s: None where unknown.
        cyclic: whether the last frame leads into the first.

    Returns:
        "prediction"; with a reference also "reference", and "matched", the prediction at the reference's frames. Each is as
        `curve_rows` takes it.
    """

    def measured(over: np.ndarray, of: Mapping[str, ClassValue]) -> dict[str, Any]:
        return measure_curves(study.frames(), over, of, channels, affine, options, study.velocity_unit)

    about = {
        "frame_duration_s": frame_duration_s,
        "channel_kinds": channels,
        "baseline_frames": options.baseline_frames,
        "entry": {"time": time_axis(cyclic)},
    }
    found = {"prediction": measured(label, classes)}
    if reference is not None and known is not None and known.any():
        frames, is_drawn = np.asarray(known.any(axis=1)), np.asarray(known.any(axis=0))
        drawn = {name: value for k, (name, value) in enumerate(classes.items()) if is_drawn[k]}
        found["reference"] = _at(measured(np.where(frames[:, None, None, None], reference, 0), drawn), frames)
        found["matched"] = _at(found["prediction"], frames)
        for name, columns in found["reference"].get(FLOW, {}).items():
            ours, true = (as_curve(one[FLOW][name]["flow_ml_per_s"]) for one in (found["matched"], found["reference"]))
            if np.nansum(ours * true) < 0:
                columns["flow_ml_per_s"] = [None if value is None else -value for value in columns["flow_ml_per_s"]]
    return {part: about | curves for part, curves in found.items()}


def _at(found: Any, frames: np.ndarray) -> Any:
    """Return curves with None in all frames but these."""
    if isinstance(found, dict):
        return {name: _at(values, frames) for name, values in found.items()}
    return [value if is_wanted else None for value, is_wanted in zip(found, frames, strict=True)]


def compared_rows(
    case: str, subject: str, records: Mapping[str, CurveRecord], classes: Mapping[str, ClassValue]
) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of a case in each table of compared curves, by file; None where a part has no value.

    Args:
        case: its name.
        subject: the person or animal.
        records: of `measure_both`.
        classes: foreground class name to label value, or region.
    """
    rows: dict[str, dict[tuple[Any, ...], dict[str, Any]]] = {}
    for part, record in records.items():
        for table, row in curve_rows(case, record, classes):
            compared = COMPARED_CURVES[table.file]
            keys = {name: row[name] for name in _KEYS if name in row}
            entry = rows.setdefault(compared.file, {}).setdefault(
                tuple(keys.values()), dict.fromkeys(compared.columns) | keys | {"subject": subject}
            )
            entry |= {name: value for key, value in row.items() if (name := f"{part}_{key}") in compared.columns}
    return {file: list(found.values()) for file, found in rows.items()}


def compared_values(rows: Iterable[Mapping[str, Any]], file: str, quantity: str) -> list[tuple[Any, Any]]:
    """Return pairs of reference and prediction of a column of a table of compared curves."""
    part = CURVE_QUANTITIES[file][0]
    return [(row[f"reference_{quantity}"], row[f"{part}_{quantity}"]) for row in rows]
