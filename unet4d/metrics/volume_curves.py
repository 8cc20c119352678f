"""Volumes per frame and class, and measures of a volume curve: ejection fraction and filling, smoothness, closure.

A curve is `(T,)` in mL. `docs/reference/metrics.md` has the formulae and their sources.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unet4d.metrics.regions import ClassValue, class_mask

Curve = np.ndarray | Sequence[float]


def voxel_volume_ml(affine: np.ndarray) -> float:
    """Return the volume of one voxel in mL from a 4x4 affine in mm: `|det| / 1000`, right for sheared affines too."""
    return float(abs(np.linalg.det(np.asarray(affine, np.float64)[:3, :3]))) / 1000.0


def volumes_ml(label: np.ndarray, values: Sequence[ClassValue], voxel_ml: float) -> np.ndarray:
    """Return the volume of each class in each frame, `(T, K)` in mL, of a label `(T, X, Y, Z)`: voxels times `voxel_ml`."""
    counts = [[np.count_nonzero(class_mask(frame, value)) for value in values] for frame in label]
    return np.array(counts, np.float64).reshape(len(label), len(values)) * voxel_ml


def extreme_frames(volumes: np.ndarray) -> list[int]:
    """Return the frames where the class that changes most, of `volumes (T, K)`, is largest and smallest; none where K is 0.

    Of a heart these are end-diastole and end-systole.
    """
    if not volumes.size:
        return []
    k = int(np.argmax(np.ptp(volumes, axis=0)))
    return [int(np.argmax(volumes[:, k])), int(np.argmin(volumes[:, k]))]


@dataclass(frozen=True)
class CurveMeasures:
    """Measures of the volume curve of a cavity.

    Attributes:
        ed_frame: end-diastole, where it is largest; of equals the first.
        es_frame: end-systole, where it is smallest; of equals the first.
        edv_ml: volume at end-diastole.
        esv_ml: volume at end-systole.
        sv_ml: stroke volume, the difference.
        ef_percent: ejection fraction, 100 sv / edv; None where edv is 0.
        peak_filling_ml_per_s: steepest rise from one frame to the next after end-systole; None without frame duration, with
            fewer than 3 frames, where a frame has no volume, or where nothing follows end-systole.
        time_to_peak_filling_s: from end-systole to the middle of that step; None where that is.
    """

    ed_frame: int
    es_frame: int
    edv_ml: float
    esv_ml: float
    sv_ml: float
    ef_percent: float | None
    peak_filling_ml_per_s: float | None
    time_to_peak_filling_s: float | None


def curve_measures(volume_ml: Curve, frame_duration_s: float | None, cyclic: bool) -> CurveMeasures:
    """Measure the volume curve of a cavity.

    Args:
        volume_ml: `(T,)`; NaN in unlabelled frames, which are then no extremes.
        frame_duration_s: seconds from frame to frame; None where unknown.
        cyclic: whether the last frame leads into the first.

    Raises:
        ValueError: no frame has a volume.
    """
    curve = _curve(volume_ml)
    if not np.isfinite(curve).any():
        raise ValueError(f"got a curve of {len(curve)} frames without a volume, expected one or more")
    ed, es = int(np.nanargmax(curve)), int(np.nanargmin(curve))
    edv, esv = float(curve[ed]), float(curve[es])
    ef = 100.0 * (edv - esv) / edv if edv else None
    rise, frames = _peak_filling(curve, ed, es, cyclic)
    if rise is None or frames is None or not frame_duration_s:
        return CurveMeasures(ed, es, edv, esv, edv - esv, ef, None, None)
    return CurveMeasures(ed, es, edv, esv, edv - esv, ef, rise / frame_duration_s, frames * frame_duration_s)


def _peak_filling(curve: np.ndarray, ed: int, es: int, cyclic: bool) -> tuple[float, float] | tuple[None, None]:
    """Return the largest rise from a frame to the next after `es`, in mL, and how many frames after it; None for no rise.

    A cyclic curve fills until the next end-diastole, an open one until its end.
    """
    total = len(curve)
    steps = (ed - es) % total if cyclic else total - 1 - es
    if total < 3 or not steps or not np.isfinite(curve).all():
        return None, None
    rises = np.diff(curve[(es + np.arange(steps + 1)) % total])
    first = int(np.argmax(rises))
    return float(rises[first]), first + 0.5


def roughness(volume_ml: Curve, cyclic: bool) -> float | None:
    """Compute the jitter of a curve: root mean square of V[t+1] - 2 V[t] + V[t-1], over the mean volume.

    Scale, cyclic shift and direction of time do not change it; a straight line has 0. None with fewer than 3 frames, where a
    frame has no volume, or where the class is nowhere.

    Painchaud et al., "Echocardiography segmentation with enforced temporal consistency", IEEE TMI 2022.
    """
    curve = _curve(volume_ml)
    if not _is_complete(curve):
        return None
    around = np.concatenate([curve[-1:], curve, curve[:1]]) if cyclic else curve
    return float(np.sqrt(np.mean(np.diff(around, 2) ** 2)) / curve.mean())


def closure(volume_ml: Curve) -> float | None:
    """Compute how far a cyclic curve fails to close: its step from last to first frame, beyond its mean step, over its range.

        max(0, |V[0] - V[T-1]| - mean |V[t+1] - V[t]|) / (max V - min V)

    About 0 where the loop closes, near 1 where the curve ends as far from its beginning as it ever is. A flat curve closes. None
    with fewer than 3 frames, where a frame has no volume, or where the class is nowhere.
    """
    curve = _curve(volume_ml)
    if not _is_complete(curve):
        return None
    gap = abs(curve[0] - curve[-1]) - np.abs(np.diff(curve)).mean()
    return float(max(0.0, gap) / np.ptp(curve)) if np.ptp(curve) else 0.0


def _is_complete(curve: np.ndarray) -> bool:
    return len(curve) >= 3 and bool(np.isfinite(curve).all()) and bool(curve.any())


def _curve(volume_ml: Curve) -> np.ndarray:
    curve = np.asarray(volume_ml, np.float64)
    if curve.ndim != 1 or not len(curve):
        raise ValueError(f"got a curve of shape {curve.shape}, expected (T,), one frame or more")
    return curve
