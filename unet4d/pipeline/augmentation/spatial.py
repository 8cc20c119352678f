"""One warp for all frames of a clip and their labels, and what it does to velocities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.transforms.utils import create_rotate, create_scale, create_translate
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from unet4d.config import DataConfig
from unet4d.images.channels import velocity_axis
from unet4d.pipeline.augmentation.presets import SPACE, SpaceStrength

Triple = tuple[float, float, float]
STILL: Triple = (0.0, 0.0, 0.0)
SAME_SIZE: Triple = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Warp:
    """Where each voxel of a patch is read: at `rotation @ (size * voxel + shift)`, all from the centre.

    Attributes:
        turn: rotations about X, Y, Z in radians, that about Z first.
        size: voxels read for one of the patch, along X, Y, Z; above 1 everything shrinks.
        shift: voxels along X, Y, Z.
    """

    turn: Triple = STILL
    size: Triple = SAME_SIZE
    shift: Triple = STILL

    @property
    def rotation(self) -> np.ndarray:
        """(3, 3): directions in the patch to directions in what was read."""
        return np.asarray(create_rotate(3, self.turn))[:3, :3]

    @property
    def affine(self) -> np.ndarray:
        """(4, 4): voxels of the patch to voxels of what was read."""
        moved = np.asarray(create_translate(3, self.shift)) @ np.asarray(create_scale(3, self.size))
        return np.asarray(create_rotate(3, self.turn)) @ moved

    @property
    def in_plane(self) -> bool:
        """Whether every slice stays what it is."""
        return self.turn[:2] == (0.0, 0.0) and self.size[2] == 1.0 and self.shift[2] == 0.0


def crop_size(config: DataConfig, patch_size: Sequence[int], tilt: bool) -> tuple[int, ...]:
    """The voxels (X, Y, Z) that a patch turned about one axis, zoomed and shifted reaches: what must be read for it.

        80 x 80, mild:   80 (cos 15 + sin 15) * 1.15 * 1.05 + 2 * 0.05 * 80 = 126.3   ->   128 x 128

    Wider than the patch by an even number, so that both share their centre and an unturned patch falls on voxels.
    """
    if config.augmentation == "off":
        return tuple(patch_size)
    strength = SPACE[config.augmentation]
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


def draw_warp(
    rng: np.random.Generator, strength: SpaceStrength, patch_size: Sequence[int], tilt: bool, kinds: Sequence[str]
) -> Warp | None:
    """A warp, or None where the patch is to stay where it is.

    Zoom is common to all axes, with a small stretch: drawn for each, a round ventricle would become an ellipse.

    Args:
        rng: what is drawn from.
        strength: how far.
        patch_size: voxels (X, Y, Z).
        tilt: whether patches may be turned out of the plane and zoomed across it: not with thick slices.
        kinds: the channels' kinds; a plane is turned only if their velocities can be, see `turnable`.
    """
    if rng.random() >= strength.likely:
        return None
    axes = np.array([True, True, tilt])
    turn = math.radians(strength.turn_deg) * rng.uniform(-1, 1, 3) * [tilt, tilt, True] * turnable(kinds)
    size = (1 + strength.zoom * rng.uniform(-1, 1)) * (1 + strength.stretch * rng.uniform(-1, 1, 3))
    shift = strength.shift * rng.uniform(-1, 1, 3) * patch_size * [True, True, False]
    return Warp(_triple(turn), _triple(np.where(axes, size, 1.0)), _triple(shift))


def draw_flips(rng: np.random.Generator, strength: SpaceStrength, flip_axes: Sequence[int]) -> tuple[int, ...]:
    """The axes to mirror, among `flip_axes`."""
    return tuple(axis for axis in sorted(set(flip_axes)) if rng.random() < strength.flip)


def turnable(kinds: Sequence[str]) -> tuple[bool, bool, bool]:
    """Whether patches may be turned about X, Y, Z: not where one velocity of the turned plane is there and the other not."""
    x, y, z = (axis in _velocities(kinds) for axis in range(3))
    return y == z, x == z, x == y


def warped(image: Tensor, warp: Warp, patch_size: Sequence[int], mode: str) -> Tensor:
    """Read a patch out of (N, X, Y, Z) where the warp says; one interpolation for turn, size and shift.

    Outside of what was read there are zeros (after z-score the study's mean), as beyond the study's border in `crop_padded` and
    in an inference window wider than the study; edges drawn out would show tissue that no label knows. A warp that keeps every
    slice is done slice by slice, in 2D.

    Args:
        image: (N, X, Y, Z), frames or labels.
        warp: where.
        patch_size: voxels (X, Y, Z) of the result.
        mode: "bilinear", or "nearest" for labels.

    Returns:
        (N, *patch_size) float32.
    """
    if not warp.in_plane or image.shape[-1] != patch_size[2]:
        return _read(image.float(), warp.affine, patch_size, mode)
    plane = [0, 1, 3]
    slices = image.float().movedim(-1, 1).flatten(0, 1)
    patch = _read(slices, warp.affine[np.ix_(plane, plane)], patch_size[:2], mode)
    return patch.unflatten(0, (len(image), patch_size[2])).movedim(1, -1).contiguous()


def _read(image: Tensor, affine: np.ndarray, size: Sequence[int], mode: str) -> Tensor:
    """(N, *space) at the places an affine in voxels from the centre gives, (N, *size).

    `affine_grid` counts from -1 to 1 between the outer borders of the outermost voxels, the last axis first.
    """
    there, here = np.array(image.shape[1:]), np.array(size)
    turned = affine[:-1, :-1] * here / there[:, None]
    theta = np.column_stack([turned[::-1, ::-1], (affine[:-1, -1] * 2 / there)[::-1]])
    grid = affine_grid(torch.from_numpy(theta).float()[None], [1, 1, *size], align_corners=False)
    return grid_sample(image[None], grid, mode=mode, padding_mode="zeros", align_corners=False)[0]


def centred(image: Tensor, patch_size: Sequence[int]) -> Tensor:
    """The patch in the middle of (..., X, Y, Z), a view."""
    x, y, z = (
        slice((have - n) // 2, (have - n) // 2 + n) for have, n in zip(image.shape[-3:], patch_size, strict=True)
    )
    return image[..., x, y, z]


def turned_velocities(image: Tensor, rotation: np.ndarray, kinds: Sequence[str]) -> Tensor:
    """Velocities (C, ...) of a patch that was turned, along the patch's axes: the same vectors, seen from other axes.

        v[patch] = rotation^T v[read]

    Zoom does not change them: it stands for another body size, not for another flow. With voxels of one size in each turned plane
    this is exact; `tilt` allows slices up to half as thick again.

    Args:
        image: (C, ...); overwritten.
        rotation: (3, 3) of `Warp`.
        kinds: the channels' kinds.
    """
    velocities = _velocities(kinds)
    if velocities:
        axes, channels = list(velocities), list(velocities.values())
        turn = torch.as_tensor(rotation[np.ix_(axes, axes)].T, dtype=image.dtype)
        image[channels] = torch.tensordot(turn, image[channels], dims=1)
    return image


def flipped(image: Tensor, axes: Sequence[int], kinds: Sequence[str] = ()) -> Tensor:
    """(C, ..., X, Y, Z) mirrored along these axes; the velocity along a mirrored axis changes its sign, no other does.

    Args:
        image: image (C, T, X, Y, Z), or labels with no kinds.
        axes: 0 = X, 1 = Y, 2 = Z, each once.
        kinds: the channels' kinds.

    Returns:
        A copy.
    """
    mirrored = image.flip([image.ndim - 3 + axis for axis in axes])
    velocities = _velocities(kinds)
    for axis in axes:
        if axis in velocities:
            mirrored[velocities[axis]].neg_()
    return mirrored


def _velocities(kinds: Sequence[str]) -> dict[int, int]:
    """For each axis along which velocities were measured, their channel."""
    along = {channel: velocity_axis(kind) for channel, kind in enumerate(kinds)}
    return {axis[0]: channel for channel, axis in along.items() if axis is not None}


def _triple(values: np.ndarray) -> Triple:
    x, y, z = values.tolist()
    return x, y, z
