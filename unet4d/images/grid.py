"""The working grid of the network: one study's voxels with slices last, reoriented and resampled, there and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
import torch
from scipy.ndimage import zoom
from torch import Tensor
from torch.nn.functional import interpolate

from unet4d.images.channels import SIGNAL, reorient_channels
from unet4d.system.class_values import IGNORE as IGNORE

ANISOTROPIC = 1.5
"""A study has a slice axis, the coarsest one, where its coarsest spacing is this many times its finest."""
SEPARATE = 3.0
"""Slices this many times as thick as pixels are too unlike to be interpolated by splines, as in nnU-Net (Isensee et al. 2021)."""
SAME_SPACING = 0.999
"""Spacings closer than this are equal; among equally coarse axes the slice axis is the one nearest to the body's long axis."""
_ROUNDING = 1e-5

Interpolation = Literal["linear", "cubic"]


@dataclass(frozen=True)
class WorkingGrid:
    """The grid on which the network sees one study: slices last, plane axes towards right, anterior, superior, right-handed.

    Reorientation follows the voxel axes and loses nothing. Resampling keeps the field of view: each axis is divided into
    `shape[i]` equal voxels, so that both ways see the same borders.

    Attributes:
        native_shape: voxels (X, Y, Z) of the study on disk.
        order: for each working axis, the native axis it is.
        flips: for each working axis, whether it runs against the native axis.
        shape: voxels (X, Y, Z) of the working grid.
        spacing: (X, Y, Z) of the working grid in mm.
        interpolation: of images, between voxels: "linear", or "cubic" by splines, but linear across slices far thicker than pixels.
    """

    native_shape: tuple[int, ...]
    order: tuple[int, ...]
    flips: tuple[bool, ...]
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    interpolation: Interpolation = "linear"

    @classmethod
    def of(
        cls,
        affine: np.ndarray,
        native_shape: Sequence[int],
        plane_spacing_mm: float | None = None,
        slice_spacing_mm: float | None = None,
        interpolation: Interpolation = "linear",
    ) -> WorkingGrid:
        """Make the working grid of a study with this affine (4, 4) and shape (X, Y, Z); a spacing of None stays the study's."""
        order, flips = _orientation(affine, native_shape)
        native_spacing = np.linalg.norm(affine[:3, :3], axis=0)
        sizes = [int(native_shape[axis]) for axis in order]
        spacing = [float(native_spacing[axis]) for axis in order]
        asked = [plane_spacing_mm, plane_spacing_mm, slice_spacing_mm]
        shape = [n if a is None else max(1, round(n * s / a)) for n, s, a in zip(sizes, spacing, asked, strict=True)]
        spacing = [n * s / m for n, s, m in zip(sizes, spacing, shape, strict=True)]
        return cls(tuple(int(n) for n in native_shape), order, flips, tuple(shape), tuple(spacing), interpolation)

    def image(self, array: np.ndarray, kinds: Sequence[str] = (), what: Path | str = "the image") -> np.ndarray:
        """Bring an image (C, T, *native_shape) to the working grid: (C, T, *shape) float32.

        Args:
            kinds: of the channels, see images/channels.py: velocities turn with the axes, and keep their unit. Empty: all signal.
            what: the study, for the message.

        Raises:
            InputError: the new orientation needs a component of the velocity that no channel holds.
        """
        native = self.reorient(array)
        sources = reorient_channels(kinds or [SIGNAL] * len(array), self.order, self.flips, what)
        if self.interpolation == "cubic":
            return self._cubic_image(native, sources)
        if native.shape[2:] != self.shape and sources == [(channel, 1) for channel in range(len(native))]:
            image = np.require(native, np.float32, ["C", "W"])  # resampling makes the copy
        else:
            image = np.empty(native.shape, np.float32)
            for out, (channel, sign) in zip(image, sources, strict=True):
                np.multiply(native[channel], sign, out=out)
        return _resample(torch.from_numpy(image), self.shape).numpy()

    def _cubic_image(self, native: np.ndarray, sources: Sequence[tuple[int, int]]) -> np.ndarray:
        """Bring a reoriented image (C, T, X, Y, Z) to the working grid frame by frame, axis by axis."""
        image = np.empty((*native.shape[:2], *self.shape), np.float32)
        spacing = [s * m / n for s, m, n in zip(self.spacing, self.shape, native.shape[2:], strict=True)]
        orders = (3, 3, 1 if has_separate_slices(spacing) else 3)
        for out, (channel, sign) in zip(image, sources, strict=True):
            for t, frame in enumerate(native[channel]):
                values = torch.from_numpy(np.multiply(frame, sign, dtype=np.float32, order="C"))
                for axis, (size, order) in enumerate(zip(self.shape, orders, strict=True)):
                    if values.shape[axis] != size:
                        weights = spline_weights(values.shape[axis], size, order)
                        values = torch.tensordot(weights, values, ([1], [axis])).movedim(0, axis)
                out[t] = values.numpy()
        return image

    def label(self, indices: np.ndarray, classes: int) -> np.ndarray:
        """Bring class indices (T, *native_shape) to the working grid: (T, *shape) uint8, the class of the largest linear share.

        IGNORE is no class: a voxel is ignored where that class would depend on ignored voxels, see `certain_classes`.
        """

        def resampled(frame: Tensor) -> np.ndarray:
            shares = (_resample((frame == k).float()[None, None], self.shape)[0, 0] for k in range(classes))
            return (certain_classes if (frame == IGNORE).any() else argmax_classes)(shares).numpy()

        frames = (torch.from_numpy(frame) for frame in np.array(self.reorient(indices), order="C"))
        return np.stack([resampled(frame) for frame in frames])

    def reorient(self, array: np.ndarray) -> np.ndarray:
        """Return a view of (..., *native_shape) in working orientation.

        An axis of one voxel is not turned: NumPy takes its negative stride for contiguous, and torch refuses it.
        """
        lead = array.ndim - 3
        view = array.transpose(*range(lead), *(lead + axis for axis in self.order))
        return np.flip(view, tuple(n - 3 for n, flip in enumerate(self.flips) if flip and view.shape[n - 3] > 1))


def _orientation(affine: np.ndarray, shape: Sequence[int]) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Return which native axis each working axis is, and whether it is flipped.

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
    flips = [bool(sign < 0) for sign in signs[order]]
    if np.linalg.det(affine[:3, order] * signs[order]) < 0:
        flips[2] = not flips[2]
    return tuple(order), tuple(flips)


def is_thick(spacing: Sequence[float] | np.ndarray) -> bool:
    """Return whether a study with this spacing in mm is a stack of thick slices."""
    return bool(max(spacing) >= ANISOTROPIC * min(spacing))


def has_separate_slices(spacing: Sequence[float]) -> bool:
    """Return whether slices of a study with this spacing in mm are more than 3 times as thick as its pixels, or the reverse."""
    return bool(max(spacing) > SEPARATE * min(spacing))


@lru_cache(maxsize=32)
def spline_weights(size: int, new_size: int, order: int) -> Tensor:
    """Return the weights (new_size, size) of a spline through `size` voxels at the centers of `new_size` over the same length.

    Interpolation is linear in the voxels: SciPy gives the weights once, and one matrix product resamples a whole frame.
    """
    units = (zoom(unit, new_size / size, order=order, mode="nearest", grid_mode=True) for unit in np.eye(size))
    return torch.from_numpy(np.stack(list(units), axis=1)).float()


def argmax_classes(shares: Iterable[Tensor]) -> Tensor:
    """Return the class of the largest share, (X, Y, Z) uint8, the first of equals; shares (X, Y, Z) come one class at a time.

    On a CPU about thirty times as fast as torch's argmax.
    """
    classes = iter(shares)
    best = next(classes)
    found = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
    for k, share in enumerate(classes, 1):
        found = torch.maximum(found, (share > best).view(torch.uint8).mul_(k))
        best = torch.maximum(best, share)
    return found


def certain_classes(shares: Iterable[Tensor]) -> Tensor:
    """Return `argmax_classes` where it is the same whatever class the ignored voxels are of, and IGNORE elsewhere.

    Args:
        shares: (X, Y, Z) of every class, one at a time; what they lack to 1 is the share of ignored voxels.
    """
    classes = iter(shares)
    best = next(classes)
    second, known = torch.zeros_like(best), best.clone()
    found = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
    for k, share in enumerate(classes, 1):
        found = torch.maximum(found, (share > best).view(torch.uint8).mul_(k))
        second, best = torch.maximum(second, torch.minimum(best, share)), torch.maximum(best, share)
        known += share
    ignored = 1 - known
    return found.masked_fill_((ignored > _ROUNDING) & (best - second <= ignored + _ROUNDING), IGNORE)


def _resample(array: Tensor, shape: Sequence[int]) -> Tensor:
    """Resample (N, C, X, Y, Z) to (N, C, *shape), linear, over the same field of view."""
    if tuple(array.shape[2:]) == tuple(shape):
        return array
    return interpolate(array, size=tuple(shape), mode="trilinear", align_corners=False)
