"""Signal of a class over time, and what is measured of its curve after a contrast agent: enhancement, arrival, peak, slopes.

Definitions are those of semi-quantitative analysis of contrast series: Khalifa et al., "Models and methods for analyzing DCE-MRI: A
review", Med Phys 41:124301, 2014. They need no model of the tissue, and depend on sequence and dose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unet4d.metrics.regions import ClassValue, class_mask

ARRIVAL_FRACTION = 0.1
"""Fraction of the rise from the lowest earlier value to the peak up to which a frame counts as before arrival."""


def class_signals(frame: np.ndarray, label: np.ndarray, values: Sequence[ClassValue]) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and median of the voxels of each class, each `(C, K)`, NaN where a class has none.

    Args:
        frame: (C, X, Y, Z), the channels of one frame.
        label: (X, Y, Z) of that frame.
        values: the K label values, or regions.
    """
    mean, median = np.full((2, len(frame), len(values)), np.nan)
    for k, value in enumerate(values):
        voxels = frame[:, class_mask(label, value)]
        if voxels.shape[1]:
            mean[:, k], median[:, k] = voxels.mean(axis=1, dtype=np.float64), np.median(voxels, axis=1)
    return mean, median


@dataclass(frozen=True)
class Uptake:
    """Measures of the curve S of a class in a contrast series; None where undefined.

    Attributes:
        arrival_frame: the last frame before the peak where S is at most 10 % of the way from its lowest earlier value to the peak.
        baseline: S0, mean of S from the first frame to the arrival frame.
        peak_frame: where S is largest; of equals the first.
        peak_enhancement_percent: 100 (S - S0) / S0 at the peak.
        time_to_peak_s: from the arrival frame to the peak.
        wash_in_percent_per_s: peak enhancement over time to peak.
        wash_out_percent_per_s: change of the enhancement from the peak to the last frame, over that time; negative where it falls.
    """

    arrival_frame: int | None = None
    baseline: float | None = None
    peak_frame: int | None = None
    peak_enhancement_percent: float | None = None
    time_to_peak_s: float | None = None
    wash_in_percent_per_s: float | None = None
    wash_out_percent_per_s: float | None = None


def enhancement_percent(curve: np.ndarray, baseline: float | None) -> np.ndarray:
    """Return the relative enhancement 100 (S - S0) / S0 of a curve `(T,)`, NaN without a baseline above 0."""
    return np.full(len(curve), np.nan) if not baseline or baseline < 0 else 100 * (curve / baseline - 1)


def measure_uptake(curve: np.ndarray, frame_duration_s: float | None, baseline_frames: int | None = None) -> Uptake:
    """Measure the uptake of a class by its mean signal.

    Args:
        curve: `(T,)`, NaN where the class has no voxel; these frames count for nothing.
        frame_duration_s: seconds from frame to frame; None where unknown, which leaves times and slopes out.
        baseline_frames: number of frames before arrival, from the first; None finds the arrival frame.
    """
    known = np.flatnonzero(np.isfinite(curve))
    if len(known) < 2:
        return Uptake()
    if baseline_frames is None:
        peak = int(known[np.argmax(curve[known])])
        before = known[known < peak]
        if not len(before):
            return Uptake(peak_frame=peak)
        lowest = curve[before].min()
        arrival = int(before[curve[before] - lowest <= ARRIVAL_FRACTION * (curve[peak] - lowest)][-1])
    else:
        arrival, after = baseline_frames - 1, known[known >= baseline_frames]
        if not len(after) or not (known <= arrival).any():
            return Uptake()
        peak = int(after[np.argmax(curve[after])])
    baseline = float(curve[known[known <= arrival]].mean())
    enhancement = enhancement_percent(curve, baseline)
    if not np.isfinite(enhancement[peak]):
        return Uptake(arrival, baseline, peak)
    rise, found = float(enhancement[peak]), (arrival, baseline, peak)
    if not frame_duration_s:
        return Uptake(*found, rise)
    last, to_peak_s = int(known[-1]), (peak - arrival) * frame_duration_s
    fall = float(enhancement[last] - enhancement[peak]) / ((last - peak) * frame_duration_s) if last > peak else None
    return Uptake(*found, rise, to_peak_s, rise / to_peak_s, fall)
