"""What a prediction does over all frames of a study, drawn by anybody or not: jitter, flicker, closure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from unet4d.metrics.statistics import summary_statistics
from unet4d.metrics.temporal_consistency import flicker, frame_pairs, frame_to_frame_dice
from unet4d.metrics.volume_curves import closure, roughness


@dataclass(frozen=True)
class TemporalMetrics:
    """Arrays `(K,)` of the K foreground classes, NaN where undefined; see `docs/metrics.md`.

    Attributes:
        roughness: of the prediction's volume curve.
        reference_roughness: of the reference's, where every frame is labelled.
        frame_to_frame_dice: mean over the prediction's frames and their next.
        frame_to_frame_excess: mean of how much more of the class stays in the prediction than in the reference, over the frames
            that are labelled and whose next is.
        flicker_components: components that live one frame.
        flicker_voxels: their voxels.
        closure: of the prediction's curve, where the study is cyclic.
        reference_closure: of the reference's, where every frame is labelled too.
    """

    roughness: np.ndarray
    reference_roughness: np.ndarray
    frame_to_frame_dice: np.ndarray
    frame_to_frame_excess: np.ndarray
    flicker_components: np.ndarray
    flicker_voxels: np.ndarray
    closure: np.ndarray
    reference_closure: np.ndarray


TEMPORAL_QUANTITIES = tuple(TemporalMetrics.__dataclass_fields__)


def measure_over_time(
    label: np.ndarray,
    labelled: np.ndarray,
    prediction: np.ndarray,
    values: Sequence[int],
    curves_ml: tuple[np.ndarray, np.ndarray],
    cyclic: bool,
) -> TemporalMetrics:
    """Measure a study over its frames.

    Args:
        label: (T, X, Y, Z), the reference, which means something where `labelled`.
        labelled: (T,) bool.
        prediction: (T, X, Y, Z).
        values: the K label values to measure.
        curves_ml: volumes (T, K) of reference, NaN where unlabelled, and prediction.
        cyclic: whether the last frame leads into the first.
    """
    stays = frame_to_frame_dice(prediction, values, cyclic)
    components, voxels = flicker(prediction, values, cyclic)
    if len(prediction) == 1:  # nothing goes on before or after
        components, voxels = np.full((2, 1, len(values)), np.nan)
    return TemporalMetrics(
        roughness=_each(roughness(curve, cyclic) for curve in curves_ml[1].T),
        reference_roughness=_each(roughness(curve, cyclic) for curve in curves_ml[0].T),
        frame_to_frame_dice=_means(stays),
        frame_to_frame_excess=_means(_excess(stays, label, labelled, values, cyclic)),
        flicker_components=components.sum(axis=0),
        flicker_voxels=voxels.sum(axis=0),
        closure=_each(closure(curve) if cyclic else None for curve in curves_ml[1].T),
        reference_closure=_each(closure(curve) if cyclic else None for curve in curves_ml[0].T),
    )


def _excess(
    stays: np.ndarray, label: np.ndarray, labelled: np.ndarray, values: Sequence[int], cyclic: bool
) -> np.ndarray:
    """Frame-to-frame Dice (pairs, K) beyond the reference's, NaN where a frame of a pair is unlabelled."""
    excess = np.full(stays.shape, np.nan)
    for i, (t, after) in enumerate(frame_pairs(len(label), cyclic)):
        if labelled[t] and labelled[after]:
            excess[i] = stays[i] - frame_to_frame_dice(label[[t, after]], values, cyclic=False)[0]
    return excess


def _each(found: Iterable[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in found], np.float64)


def _means(pairs: np.ndarray) -> np.ndarray:
    """The mean of each column (pairs, K) over what is defined."""
    return _each(summary_statistics(column)["mean"] for column in pairs.T)
