"""Normalisation of intensities over the whole study, never frame by frame."""

from __future__ import annotations

import math

import numpy as np

PERCENTILES = (0.5, 99.5)
SAMPLE = 2_000_000
"""Voxels the percentiles are taken from, evenly spread, when a study has more."""


def normalised(array: np.ndarray, normalisation: str) -> np.ndarray:
    """An image (C, T, X, Y, Z) with each channel normalised over the whole study, never frame by frame.

    "zscore" clips to the 0.5 and 99.5 percentiles, then gives mean 0 and standard deviation 1; a constant channel becomes 0.
    Frame by frame would wipe out contrast uptake.
    """
    if normalisation == "none":
        return np.asarray(array, np.float32)
    out = np.empty(array.shape, np.float32)
    for channel, values in enumerate(array):
        low, high = np.percentile(_sample(values), PERCENTILES)
        clipped = np.clip(values, low, high, out=out[channel])
        clipped -= np.float32(clipped.mean(dtype=np.float64))
        # frame by frame, for numpy would make a float64 copy of the study
        deviation = np.float32(np.sqrt(np.mean([np.square(frame).mean(dtype=np.float64) for frame in clipped])))
        if deviation > 0:
            clipped /= deviation
    return out


def _sample(values: np.ndarray) -> np.ndarray:
    """About `SAMPLE` evenly spread values. A step with a factor in common with an axis would keep to some of its slices."""
    step = max(1, values.size // SAMPLE)
    while math.gcd(step, values.size) > 1:
        step += 1
    return values.reshape(-1)[::step]
