"""Curves of one study beside its volumes, over the voxels of a label map: signal of each channel, velocity, and flow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unet4d.errors import InputError
from unet4d.images.channels import VELOCITIES, channels_of_kind, velocity_axis
from unet4d.metrics.flow import MM_S, FlowSections
from unet4d.metrics.regions import ClassValue, class_mask
from unet4d.metrics.signal_curves import class_signals

INTENSITY, FLOW = "intensity", "flow"
CURVE_KINDS = (INTENSITY, FLOW)
_AXES = "xyz"


@dataclass(frozen=True)
class CurveOptions:
    """Curves that are measured beside volumes; none by default.

    Attributes:
        kinds: some of `CURVE_KINDS`.
        baseline_frames: number of frames before a contrast agent arrives; None finds the arrival of each class.
        velocity_unit: of velocity channels, "mm/s", "cm/s" or "m/s"; None is that of dataset.json.
    """

    kinds: tuple[str, ...] = ()
    baseline_frames: int | None = None
    velocity_unit: str | None = None

    def __post_init__(self) -> None:
        """Raise InputError for a value out of range."""
        for name, value, known in (
            ("curves", set(self.kinds), CURVE_KINDS),
            ("velocity_unit", {self.velocity_unit} - {None}, MM_S),
        ):
            if not value <= set(known):
                raise InputError(
                    f"got {name} {', '.join(map(str, value))}, expected some of {', '.join(known)}; correct it"
                )
        if self.baseline_frames is not None and self.baseline_frames < 1:
            raise InputError(f"got baseline_frames {self.baseline_frames}, expected 1 or more; correct it")

    def outputs(self, units: Iterable[str | None]) -> list[str]:
        """Return each kind with what else decides its values, so that they are measured anew where that changes.

        Args:
            units: of velocity of the studies.
        """
        decides = {
            INTENSITY: str(self.baseline_frames or ""),
            FLOW: " ".join(sorted({self._unit(one) for one in units})),
        }
        return [f"{kind} {decides[kind]}".rstrip() for kind in self.kinds]

    def _unit(self, of_study: str | None) -> str:
        return self.velocity_unit or of_study or ""

    def check(self, kinds: Sequence[str], units: Mapping[str, str | None]) -> None:
        """Raise InputError where flow is asked of channels without velocity, or of a study with an unknown unit of velocity.

        Args:
            kinds: of the channels.
            units: name of each study to its unit of velocity.
        """
        if FLOW not in self.kinds:
            return
        if not channels_of_kind(kinds, *VELOCITIES):
            raise InputError("got --curves flow, and no channel is a velocity; leave flow out")
        if unknown := [name for name, unit in units.items() if not self._unit(unit)]:
            raise InputError(
                f"got --curves flow and no unit of velocity for {unknown[0]}, expected one of {', '.join(MM_S)}; give "
                "--velocity_unit, or velocity_unit in dataset.json"
            )

    def as_dict(self, unit_of_study: str | None) -> dict[str, Any]:
        """Return what prediction.json records of them; `recorded_options` reads it."""
        unit = (self._unit(unit_of_study) or None) if FLOW in self.kinds else None
        known = {"baseline_frames": self.baseline_frames, "velocity_unit": unit}
        return {"kinds": list(self.kinds), **{name: value for name, value in known.items() if value is not None}}


NO_CURVES = CurveOptions()


def recorded_options(entry: Any, kinds: Sequence[str], unit_of_study: str | None) -> CurveOptions:
    """Return the options that `predict` recorded of a case; flow only where velocities and their unit are known here, too.

    Args:
        entry: "curves" of the case in prediction.json, which may be damaged.
        kinds: of the channels.
        unit_of_study: of their velocities.
    """
    if not isinstance(entry, dict) or not isinstance(entry.get("kinds"), list):
        return NO_CURVES
    frames, unit = entry.get("baseline_frames"), entry.get("velocity_unit")
    unit = unit if isinstance(unit, str) and unit in MM_S else unit_of_study
    has_flow = unit is not None and bool(channels_of_kind(kinds, *VELOCITIES))
    wanted = tuple(kind for kind in CURVE_KINDS if kind in entry["kinds"] and (kind != FLOW or has_flow))
    return CurveOptions(wanted, frames if type(frames) is int and frames > 0 else None, unit)


def measure_curves(
    frames: Iterable[np.ndarray],
    label: np.ndarray,
    classes: Mapping[str, ClassValue],
    channels: Mapping[str, str],
    affine: np.ndarray,
    options: CurveOptions,
    velocity_unit: str | None = None,
) -> dict[str, Any]:
    """Measure the curves of a study, frame by frame; None where a class has no voxel, or no section.

    Args:
        frames: the image, each (C, X, Y, Z).
        label: (T, X, Y, Z) label values.
        classes: foreground class name to label value, or region.
        channels: name to kind, see images/channels.py.
        affine: (4, 4), voxel to mm.
        options: what to measure.
        velocity_unit: of the velocity channels, where `options` has none.

    Returns:
        "intensity": class to channel to "mean" and "median", one value per frame, of the channels that are no velocity; "flow":
        class to column of flow.csv to one value per frame.
    """
    kinds, names = list(channels.values()), list(channels)
    still = [c for c in range(len(kinds)) if velocity_axis(kinds[c]) is None]
    axes = {axis[0]: (c, axis[1]) for c, kind in enumerate(kinds) if (axis := velocity_axis(kind))}
    to_mm_s = MM_S[options.velocity_unit or velocity_unit or "mm/s"]
    masks: dict[str, np.ndarray] = {}
    if FLOW in options.kinds:
        masks = {name: class_mask(label, value) for name, value in classes.items()}
    sections = {
        name: FlowSections.of(np.any(mask, axis=0), tuple(sorted(axes)), affine) for name, mask in masks.items()
    }
    signals, flows = [], {name: list[dict[str, float | None]]() for name in masks}
    for t, frame in enumerate(frames):
        if INTENSITY in options.kinds:
            signals.append(class_signals(frame[still], label[t], list(classes.values())))
        velocity = {axis: sign * to_mm_s * frame[c] for axis, (c, sign) in axes.items()} if masks else {}
        for name, mask in masks.items():
            flows[name].append(_measure_flow(mask[t], velocity, sections[name]))
    found: dict[str, Any] = {}
    if INTENSITY in options.kinds:
        mean, median = np.array(signals).transpose(1, 3, 2, 0)  # each (K, C, T)
        found[INTENSITY] = {
            name: {names[c]: {"mean": _plain(mean[k, i]), "median": _plain(median[k, i])} for i, c in enumerate(still)}
            for k, name in enumerate(classes)
        }
    if FLOW in options.kinds:
        found[FLOW] = {name: {key: [row[key] for row in rows] for key in rows[0]} for name, rows in flows.items()}
        for columns in found[FLOW].values():
            columns["flow_ml_per_s"] = _plain(orient_flow(columns["flow_ml_per_s"]))
    return found


def _measure_flow(
    mask: np.ndarray, velocity: Mapping[int, np.ndarray], sections: FlowSections | None
) -> dict[str, float | None]:
    """Return the columns of flow.csv of one frame of a class; velocities in mm/s, those of the table in cm/s."""
    inside = {axis: component[mask] / 10 for axis, component in velocity.items()}
    is_there = bool(mask.any())
    speed = np.sqrt(sum(component.astype(np.float64) ** 2 for component in inside.values()))
    flow = sections.flows_ml_s(mask, velocity) if sections and is_there else np.zeros(0)
    return {
        "mean_speed_cm_per_s": round_digits(speed.mean()) if is_there else None,
        **{
            f"mean_velocity_{_AXES[axis]}_cm_per_s": round_digits(inside[axis].mean())
            if is_there and axis in inside
            else None
            for axis in range(3)
        },
        "flow_ml_per_s": round_digits(flow.mean()) if len(flow) else None,
        "flow_sd_ml_per_s": round_digits(flow.std(ddof=1)) if len(flow) > 1 else None,
        "sections": len(flow),
    }


def orient_flow(flow: Sequence[float | None]) -> np.ndarray:
    """Return a flow `(T,)` in mL/s, NaN where undefined, with the sign that makes its sum over all frames positive."""
    curve = as_curve(flow)
    return -curve if np.nansum(curve) < 0 else curve


def as_curve(values: Sequence[float | None]) -> np.ndarray:
    """Return a curve `(T,)` float64 with NaN where a record has None."""
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _plain(curve: np.ndarray) -> list[float | None]:
    return [round_digits(value) if np.isfinite(value) else None for value in curve]


def round_digits(value: float) -> float:
    """Return a number with 9 digits, however small its unit makes it."""
    return float(f"{value:.9g}")
