"""The whole augmentation of a clip: its parameters are sampled first, then applied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from unet4d.config import DataConfig, Size
from unet4d.images.channels import VELOCITIES, channels_of_kind
from unet4d.pipeline.augmentation import spatial
from unet4d.pipeline.augmentation.artifacts import FrameArtifact, apply_artifacts, sample_artifacts
from unet4d.pipeline.augmentation.intensity import IntensityParams, apply_intensity, sample_intensity
from unet4d.pipeline.augmentation.presets import ARTIFACT_PRESETS, INTENSITY_PRESETS, SPACE_PRESETS
from unet4d.system.named_class import find_class

AUGMENTER = "data.augmenter"


@dataclass(frozen=True)
class AugmentationParams:
    """All random parameters of a clip's augmentation; the default changes nothing."""

    warp: spatial.SpatialWarp | None = None  # None: the patch in the middle
    flips: tuple[int, ...] = ()  # mirrored axes
    artifacts: tuple[FrameArtifact, ...] = ()
    intensity: IntensityParams | None = None


class Augmentation:
    """A random variation of clips: in space, in intensity, and of single frames.

    `data.augmenter` names a subclass in its place. It is built with the same arguments, and overrides `sample` and `apply`; those
    of this class do what the settings say. Only `sample` draws random numbers, and only from `rng`; it returns `AugmentationParams`
    or a subclass of it. So a clip is the same in any process and in a resumed run. A patch is read as wide as `warp` needs.

    Args:
        config: how strong, and which axes may be mirrored.
        patch_size: voxels (X, Y, Z).
        tilt: whether patches may be rotated out of the plane, zoomed and blurred across it: not with thick slices.
        channel_kinds: the kind of each channel; velocities lie along the working axes X, Y, Z, positive towards growing index.
        cyclic: whether frames are gated to the heart beat; only then are triggers missed.
    """

    def __init__(self, config: DataConfig, patch_size: Size, tilt: bool, channel_kinds: Sequence[str], cyclic: bool):
        self.config, self.patch_size, self.tilt = config, patch_size, tilt
        self.kinds, self.cyclic = tuple(channel_kinds), cyclic

    def sample(self, rng: np.random.Generator, frames: int) -> AugmentationParams:
        """Return random parameters for a clip of `frames`."""
        config, artifacts = self.config, tuple[FrameArtifact, ...]()
        strength = config.time_augmentation if config.artifacts is None else "severe"
        if strength != "off":
            preset = ARTIFACT_PRESETS[strength]
            artifacts = sample_artifacts(rng, preset, frames, self.patch_size, self.cyclic, config.artifacts)
        if config.augmentation == "off":
            return AugmentationParams(artifacts=artifacts)
        space, intensity = SPACE_PRESETS[config.augmentation], INTENSITY_PRESETS[config.augmentation]
        return AugmentationParams(
            spatial.sample_warp(rng, space, self.patch_size, self.tilt, self.kinds),
            spatial.sample_flips(rng, space, config.mirrored_axes),
            artifacts,
            sample_intensity(rng, intensity, self.kinds),
        )

    def apply(self, image: Tensor, label: Tensor, params: AugmentationParams) -> tuple[Tensor, Tensor]:
        """Return the augmented patch of a clip.

        Space comes first, then artifacts, then intensity: an artifact of the scanner is seen in the clip's contrast.

        Args:
            image: (C, T, X, Y, Z) float32, as much around the patch as `crop_size` says, or more.
            label: (L, X, Y, Z) uint8, the labelled frames.
            params: as `sample` returns them.

        Returns:
            Image (C, T, *patch_size) float32 and label (L, *patch_size) uint8; copies, unless nothing is changed.
        """
        size, warp = self.patch_size, params.warp
        if params == AugmentationParams():
            return spatial.center_crop(image, size).contiguous(), spatial.center_crop(label, size).contiguous()
        if warp is None:
            image, label = spatial.center_crop(image, size).clone(), spatial.center_crop(label, size).clone()
        else:
            patch = spatial.apply_warp(image.flatten(0, 1), warp, size).unflatten(0, image.shape[:2])
            image = spatial.rotate_velocities(patch, warp.rotation, self.kinds)
            label = spatial.warp_label(label, warp, size)
        if params.flips:
            image, label = spatial.flip_clip(image, params.flips, self.kinds), spatial.flip_clip(label, params.flips)
        deviations = self._deviations(image)
        image = apply_artifacts(image, params.artifacts, self.kinds, deviations)
        if params.intensity is not None:
            image = apply_intensity(image, params.intensity, self.kinds, self.tilt, deviations)
        return image, label

    def _deviations(self, image: Tensor) -> list[float]:
        """Return each channel's standard deviation: 1 after z-score, else the clip's; one for all components of a velocity."""
        if self.config.normalization == "zscore":
            return [1.0] * len(image)
        velocities = channels_of_kind(self.kinds, *VELOCITIES)
        groups = [velocities if channel in velocities else [channel] for channel in range(len(image))]
        return [float(image[channels].std(correction=0)) for channels in groups]


def augmentation_class(config: DataConfig) -> type[Augmentation]:
    """Return the class that augments clips: that of `data.augmenter`, which is imported, else `Augmentation`."""
    return Augmentation if config.augmenter is None else find_class(AUGMENTER, config.augmenter, Augmentation)
