"""The grid the network works on, and the way there and back to the study's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from unet4d.images.channels import SIGNAL, reorient_channels

ANISOTROPIC = 1.5
"""A study whose coarsest spacing is this many times its finest has a slice axis: the coarsest one."""
SAME_SPACING = 0.999
"""Spacings closer than this are equal; among equally coarse axes the slice axis is the one nearest to the body's long axis."""


@dataclass(frozen=True)
class WorkingGrid:
    """One study's grid as the network sees it: slices last, plane axes towards right, anterior, superior, right-handed.

    Turning and flipping follow the voxel axes and lose nothing. Resampling keeps the field of view: each axis is cut into
    `shape[i]` equal voxels, so that both ways see the same borders.

    Attributes:
        native_shape: voxels (X, Y, Z) of the study on disk.
        order: for each working axis, the native axis it is.
        flips: for each working axis, whether it runs against the native axis.
        shape: voxels (X, Y, Z) of the working grid.
        spacing: (X, Y, Z) of the working grid in mm.
    """

    native_shape: tuple[int, ...]
    order: tuple[int, ...]
    flips: tuple[bool, ...]
    shape: tuple[int, ...]
    spacing: tuple[float, ...]

    @classmethod
    def of(
        cls,
        affine: np.ndarray,
        native_shape: Sequence[int],
        plane_spacing_mm: float | None = None,
        slice_spacing_mm: float | None = None,
    ) -> WorkingGrid:
        """The working grid of a study with this affine (4, 4) and shape (X, Y, Z); a spacing of None is kept."""
        order, flips = _orientation(affine, native_shape)
        native_spacing = np.linalg.norm(affine[:3, :3], axis=0)
        sizes = [int(native_shape[axis]) for axis in order]
        spacing = [float(native_spacing[axis]) for axis in order]
        wanted = [plane_spacing_mm, plane_spacing_mm, slice_spacing_mm]
        shape = [n if w is None else max(1, round(n * s / w)) for n, s, w in zip(sizes, spacing, wanted, strict=True)]
        spacing = [n * s / m for n, s, m in zip(sizes, spacing, shape, strict=True)]
        return cls(tuple(int(n) for n in native_shape), order, flips, tuple(shape), tuple(spacing))

    def image(self, array: np.ndarray, kinds: Sequence[str] = (), what: Path | str = "the image") -> np.ndarray:
        """An image (C, T, *native_shape) on the working grid: (C, T, *shape) float32, linear between voxels.

        Args:
            kinds: what each channel holds, see data/channels.py: velocities are turned with the axes, and keep their unit. Empty:
                all are signal.
            what: the study, for the message.

        Raises:
            InputError: the turn needs a component of the velocity that no channel holds.
        """
        native = self.reorient(array)
        image = np.empty(native.shape, np.float32)
        sources = reorient_channels(kinds or [SIGNAL] * len(array), self.order, self.flips, what)
        for out, (channel, sign) in zip(image, sources, strict=True):
            np.multiply(native[channel], sign, out=out)
        if image.shape[2:] == self.shape:
            return image
        return _resized(torch.from_numpy(image), self.shape).numpy()

    def label(self, indices: np.ndarray, classes: int) -> np.ndarray:
        """Class indices (T, *native_shape) on the working grid: (T, *shape) uint8, the class with the largest linear share."""
        frames = (torch.from_numpy(frame) for frame in np.array(self.reorient(indices), order="C"))

        def share(frame: Tensor, k: int) -> Tensor:
            return _resized((frame == k).float()[None, None], self.shape)[0, 0]

        return np.stack([argmax_classes(share(frame, k) for k in range(classes)).numpy() for frame in frames])

    def reorient(self, array: np.ndarray) -> np.ndarray:
        """A view of (..., *native_shape) in working orientation; a flipped axis of one voxel has a negative stride, too."""
        lead = array.ndim - 3
        return self._flipped(array.transpose(*range(lead), *(lead + axis for axis in self.order)))

    def _flipped(self, array: np.ndarray) -> np.ndarray:
        """Flip the last three axes, which are in working order; its own inverse."""
        return np.flip(array, tuple(axis - 3 for axis, flip in enumerate(self.flips) if flip))


def _orientation(affine: np.ndarray, shape: Sequence[int]) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Which native axis each working axis is, and whether it is flipped.

    A stack of thick slices keeps its slices last however oblique it lies: the nearest anatomical orientation alone could put the
    slice axis of two patients' short-axis stacks in different places. So does a single slice, however thin.
    """
    world, signs = nib.orientations.io_orientation(affine).T
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    single = [axis for axis in range(3) if shape[axis] == 1]
    if len(single) == 1:
        candidates = single
    elif is_thick(spacing):
        candidates = [axis for axis in range(3) if spacing[axis] > SAME_SPACING * spacing.max()]
    else:
        candidates = [0, 1, 2]
    slice_axis = max(candidates, key=lambda axis: world[axis])
    plane = sorted({0, 1, 2} - {slice_axis}, key=lambda axis: world[axis])
    order = [*plane, slice_axis]
    turned = affine[:3, order] * signs[order]
    flips = [bool(sign < 0) for sign in signs[order]]
    if np.linalg.det(turned) < 0:
        flips[2] = not flips[2]
    return tuple(order), tuple(flips)


def is_thick(spacing: Sequence[float] | np.ndarray) -> bool:
    """Whether a study with this spacing in mm is a stack of thick slices."""
    return bool(max(spacing) >= ANISOTROPIC * min(spacing))


def argmax_classes(shares: Iterable[Tensor]) -> Tensor:
    """Which class's share is the largest, (X, Y, Z) uint8, the first of equals; shares (X, Y, Z) come one class at a time.

    On a CPU some thirty times as fast as torch's argmax.
    """
    classes = iter(shares)
    best = next(classes)
    found = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
    for k, share in enumerate(classes, 1):
        found = torch.maximum(found, (share > best).view(torch.uint8).mul_(k))
        best = torch.maximum(best, share)
    return found


def _resized(array: Tensor, shape: Sequence[int]) -> Tensor:
    """(N, C, X, Y, Z) to (N, C, *shape), linear, over the same field of view."""
    if tuple(array.shape[2:]) == tuple(shape):
        return array
    return interpolate(array, size=tuple(shape), mode="trilinear", align_corners=False)
