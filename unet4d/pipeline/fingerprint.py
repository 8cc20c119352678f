"""The size of the training studies on the grid that the network sees, as nnU-Net's fingerprint has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from unet4d.config import DataConfig, Size, triple
from unet4d.datasets.cases import Case
from unet4d.datasets.verify.study_properties import StudyProperties, read_study_properties
from unet4d.images.grid import WorkingGrid, has_separate_slices


@dataclass(frozen=True)
class Fingerprint:
    """The studies on the working grid, and the median one.

    Attributes:
        plane_spacing_mm: the spacing that X and Y are resampled to.
        spacing: (X, Y, Z) in mm of the median study, resampled.
        shapes: voxels (X, Y, Z) of each study, resampled, in the order of the cases.
        frame_counts: frames of each study.
        subjects: how many subjects the studies show.
        slice_spacing_mm: the spacing that slices are resampled to; None: each study keeps its own.
    """

    plane_spacing_mm: float
    spacing: tuple[float, float, float]
    shapes: tuple[Size, ...]
    frame_counts: tuple[int, ...]
    subjects: int
    slice_spacing_mm: float | None = None

    @property
    def shape(self) -> Size:
        """Return the voxels (X, Y, Z) of the median study."""
        return triple(round(median(sizes)) for sizes in zip(*self.shapes, strict=True))

    @property
    def frames(self) -> int:
        """Return the frames of the longest study."""
        return max(self.frame_counts)


def compute_fingerprint(
    cases: Sequence[Case], config: DataConfig, known: Mapping[str, StudyProperties] | None = None
) -> Fingerprint:
    """Compute the fingerprint of cases; a spacing set in the configuration replaces the median.

    Args:
        cases: in the order of the result.
        config: what it sets is kept.
        known: case to the properties of its study, as verification found them; of other cases the headers are read.
    """
    facts = [(known or {}).get(case.name) or read_study_properties(case) for case in cases]
    studies = [(study.matrix, study.size) for study in facts]
    native = [WorkingGrid.of(affine, shape).spacing for affine, shape in studies]
    plane = config.in_plane_spacing_mm or round(median(s for spacing in native for s in spacing[:2]), 4)
    slices = _slice_spacing_mm(config, plane, median(spacing[2] for spacing in native))
    grids = [WorkingGrid.of(affine, shape, plane, slices) for affine, shape in studies]
    thickness = float(median(grid.spacing[2] for grid in grids))
    frames = tuple(study.frames for study in facts)
    shapes = tuple(triple(grid.shape) for grid in grids)
    return Fingerprint(plane, (plane, plane, thickness), shapes, frames, len({case.subject for case in cases}), slices)


def _slice_spacing_mm(config: DataConfig, plane_mm: float, median_mm: float) -> float | None:
    """Return the spacing that slices are resampled to: as set, or the median where slices are not thick; None: their own."""
    if not isinstance(config.slice_spacing_mm, str):
        return config.slice_spacing_mm
    return None if has_separate_slices((plane_mm, median_mm)) else round(median_mm, 4)
