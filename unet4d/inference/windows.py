"""The windows of a sliding window: their origins, and their weights where they overlap."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Protocol

import torch
from monai.data.utils import compute_importance_map
from torch import Tensor
from torch.nn.functional import pad

SIGMA_SCALE = 0.125
"""Standard deviation of the Gaussian weights, as a share of the window's size (Isensee et al. 2021; MONAI's default, too)."""

WindowOrigin = tuple[int, int, int]
"""First voxel of a window along X, Y and Z; negative where it reaches beyond an image smaller than itself."""


class Pixels(Protocol):
    """An image (C, T, X, Y, Z) of which boxes can be read: a tensor, or a file."""

    @property
    def shape(self) -> Sequence[int]:
        """Return (C, T, X, Y, Z)."""
        ...

    def __getitem__(self, box: tuple[slice, ...]) -> Tensor:
        """Return (C, T, x, y, z) of five slices."""
        ...


class Windows:
    """The windows over an image: those of MONAI's `sliding_window_inference`.

    An image smaller than a window lies in its middle, with zeros around it:

        image  0 1 2 3 4 5 6        image    0 1 2
        window [0 1 2 3]            window [. 0 1 2 .]
                 [2 3 4 5]
                   [3 4 5 6]        the last one is pushed back, until it ends with the image

    Args:
        size: voxels (X, Y, Z) of the image.
        roi_size: voxels of a window.
        overlap: share of a window its neighbor covers.
    """

    def __init__(self, size: Sequence[int], roi_size: Sequence[int], overlap: float):
        self.size, self.roi_size = tuple(size), tuple(roi_size)
        self.starts = [_starts(n, roi, overlap) for n, roi in zip(size, roi_size, strict=True)]
        self.weight = compute_importance_map(self.roi_size, "gaussian", SIGMA_SCALE, dtype=torch.float32)

    def __len__(self) -> int:
        return math.prod(map(len, self.starts))

    def beginning_at(self, x: int, columns: tuple[int, int]) -> list[WindowOrigin]:
        """Return the windows that begin at x along X and reach into `columns` (first, end) along Y."""
        touching = [y for y in self.starts[1] if y < columns[1] and y + self.roi_size[1] > columns[0]]
        return list(itertools.product([x], touching, self.starts[2]))

    def reaching(self, columns: tuple[int, int]) -> int:
        """Return the number of windows that reach into `columns` (first, end) along Y."""
        return sum(len(self.beginning_at(x, columns)) for x in self.starts[0])

    def inside(self, origin: WindowOrigin) -> list[tuple[int, int]]:
        """Return the part of a window inside the image: (first, end) along X, Y and Z."""
        return [(max(0, at), min(at + r, n)) for at, r, n in zip(origin, self.roi_size, self.size, strict=True)]

    def read(self, image: Pixels, origin: WindowOrigin) -> Tensor:
        """Return a window (T, C, *roi_size) float32 of an image (C, T, X, Y, Z)."""
        inside = self.inside(origin)
        clip = image[(slice(None), slice(None), *(slice(*part) for part in inside))].float()
        missing = [
            (first - at, at + r - end) for at, r, (first, end) in zip(origin, self.roi_size, inside, strict=True)
        ]
        if any(map(any, missing)):
            clip = pad(clip, [n for part in reversed(missing) for n in part])
        return clip.movedim(1, 0)


def _starts(size: int, roi: int, overlap: float) -> list[int]:
    """Return the origins of windows along one axis."""
    if size <= roi:
        return [-((roi - size) // 2)]
    step = max(1, int(roi * (1 - overlap)))
    return [min(step * i, size - roi) for i in range(-(-(size - roi) // step) + 1)]
