"""The grid the network works on, and the way there and back to the study's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, one_hot

ANISOTROPIC = 1.5
"""A study whose coarsest spacing is this many times its finest has a slice axis: the coarsest one."""


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
        order, flips = _orientation(affine)
        native_spacing = np.sqrt((affine[:3, :3] ** 2).sum(0))
        sizes = [int(native_shape[axis]) for axis in order]
        spacing = [float(native_spacing[axis]) for axis in order]
        wanted = [plane_spacing_mm, plane_spacing_mm, slice_spacing_mm]
        shape = [n if w is None else max(1, round(n * s / w)) for n, s, w in zip(sizes, spacing, wanted, strict=True)]
        spacing = [n * s / m for n, s, m in zip(sizes, spacing, shape, strict=True)]
        return cls(tuple(int(n) for n in native_shape), order, flips, tuple(shape), tuple(spacing))

    def image(self, array: np.ndarray) -> np.ndarray:
        """An image (C, T, *native_shape) on the working grid: (C, T, *shape) float32, linear between voxels."""
        turned = np.ascontiguousarray(self._turned(array), dtype=np.float32)
        if turned.shape[2:] == self.shape:
            return turned
        return _resized(torch.from_numpy(turned), self.shape).numpy()

    def label(self, indices: np.ndarray, classes: int) -> np.ndarray:
        """Class indices (T, *native_shape) on the working grid: (T, *shape) uint8, the class with the largest linear share."""
        turned = np.ascontiguousarray(self._turned(indices))
        if turned.shape[1:] == self.shape:
            return turned.astype(np.uint8)
        frames = []
        for frame in turned:
            shares = one_hot(torch.from_numpy(frame.astype(np.int64)), classes).movedim(-1, 0)[None].float()
            frames.append(_resized(shares, self.shape)[0].argmax(0).to(torch.uint8).numpy())
        return np.stack(frames)

    def native_label(self, logits: Tensor) -> np.ndarray:
        """Class indices (T, *native_shape) uint8 from logits (T, K, *shape): resampled frame by frame, then the largest wins."""
        back = np.argsort(self.order)
        out = np.empty((len(logits), *self.native_shape), np.uint8)
        turned_shape = tuple(self.native_shape[axis] for axis in self.order)
        for t, frame in enumerate(logits):
            winner = _resized(frame[None].float(), turned_shape)[0].argmax(0).to(torch.uint8).cpu().numpy()
            flipped = np.flip(winner, tuple(axis for axis, flip in enumerate(self.flips) if flip))
            out[t] = flipped.transpose(back)
        return out

    def _turned(self, array: np.ndarray) -> np.ndarray:
        """Reorder and flip the last three axes into the working orientation."""
        lead = array.ndim - 3
        turned = array.transpose(*range(lead), *(lead + axis for axis in self.order))
        return np.flip(turned, tuple(lead + axis for axis, flip in enumerate(self.flips) if flip))


def _orientation(affine: np.ndarray) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Which native axis each working axis is, and whether it is flipped.

    A stack of thick slices keeps its slices last however oblique it lies: the nearest anatomical orientation alone could put the
    slice axis of two patients' short-axis stacks in different places.
    """
    world, signs = nib.orientations.io_orientation(affine).T
    spacing = np.sqrt((affine[:3, :3] ** 2).sum(0))
    thick = spacing.max() >= ANISOTROPIC * spacing.min()
    slice_axis = int(spacing.argmax()) if thick else int(np.argmax(world))
    plane = sorted((axis for axis in range(3) if axis != slice_axis), key=lambda axis: world[axis])
    order = (*plane, slice_axis)
    turned = affine[:3, :3][:, order] * signs[list(order)]
    right_handed = np.linalg.det(turned) > 0
    flips = [bool(signs[axis] < 0) for axis in order]
    if not right_handed:
        flips[2] = not flips[2]
    return order, tuple(flips)


def _resized(array: Tensor, shape: Sequence[int]) -> Tensor:
    """(N, C, X, Y, Z) to (N, C, *shape), linear, over the same field of view."""
    if tuple(array.shape[2:]) == tuple(shape):
        return array
    return interpolate(array, size=tuple(shape), mode="trilinear", align_corners=False)
