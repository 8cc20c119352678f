"""What the training studies are like, from their headers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from unet4d.config import DataConfig
from unet4d.data.dataset import Case
from unet4d.data.grid import WorkingGrid
from unet4d.data.nifti import affine_of, read_header


@dataclass(frozen=True)
class Fingerprint:
    """The median study on the working grid.

    Attributes:
        plane_spacing_mm: the spacing X and Y are resampled to.
        spacing: (X, Y, Z) in mm of the median study, resampled.
        shape: voxels (X, Y, Z) of the median study, resampled.
        frames: frames of the longest study.
    """

    plane_spacing_mm: float
    spacing: tuple[float, float, float]
    shape: tuple[int, int, int]
    frames: int


def fingerprint(cases: Sequence[Case], config: DataConfig) -> Fingerprint:
    """The fingerprint of these cases; a spacing set in the configuration stands for the median."""
    headers = [read_header(case.images[0]) for case in cases]
    studies = [(affine_of(header), shape[1:]) for header, shape in headers]
    native = [WorkingGrid.of(affine, shape).spacing for affine, shape in studies]
    plane = config.plane_spacing_mm or round(median(s for spacing in native for s in spacing[:2]), 4)
    grids = [WorkingGrid.of(affine, shape, plane, config.slice_spacing_mm) for affine, shape in studies]
    x, y, z = (round(median(grid.shape[axis] for grid in grids)) for axis in range(3))
    thickness = float(median(grid.spacing[2] for grid in grids))
    frames = max(1 if case.channels_last else shape[0] for case, (_, shape) in zip(cases, headers, strict=True))
    return Fingerprint(plane, (plane, plane, thickness), (x, y, z), frames)
