"""Curves of a study on its page: volume, and where they were measured enhancement, signal, flow; with their tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from unet4d.evaluation.curve_tables import FLOW_VOLUMES, FLOWS, INTENSITIES, UPTAKES, CurveRecord, curve_rows
from unet4d.evaluation.signal_curves import as_curve
from unet4d.images.channels import MAP
from unet4d.metrics.regions import ClassValue
from unet4d.report.pages.template import PageTable
from unet4d.report.pictures.render import class_color
from unet4d.system.csv_file import Table
from unet4d.system.text import format_significant

Curves = Mapping[str, np.ndarray]


class StudyCurve(NamedTuple):
    """One quantity of every class over all frames.

    Attributes:
        key: part of the name of its picture.
        title: its name.
        axis: name of its axis, with the unit.
        unit: of its values.
        digits: decimals of its values; None: four digits of each.
        values: class name to (T,), NaN where undefined.
        reference: the same of the reference; None without one.
    """

    key: str
    title: str
    axis: str
    unit: str
    digits: int | None
    values: Curves
    reference: Curves | None


_DRAWN: tuple[tuple[Table, str, str, str, str, int | None], ...] = (
    (INTENSITIES, "enhancement_percent", "Enhancement", "enhancement (%)", "%", 1),
    (INTENSITIES, "mean", "Mean signal", "mean signal", "", None),
    (FLOWS, "flow_ml_per_s", "Flow", "flow (mL/s)", "mL/s", 1),
    (FLOWS, "mean_speed_cm_per_s", "Mean speed", "mean speed (cm/s)", "cm/s", 1),
)
"""Table, column, title, axis, unit and digits. Of two of one table the first counts that is defined in some frame."""
_UPTAKE_HEAD = {
    "channel": "channel", "arrival_frame": "arrival in frame", "peak_frame": "peak in frame",
    "peak_enhancement_percent": "peak enhancement %", "time_to_peak_s": "time to peak s",
    "wash_in_percent_per_s": "wash-in %/s", "wash_out_percent_per_s": "wash-out %/s",
}  # fmt: skip
_FLOW_HEAD = {
    "net_ml": "net flow mL", "forward_ml": "forward mL", "backward_ml": "backward mL",
    "regurgitant_fraction_percent": "regurgitant %",
}  # fmt: skip


def study_curves(case: str, records: Mapping[str, CurveRecord], classes: Mapping[str, ClassValue]) -> list[StudyCurve]:
    """Return the curves to draw beside the volumes; of a channel that is a map, the same in every frame, none.

    Args:
        case: its name.
        records: of `measure_both`.
        classes: foreground class name to label value, or region.
    """
    kinds = records["prediction"]["channel_kinds"] if records else {}
    rows = {
        part: [(table, row) for table, row in curve_rows(case, record, classes) if kinds.get(row.get("channel")) != MAP]
        for part, record in records.items()
        if part != "matched"
    }
    found: list[StudyCurve] = []
    done = set()
    for table, column, title, axis, unit, digits in _DRAWN:
        channels = dict.fromkeys(row.get("channel") for of, row in rows.get("prediction", ()) if of is table)
        for number, channel in enumerate(channels):
            curves = {part: _curves(part_rows, table, column, channel) for part, part_rows in rows.items()}
            is_defined = any(np.isfinite(curve).any() for curve in curves["prediction"].values())
            if is_defined and (table.file, channel) not in done:
                done.add((table.file, channel))
                name = f"{title}: {channel}" if channel and len(kinds) > 1 else title
                key = f"{title.lower().replace(' ', '_')}{number or ''}"
                values, reference = curves["prediction"], curves.get("reference")
                found.append(StudyCurve(key, name, axis, unit, digits, values, reference))
    return found


def _curves(rows: Sequence[tuple[Table, Mapping[str, Any]]], table: Table, column: str, channel: str | None) -> Curves:
    values: dict[str, list[float | None]] = {}
    for of, row in rows:
        if of is table and row.get("channel") == channel:
            values.setdefault(row["class"], []).append(row[column])
    return {name: as_curve(curve) for name, curve in values.items()}


def curve_measure_tables(
    case: str, records: Mapping[str, CurveRecord], classes: Mapping[str, ClassValue]
) -> list[PageTable]:
    """Return the tables of uptake and of flow volumes, a row per class, of the reference a row of its own."""
    tables = []
    for table, head in ((UPTAKES, _UPTAKE_HEAD), (FLOW_VOLUMES, _FLOW_HEAD)):
        rows = list(_measure_rows(case, records, classes, table, list(head)))
        if rows:
            colors = [class_color(classes[name]) for name, *_ in rows]
            cells = [[f"{name}{suffix}", *values] for name, suffix, *values in rows]
            tables.append(PageTable(["class", *head.values()], cells, colors))
    return tables


def _measure_rows(
    case: str,
    records: Mapping[str, CurveRecord],
    classes: Mapping[str, ClassValue],
    table: Table,
    columns: Sequence[str],
) -> Iterator[list[str]]:
    for part in ("prediction", "reference"):
        for of, row in curve_rows(case, records[part], classes) if part in records else ():
            values = [_cell(row[column]) for column in columns] if of is table else []
            if any(value != "-" for value in values[-4:]):  # frames alone measure nothing
                yield [row["class"], " (reference)" if part == "reference" else "", *values]


def _cell(value: Any) -> str:
    return format_significant(value, 3) if value is None or isinstance(value, float) else str(value)
