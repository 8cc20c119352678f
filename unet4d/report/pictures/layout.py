"""Layout of a study in pictures: which axis the slices lie across, which way up, which intensities.

Slices lie across the axis with the thickest voxels (Z when all are equal). Within the plane the axis closest to head-foot, else to
front-back, runs down. Both axes are flipped where needed to be radiological: the left of the patient is on the right,
front or head at the top. A wrong orientation in the header gives a wrong picture. Pixels keep their true proportions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import nibabel as nib
import numpy as np


@dataclass(frozen=True)
class Planes:
    """Study ready to draw: arrays `(T, slices, rows, columns)`, height over width of a pixel, intensities of black and white."""

    image: np.ndarray
    label: np.ndarray | None
    reference: np.ndarray | None
    aspect: float
    window: tuple[float, float]


def lay_out(
    image: np.ndarray, label: np.ndarray | None, affine: np.ndarray | None, reference: np.ndarray | None
) -> Planes:
    """Reorient image, label and reference `(T, X, Y, Z)` for display; without an affine, voxels are 1 mm cubes.

    Raises:
        ValueError: arrays of different shapes.
    """
    affine = np.eye(4) if affine is None else np.asarray(affine, np.float64)
    order, flips = display_axes(affine)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)

    def reorient(array: np.ndarray) -> np.ndarray:
        if array.shape != image.shape:
            raise ValueError(f"got image {image.shape} and label {array.shape}, expected one shape (T, X, Y, Z)")
        array = array.transpose(0, *(1 + axis for axis in order))
        return array[:, :, :: -1 if flips[0] else 1, :: -1 if flips[1] else 1]

    labels = [None if array is None else reorient(array) for array in (label, reference)]
    aspect = float(spacing[order[1]] / spacing[order[2]])
    return Planes(reorient(image), labels[0], labels[1], aspect, display_window(image))


def display_axes(affine: np.ndarray) -> tuple[tuple[int, int, int], tuple[bool, bool]]:
    """Return the voxel axes of (slice, row, column), and whether rows and columns are reversed to be radiological.

    Args:
        affine: 4x4 voxel to mm, world axes right, anterior, superior.
    """
    spacing = np.linalg.norm(np.asarray(affine, np.float64)[:3, :3], axis=0)
    thickest = int(np.flatnonzero(spacing >= spacing.max() * (1 - 1e-3))[-1])
    # Per voxel axis: world axis (0 R, 1 A, 2 S), 1 along or -1 against.
    nearest = nib.orientations.io_orientation(affine)
    column, row = sorted((axis for axis in range(3) if axis != thickest), key=lambda axis: nearest[axis, 0])
    # columns and rows must run to left, posterior or inferior: against the world axis
    return (thickest, row, column), (bool(nearest[row, 1] > 0), bool(nearest[column, 1] > 0))


def display_window(image: np.ndarray) -> tuple[float, float]:
    """Return the intensities of black and white: the 1st and 99.5th percentile over all frames."""
    sample = image.reshape(-1)[:: max(1, image.size // 500_000)]
    low, high = np.percentile(sample[np.isfinite(sample)], [1, 99.5]) if np.isfinite(sample).any() else (0.0, 1.0)
    return float(low), float(high) if high > low else float(low) + 1


def pick_evenly(items: Sequence[int], count: int) -> list[int]:
    """Return at most `count` of `items`, evenly spaced, with the first and the last."""
    positions = np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int))
    return [int(items[position]) for position in positions]


def labelled_slices(planes: Planes) -> list[int]:
    """Return the slices with a class in some frame; all slices without a label."""
    slices = range(planes.image.shape[1])
    if planes.label is None or not planes.label.any():
        return list(slices)
    return [z for z in slices if planes.label[:, z].any()]


def crop_to_label(planes: Planes) -> Planes:
    """Crop rows and columns to the label over all frames, with a margin of 35 % of its longer side."""
    marked = planes.label if planes.label is not None else planes.reference
    if marked is None or not marked.any():
        return planes
    hits = [np.flatnonzero(marked.any(axis=(0, 1, other))) for other in (3, 2)]
    pad = int(np.ceil(0.35 * max(hit[-1] - hit[0] + 1 for hit in hits)))
    rows, columns = (slice(max(0, int(hit[0]) - pad), int(hit[-1]) + 1 + pad) for hit in hits)
    label, reference = (
        None if array is None else array[:, :, rows, columns] for array in (planes.label, planes.reference)
    )
    return replace(planes, image=planes.image[:, :, rows, columns], label=label, reference=reference)
