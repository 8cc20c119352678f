"""What happens to intensities and geometry: normalisation over the study, and augmentation that moves all frames alike.

MONAI's transforms see time folded into the channels, (C*T, X, Y, Z): one warp and one contrast for every frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandBiasFieldd,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandShiftIntensityd,
    RandSimulateLowResolutiond,
)

from unet4d.config import DataConfig

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
        low, high = np.percentile(values.reshape(-1)[:: max(1, values.size // SAMPLE)], PERCENTILES)
        clipped = np.clip(values, low, high, out=out[channel])
        mean, deviation = clipped.mean(dtype=np.float64), clipped.std(dtype=np.float64)
        clipped -= np.float32(mean)
        if deviation > 0:
            clipped /= np.float32(deviation)
    return out


def margin(augmentation: str) -> float:
    """How much larger than the patch the crop must be, per axis, for rotation and zoom to find image and not padding."""
    return {"off": 1.0, "mild": 1.3, "strong": 1.5}[augmentation]


def augmentation(config: DataConfig, patch_size: Sequence[int], spacing: Sequence[float]) -> Compose:
    """Random variation of {"image": (C*T, X, Y, Z), "label": (L, X, Y, Z)} to the patch size, seeded by `set_random_state`.

    Thick slices are not turned out of their plane. Intensities are varied as in nnU-Net's default set (Isensee et al. 2021).
    """
    if config.augmentation == "off":
        return Compose([])
    strong = config.augmentation == "strong"
    turn = np.deg2rad(30.0 if strong else 15.0)
    tilt = turn if max(spacing) < 2 * min(spacing) else 0.0
    zoom = 0.25 if strong else 0.15
    shift = [0.05 * n for n in patch_size[:2]]
    both, image = ["image", "label"], ["image"]
    likely = 1.0 if strong else 0.5
    # MONAI coarsens every axis alike, which would merge thick slices.
    coarser = [RandSimulateLowResolutiond(image, prob=0.2 * likely, zoom_range=(0.6, 1.0))] if tilt else []
    flips = [RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in config.flip_axes]
    return Compose(
        [
            RandAffined(
                both,
                prob=0.8,
                rotate_range=(tilt, tilt, turn),
                scale_range=(zoom, zoom, zoom if tilt else 0.0),
                translate_range=(*shift, 0.0),
                spatial_size=tuple(patch_size),
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
            ),
            *flips,
            RandBiasFieldd(image, prob=0.2 * likely, degree=2, coeff_range=(0.0, 0.3)),
            RandGaussianNoised(image, prob=0.3 * likely, std=0.2),
            RandGaussianSmoothd(image, prob=0.2 * likely, sigma_x=(0.3, 1.0), sigma_y=(0.3, 1.0), sigma_z=(0.0, 0.01)),
            *coarser,
            RandScaleIntensityd(image, prob=0.5 * likely, factors=0.25),
            RandShiftIntensityd(image, prob=0.5 * likely, offsets=0.25),
            RandAdjustContrastd(image, prob=0.4 * likely, gamma=(0.7, 1.5), retain_stats=True),
        ]
    )
