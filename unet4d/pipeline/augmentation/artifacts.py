"""Artifacts of single frames. Labels stay as they are, because the neighboring frames show where the heart is.

    dropout        signal lost in a region or the whole frame                     signal
    ghosting       shifted copies of the frame along the phase-encode axis        signal
    mistriggering  lines of k-space that belong to the frame before or after      signal, velocity
    noise          a burst                                                        signal, velocity

A map is never changed: it was not measured frame by frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unet4d.images.channels import SIGNAL, VELOCITIES
from unet4d.pipeline.augmentation.intensity import NoiseParams, add_noise
from unet4d.pipeline.augmentation.presets import ArtifactPreset

CENTER_RANGE, RADIUS_RANGE = (-0.6, 0.6), (0.3, 0.6)
"""Center and radius of a region of dropout, over coordinates from -1 to 1."""
DISTANCE_RANGE = (0.15, 0.5)
"""Distance of a ghost, as a fraction of the patch."""


@dataclass(frozen=True)
class SignalDropout:
    """A fraction `depth` of the signal lost, everywhere or in a ball: center and radius over coordinates from -1 to 1."""

    depth: float
    center: tuple[float, float, float] = (0.0, 0.0, 0.0)
    radius: float | None = None


@dataclass(frozen=True)
class Ghosting:
    """Two copies, `distance` of the patch away either way along `axis`, `brightness` of the frame each, `phase` apart from it."""

    axis: int
    distance: float
    brightness: float
    phase: float


@dataclass(frozen=True)
class Mistriggering:
    """The lines of k-space along `axis` that were measured a frame too early or too late: in frame `source`."""

    axis: int
    lines: tuple[int, ...]
    source: int


Artifact = SignalDropout | Ghosting | Mistriggering | NoiseParams


@dataclass(frozen=True)
class FrameArtifact:
    """An artifact, and the frame it is in."""

    frame: int
    artifact: Artifact


def sample_artifacts(
    rng: np.random.Generator,
    preset: ArtifactPreset,
    frames: int,
    patch_size: Sequence[int],
    gated: bool,
    rate: float | None = None,
) -> tuple[FrameArtifact, ...]:
    """Return the artifacts of a clip: in at most half of its frames, and never in two neighbors.

    Args:
        rng: the random numbers.
        preset: how often, how many and how bad.
        frames: T.
        patch_size: voxels (X, Y, Z).
        gated: whether a frame is put together from several heart beats, so that triggers can be missed.
        rate: share of the frames with an artifact, on average over clips, in place of the preset's probability and number.
    """
    if rate is None:
        if rng.random() >= preset.probability:
            return ()
        count = min(int(rng.integers(1, preset.most + 1)), frames // 2)
    else:
        count = min(int(rate * frames + rng.random()), frames // 2)
    apart = np.sort(rng.choice(frames - count + 1, count, replace=False)) + np.arange(count)
    return tuple(FrameArtifact(t, sample_artifact(rng, preset, t, frames, patch_size, gated)) for t in apart.tolist())


def sample_artifact(
    rng: np.random.Generator, preset: ArtifactPreset, t: int, frames: int, size: Sequence[int], gated: bool
) -> Artifact:
    """Return an artifact of frame `t` of a clip; the arguments are those of `sample_artifacts`."""
    probabilities = {
        "dropout": preset.dropout.probability,
        "ghosting": preset.ghosting.probability,
        "noise": preset.noise.probability,
        "mistriggering": preset.mistriggered.probability * gated,
    }
    weights = np.array(list(probabilities.values()))
    axis = int(rng.integers(2))
    match rng.choice(list(probabilities), p=weights / sum(probabilities.values())):
        case "dropout":
            depth = preset.dropout.sample_value(rng)
            if rng.random() >= preset.local:
                return SignalDropout(depth)
            x, y, z = rng.uniform(*CENTER_RANGE, 3).tolist()
            return SignalDropout(depth, (x, y, z), float(rng.uniform(*RADIUS_RANGE)))
        case "ghosting":
            distance, phase = float(rng.uniform(*DISTANCE_RANGE)), float(rng.uniform(0, math.pi))
            return Ghosting(axis, distance, preset.ghosting.sample_value(rng), phase)
        case "noise":
            return NoiseParams(preset.noise.sample_value(rng), int(rng.integers(2**31)))
        case _:
            lines = size[axis] // 2 + 1
            taken = rng.choice(lines, max(1, round(lines * preset.mistriggered.sample_value(rng))), replace=False)
            neighbors = [s for s in (t - 1, t + 1) if 0 <= s < frames]
            return Mistriggering(axis, tuple(sorted(taken.tolist())), int(rng.choice(neighbors)))


def apply_artifacts(
    image: Tensor, artifacts: Sequence[FrameArtifact], kinds: Sequence[str], deviations: Sequence[float]
) -> Tensor:
    """Apply artifacts to a clip (C, T, X, Y, Z) in place; other frames and maps stay untouched.

    Args:
        image: the clip.
        artifacts: at most one per frame, never in two neighbors.
        kinds: the channels' kinds.
        deviations: standard deviation of each channel, the unit of noise.
    """
    for frame_artifact in artifacts:
        t, artifact = frame_artifact.frame, frame_artifact.artifact
        for channel, kind in enumerate(kinds):
            frame = image[channel, t]
            if isinstance(artifact, SignalDropout) and kind == SIGNAL:
                image[channel, t] = lose_signal(frame, artifact)
            elif isinstance(artifact, Ghosting) and kind == SIGNAL:
                image[channel, t] = add_ghosts(frame, artifact)
            elif isinstance(artifact, Mistriggering) and kind in (SIGNAL, *VELOCITIES):
                source = image[channel, artifact.source]
                image[channel, t] = mix_lines(frame, source, artifact.axis, artifact.lines)
            elif isinstance(artifact, NoiseParams) and kind in (SIGNAL, *VELOCITIES):
                level = artifact.level * deviations[channel]
                image[channel, t] = add_noise(frame[None], level, artifact.seed + channel, kind)[0]
    return image


def lose_signal(frame: Tensor, dropout: SignalDropout) -> Tensor:
    """Return a frame (X, Y, Z) that lost signal above its minimum; a region ends softly, as a Gaussian of half its radius."""
    low = frame.amin()
    if dropout.radius is None:
        return (frame - low).mul_(1 - dropout.depth).add_(low)
    axes = (
        torch.linspace(-1, 1, n) - c if n > 1 else torch.zeros(1)
        for n, c in zip(frame.shape, dropout.center, strict=True)
    )
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    lost = torch.exp(-2 * (x**2 + y**2 + z**2) / dropout.radius**2).mul_(dropout.depth)
    return (frame - low).mul_(1 - lost).add_(low)


def add_ghosts(frame: Tensor, ghosting: Ghosting) -> Tensor:
    """Return a frame (X, Y, Z) with ghosts, as a magnitude above its minimum.

    Lines of k-space that vary with the pulse or the breath: multiplied by 1 + 2 a cos(2 pi d line / n + phase) along an axis of n
    voxels, they give the frame and two copies of brightness a, d voxels away either way:

        | s(y) + a e^(i phase) s(y + d) + a e^(-i phase) s(y - d) |
    """
    low = frame.amin()
    signal = frame - low
    away = round(ghosting.distance * frame.shape[ghosting.axis])
    ahead, behind = signal.roll(-away, ghosting.axis), signal.roll(away, ghosting.axis)
    real = signal + ghosting.brightness * math.cos(ghosting.phase) * (ahead + behind)
    imaginary = ghosting.brightness * math.sin(ghosting.phase) * (ahead - behind)
    return torch.hypot(real, imaginary).add_(low)


def mix_lines(frame: Tensor, source: Tensor, axis: int, lines: Sequence[int]) -> Tensor:
    """Return a frame (X, Y, Z) in which some lines of k-space are those of another frame, `source`.

    A line and its mirror image go together, so that the frame stays real: `lines` count from 0, the center, to half the axis.
    """
    spectrum, other = torch.fft.rfft(frame, dim=axis), torch.fft.rfft(source, dim=axis)
    chosen = torch.tensor(lines, dtype=torch.long)
    spectrum.index_copy_(axis, chosen, other.index_select(axis, chosen))
    return torch.fft.irfft(spectrum, n=frame.shape[axis], dim=axis)
