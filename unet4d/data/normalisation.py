"""Normalisation of intensities over the whole study, never frame by frame."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from unet4d.data.channels import VELOCITIES, channels_of

PERCENTILES = (0.5, 99.5)
SAMPLE = 2_000_000
"""Voxels the percentiles are taken from, evenly spread, when a study has more."""


def normalised(array: np.ndarray, normalisation: str, kinds: Sequence[str] = ()) -> np.ndarray:
    """An image (C, T, X, Y, Z) normalised over the whole study, never frame by frame, which would wipe out contrast uptake.

    "zscore" clips a signal or a map to its 0.5 and 99.5 percentiles, then gives it mean 0 and standard deviation 1; a constant one
    becomes 0. The channels of a velocity are divided by one number, the root mean square of the speed where it is not 0: rest
    stays 0, directions stay, and what negates a component before negates it after.

    Args:
        normalisation: "zscore", or "none", which changes nothing.
        kinds: what each channel holds, see data/channels.py. Empty: all are signal.
    """
    if normalisation == "none":
        return np.asarray(array, np.float32)
    out = np.array(array, np.float32, order="C")
    velocities = channels_of(kinds, *VELOCITIES)
    _scale([out[channel] for channel in velocities])
    for channel in range(len(out)):
        if channel not in velocities:
            _standardise(out[channel])
    return out


def _standardise(values: np.ndarray) -> None:
    """Clip (T, X, Y, Z) float32 to the percentiles, and bring it to mean 0 and standard deviation 1, in place."""
    low, high = np.percentile(_sample(values), PERCENTILES)
    np.clip(values, low, high, out=values)
    values -= np.float32(values.mean(dtype=np.float64))
    # frame by frame, for numpy would make a float64 copy of the study
    deviation = np.float32(np.sqrt(np.mean([np.square(frame).mean(dtype=np.float64) for frame in values])))
    if deviation > 0:
        values /= deviation


def _scale(velocities: Sequence[np.ndarray]) -> None:
    """Divide components (T, X, Y, Z) float32 by the root mean square of the speed where something moves, in place."""
    moving, total = 0, 0.0
    for frame in zip(*velocities, strict=True):
        squares = np.sum([np.square(component, dtype=np.float64) for component in frame], axis=0)
        moving += int(np.count_nonzero(squares))
        total += float(squares.sum())
    if moving:
        for component in velocities:
            component /= np.float32(math.sqrt(total / moving))


def _sample(values: np.ndarray) -> np.ndarray:
    """About `SAMPLE` evenly spread values. A step with a factor in common with an axis would keep to some of its slices."""
    step = max(1, values.size // SAMPLE)
    while math.gcd(step, values.size) > 1:
        step += 1
    return values.reshape(-1)[::step]
