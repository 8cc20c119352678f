"""Scores of one study against its reference: per frame and class, and over time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unet4d.datasets.cases import Dataset
from unet4d.datasets.label_maps import Reference, read_reference
from unet4d.errors import InputError
from unet4d.evaluation.cardiac_function import CardiacScores, score_cardiac_function
from unet4d.evaluation.temporal import measure_over_time
from unet4d.images.image4d import read_label
from unet4d.images.nifti import check_same_grid, read_header
from unet4d.metrics.overlap import VoxelCounts, count_voxels, dice
from unet4d.metrics.surface import SurfaceScores, surface_scores
from unet4d.metrics.volume_curves import volumes_ml, voxel_volume_ml
from unet4d.system.signals import check_stop


@dataclass(frozen=True)
class CaseScores:
    """Scores of one study: arrays `(T, K)` over all frames and the K foreground classes, NaN where undefined.

    Attributes:
        reference: what the prediction was scored against.
        labelled: (T,) bool; the other frames have neither overlap nor distance nor reference volume.
        frame_duration_s: seconds from frame to frame; None where unknown.
        cyclic: whether the last frame leads into the first.
        counts: voxels.
        dice: overlap.
        surface: distances of the surfaces.
        reference_ml: volumes of the reference.
        prediction_ml: volumes of the prediction, in every frame.
        over_time: temporal metric to (K,), over all frames.
        heart: cardiac measures of the classes that are cavities or myocardium.
    """

    reference: Reference
    labelled: np.ndarray
    frame_duration_s: float | None
    cyclic: bool
    counts: VoxelCounts
    dice: np.ndarray
    surface: SurfaceScores
    reference_ml: np.ndarray
    prediction_ml: np.ndarray
    over_time: dict[str, np.ndarray]
    heart: list[CardiacScores]

    @property
    def name(self) -> str:
        """Name of the case."""
        return self.reference.name

    @property
    def subject(self) -> str:
        """Person or animal that was imaged."""
        return self.reference.subject

    def volume_pairs(self, k: int) -> np.ndarray:
        """Return (N, 2) mL of reference and prediction in the labelled frames where either has class `k`."""
        used = self.labelled & ~self.counts.both_empty[:, k]
        return np.stack([self.reference_ml[used, k], self.prediction_ml[used, k]], axis=1)


def score_case(
    reference: Reference,
    file: Path,
    classes: Mapping[str, int],
    dataset: Dataset | None,
    *,
    cyclic: bool,
    tolerance_mm: float,
) -> CaseScores:
    """Score one prediction.

    Args:
        reference: the study.
        file: its prediction.
        classes: foreground class name to label value.
        dataset: dataset of the study, if any.
        cyclic: whether the last frame leads into the first.
        tolerance_mm: of the normalized surface Dice.

    Raises:
        InputError: the prediction does not fit its reference, or has a label value of no class.
    """
    label, labelled, like = read_reference(reference, dataset)
    header, shape = read_header(file)
    check_same_grid(file, header, shape, reference.path, like.header, (like.frames, *like.grid))
    prediction = read_label(file)
    values = list(classes.values())
    unknown = sorted(set(np.unique(prediction).tolist()) - {0, *values})
    if unknown:
        raise InputError(f"{file}: got label value {unknown[0]}, expected one of {[0, *values]}; correct the label map")
    counts = count_voxels(label, prediction, values)
    voxel_ml = voxel_volume_ml(like.affine)
    in_labelled = labelled[:, None]
    reference_ml = np.where(in_labelled, volumes_ml(label, values, voxel_ml), np.nan)
    prediction_ml = volumes_ml(prediction, values, voxel_ml)
    surface = np.full((3, *reference_ml.shape), np.nan)
    for t in np.flatnonzero(labelled):
        check_stop()  # a frame may take seconds
        frame = surface_scores(label[t : t + 1], prediction[t : t + 1], values, like.spacing, tolerance_mm)
        surface[:, t] = [array[0] for array in vars(frame).values()]
    by_class = [dict(zip(classes, volumes.T, strict=True)) for volumes in (reference_ml, prediction_ml)]
    return CaseScores(
        reference,
        labelled,
        like.frame_duration_s,
        cyclic,
        counts,
        dice=np.where(in_labelled, dice(counts), np.nan),
        surface=SurfaceScores(*surface),
        reference_ml=reference_ml,
        prediction_ml=prediction_ml,
        over_time=measure_over_time(label, labelled, prediction, values, (reference_ml, prediction_ml), cyclic),
        heart=score_cardiac_function(by_class[0], by_class[1], like.frame_duration_s, cyclic),
    )
