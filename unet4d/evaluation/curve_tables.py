"""Tables of curves beside volumes, as `unet4d predict --curves` writes them: signal, uptake of contrast agent, and flow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from unet4d.evaluation.signal_curves import FLOW, INTENSITY, as_curve, round_digits
from unet4d.images.channels import SIGNAL
from unet4d.metrics.flow import FlowVolumes, flow_volumes
from unet4d.metrics.regions import ClassValue, describe_values
from unet4d.metrics.signal_curves import Uptake, enhancement_percent, measure_uptake
from unet4d.system.csv_file import Table

_FRAME = {
    "case": "name of the study",
    "frame": "number of the frame, from 0",
    "time_s": "time of the frame from the first, s; blank where the frame duration is unknown",
    "class": "name of the class",
    "value": "label value; of a region all of its values, 1+2+3",
}
_CASE = {"case": "name of the study", "class": "name of the class"}
INTENSITIES = Table(
    "intensity.csv",
    "case, frame, class and channel that is no velocity",
    {
        **_FRAME,
        "channel": "name of the channel",
        "mean": "mean of the image over the voxels of the class, in the unit of the channel",
        "median": "median of the same",
        "enhancement_percent": "of a signal in an open study: 100 (mean - baseline) / baseline, baseline as in uptake.csv, %",
    },
)
UPTAKES = Table(
    "uptake.csv",
    "case, class and channel that is a signal, of open studies",
    {
        **_CASE,
        "channel": "name of the channel",
        "arrival_frame": "last frame before the peak with at most 10 % of the rise to it, or of --baseline_frames the last",
        "baseline": "mean signal from the first frame to the arrival frame",
        "peak_frame": "frame of the largest mean signal after arrival",
        "peak_enhancement_percent": "100 (signal - baseline) / baseline at the peak, %",
        "time_to_peak_s": "from the arrival frame to the peak, s",
        "wash_in_percent_per_s": "peak enhancement over time to peak, % per s",
        "wash_out_percent_per_s": "change of the enhancement from the peak to the last frame over that time, % per s",
    },
)
FLOWS = Table(
    "flow.csv",
    "case, frame and class",
    {
        **_FRAME,
        "mean_speed_cm_per_s": "mean over the voxels of the class of the length of the velocity, cm/s",
        **{
            f"mean_velocity_{axis}_cm_per_s": f"mean velocity along the file's axis {axis.upper()}, cm/s; blank without it"
            for axis in "xyz"
        },
        "flow_ml_per_s": "net flow through a cross-section, mean over sections, mL/s; positive where more goes over all frames",
        "flow_sd_ml_per_s": "standard deviation of the flow over sections, mL/s",
        "sections": "number of cross-sections",
    },
)
FLOW_VOLUMES = Table(
    "flow_volumes.csv",
    "case and class",
    {
        **_CASE,
        "net_ml": "net flow over all frames, mL; of a great artery over one beat the stroke volume",
        "forward_ml": "of the frames with flow above 0, mL",
        "backward_ml": "of the frames with flow below 0, mL",
        "regurgitant_fraction_percent": "100 backward / forward, %",
    },
)
CurveRecord = Mapping[str, Any]
CURVE_TABLES = (INTENSITIES, UPTAKES, FLOWS, FLOW_VOLUMES)


def curve_tables(records: Mapping[str, CurveRecord], classes: Mapping[str, ClassValue]) -> dict[str, str]:
    """Return the text of each table that some case has rows of, by file.

    Args:
        records: of the cases in the folder.
        classes: foreground class name to label value, or region.
    """
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for case, record in records.items():
        for table, row in curve_rows(case, record, classes):
            rows.setdefault(table.file, []).append(row)
    return {table.file: curve_text(table, rows[table.file]) for table in CURVE_TABLES if table.file in rows}


def curve_text(table: Table, rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the text of a table: numbers with 9 digits, undefined ones blank."""
    return table.text([_cell(row[column]) for column in table.columns] for row in rows)


def curve_rows(
    case: str, record: CurveRecord, classes: Mapping[str, ClassValue]
) -> Iterator[tuple[Table, dict[str, Any]]]:
    """Yield the rows of a case, each with its table.

    Args:
        case: its name.
        record: what `measure_curves` returned, and "frame_duration_s", "channel_kinds", "baseline_frames" and "entry" with "time".
        classes: foreground class name to label value, or region.
    """
    duration_s, kinds = record.get("frame_duration_s"), record.get("channel_kinds", {})
    is_open = record["entry"].get("time") == "open"
    for name, value in classes.items():
        about, own = {"value": describe_values(value)}, {"case": case, "class": name}
        for channel, curves in record.get(INTENSITY, {}).get(name, {}).items():
            mean = as_curve(curves["mean"])
            has_uptake = is_open and kinds.get(channel, SIGNAL) == SIGNAL
            uptake = measure_uptake(mean, duration_s, record.get("baseline_frames")) if has_uptake else Uptake()
            columns = {**curves, "enhancement_percent": enhancement_percent(mean, uptake.baseline)}
            for row in _frames(columns, duration_s):
                yield INTENSITIES, own | about | {"channel": channel} | row
            if has_uptake:
                yield UPTAKES, own | {"channel": channel} | asdict(uptake)
        if found := record.get(FLOW, {}).get(name):
            for row in _frames(found, duration_s):
                yield FLOWS, own | about | row
            flow = as_curve(found["flow_ml_per_s"])
            volumes = flow_volumes(flow, duration_s)
            yield FLOW_VOLUMES, own | {field.name: getattr(volumes, field.name) for field in fields(FlowVolumes)}


def _frames(columns: Mapping[str, Sequence[Any]], duration_s: float | None) -> Iterator[dict[str, Any]]:
    """Yield the values of each frame, with its number and time."""
    for t, values in enumerate(zip(*columns.values(), strict=True)):
        time_s = None if duration_s is None else t * duration_s
        yield {"frame": t, "time_s": time_s, **dict(zip(columns, values, strict=True))}


def _cell(value: Any) -> Any:
    """Return a cell: numbers with 9 digits, undefined ones blank."""
    if isinstance(value, float):
        return round_digits(value) if math.isfinite(value) else ""
    return "" if value is None else value
