"""How far each change goes and how often it comes: one table, behind `data.augmentation` and `data.time_augmentation`.

Intensities are in deviations of the study, which z-score makes 1. Ranges lie near those of nnU-Net's default set (Isensee et al.
2021); turns are smaller, for organs keep their place. "strong" reaches further and comes oftener than "mild".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class RandomRange(NamedTuple):
    """How often a change comes, 0 to 1, and the range its parameter is drawn from evenly."""

    likely: float
    low: float
    high: float

    def drawn(self, rng: np.random.Generator) -> float | None:
        """The parameter, or None where the change does not come."""
        return self.value(rng) if rng.random() < self.likely else None

    def value(self, rng: np.random.Generator) -> float:
        """The parameter of a change that comes."""
        return float(rng.uniform(self.low, self.high))


@dataclass(frozen=True)
class SpaceStrength:
    """How far a clip is moved.

    Attributes:
        likely: how often it is turned, zoomed, stretched and shifted, 0 to 1.
        turn_deg: largest rotation about an axis.
        zoom: largest change of size, as a share.
        stretch: largest change of one axis on top, as a share.
        shift: largest shift along X and Y, as a share of the patch.
        flip: how often each of `data.flip_axes` is mirrored, 0 to 1.
    """

    likely: float
    turn_deg: float
    zoom: float
    stretch: float
    shift: float
    flip: float


@dataclass(frozen=True)
class IntensityStrength:
    """How the intensities of a clip are changed.

    Attributes:
        shading: coefficients of the polynomial that is the coil's sensitivity, as a logarithm.
        noise: its standard deviation, in deviations of the study.
        blur: sigma in voxels.
        coarseness: resolution that is left, as a share.
        contrast: factor.
        brightness: shift, in deviations of the study.
        gamma: exponent.
        inverted: share of the gammas that bend the bright end instead of the dark one.
    """

    shading: RandomRange
    noise: RandomRange
    blur: RandomRange
    coarseness: RandomRange
    contrast: RandomRange
    brightness: RandomRange
    gamma: RandomRange
    inverted: float


@dataclass(frozen=True)
class CorruptionStrength:
    """How single frames go wrong.

    Attributes:
        likely: how often a clip has such frames, 0 to 1.
        most: how many it has at most, each of one kind; the kinds' `likely` is their share.
        dropout: share of the signal that is lost.
        local: share of the dropouts that take a region, not the whole frame.
        ghosting: a ghost's brightness, as a share of the signal.
        mistriggered: share of the lines of k-space taken from the neighbouring frame.
        noise: standard deviation of a burst, in deviations of the study.
    """

    likely: float
    most: int
    dropout: RandomRange
    local: float
    ghosting: RandomRange
    mistriggered: RandomRange
    noise: RandomRange


SPACE = {
    "mild": SpaceStrength(likely=0.8, turn_deg=15.0, zoom=0.15, stretch=0.05, shift=0.05, flip=0.5),
    "strong": SpaceStrength(likely=0.8, turn_deg=30.0, zoom=0.25, stretch=0.1, shift=0.05, flip=0.5),
}
INTENSITY = {
    "mild": IntensityStrength(
        shading=RandomRange(0.2, -0.3, 0.3),
        noise=RandomRange(0.15, 0.0, 0.2),
        blur=RandomRange(0.1, 0.3, 1.0),
        coarseness=RandomRange(0.1, 0.6, 1.0),
        contrast=RandomRange(0.25, 0.75, 1.25),
        brightness=RandomRange(0.25, -0.25, 0.25),
        gamma=RandomRange(0.2, 0.7, 1.5),
        inverted=0.25,
    ),
    "strong": IntensityStrength(
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
CORRUPTION = {
    "mild": CorruptionStrength(
        likely=0.15,
        most=1,
        dropout=RandomRange(0.25, 0.2, 0.6),
        local=0.5,
        ghosting=RandomRange(0.25, 0.05, 0.2),
        mistriggered=RandomRange(0.25, 0.1, 0.3),
        noise=RandomRange(0.25, 0.2, 0.4),
    ),
    "strong": CorruptionStrength(
        likely=0.5,
        most=2,
        dropout=RandomRange(0.25, 0.4, 0.9),
        local=0.5,
        ghosting=RandomRange(0.25, 0.15, 0.35),
        mistriggered=RandomRange(0.25, 0.3, 0.6),
        noise=RandomRange(0.25, 0.4, 0.8),
    ),
}
