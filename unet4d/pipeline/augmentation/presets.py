"""Ranges and probabilities of `data.augmentation`, `data.time_augmentation` and `data.artifacts`: tables by strength.

Intensities are in standard deviations of the study, which z-score makes 1. Strong reaches at least as far as nnU-Net's default set
(Isensee et al. 2021) in every effect, and mild about half as far: organs keep their place.
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
    """The range of changes in space; sizes are fractions, but for those of slices."""

    probability: float  # of rotation, zoom, stretch and shift together
    rotation_deg: float  # largest, about each axis
    any_angle: float  # fraction of the rotations in the plane of thick slices that are by any angle
    zoom: float  # largest change of size, of all axes alike
    stretch: float  # largest further change, of each axis
    shift: float  # largest, along X and Y, of the patch
    flip: float  # probability of mirroring each of `data.flip_axes`
    slice_shift: (
        RandomRange  # of thick slices along X and Y, standard deviation in voxels, only where a patch is warped
    )


class IntensityPreset(NamedTuple):
    """The range of changes of intensity."""

    shading: RandomRange  # coefficients of the polynomial that is the logarithm of the coil's sensitivity
    noise: RandomRange  # standard deviation
    blur: RandomRange  # sigma in voxels
    coarseness: RandomRange  # remaining resolution, a fraction
    contrast: RandomRange  # factor
    brightness: RandomRange  # shift
    gamma: RandomRange  # exponent
    inverted: float  # fraction of the gammas that bend the bright end instead of the dark one


class ArtifactPreset(NamedTuple):
    """The range of artifacts of single frames; each kind is chosen with its own probability."""

    probability: float  # that a clip has any; `data.artifacts` sets the number of severe ones
    most: int  # frames of a clip, each with one kind of artifact
    dropout: RandomRange  # lost fraction of the signal
    local: float  # fraction of the dropouts that affect a region, not the whole frame
    ghosting: RandomRange  # brightness of a ghost, as a fraction of the signal
    mistriggered: RandomRange  # fraction of the lines of k-space taken from the neighboring frame
    noise: RandomRange  # standard deviation of a burst


class TimePreset(NamedTuple):
    """The range of changes of a clip's timing; chances are probabilities."""

    slowest: float  # factor on the study's speed
    fastest: float  # factor on the study's speed
    vary: float  # chance of another speed
    drop: float  # chance of a missing frame
    repeat: float  # chance of a frame shown once more
    both_ways: bool  # half of the clips run backwards


SPACE_PRESETS = {
    "mild": SpacePreset(
        probability=0.8,
        rotation_deg=15.0,
        any_angle=0.0,
        zoom=0.15,
        stretch=0.05,
        shift=0.05,
        flip=0.5,
        slice_shift=RandomRange(0.25, 0.0, 2.0),
    ),
    "strong": SpacePreset(
        probability=0.8,
        rotation_deg=30.0,
        any_angle=0.25,
        zoom=0.3,
        stretch=0.1,
        shift=0.05,
        flip=0.5,
        slice_shift=RandomRange(0.5, 0.0, 5.0),
    ),
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
    "severe": ArtifactPreset(
        probability=1.0,
        most=1,
        dropout=RandomRange(0.25, 0.8, 0.95),
        local=0.5,
        ghosting=RandomRange(0.25, 0.5, 0.9),
        mistriggered=RandomRange(0.25, 0.4, 0.6),
        noise=RandomRange(0.25, 1.0, 2.0),
    ),
}
"""Severe ones are those of `data.artifacts`: a reader would discard such a frame. Ranges were set before any network saw them."""
TIME_PRESETS = {
    "off": TimePreset(1.0, 1.0, 0.0, 0.0, 0.0, False),
    "mild": TimePreset(0.8, 1.25, 0.5, 0.1, 0.1, False),
    "strong": TimePreset(0.67, 1.5, 0.8, 0.25, 0.25, True),
}
"""Only strong reverses clips: no heart beats backwards. Still, each frame keeps its neighbors, and a network that has seen both
directions relies on them rather than on the place in the cycle where a clip began."""
