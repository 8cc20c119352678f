"""Augmentation in space and intensity that moves all frames alike.

MONAI's transforms see time folded into the channels, (C*T, X, Y, Z): one warp and one contrast for every frame.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.transforms import (
    Affine,
    Compose,
    MapTransform,
    RandAdjustContrastd,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandomizableTransform,
    RandScaleIntensityd,
    RandShiftIntensityd,
    RandSimulateLowResolutiond,
)
from torch import Tensor

from unet4d.config import DataConfig


@dataclass(frozen=True)
class Strength:
    """How far augmentation goes.

    Attributes:
        turn_deg: largest rotation about an axis.
        zoom: largest change of size, as a share.
        stretch: largest change of one axis on top, as a share.
        shift: largest shift along X and Y, as a share of the patch.
        likely: factor on the probability of each change of intensity.
    """

    turn_deg: float
    zoom: float
    stretch: float
    shift: float
    likely: float


STRENGTHS = {"mild": Strength(15.0, 0.15, 0.05, 0.05, 0.5), "strong": Strength(30.0, 0.25, 0.1, 0.05, 1.0)}


def crop_size(config: DataConfig, patch_size: Sequence[int], tilt: bool) -> tuple[int, ...]:
    """The voxels (X, Y, Z) that a patch turned about one axis, zoomed and shifted reaches: what must be read for it.

        80 x 80, mild:   80 (cos 15 + sin 15) * 1.15 * 1.05 + 2 * 0.05 * 80 = 126.3   ->   128 x 128

    Wider than the patch by an even number, so that both share their centre and an unturned patch falls on voxels.
    """
    if config.augmentation == "off":
        return tuple(patch_size)
    strength = STRENGTHS[config.augmentation]
    cos, sin = math.cos(math.radians(strength.turn_deg)), math.sin(math.radians(strength.turn_deg))
    sizes = []
    for axis, n in enumerate(patch_size):
        if axis == 2 and not tilt:
            sizes.append(n)
            continue
        widest = max(m for other, m in enumerate(patch_size) if other != axis and (tilt or other != 2))
        reach = max(n, n * cos + widest * sin) * (1 + strength.zoom) * (1 + strength.stretch) + 2 * strength.shift * n
        sizes.append(n + 2 * math.ceil((reach - n) / 2))
    return tuple(sizes)


def augmentation(config: DataConfig, patch_size: Sequence[int], tilt: bool) -> Compose:
    """Random variation of {"image": (C*T, X, Y, Z), "label": (L, X, Y, Z)} to the patch size, seeded by `set_random_state`.

    Intensities are varied as in nnU-Net's default set (Isensee et al. 2021), with a coil's shading.

    Args:
        config: how strongly, and which axes may be mirrored.
        patch_size: voxels (X, Y, Z).
        tilt: whether patches may be turned out of the plane, zoomed and smoothed across it: not with thick slices.
    """
    if config.augmentation == "off":
        return Compose([])
    strength = STRENGTHS[config.augmentation]
    likely = strength.likely
    both, image = ["image", "label"], ["image"]
    across = (0.3, 1.0) if tilt else (0.01, 0.01)
    # MONAI coarsens every axis alike, which would merge thick slices.
    coarser = [RandSimulateLowResolutiond(image, prob=0.2 * likely, zoom_range=(0.6, 1.0))] if tilt else []
    return Compose(
        [
            RandWarpd(both, prob=0.8, strength=strength, patch_size=patch_size, tilt=tilt),
            *(RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in config.flip_axes),
            RandShadingd(image, prob=0.4 * likely, strength=0.3),
            RandGaussianNoised(image, prob=0.3 * likely, std=0.2),
            RandGaussianSmoothd(image, prob=0.2 * likely, sigma_x=(0.3, 1.0), sigma_y=(0.3, 1.0), sigma_z=across),
            *coarser,
            RandScaleIntensityd(image, prob=0.5 * likely, factors=0.25),
            RandShiftIntensityd(image, prob=0.5 * likely, offsets=0.25),
            RandAdjustContrastd(image, prob=0.4 * likely, gamma=(0.7, 1.5), retain_stats=True),
        ]
    )


class RandWarpd(RandomizableTransform, MapTransform):
    """Turn, zoom, stretch and shift images and labels alike, and cut the patch from their centre; one interpolation for all.

    Zoom is common to all axes: MONAI's RandAffine draws one for each, and a round ventricle would become an ellipse.
    Outside of what was read there are zeros, the study's mean, as beyond the study's border in `crop_padded` and in an inference
    window wider than the study; edges drawn out would show tissue that no label knows.
    """

    def __init__(self, keys: Sequence[str], prob: float, strength: Strength, patch_size: Sequence[int], tilt: bool):
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.strength, self.patch_size, self.tilt = strength, tuple(patch_size), tilt

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Warp "image" (C*T, X, Y, Z) linearly, and "label" (L, X, Y, Z) to the nearest voxel."""
        warped = dict(data)
        self.randomize(None)
        warp = self._drawn() if self._do_transform else Affine(spatial_size=self.patch_size, image_only=True)
        for key in self.key_iterator(warped):
            mode = "nearest" if key == "label" else "bilinear"
            warped[key] = warp(warped[key].float(), mode=mode, padding_mode="zeros")
        return warped

    def _drawn(self) -> Affine:
        by = self.strength
        axes = np.array([True, True, self.tilt])
        turn = math.radians(by.turn_deg) * self.R.uniform(-1, 1, 3) * [self.tilt, self.tilt, True]
        size = (1 + by.zoom * self.R.uniform(-1, 1)) * (1 + by.stretch * self.R.uniform(-1, 1, 3))
        shift = by.shift * self.R.uniform(-1, 1, 3) * self.patch_size * [True, True, False]
        return Affine(
            rotate_params=turn.tolist(),
            scale_params=np.where(axes, size, 1.0).tolist(),
            translate_params=shift.tolist(),
            spatial_size=self.patch_size,
            image_only=True,
        )


class RandShadingd(RandomizableTransform, MapTransform):
    """A receiver coil's shading: a smooth factor over space, one for all frames, applied to the signal above its minimum.

    The logarithm of the factor is a polynomial of degree 2 (Van Leemput et al. 1999) with coefficients within +-`strength`, so that
    either side may be the brighter one. MONAI's RandBiasField multiplies normalised values: what is below the mean would darken
    where the coil is close. It also computes the same field once a channel, here once a frame.
    """

    def __init__(self, keys: Sequence[str], prob: float, strength: float):
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.strength = strength

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Shade the images (C*T, X, Y, Z) of `data`."""
        shaded = dict(data)
        self.randomize(None)
        if not self._do_transform:
            return shaded
        coefficients = self.R.uniform(-self.strength, self.strength, (3, 3, 3))
        degree = np.indices((3, 3, 3)).sum(0)
        coefficients[(degree == 0) | (degree > 2)] = 0
        for key in self.key_iterator(shaded):
            image: Tensor = shaded[key]
            x, y, z = (np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in image.shape[1:])
            factor = np.exp(np.polynomial.polynomial.polygrid3d(x, y, z, coefficients))
            low = image.amin()
            shaded[key] = (image - low) * torch.as_tensor(factor, dtype=image.dtype) + low
        return shaded
