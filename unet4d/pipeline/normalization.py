"""Normalization of intensities over the whole study, never frame by frame."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from unet4d.images.channels import VELOCITIES, channels_of_kind

PERCENTILES = (0.5, 99.5)
SAMPLE = 2_000_000
"""Voxels the percentiles are taken from, evenly spread, when a study has more."""


@dataclass(frozen=True)
class IntensityScale:
    """How one study's intensities are brought to a common scale: what each channel is clipped to, lowered and divided by.

    The same for all frames, for frame by frame contrast uptake would be wiped out.

    Attributes:
        channels: (low, high, mean, deviation) of each channel; low and high are infinite where nothing is clipped.
    """

    channels: tuple[tuple[float, float, float, float], ...]

    @classmethod
    def of(
        cls,
        frames: Callable[[], Iterable[np.ndarray]],
        shape: Sequence[int],
        normalization: str,
        kinds: Sequence[str] = (),
    ) -> IntensityScale:
        """The scale of a study that comes frame by frame; see `normalised`.

        Args:
            frames: gives its frames (C, X, Y, Z) float32, from the first on, each time it is called.
            shape: (C, T, X, Y, Z).
            normalization: "zscore", or "none", which changes nothing.
            kinds: what each channel holds, see data/channels.py. Empty: all are signal.
        """
        found = [_UNCHANGED] * shape[0]
        if normalization == "none":
            return cls(tuple(found))
        velocities = channels_of_kind(kinds, *VELOCITIES)
        others = [channel for channel in range(shape[0]) if channel not in velocities]
        if velocities:
            speed = _root_mean_square(frame[velocities] for frame in frames())
            for channel in velocities:
                found[channel] = (-math.inf, math.inf, 0.0, speed)
        if others:
            for channel, values in zip(others, _standard(frames, shape, others), strict=True):
                found[channel] = values
        return cls(tuple(found))

    def apply(self, image: np.ndarray) -> None:
        """Bring (C, ...) float32 to the scale, in place."""
        for values, (low, high, mean, deviation) in zip(image, self.channels, strict=True):
            if math.isfinite(low):
                np.clip(values, np.float32(low), np.float32(high), out=values)
            if mean:
                values -= np.float32(mean)
            if deviation not in (0.0, 1.0):
                values /= np.float32(deviation)


_UNCHANGED = (-math.inf, math.inf, 0.0, 1.0)


def normalised(array: np.ndarray, normalization: str, kinds: Sequence[str] = ()) -> np.ndarray:
    """An image (C, T, X, Y, Z) normalised over the whole study, never frame by frame, which would wipe out contrast uptake.

    "zscore" clips a signal or a map to its 0.5 and 99.5 percentiles, then gives it mean 0 and standard deviation 1; a constant one
    becomes 0. The channels of a velocity are divided by one number, the root mean square of the speed where it is not 0: rest
    stays 0, directions stay, and what negates a component before negates it after.

    Args:
        normalization: "zscore", or "none", which changes nothing.
        kinds: what each channel holds, see data/channels.py. Empty: all are signal.
    """
    if normalization == "none":
        return np.asarray(array, np.float32)
    out = np.array(array, np.float32, order="C")
    IntensityScale.of(lambda: out.swapaxes(0, 1), out.shape, normalization, kinds).apply(out)
    return out


def _standard(
    frames: Callable[[], Iterable[np.ndarray]], shape: Sequence[int], channels: Sequence[int]
) -> list[tuple[float, float, float, float]]:
    """Of each of the channels its percentiles, and mean and standard deviation between them; three times through the frames."""
    bounds = [np.percentile(sample, PERCENTILES) for sample in _samples(frames(), shape, channels)]
    clips = [(np.float32(low), np.float32(high)) for low, high in bounds]

    def clipped() -> Iterator[list[np.ndarray]]:
        for frame in frames():
            yield [np.clip(frame[channel], *clip) for channel, clip in zip(channels, clips, strict=True)]

    means = np.mean([[values.mean(dtype=np.float64) for values in frame] for frame in clipped()], axis=0)
    squares = [
        [np.square(values - np.float32(mean)).mean(dtype=np.float64) for values, mean in zip(frame, means, strict=True)]
        for frame in clipped()
    ]
    deviations = np.sqrt(np.mean(squares, axis=0))
    return [(float(a), float(b), float(m), float(d)) for (a, b), m, d in zip(clips, means, deviations, strict=True)]


def _root_mean_square(frames: Iterable[np.ndarray]) -> float:
    """Of the speed where something moves, from the components (C, X, Y, Z) of each frame; 0 where nothing does."""
    moving, total = 0, 0.0
    for frame in frames:
        squares = np.square(frame, dtype=np.float64).sum(0)
        moving += int(np.count_nonzero(squares))
        total += float(squares.sum())
    return math.sqrt(total / moving) if moving else 0.0


def _samples(frames: Iterable[np.ndarray], shape: Sequence[int], channels: Sequence[int]) -> list[np.ndarray]:
    """About `SAMPLE` evenly spread values of each channel. A step with a factor in common with an axis would keep to some of its
    slices."""
    voxels = math.prod(shape[2:])
    size = shape[1] * voxels
    step = max(1, size // SAMPLE)
    while math.gcd(step, size) > 1:
        step += 1
    kept: list[list[np.ndarray]] = [[] for _ in channels]
    for t, frame in enumerate(frames):
        for values, channel in zip(kept, channels, strict=True):
            values.append(frame[channel].reshape(-1)[-t * voxels % step :: step].copy())  # a view would hold the frame
    return [np.concatenate(values) for values in kept]
