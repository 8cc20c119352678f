"""How a study lies on the page: which slices, which way up, how dark.

Display convention: slices lie across the axis with the thickest voxels (Z when all are equal). Within the plane the axis
closest to head-foot, else to front-back, runs down the page, and both axes are turned so that the patient's left is on
the right of the picture, front or head at the top (radiological), as the affine has it: a header that is wrong about the
patient's orientation gives a turned picture. Pixels keep their true proportions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np


@dataclass(frozen=True)
class Planes:
    """A study ready to draw: arrays `(T, slices, rows, columns)`, and the height of a pixel over its width."""

    image: np.ndarray
    label: np.ndarray | None
    reference: np.ndarray | None
    aspect: float
    window: tuple[float, float]


def lay_out(
    image: np.ndarray, label: np.ndarray | None, affine: np.ndarray | None, reference: np.ndarray | None
) -> Planes:
    """Turn image, label and reference `(T, X, Y, Z)` for display. A label of another shape is a ValueError."""
    affine = np.eye(4) if affine is None else affine
    order, flips = display_axes(affine)
    spacing = np.linalg.norm(np.asarray(affine, np.float64)[:3, :3], axis=0)

    def turned(array: np.ndarray | None) -> np.ndarray | None:
        if array is None:
            return None
        if array.shape != image.shape:
            raise ValueError(f"image {image.shape} and label {array.shape} must be of one shape (T, X, Y, Z)")
        array = array.transpose(0, *(1 + axis for axis in order))
        return array[:, :, :: -1 if flips[0] else 1, :: -1 if flips[1] else 1]

    shown = turned(image)
    assert shown is not None
    return Planes(
        shown, turned(label), turned(reference), float(spacing[order[1]] / spacing[order[2]]), display_window(image)
    )


def display_axes(affine: np.ndarray) -> tuple[tuple[int, int, int], tuple[bool, bool]]:
    """Which voxel axes become (slice, row, column), and whether rows and columns are reversed to be radiological.

    Args:
        affine: 4x4 voxel to mm, world axes right, anterior, superior.
    """
    spacing = np.linalg.norm(np.asarray(affine, np.float64)[:3, :3], axis=0)
    thickest = int(np.flatnonzero(spacing >= spacing.max() * (1 - 1e-3))[-1])
    nearest = nib.orientations.io_orientation(
        affine
    )  # per voxel axis: world axis (0 R, 1 A, 2 S), 1 along or -1 against
    column, row = sorted((axis for axis in range(3) if axis != thickest), key=lambda axis: nearest[axis, 0])
    # columns and rows must run to left, posterior or inferior: against the world axis
    return (thickest, row, column), (bool(nearest[row, 1] > 0), bool(nearest[column, 1] > 0))


def display_window(image: np.ndarray) -> tuple[float, float]:
    """Darkest and brightest intensity to show: the 1st and 99.5th percentile over the whole study, one for all frames."""
    sample = image.reshape(-1)[:: max(1, image.size // 500_000)]
    low, high = np.percentile(sample[np.isfinite(sample)], [1, 99.5]) if np.isfinite(sample).any() else (0.0, 1.0)
    return float(low), float(high) if high > low else float(low) + 1


def pick_evenly(items: Sequence[int], count: int) -> list[int]:
    """At most `count` of `items`, evenly spread, first and last among them."""
    positions = np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int))
    return [int(items[position]) for position in positions]


def labelled_slices(planes: Planes) -> list[int]:
    """The slices that hold a class in some frame; all where there is no label."""
    used = range(planes.image.shape[1])
    if planes.label is None or not planes.label.any():
        return list(used)
    return [z for z in used if planes.label[:, z].any()]


def crop_to_label(planes: Planes, margin: float = 0.35) -> Planes:
    """Crop rows and columns to the label's box over all frames, widened by a share of its longer side."""
    drawn = planes.label if planes.label is not None else planes.reference
    if drawn is None or not drawn.any():
        return planes
    found = [np.flatnonzero(drawn.any(axis=(0, 1, other))) for other in (3, 2)]
    pad = int(np.ceil(margin * max(hit[-1] - hit[0] + 1 for hit in found)))
    rows, columns = (slice(max(0, int(hit[0]) - pad), int(hit[-1]) + 1 + pad) for hit in found)
    label, reference = (
        None if array is None else array[:, :, rows, columns] for array in (planes.label, planes.reference)
    )
    return Planes(planes.image[:, :, rows, columns], label, reference, planes.aspect, planes.window)
