"""Voxel counts and Dice overlap of 4D label maps, per frame and class, and the convention for absent classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unet4d.metrics.regions import ClassValue, class_mask

EMPTY_CONVENTION = (
    "Per frame and class. Absent from both reference and prediction: Dice, NSD, HD95 and ASD are undefined, left out of every "
    "mean, counted in n_both_empty. Absent from exactly one of them: Dice and NSD are 0 and enter the mean; HD95 and ASD are "
    "undefined, left out of their means, counted in n_one_empty. The n beside a mean is the number of values in it. Unlabelled "
    "frames count for nothing but the prediction's own curve; a missing file is an error."
)


@dataclass(frozen=True)
class VoxelCounts:
    """Voxels per frame and class, each array `(T, K)` int64.

    Attributes:
        tp: in the class in both reference and prediction.
        fp: in the class in the prediction only.
        fn: in the class in the reference only.
    """

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray


def count_voxels(reference: np.ndarray, prediction: np.ndarray, values: Sequence[ClassValue]) -> VoxelCounts:
    """Count true positive, false positive and false negative voxels.

    Args:
        reference: `(T, X, Y, Z)` integer labels.
        prediction: the same shape.
        values: the K label values, or regions, to count.
    """
    require_same_shape(reference, prediction)
    shape = (len(reference), len(values))
    counts = VoxelCounts(*(np.zeros(shape, np.int64) for _ in range(3)))
    for t in range(len(reference)):
        for k, value in enumerate(values):
            in_reference, in_prediction = class_mask(reference[t], value), class_mask(prediction[t], value)
            counts.tp[t, k] = tp = np.count_nonzero(in_reference & in_prediction)
            counts.fp[t, k] = np.count_nonzero(in_prediction) - tp
            counts.fn[t, k] = np.count_nonzero(in_reference) - tp
    return counts


def dice(counts: VoxelCounts) -> np.ndarray:
    """Return the Dice overlap `2 tp / (2 tp + fp + fn)`, `(T, K)` in [0, 1]; NaN where both are empty.

    Dice, "Measures of the amount of ecologic association between species", Ecology 1945.
    """
    denominator = (2 * counts.tp + counts.fp + counts.fn).astype(np.float64)
    undefined = np.full(denominator.shape, np.nan)
    return np.divide(2.0 * counts.tp, denominator, out=undefined, where=denominator > 0)


def require_same_shape(reference: np.ndarray, prediction: np.ndarray) -> None:
    """Raise ValueError unless both are (T, X, Y, Z) of one shape."""
    if reference.shape != prediction.shape or reference.ndim != 4:
        raise ValueError(
            f"got shapes {reference.shape} and {prediction.shape}, expected (T, X, Y, Z), one shape for both"
        )
