"""Rotation, scale, shift and mirroring: one warp for all frames of a clip and their labels; velocities rotate with it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from monai.transforms.utils import create_rotate, create_scale, create_translate
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from unet4d.images.channels import velocity_axis
from unet4d.images.grid import IGNORE, argmax_classes, certain_classes
from unet4d.pipeline.augmentation.presets import SpacePreset

Triple = tuple[float, float, float]
MOST_DEVIATIONS = 2.0
"""Bound of a slice's shift along an axis, in standard deviations: what was drawn stays within the patch."""
ROUNDING = 1e-6
"""Voxels that a warp may reach beyond what is read: less than its arithmetic is off by."""


@dataclass(frozen=True)
class SpatialWarp:
    """A map from voxels of a patch to where they are read: `rotation @ (scale * voxel + shift)`, all from the center.

    Slices can be shifted further, each by its own; such a warp is in plane.
    """

    angles: Triple = (0.0, 0.0, 0.0)  # rotations about X, Y, Z in radians, that about Z first
    scale: Triple = (1.0, 1.0, 1.0)  # voxels read per voxel of the patch; above 1 everything shrinks
    shift: Triple = (0.0, 0.0, 0.0)  # voxels
    slice_shifts: tuple[tuple[float, float], ...] = ()  # voxels of the patch along X and Y, for each slice; empty: none

    def __post_init__(self) -> None:
        if self.slice_shifts and not self.in_plane:
            raise ValueError(
                "got slice_shifts in a warp across slices; leave out its rotation, scale and shift across them"
            )

    @property
    def rotation(self) -> np.ndarray:
        """Return the map (3, 3) from directions in the patch to directions in what was read."""
        return np.asarray(create_rotate(3, self.angles))[:3, :3]

    @cached_property
    def affine(self) -> np.ndarray:
        """Return the map (4, 4) from voxels of the patch to voxels of what was read."""
        moved = np.asarray(create_translate(3, self.shift)) @ np.asarray(create_scale(3, self.scale))
        return np.asarray(create_rotate(3, self.angles)) @ moved

    @property
    def in_plane(self) -> bool:
        """Return whether every slice is read from itself alone."""
        return self.angles[:2] == (0.0, 0.0) and self.scale[2] == 1.0 and self.shift[2] == 0.0

    @cached_property
    def plane_affines(self) -> np.ndarray:
        """Return the maps (slices, 3, 3) from voxels of a slice to where they are read; one if all move alike."""
        plane = [0, 1, 3]
        shifts = [np.asarray(create_translate(2, shift)) for shift in self.slice_shifts or ((0.0, 0.0),)]
        return np.stack([self.affine[np.ix_(plane, plane)] @ shift for shift in shifts])


def crop_size(warp: SpatialWarp | None, patch_size: Sequence[int]) -> tuple[int, ...]:
    """Return the voxels (X, Y, Z) that a warp of a patch reads: the box around the warped patch, around the patch's center.

        80 x 80 by 15 degrees:   80 cos 15 + 80 sin 15 = 98.0   ->   98 x 98

    Wider than the patch by an even number, so that both share their center and an unwarped patch falls on voxels.
    """
    if warp is None:
        return tuple(patch_size)
    corner = (np.array(patch_size) - 1) / 2
    reach = np.abs(warp.affine[:3, :3]) @ corner + np.abs(warp.affine[:3, 3]) - ROUNDING
    if warp.slice_shifts:
        reach[:2] += np.abs(warp.plane_affines[:, :2, 2]).max(axis=0) - np.abs(warp.affine[:2, 3])
    return tuple(n + 2 * max(0, math.ceil(r - c)) for n, r, c in zip(patch_size, reach, corner, strict=True))


def sample_warp(
    rng: np.random.Generator, preset: SpacePreset, patch_size: Sequence[int], tilt: bool, kinds: Sequence[str]
) -> SpatialWarp | None:
    """Return a random warp, or None where the patch stays where it is.

    Zoom is common to all axes, with a small stretch: with a zoom of its own per axis, a round ventricle would become an ellipse.

    Args:
        rng: the random numbers.
        preset: how far.
        patch_size: voxels (X, Y, Z).
        tilt: whether patches may be rotated out of the plane and zoomed across it: not with thick slices.
        kinds: the channels' kinds; a plane is rotated only if its velocities can be, see `rotatable_axes`.
    """
    if rng.random() >= preset.probability:
        return None
    axes = np.array([True, True, tilt])
    angles = math.radians(preset.rotation_deg) * rng.uniform(-1, 1, 3) * [tilt, tilt, True] * rotatable_axes(kinds)
    scale = (1 + preset.zoom * rng.uniform(-1, 1)) * (1 + preset.stretch * rng.uniform(-1, 1, 3))
    shift = preset.shift * rng.uniform(-1, 1, 3) * patch_size * [True, True, False]
    if preset.any_angle and not tilt and rng.random() < preset.any_angle:
        angles[2] = math.pi * rng.uniform(-1, 1) * rotatable_axes(kinds)[2]
    slices = () if tilt else _sample_slice_shifts(rng, preset, patch_size[2])
    turned, zoomed, moved = (tuple(values.tolist()) for values in (angles, np.where(axes, scale, 1.0), shift))
    return SpatialWarp(turned, zoomed, moved, slices)


def _sample_slice_shifts(rng: np.random.Generator, preset: SpacePreset, slices: int) -> tuple[tuple[float, float], ...]:
    """Return a shift of each slice, or none: each is often measured in its own breath-hold, and organs lie elsewhere in each."""
    deviation = preset.slice_shift.sample(rng)
    if deviation is None or slices == 1:
        return ()
    shifts = deviation * rng.normal(size=(slices, 2)).clip(-MOST_DEVIATIONS, MOST_DEVIATIONS)
    return tuple((x, y) for x, y in shifts.tolist())


def sample_flips(rng: np.random.Generator, preset: SpacePreset, axes: Sequence[int]) -> tuple[int, ...]:
    """Return the axes to mirror, a random choice among `axes`."""
    return tuple(axis for axis in axes if rng.random() < preset.flip)


def rotatable_axes(kinds: Sequence[str]) -> tuple[bool, bool, bool]:
    """Return whether patches may be rotated about X, Y, Z: not where just one velocity of the rotated plane was measured."""
    x, y, z = (axis in _velocity_channels(kinds) for axis in range(3))
    return y == z, x == z, x == y


def apply_warp(image: Tensor, warp: SpatialWarp, patch_size: Sequence[int]) -> Tensor:
    """Read a patch out of (N, X, Y, Z), with one linear interpolation for rotation, scale and shift.

    Outside of `image` there are zeros (after z-score the study's mean), as beyond the study's border in `crop_padded` and in an
    inference window wider than the study; replicated edges would show tissue without a label. A warp that keeps every slice is
    applied slice by slice, in 2D.

    Args:
        image: (N, X, Y, Z), frames.
        warp: where voxels are read.
        patch_size: voxels (X, Y, Z) of the result.

    Returns:
        (N, *patch_size) float32.
    """
    if warp.slice_shifts and not len(warp.slice_shifts) == patch_size[2] <= image.shape[-1]:
        raise ValueError(
            f"got {len(warp.slice_shifts)} slice_shifts and {image.shape[-1]} slices for {patch_size[2]} of the patch"
        )
    if not warp.in_plane or image.shape[-1] < patch_size[2]:
        return _resample(image.float()[None], warp.affine[None], patch_size)[0]
    slices = center_crop(image.float(), (*image.shape[1:3], patch_size[2])).movedim(-1, 0)
    alike = slices.reshape(len(warp.plane_affines), -1, *image.shape[1:3])  # all slices at once, where they move alike
    patch = _resample(alike, warp.plane_affines, patch_size[:2]).reshape(*slices.shape[:2], *patch_size[:2])
    return patch.movedim(0, -1).contiguous()


def warp_label(label: Tensor, warp: SpatialWarp, patch_size: Sequence[int]) -> Tensor:
    """Read the patch of a label map (N, X, Y, Z) uint8: in each voxel the class with the largest linear share.

    Borders stay as smooth as they were, as with nnU-Net's labels (Isensee et al. 2021): nearest neighbors would fray them. One
    class of one frame is in memory at a time. Outside of `label` there is background.

    In a frame with ignored voxels, a voxel is ignored where its class would depend on them or on what lies outside.

    Returns:
        (N, *patch_size) uint8.
    """
    patch = label.new_zeros((len(label), *patch_size))
    for out, frame in zip(patch, label, strict=True):
        classes = torch.bincount(frame.flatten())[1:].nonzero().flatten() + 1
        if len(classes) and classes[-1] == IGNORE:
            drawn = torch.cat([classes.new_zeros(1), classes[:-1]])
            index = certain_classes(apply_warp((frame == k)[None], warp, patch_size)[0] for k in drawn).int()
            known = drawn[index.clamp(max=len(drawn) - 1)].to(torch.uint8)
            out.copy_(known.masked_fill(index == IGNORE, IGNORE))
        elif len(classes):
            masks = (frame > 0, *(frame == k for k in classes))
            shares = (apply_warp(mask[None], warp, patch_size)[0] for mask in masks)
            best = argmax_classes(itertools.chain([1 - next(shares)], shares))
            out.copy_(torch.cat([classes.new_zeros(1), classes]).to(torch.uint8)[best.int()])
    return patch


def _resample(image: Tensor, affines: np.ndarray, size: Sequence[int]) -> Tensor:
    """Read (B, N, *space) where B affines in voxels from the center lead, as (B, N, *size).

    `affine_grid` counts from -1 to 1 between the outer borders of the outermost voxels, the last axis first.
    """
    there, here = np.array(image.shape[2:]), np.array(size)
    scaled = affines[:, :-1, :-1] * here / there[:, None]
    theta = np.concatenate([scaled[:, ::-1, ::-1], (affines[:, :-1, -1:] * 2 / there[:, None])[:, ::-1]], axis=2)
    grid = affine_grid(torch.from_numpy(theta).float(), [len(affines), 1, *size], align_corners=False)
    return grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def center_crop(image: Tensor, patch_size: Sequence[int]) -> Tensor:
    """Return the patch in the middle of (..., X, Y, Z), as a view."""
    x, y, z = (
        slice((have - n) // 2, (have - n) // 2 + n) for have, n in zip(image.shape[-3:], patch_size, strict=True)
    )
    return image[..., x, y, z]


def rotate_velocities(image: Tensor, rotation: np.ndarray, kinds: Sequence[str]) -> Tensor:
    """Rotate the velocities of a patch (C, ...) in place: the same vectors, along the patch's axes.

        v[patch] = rotation^T v[read]

    Zoom does not change them: it stands for another body size, not for another flow. With voxels of one size in each rotated plane
    this is exact; `tilt` allows slices up to half as thick again.

    Args:
        image: (C, ...).
        rotation: (3, 3) of `SpatialWarp`.
        kinds: the channels' kinds.
    """
    velocities = _velocity_channels(kinds)
    if velocities:
        axes, channels = list(velocities), list(velocities.values())
        matrix = torch.as_tensor(rotation[np.ix_(axes, axes)].T, dtype=image.dtype)
        image[channels] = torch.tensordot(matrix, image[channels], dims=1)
    return image


def flip_clip(image: Tensor, axes: Sequence[int], kinds: Sequence[str] = ()) -> Tensor:
    """Return a copy of (C, ..., X, Y, Z) mirrored along axes; the velocity along a mirrored axis changes its sign, no other does.

    Args:
        image: image (C, T, X, Y, Z), or labels without kinds.
        axes: 0 = X, 1 = Y, 2 = Z, each once.
        kinds: the channels' kinds.
    """
    mirrored = image.flip([image.ndim - 3 + axis for axis in axes])
    velocities = _velocity_channels(kinds)
    for axis in axes:
        if axis in velocities:
            mirrored[velocities[axis]].neg_()
    return mirrored


def _velocity_channels(kinds: Sequence[str]) -> dict[int, int]:
    """Return for each axis along which velocities were measured the channel of that velocity."""
    along = {channel: velocity_axis(kind) for channel, kind in enumerate(kinds)}
    return {axis[0]: channel for channel, axis in along.items() if axis is not None}
