"""One subject on one grid: the voxels, the position of the heart among them, and the orientation in the body."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unet4d.config import Size
from unet4d.phantom.heart import Heart, beats, draw_heart
from unet4d.phantom.phantom_study import Array

SLICE_SAMPLES = 5  # samples through a slice, so that its borders are mixed as in a thick slice


@dataclass(frozen=True)
class HeartGrid:
    """Voxels, the position of the heart among them, and the orientation of the picture in the body."""

    shape: Size
    pixel_mm: float
    slice_mm: float
    axis_mm: tuple[float, float]  # the left ventricle's axis at mid-stack, from the picture's center
    base_mm: float  # base plane at end-diastole, from the top of the stack
    lean: tuple[float, float]  # of the axis against the slices' normal: mm in X and Y for each mm in Z
    breath_mm: NDArray[np.float64]  # (Z, 2): each slice has its own breath-hold
    affine: NDArray[np.float64]


def draw_subject(rng: np.random.Generator, shape: Size | None) -> tuple[Heart, HeartGrid, float]:
    """Draw a heart that fits its grid, and the direction of the chest wall in the picture."""
    drawn = (int(rng.integers(12, 15) * 8), int(rng.integers(12, 14) * 8), int(rng.integers(7, 10)))
    size = drawn if shape is None else shape
    pixel_mm, slice_mm = round(rng.uniform(1.3, 1.9), 4), round(rng.uniform(8, 10), 2)
    chest_angle = np.deg2rad(rng.uniform(180, 245))
    rv_angle = chest_angle + np.deg2rad(rng.uniform(-30, 8))
    above = rng.uniform(0.1, 0.9) * slice_mm
    length = size[2] * slice_mm - above - rng.uniform(0.05, 0.3) * slice_mm
    heart = draw_heart(rng, min(length, 100.0), 0.94 * pixel_mm * min(size[:2]), rv_angle)
    back = 0.5 * beats(heart, 1)[0].rv_height_mm
    jitter = rng.normal(0, 0.02 * pixel_mm * min(size[:2]), 2)
    lean = rng.normal(0, 0.06, 2).clip(-0.15, 0.15)
    grid = HeartGrid(
        shape=size,
        pixel_mm=pixel_mm,
        slice_mm=slice_mm,
        axis_mm=(float(jitter[0] - back * np.cos(rv_angle)), float(jitter[1] - back * np.sin(rv_angle))),
        base_mm=above,
        lean=(float(lean[0]), float(lean[1])),
        breath_mm=rng.normal(0, 1.1, (size[2], 2)).clip(-3, 3),
        affine=_oblique_affine(rng, size, pixel_mm, slice_mm),
    )
    return heart, grid, chest_angle


def _oblique_affine(rng: np.random.Generator, shape: Size, pixel_mm: float, slice_mm: float) -> NDArray[np.float64]:
    """Return voxel to mm (RAS) of a short-axis stack: Z runs to the left, front and foot, Y as far down as it can."""
    apex = np.array([-0.66, 0.55, -0.5]) + rng.normal(0, 0.08, 3)
    apex /= np.linalg.norm(apex)
    down = np.array([0.0, 0.0, -1.0]) + rng.normal(0, 0.08, 3)
    down -= apex * (down @ apex)
    down /= np.linalg.norm(down)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([np.cross(apex, down) * pixel_mm, down * pixel_mm, apex * slice_mm], axis=1)
    center = (np.array(shape) - 1) / 2
    affine[:3, 3] = np.array([-30.0, 10.0, 0.0]) + rng.normal(0, 12, 3) - affine[:3, :3] @ center
    return np.round(affine, 6)


def heart_coordinates(grid: HeartGrid) -> tuple[Array, Array, Array]:
    """Return heart coordinates of the sub-voxels (mm), each (X, Y, Z, S): about the leaning axis, from the base plane down."""
    nx, ny, nz = grid.shape
    x = ((np.arange(nx) - (nx - 1) / 2) * grid.pixel_mm)[:, None, None, None] - grid.breath_mm[None, None, :, None, 0]
    y = ((np.arange(ny) - (ny - 1) / 2) * grid.pixel_mm)[None, :, None, None] - grid.breath_mm[None, None, :, None, 1]
    part = (np.arange(SLICE_SAMPLES) + 0.5) / SLICE_SAMPLES
    z = (np.arange(nz)[:, None] + part)[None, None] * grid.slice_mm - nz * grid.slice_mm / 2
    x = x - grid.axis_mm[0] - grid.lean[0] * z
    y = y - grid.axis_mm[1] - grid.lean[1] * z
    z = z + nz * grid.slice_mm / 2 - grid.base_mm
    x, y, z = np.broadcast_arrays(x, y, z)
    return x.astype(np.float32), y.astype(np.float32), z.astype(np.float32)
