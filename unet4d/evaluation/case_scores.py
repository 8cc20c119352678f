"""Scores of one study against its reference: per frame and class, and over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unet4d.datasets.cases import Dataset
from unet4d.datasets.label_maps import Reference, read_reference
from unet4d.errors import InputError
from unet4d.evaluation.cardiac_function import score_cardiac_function
from unet4d.evaluation.tables import MEASURES_CSV, METRICS_CSV, TEMPORAL_CSV, VOLUMES_CSV
from unet4d.evaluation.temporal import measure_over_time
from unet4d.images.image4d import Image4D, read_label
from unet4d.images.nifti import check_same_grid, read_header
from unet4d.images.time_axis import time_axis
from unet4d.metrics.cardiac_structures import Roles
from unet4d.metrics.overlap import count_voxels, dice
from unet4d.metrics.surface import surface_scores
from unet4d.metrics.volume_curves import volumes_ml, voxel_volume_ml
from unet4d.system.signals import check_stop


@dataclass(frozen=True)
class CaseScores:
    """Scores of one study.

    Attributes:
        name: name of the case.
        subject: the person or animal.
        frames: number of frames.
        labelled_frames: number of frames with a reference.
        rows: file name of each table to the rows of this study, column to value; NaN or None where undefined.
    """

    name: str
    subject: str
    frames: int
    labelled_frames: int
    rows: Mapping[str, list[dict[str, Any]]]


def score_case(
    reference: Reference,
    file: Path,
    classes: Mapping[str, int],
    dataset: Dataset | None,
    *,
    roles: Roles,
    cyclic: bool,
    tolerance_mm: float,
) -> CaseScores:
    """Score one prediction.

    Args:
        reference: the study.
        file: its prediction.
        classes: foreground class name to label value.
        dataset: dataset of the study, if any.
        roles: the structure of the heart that each class is, see `find_roles`.
        cyclic: whether the last frame leads into the first.
        tolerance_mm: of the normalized surface Dice.

    Raises:
        InputError: the prediction does not fit its reference, or has a label value of no class.
    """
    label, labelled, like = read_reference(reference, dataset)
    values = list(classes.values())
    prediction = read_prediction(file, reference, like, values)
    voxel_ml = voxel_volume_ml(like.affine)
    reference_ml = np.where(labelled[:, None], volumes_ml(label, values, voxel_ml), np.nan)
    prediction_ml = volumes_ml(prediction, values, voxel_ml)
    volumes = {"reference_ml": reference_ml, "prediction_ml": prediction_ml}
    counts = count_voxels(label, prediction, values)
    per_frame = {"dice": dice(counts), **volumes, **vars(counts)}
    case, seconds = {"case": reference.name, "subject": reference.subject}, like.frame_duration_s
    frames: list[dict[str, Any]] = []
    for t in np.flatnonzero(labelled):
        check_stop()  # a frame may take seconds
        surface = surface_scores(label[t : t + 1], prediction[t : t + 1], values, like.spacing, tolerance_mm)
        for k, (name, value) in enumerate(classes.items()):
            scores = {key: array[t, k] for key, array in per_frame.items()}
            distances = {key: array[0, k] for key, array in vars(surface).items()}
            frames.append({**case, "frame": int(t), "class": name, "value": value, **scores, **distances})
    curves = [
        {**case, "frame": t, "time_s": t * seconds if seconds else None, "class": name}
        | {key: array[t, k] for key, array in volumes.items()}
        for t in range(like.frames)
        for k, name in enumerate(classes)
    ]
    over_time = measure_over_time(label, labelled, prediction, values, (reference_ml, prediction_ml), cyclic)
    case |= {"time": time_axis(cyclic)}
    by_class = [dict(zip(classes, array.T, strict=True)) for array in volumes.values()]
    common = {"frame_duration_s": seconds, "frames": like.frames, "labelled_frames": int(labelled.sum())}
    hearts = score_cardiac_function(by_class[0], by_class[1], seconds, cyclic, roles)
    measures = [{**case, **common, **row} for row in hearts]
    temporal = [
        {**case, "class": name, "frames": like.frames} | {key: array[k] for key, array in over_time.items()}
        for k, name in enumerate(classes)
    ]
    rows = {METRICS_CSV: frames, VOLUMES_CSV: curves, MEASURES_CSV: measures, TEMPORAL_CSV: temporal}
    return CaseScores(reference.name, reference.subject, like.frames, int(labelled.sum()), rows)


def read_prediction(file: Path, reference: Reference, like: Image4D, values: Sequence[int]) -> np.ndarray:
    """Return a label map (T, X, Y, Z); raise InputError unless it is on the grid of the reference and has known values."""
    header, shape = read_header(file)
    check_same_grid(file, header, shape, reference.path, like.header, (like.frames, *like.grid))
    prediction = read_label(file)
    unknown = sorted(set(np.unique(prediction).tolist()) - {0, *values})
    if unknown:
        raise InputError(f"{file}: got label value {unknown[0]}, expected one of {[0, *values]}; correct the label map")
    return prediction
