"""Single frames that went wrong in the scanner. Their labels stay what they are: the frames beside them show where the heart is.

    dropout        signal lost in a region or the whole frame                       signal
    ghosting       the frame again, shifted along the phase-encode axis             signal
    mistriggered   lines of k-space that belong to the frame before or after        signal, velocity
    noise          a burst                                                          signal, velocity

A dropout or a ghost is a magnitude's, a velocity is left as it is; a map is not measured frame by frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unet4d.images.channels import SIGNAL, VELOCITIES
from unet4d.pipeline.augmentation.intensity import Noise, noisy
from unet4d.pipeline.augmentation.presets import CorruptionStrength

FURTHEST, RADIUS = 0.6, (0.3, 0.6)
"""How far from the middle a region of dropout may lie, and its radius: half a patch is 1."""
DISTANCE = (0.15, 0.5)
"""How far a ghost lies from the frame, as a share of the patch."""


@dataclass(frozen=True)
class Dropout:
    """A share `depth` of the signal lost, everywhere or in a ball: centre and radius over coordinates from -1 to 1."""

    depth: float
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    radius: float | None = None


@dataclass(frozen=True)
class Ghosting:
    """Two copies, `distance` of the patch away either way along `axis`, `brightness` of the frame each, `phase` apart from it."""

    axis: int
    distance: float
    brightness: float
    phase: float


@dataclass(frozen=True)
class Mistriggered:
    """The lines of k-space along `axis` that were measured a frame too early or too late: in frame `source`."""

    axis: int
    lines: tuple[int, ...]
    source: int


Kind = Dropout | Ghosting | Mistriggered | Noise


@dataclass(frozen=True)
class Corruption:
    """What happened to one frame."""

    frame: int
    kind: Kind


def draw_corruptions(
    rng: np.random.Generator, strength: CorruptionStrength, frames: int, patch_size: Sequence[int], gated: bool
) -> tuple[Corruption, ...]:
    """The frames of a clip that went wrong: at most half of them, and never two neighbours.

    Args:
        rng: what is drawn from.
        strength: how often, how many and how badly.
        frames: T.
        patch_size: voxels (X, Y, Z).
        gated: whether a frame is put together from several heart beats, so that triggers can be missed.
    """
    if rng.random() >= strength.likely:
        return ()
    count = min(int(rng.integers(1, strength.most + 1)), frames // 2)
    apart = np.sort(rng.choice(frames - count + 1, count, replace=False)) + np.arange(count)
    return tuple(Corruption(t, _draw_kind(rng, strength, t, frames, patch_size, gated)) for t in apart.tolist())


def _draw_kind(
    rng: np.random.Generator, strength: CorruptionStrength, t: int, frames: int, size: Sequence[int], gated: bool
) -> Kind:
    likely = {
        "dropout": strength.dropout.likely,
        "ghosting": strength.ghosting.likely,
        "noise": strength.noise.likely,
        "mistriggered": strength.mistriggered.likely * gated,
    }
    axis = int(rng.integers(2))
    match rng.choice(list(likely), p=np.array(list(likely.values())) / sum(likely.values())):
        case "dropout":
            depth = strength.dropout.value(rng)
            if rng.random() >= strength.local:
                return Dropout(depth)
            x, y, z = rng.uniform(-FURTHEST, FURTHEST, 3).tolist()
            return Dropout(depth, (x, y, z), float(rng.uniform(*RADIUS)))
        case "ghosting":
            distance, phase = float(rng.uniform(*DISTANCE)), float(rng.uniform(0, math.pi))
            return Ghosting(axis, distance, strength.ghosting.value(rng), phase)
        case "noise":
            return Noise(strength.noise.value(rng), int(rng.integers(2**31)))
        case _:
            lines = size[axis] // 2 + 1
            taken = rng.choice(lines, max(1, round(lines * strength.mistriggered.value(rng))), replace=False)
            beside = [s for s in (t - 1, t + 1) if 0 <= s < frames]
            return Mistriggered(axis, tuple(sorted(taken.tolist())), int(rng.choice(beside)))


def corrupted(
    image: Tensor, corruptions: Sequence[Corruption], kinds: Sequence[str], deviations: Sequence[float]
) -> Tensor:
    """A clip (C, T, X, Y, Z) with these frames gone wrong; they are overwritten, the others and the maps untouched.

    Args:
        image: the clip.
        corruptions: one a frame, neighbours never both.
        kinds: the channels' kinds.
        deviations: standard deviation of each channel in the study, or in the clip where nothing was normalised: the unit of noise.
    """
    for corruption in corruptions:
        t, happened = corruption.frame, corruption.kind
        for channel, kind in enumerate(kinds):
            frame = image[channel, t]
            if isinstance(happened, Dropout) and kind == SIGNAL:
                image[channel, t] = dropped(frame, happened)
            elif isinstance(happened, Ghosting) and kind == SIGNAL:
                image[channel, t] = ghosted(frame, happened)
            elif isinstance(happened, Mistriggered) and kind in (SIGNAL, *VELOCITIES):
                source = image[channel, happened.source]
                image[channel, t] = mistriggered(frame, source, happened.axis, happened.lines)
            elif isinstance(happened, Noise) and kind in (SIGNAL, *VELOCITIES):
                level = happened.level * deviations[channel]
                image[channel, t] = noisy(frame[None], level, happened.seed + channel, kind)[0]
    return image


def dropped(frame: Tensor, dropout: Dropout) -> Tensor:
    """A frame (X, Y, Z) that lost signal above its minimum, with a soft border to the region: a Gaussian of half its radius."""
    low = frame.amin()
    if dropout.radius is None:
        return (frame - low).mul_(1 - dropout.depth).add_(low)
    axes = (
        torch.linspace(-1, 1, n) - c if n > 1 else torch.zeros(1)
        for n, c in zip(frame.shape, dropout.centre, strict=True)
    )
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    lost = torch.exp(-2 * (x**2 + y**2 + z**2) / dropout.radius**2).mul_(dropout.depth)
    return (frame - low).mul_(1 - lost).add_(low)


def ghosted(frame: Tensor, ghosting: Ghosting) -> Tensor:
    """A frame (X, Y, Z) with ghosts, a magnitude above its minimum.

    Lines of k-space that come and go with the pulse or the breath: multiplied by 1 + 2 a cos(2 pi d line / n + phase) along an axis
    of n voxels, they give the frame and two copies of brightness a, d voxels away either way:

        | s(y) + a e^(i phase) s(y + d) + a e^(-i phase) s(y - d) |
    """
    low = frame.amin()
    signal = frame - low
    away = round(ghosting.distance * frame.shape[ghosting.axis])
    ahead, behind = signal.roll(-away, ghosting.axis), signal.roll(away, ghosting.axis)
    real = signal + ghosting.brightness * math.cos(ghosting.phase) * (ahead + behind)
    imaginary = ghosting.brightness * math.sin(ghosting.phase) * (ahead - behind)
    return torch.hypot(real, imaginary).add_(low)


def mistriggered(frame: Tensor, source: Tensor, axis: int, lines: Sequence[int]) -> Tensor:
    """A frame (X, Y, Z) some of whose lines of k-space were measured at the moment of another, `source`.

    A line and its mirror image go together, so that the frame stays real: `lines` count from 0, the centre, to half the axis.
    """
    spectrum, other = torch.fft.rfft(frame, dim=axis), torch.fft.rfft(source, dim=axis)
    chosen = torch.tensor(lines, dtype=torch.long)
    spectrum.index_copy_(axis, chosen, other.index_select(axis, chosen))
    return torch.fft.irfft(spectrum, n=frame.shape[axis], dim=axis)
