"""All that varies one clip: drawn first, then applied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unet4d.config import DataConfig, Size
from unet4d.images.channels import VELOCITIES, channels_of_kind
from unet4d.pipeline.augmentation.artifacts import Corruption, corrupted, draw_corruptions
from unet4d.pipeline.augmentation.intensity import Intensity, altered, draw_intensity
from unet4d.pipeline.augmentation.presets import CORRUPTION, INTENSITY, SPACE
from unet4d.pipeline.augmentation.spatial import (
    Warp,
    centred,
    crop_size,
    draw_flips,
    draw_warp,
    flipped,
    turned_velocities,
    warped,
)


@dataclass(frozen=True)
class AugmentationParams:
    """Everything random about a clip's augmentation; the default changes nothing.

    Attributes:
        warp: where the patch is read; None: in the middle, as it is.
        flips: the axes that are mirrored.
        corruptions: the frames that went wrong.
        intensity: what happens to all frames.
    """

    warp: Warp | None = None
    flips: tuple[int, ...] = ()
    corruptions: tuple[Corruption, ...] = ()
    intensity: Intensity | None = None


class Augmentation:
    """Random variation of a clip: in space, in intensity, and of single frames.

    Args:
        config: how strongly, and which axes may be mirrored.
        patch_size: voxels (X, Y, Z).
        tilt: whether patches may be turned out of the plane, zoomed and blurred across it: not with thick slices.
        channel_kinds: what each channel holds; velocities lie along the working axes X, Y, Z, positive towards growing index.
        cyclic: whether frames are gated to the heart beat; only then are triggers missed.

    Attributes:
        crop_size: voxels (X, Y, Z) that must be read for a patch.
    """

    def __init__(self, config: DataConfig, patch_size: Size, tilt: bool, channel_kinds: Sequence[str], cyclic: bool):
        self.config, self.patch_size, self.tilt = config, patch_size, tilt
        self.kinds, self.cyclic = tuple(channel_kinds), cyclic
        self.crop_size = crop_size(config, patch_size, tilt)

    def drawn(self, rng: np.random.Generator, frames: int) -> AugmentationParams:
        """What a clip of `frames` goes through; nothing is random after it."""
        config = self.config
        corruptions: tuple[Corruption, ...] = ()
        if config.time_augmentation != "off":
            strength = CORRUPTION[config.time_augmentation]
            corruptions = draw_corruptions(rng, strength, frames, self.patch_size, self.cyclic)
        if config.augmentation == "off":
            return AugmentationParams(corruptions=corruptions)
        space, intensity = SPACE[config.augmentation], INTENSITY[config.augmentation]
        return AugmentationParams(
            draw_warp(rng, space, self.patch_size, self.tilt, self.kinds),
            draw_flips(rng, space, config.flip_axes),
            corruptions,
            draw_intensity(rng, intensity, self.kinds),
        )

    def varied(self, image: Tensor, label: Tensor, variation: AugmentationParams) -> tuple[Tensor, Tensor]:
        """The patch of a clip, varied.

        Space first, then single frames, then all of them: what went wrong in the scanner is seen in the clip's contrast.

        Args:
            image: (C, T, *crop_size) float32.
            label: (L, *crop_size) uint8, the frames that have one.
            variation: what was drawn.

        Returns:
            Image (C, T, *patch_size) float32 and label (L, *patch_size) uint8; copies, unless nothing was drawn.
        """
        if variation == AugmentationParams():
            return centred(image, self.patch_size).contiguous(), centred(label, self.patch_size).contiguous()
        image, label = self._placed(image, label, variation.warp)
        if variation.flips:
            image, label = flipped(image, variation.flips, self.kinds), flipped(label, variation.flips)
        deviations = self._deviations(image)
        image = corrupted(image, variation.corruptions, self.kinds, deviations)
        if variation.intensity is not None:
            image = altered(image, variation.intensity, self.kinds, self.tilt, deviations)
        return image, label

    def _placed(self, image: Tensor, label: Tensor, warp: Warp | None) -> tuple[Tensor, Tensor]:
        if warp is None:
            return centred(image, self.patch_size).clone(), centred(label, self.patch_size).clone()
        patch = warped(image.flatten(0, 1), warp, self.patch_size, "bilinear").unflatten(0, image.shape[:2])
        drawn = warped(label, warp, self.patch_size, "nearest").to(torch.uint8)
        return turned_velocities(patch, warp.rotation, self.kinds), drawn

    def _deviations(self, image: Tensor) -> list[float]:
        """Each channel's unit: 1 after z-score, else what the clip says; one for all components of a velocity."""
        if self.config.normalization == "zscore":
            return [1.0] * len(image)
        velocities = channels_of_kind(self.kinds, *VELOCITIES)
        alike = [velocities if channel in velocities else [channel] for channel in range(len(image))]
        return [float(image[channels].std(correction=0)) for channels in alike]
