"""Normalization of intensities over the whole study, never frame by frame, which would wipe out contrast uptake."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from unet4d.images.channels import VELOCITIES, channels_of_kind

CLIP_PERCENTILES = (0.5, 99.5)
SAMPLE_VOXELS = 2_000_000
"""Voxels that percentiles are computed from, evenly spread, when a study has more."""

ChannelScale = tuple[float, float, float, float]
"""Bounds to clip to (infinite: not clipped), mean to subtract, and deviation to divide by."""
_UNCHANGED: ChannelScale = (-math.inf, math.inf, 0.0, 1.0)


@dataclass(frozen=True)
class IntensityScale:
    """The normalization of one study, the same for all frames.

    Attributes:
        channels: the scale of each channel.
    """

    channels: tuple[ChannelScale, ...]

    @classmethod
    def from_frames(
        cls,
        frames: Callable[[], Iterable[np.ndarray]],
        shape: Sequence[int],
        normalization: str,
        kinds: Sequence[str] = (),
    ) -> IntensityScale:
        """Compute the scale of a study that is read frame by frame; see `normalize`.

        Args:
            frames: returns its frames (C, X, Y, Z) float32, from the first on, each time it is called.
            shape: (C, T, X, Y, Z).
            normalization: "zscore", or "none", which changes nothing.
            kinds: the kind of each channel, see images/channels.py. Empty: all are signal.
        """
        scales = [_UNCHANGED] * shape[0]
        velocities = channels_of_kind(kinds, *VELOCITIES)
        others = [channel for channel in range(shape[0]) if channel not in velocities]
        if normalization == "none":
            return cls(tuple(scales))
        if velocities:
            speed = _root_mean_square_speed(frame[velocities] for frame in frames())
            for channel in velocities:
                scales[channel] = (-math.inf, math.inf, 0.0, speed)
        if others:
            for channel, scale in zip(others, _zscores(frames, shape, others), strict=True):
                scales[channel] = scale
        return cls(tuple(scales))

    def apply(self, image: np.ndarray) -> None:
        """Normalize (C, ...) float32 in place."""
        for values, (low, high, mean, deviation) in zip(image, self.channels, strict=True):
            if math.isfinite(low):
                np.clip(values, np.float32(low), np.float32(high), out=values)
            if mean:
                values -= np.float32(mean)
            if deviation not in (0.0, 1.0):
                values /= np.float32(deviation)


def normalize(array: np.ndarray, normalization: str, kinds: Sequence[str] = ()) -> np.ndarray:
    """Return an image (C, T, X, Y, Z) normalized over the whole study.

    "zscore" clips a signal or a map to its 0.5 and 99.5 percentiles, then gives it mean 0 and standard deviation 1; a constant one
    becomes 0. The channels of a velocity are divided by one number, the root mean square of the speed where it is not 0: rest
    stays 0, directions stay, and a negated component stays negated.

    Args:
        array: the image.
        normalization: "zscore", or "none", which changes nothing.
        kinds: the kind of each channel, see images/channels.py. Empty: all are signal.
    """
    if normalization == "none":
        return np.asarray(array, np.float32)
    out = np.array(array, np.float32, order="C")
    IntensityScale.from_frames(lambda: out.swapaxes(0, 1), out.shape, normalization, kinds).apply(out)
    return out


def _zscores(
    frames: Callable[[], Iterable[np.ndarray]], shape: Sequence[int], channels: Sequence[int]
) -> list[ChannelScale]:
    """Compute the channels' percentiles, and mean and standard deviation between them, in three passes over the frames."""
    bounds = [np.percentile(sample, CLIP_PERCENTILES) for sample in _sample_voxels(frames(), shape, channels)]
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


def _root_mean_square_speed(frames: Iterable[np.ndarray]) -> float:
    """Compute it where something moves, from the components (C, X, Y, Z) of each frame; 0 where nothing does."""
    moving, total = 0, 0.0
    for frame in frames:
        squares = np.square(frame, dtype=np.float64).sum(0)
        moving += int(np.count_nonzero(squares))
        total += float(squares.sum())
    return math.sqrt(total / moving) if moving else 0.0


def _sample_voxels(frames: Iterable[np.ndarray], shape: Sequence[int], channels: Sequence[int]) -> list[np.ndarray]:
    """Return about `SAMPLE_VOXELS` evenly spread values of each channel.

    A step with a factor in common with an axis would sample some of its slices only.
    """
    voxels = math.prod(shape[2:])
    size = shape[1] * voxels
    step = max(1, size // SAMPLE_VOXELS)
    while math.gcd(step, size) > 1:
        step += 1
    samples: list[list[np.ndarray]] = [[] for _ in channels]
    for t, frame in enumerate(frames):
        for sample, channel in zip(samples, channels, strict=True):
            sample.append(frame[channel].reshape(-1)[-t * voxels % step :: step].copy())  # a view would keep the frame
    return [np.concatenate(sample) for sample in samples]
