"""The ranges and probabilities behind `data.augmentation` and `data.time_augmentation`: tables for mild and strong.

Intensities are in standard deviations of the study, which z-score makes 1. Ranges lie near those of nnU-Net's default set (Isensee
et al. 2021); rotations are smaller, because organs keep their place.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class RandomRange(NamedTuple):
    """A change that is applied with a probability, with a parameter that is uniform between two bounds."""

    probability: float
    low: float
    high: float

    def sample(self, rng: np.random.Generator) -> float | None:
        """Return the parameter, or None where the change is not applied."""
        return self.sample_value(rng) if rng.random() < self.probability else None

    def sample_value(self, rng: np.random.Generator) -> float:
        """Return the parameter of a change that is applied."""
        return float(rng.uniform(self.low, self.high))


class SpacePreset(NamedTuple):
    """The range of changes in space.

    Attributes:
        probability: of rotation, zoom, stretch and shift together.
        rotation_deg: largest rotation about an axis.
        zoom: largest change of size, as a fraction.
        stretch: largest further change of one axis, as a fraction.
        shift: largest shift along X and Y, as a fraction of the patch.
        flip: probability of mirroring each of `data.flip_axes`.
    """

    probability: float
    rotation_deg: float
    zoom: float
    stretch: float
    shift: float
    flip: float


class IntensityPreset(NamedTuple):
    """The range of changes of intensity.

    Attributes:
        shading: coefficients of the polynomial that is the logarithm of the coil's sensitivity.
        noise: standard deviation.
        blur: sigma in voxels.
        coarseness: remaining resolution, as a fraction.
        contrast: factor.
        brightness: shift.
        gamma: exponent.
        inverted: fraction of the gammas that bend the bright end instead of the dark one.
    """

    shading: RandomRange
    noise: RandomRange
    blur: RandomRange
    coarseness: RandomRange
    contrast: RandomRange
    brightness: RandomRange
    gamma: RandomRange
    inverted: float


class ArtifactPreset(NamedTuple):
    """The range of artifacts of single frames.

    Attributes:
        probability: that a clip has such frames.
        most: the most frames of a clip, each with one kind of artifact; the kinds are chosen by their own probabilities.
        dropout: lost fraction of the signal.
        local: fraction of the dropouts that affect a region, not the whole frame.
        ghosting: brightness of a ghost, as a fraction of the signal.
        mistriggered: fraction of the lines of k-space taken from the neighbouring frame.
        noise: standard deviation of a burst.
    """

    probability: float
    most: int
    dropout: RandomRange
    local: float
    ghosting: RandomRange
    mistriggered: RandomRange
    noise: RandomRange


class TimePreset(NamedTuple):
    """The range of changes of a clip's timing.

    Attributes:
        slowest: smallest factor on the study's speed.
        fastest: largest factor on the study's speed.
        vary: probability that a clip's speed is changed.
        drop: probability that a clip misses a frame.
        repeat: probability that a clip shows a frame once more.
        both_ways: whether half of the clips run backwards.
    """

    slowest: float
    fastest: float
    vary: float
    drop: float
    repeat: float
    both_ways: bool


SPACE_PRESETS = {
    "mild": SpacePreset(probability=0.8, rotation_deg=15.0, zoom=0.15, stretch=0.05, shift=0.05, flip=0.5),
    "strong": SpacePreset(probability=0.8, rotation_deg=30.0, zoom=0.25, stretch=0.1, shift=0.05, flip=0.5),
}
INTENSITY_PRESETS = {
    "mild": IntensityPreset(
        shading=RandomRange(0.2, -0.3, 0.3),
        noise=RandomRange(0.15, 0.0, 0.2),
        blur=RandomRange(0.1, 0.3, 1.0),
        coarseness=RandomRange(0.1, 0.6, 1.0),
        contrast=RandomRange(0.25, 0.75, 1.25),
        brightness=RandomRange(0.25, -0.25, 0.25),
        gamma=RandomRange(0.2, 0.7, 1.5),
        inverted=0.25,
    ),
    "strong": IntensityPreset(
        shading=RandomRange(0.4, -0.5, 0.5),
        noise=RandomRange(0.3, 0.0, 0.3),
        blur=RandomRange(0.2, 0.5, 1.5),
        coarseness=RandomRange(0.25, 0.5, 1.0),
        contrast=RandomRange(0.5, 0.65, 1.5),
        brightness=RandomRange(0.5, -0.4, 0.4),
        gamma=RandomRange(0.4, 0.6, 1.8),
        inverted=0.25,
    ),
}
ARTIFACT_PRESETS = {
    "mild": ArtifactPreset(
        probability=0.15,
        most=1,
        dropout=RandomRange(0.25, 0.2, 0.6),
        local=0.5,
        ghosting=RandomRange(0.25, 0.05, 0.2),
        mistriggered=RandomRange(0.25, 0.1, 0.3),
        noise=RandomRange(0.25, 0.2, 0.4),
    ),
    "strong": ArtifactPreset(
        probability=0.5,
        most=2,
        dropout=RandomRange(0.25, 0.4, 0.9),
        local=0.5,
        ghosting=RandomRange(0.25, 0.15, 0.35),
        mistriggered=RandomRange(0.25, 0.3, 0.6),
        noise=RandomRange(0.25, 0.4, 0.8),
    ),
}
TIME_PRESETS = {
    "off": TimePreset(1.0, 1.0, 0.0, 0.0, 0.0, False),
    "mild": TimePreset(0.8, 1.25, 0.5, 0.1, 0.1, False),
    "strong": TimePreset(0.67, 1.5, 0.8, 0.25, 0.25, True),
}
"""Only strong reverses clips: no heart beats backwards. Still, each frame keeps its neighbours, and a network that has seen both
directions relies on them rather than on the place in the cycle where a clip began."""
