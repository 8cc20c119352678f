"""Temporal metrics of a prediction over all frames of a study, labelled or not: roughness, flicker, closure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from unet4d.metrics.regions import ClassValue
from unet4d.metrics.statistics import summary_statistics
from unet4d.metrics.temporal_consistency import flicker, frame_pairs, frame_to_frame_dice
from unet4d.metrics.volume_curves import closure, roughness

TEMPORAL_QUANTITIES = (
    "roughness",
    "reference_roughness",
    "frame_to_frame_dice",
    "frame_to_frame_excess",
    "flicker_components",
    "flicker_voxels",
    "closure",
    "reference_closure",
)
"""Names of the temporal metrics; `docs/reference/metrics.md` defines each."""


def measure_over_time(
    label: np.ndarray,
    labelled: np.ndarray,
    prediction: np.ndarray,
    values: Sequence[ClassValue],
    curves_ml: tuple[np.ndarray, np.ndarray],
    cyclic: bool,
) -> dict[str, np.ndarray]:
    """Compute the temporal metrics of a study: name to `(K,)` over the classes, NaN where undefined.

    Args:
        label: (T, X, Y, Z), the reference, valid in the `labelled` frames.
        labelled: (T,) bool.
        prediction: (T, X, Y, Z).
        values: the K label values, or regions, to measure.
        curves_ml: volumes (T, K) of reference, NaN where unlabelled, and prediction.
        cyclic: whether the last frame leads into the first.
    """
    stays = frame_to_frame_dice(prediction, values, cyclic)  # (pairs, K)
    excess = np.full(stays.shape, np.nan)
    for i, (t, after) in enumerate(frame_pairs(len(label), cyclic)):
        if labelled[t] and labelled[after]:
            excess[i] = stays[i] - frame_to_frame_dice(label[[t, after]], values, cyclic=False)[0]
    components, voxels = flicker(prediction, values, cyclic)
    if len(prediction) == 1:  # no neighbor
        components, voxels = np.full((2, 1, len(values)), np.nan)
    found = {
        "frame_to_frame_dice": _array(summary_statistics(column)["mean"] for column in stays.T),
        "frame_to_frame_excess": _array(summary_statistics(column)["mean"] for column in excess.T),
        "flicker_components": components.sum(axis=0).astype(np.float64),
        "flicker_voxels": voxels.sum(axis=0).astype(np.float64),
    }
    for prefix, curves in zip(("reference_", ""), curves_ml, strict=True):
        found[f"{prefix}roughness"] = _array(roughness(curve, cyclic) for curve in curves.T)
        found[f"{prefix}closure"] = _array(closure(curve) if cyclic else None for curve in curves.T)
    return {name: found[name] for name in TEMPORAL_QUANTITIES}


def _array(values: Iterable[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], np.float64)
