"""Scores of one study against its reference: per frame and class, and over time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from unet4d.datasets.cases import Case, Dataset
from unet4d.datasets.label_maps import Reference, find_ignored, read_reference
from unet4d.datasets.nifti_studies import make_study
from unet4d.datasets.partial_labels import WHOLE
from unet4d.errors import InputError
from unet4d.evaluation.cardiac_function import score_cardiac_function
from unet4d.evaluation.curve_comparison import compared_rows, measure_both
from unet4d.evaluation.signal_curves import CurveOptions
from unet4d.evaluation.tables import MEASURES_CSV, METRICS_CSV, TEMPORAL_CSV, VOLUMES_CSV
from unet4d.evaluation.temporal import measure_over_time
from unet4d.images.image4d import Image4D, read_label
from unet4d.images.nifti import check_same_grid, read_header
from unet4d.images.time_axis import time_axis
from unet4d.metrics.cardiac_structures import Roles
from unet4d.metrics.overlap import count_voxels, dice
from unet4d.metrics.regions import ClassValue, describe_values, label_values
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
        ignored_voxels: undrawn voxels of the labelled frames; they count for nothing.
        partial_frames: number of labelled frames with ignored voxels, which have no reference volume.
        not_annotated: classes that were not drawn in this study; they have no score.
        propagated_frames: number of frames with a computed label; they are no reference.
    """

    name: str
    subject: str
    frames: int
    labelled_frames: int
    rows: Mapping[str, list[dict[str, Any]]]
    ignored_voxels: int = 0
    partial_frames: int = 0
    not_annotated: tuple[str, ...] = ()
    propagated_frames: int = 0


def score_case(
    reference: Reference,
    file: Path,
    classes: Mapping[str, ClassValue],
    dataset: Dataset | None,
    *,
    roles: Roles,
    cyclic: bool,
    tolerance_mm: float,
    curves: CurveOptions | None = None,
) -> CaseScores:
    """Score one prediction, where the reference was drawn: ignored voxels are of no class in both.

    Args:
        reference: the study.
        file: its prediction.
        classes: foreground class name to label value, or region.
        dataset: dataset of the study, if any.
        roles: the structure of the heart that each class is, see `find_roles`.
        cyclic: whether the last frame leads into the first.
        tolerance_mm: of the normalized surface Dice.
        curves: curves to measure on the image of a case; None: none.

    Raises:
        InputError: the prediction does not fit its reference, or has a label value of no class.
    """
    label, labelled, like = read_reference(reference, dataset)
    values = list(classes.values())
    prediction = read_prediction(file, reference, like, values)
    drawn = _DrawnReference.of(reference, dataset, label, labelled, classes)
    compared = drawn.hide_ignored(prediction)
    voxel_ml = voxel_volume_ml(like.affine)
    has_volume = drawn.is_whole[:, None] & drawn.is_annotated
    reference_ml = np.where(has_volume, volumes_ml(label, values, voxel_ml), np.nan)
    prediction_ml = volumes_ml(prediction, values, voxel_ml)
    volumes = {"reference_ml": reference_ml, "prediction_ml": prediction_ml}
    counts = count_voxels(label, compared, values)
    per_frame = {"dice": dice(counts), **volumes, **vars(counts)}
    case, seconds = {"case": reference.name, "subject": reference.subject}, like.frame_duration_s
    frames: list[dict[str, Any]] = []
    for t in np.flatnonzero(labelled):
        check_stop()  # a frame may take seconds
        ignored = None if drawn.ignored is None else drawn.ignored[t : t + 1]
        surface = surface_scores(label[t : t + 1], compared[t : t + 1], values, like.spacing, tolerance_mm, ignored)
        for k, (name, value) in enumerate(classes.items()):
            scores = {key: array[t, k] for key, array in per_frame.items()}
            scores |= {key: array[0, k] for key, array in vars(surface).items()}
            if not drawn.is_annotated[k]:
                scores = dict.fromkeys(scores) | {"prediction_ml": prediction_ml[t, k]}
            frames.append({**case, "frame": int(t), "class": name, "value": describe_values(value), **scores})
    volume_rows = [
        {**case, "frame": t, "time_s": t * seconds if seconds else None, "class": name}
        | {key: array[t, k] for key, array in volumes.items()}
        for t in range(like.frames)
        for k, name in enumerate(classes)
    ]
    over_time = measure_over_time(label, drawn.is_whole, prediction, values, (reference_ml, prediction_ml), cyclic)
    case |= {"time": time_axis(cyclic)}
    by_class = [dict(zip(classes, array.T, strict=True)) for array in volumes.values()]
    common = {"frame_duration_s": seconds, "frames": like.frames, "labelled_frames": int(labelled.sum())}
    hearts = score_cardiac_function(by_class[0], by_class[1], seconds, cyclic, roles)
    measures = [{**case, **common, **row} for row in hearts]
    temporal = [
        {**case, "class": name, "frames": like.frames} | {key: array[k] for key, array in over_time.items()}
        for k, name in enumerate(classes)
    ]
    rows = {METRICS_CSV: frames, VOLUMES_CSV: volume_rows, MEASURES_CSV: measures, TEMPORAL_CSV: temporal}
    if curves is not None and curves.kinds and reference.case is not None and dataset is not None:
        rows |= _curve_rows(reference.case, dataset, like, prediction, label, has_volume, curves, cyclic)
    scores_of = CaseScores(reference.name, reference.subject, like.frames, int(labelled.sum()), rows)
    return drawn.describe(scores_of, classes)


def _curve_rows(
    case: Case,
    dataset: Dataset,
    like: Image4D,
    prediction: np.ndarray,
    label: np.ndarray,
    has_volume: np.ndarray,
    curves: CurveOptions,
    cyclic: bool,
) -> dict[str, list[dict[str, Any]]]:
    """Measure the curves of a case on its image; return the rows of their tables, by file."""
    channels = dict(zip(dataset.channel_names, dataset.channel_kinds, strict=True))
    measured = measure_both(
        make_study(case, dataset),
        channels,
        prediction,
        label,
        has_volume,
        dataset.classes,
        curves,
        affine=like.affine,
        frame_duration_s=like.frame_duration_s,
        cyclic=cyclic,
    )
    return compared_rows(case.name, case.subject, measured, dataset.classes)


@dataclass(frozen=True)
class _DrawnReference:
    """The drawn parts of a reference label.

    Attributes:
        ignored: (T, X, Y, Z) bool, undrawn voxels of labelled frames; None: none.
        is_whole: (T,) bool, the labelled frames without ignored voxels.
        is_annotated: (K,) bool, the classes that were drawn, regions with all of their parts.
        propagated: number of frames with a computed label.
    """

    ignored: np.ndarray | None
    is_whole: np.ndarray
    is_annotated: np.ndarray
    propagated: int

    @classmethod
    def of(
        cls,
        reference: Reference,
        dataset: Dataset | None,
        label: np.ndarray,
        labelled: np.ndarray,
        classes: Mapping[str, ClassValue],
    ) -> _DrawnReference:
        """Find them by the entry of the case in dataset.json, and in the label."""
        ignored, partial = find_ignored(reference, dataset, label), reference.case.partial if reference.case else WHOLE
        if ignored is not None:
            ignored &= labelled[:, None, None, None]
        whole = labelled if ignored is None else labelled & ~ignored.any(axis=(1, 2, 3))
        known = partial.annotated
        drawn = [known is None or {*label_values([value])} <= {*known} for value in classes.values()]
        return cls(ignored, whole, np.array(drawn), len(partial.propagated))

    def hide_ignored(self, prediction: np.ndarray) -> np.ndarray:
        """Return a prediction with background in ignored voxels; itself where there are none."""
        return prediction if self.ignored is None else np.where(self.ignored, np.uint8(0), prediction)

    def describe(self, scores: CaseScores, classes: Mapping[str, ClassValue]) -> CaseScores:
        """Return the scores with the numbers of what was not drawn."""
        voxels, partial = 0, 0
        if self.ignored is not None:
            voxels, partial = int(self.ignored.sum()), int(self.ignored.any(axis=(1, 2, 3)).sum())
        missing = tuple(name for name, drawn in zip(classes, self.is_annotated, strict=True) if not drawn)
        return replace(
            scores,
            ignored_voxels=voxels,
            partial_frames=partial,
            not_annotated=missing,
            propagated_frames=self.propagated,
        )


def read_prediction(file: Path, reference: Reference, like: Image4D, classes: Iterable[ClassValue]) -> np.ndarray:
    """Return a label map (T, X, Y, Z); raise InputError unless it is on the grid of the reference and has known values."""
    header, shape = read_header(file)
    check_same_grid(file, header, shape, reference.path, like.header, (like.frames, *like.grid))
    prediction = read_label(file)
    known = [0, *label_values(classes)]
    unknown = sorted(set(np.unique(prediction).tolist()) - set(known))
    if unknown:
        raise InputError(f"{file}: got label value {unknown[0]}, expected one of {known}; correct the label map")
    return prediction
