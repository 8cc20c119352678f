"""Overlap, surface distance and volume of 4D label maps, per frame and class: counts first, ratios after.

Every function takes integer label arrays `(T, X, Y, Z)` and the label `values` (K of them) to measure, and gives an
array `(T, K)`. Each frame is measured alone, so no distance ever runs through time and no frame is taken for a
background class. A quantity that is undefined is NaN here and blank, or null, on disk.

`EMPTY_CONVENTION` is the one home of what happens when a class is absent from a frame.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

EMPTY_CONVENTION = (
    "Per frame and class. Absent from both reference and prediction: Dice and HD95 are undefined, left out of every "
    "mean, counted in n_both_empty. Absent from exactly one of them: Dice is 0 and enters the mean; HD95 is undefined, "
    "left out of its mean, counted in n_one_empty. The n beside a mean is the number of values in it."
)


@dataclass(frozen=True)
class Counts:
    """Voxels per frame and class, each array `(T, K)` int64.

    Attributes:
        tp: in the class in both reference and prediction.
        fp: in the class in the prediction only.
        fn: in the class in the reference only.
    """

    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray

    @property
    def both_empty(self) -> np.ndarray:
        """`(T, K)` bool: the class is in neither reference nor prediction."""
        return (self.tp + self.fp + self.fn) == 0

    @property
    def one_empty(self) -> np.ndarray:
        """`(T, K)` bool: the class is in exactly one of reference and prediction."""
        return ((self.tp + self.fn) == 0) != ((self.tp + self.fp) == 0)


def count_voxels(reference: np.ndarray, prediction: np.ndarray, values: Sequence[int]) -> Counts:
    """Count true positive, false positive and false negative voxels.

    Args:
        reference: `(T, X, Y, Z)` integer labels.
        prediction: the same shape.
        values: the K label values to count.
    """
    _require_same_shape(reference, prediction)
    shape = (len(reference), len(values))
    counts = Counts(*(np.zeros(shape, np.int64) for _ in range(3)))
    for k, value in enumerate(values):
        for t in range(len(reference)):
            in_reference, in_prediction = reference[t] == value, prediction[t] == value
            tp = np.count_nonzero(in_reference & in_prediction)
            counts.tp[t, k] = tp
            counts.fp[t, k] = np.count_nonzero(in_prediction) - tp
            counts.fn[t, k] = np.count_nonzero(in_reference) - tp
    return counts


def dice(counts: Counts) -> np.ndarray:
    """Dice overlap `2 tp / (2 tp + fp + fn)`, `(T, K)` in [0, 1]; NaN where both are empty.

    Dice, "Measures of the amount of ecologic association between species", Ecology 1945.
    """
    denominator = (2 * counts.tp + counts.fp + counts.fn).astype(np.float64)
    undefined = np.full(denominator.shape, np.nan)
    return np.divide(2.0 * counts.tp, denominator, out=undefined, where=denominator > 0)


def hausdorff95_mm(
    reference: np.ndarray, prediction: np.ndarray, values: Sequence[int], spacing_mm: Sequence[float]
) -> np.ndarray:
    """95 % Hausdorff distance in mm, `(T, K)`; NaN where the class is absent from either.

    With R and P the surface voxels of reference and prediction,

        HD95 = max( q95 over p in P of min over r in R |p - r|,  q95 over r in R of min over p in P |r - p| )

    A surface voxel is a voxel of the class with a face neighbour outside it; beyond the image counts as outside.
    Distances run between voxel centres. An axis of length 1 is no axis: a single-slice study is measured in its plane,
    by its contour (in 3D every voxel of a single slice is surface, and the overlap would hide the contour's error).

    Huttenlocher et al., "Comparing images using the Hausdorff distance", IEEE TPAMI 1993; the percentile against
    single outlying voxels: Taha & Hanbury, "Metrics for evaluating 3D medical image segmentation", BMC Med Imaging 2015.

    Args:
        reference: `(T, X, Y, Z)` integer labels.
        prediction: the same shape.
        values: the K label values to measure.
        spacing_mm: voxel size along X, Y, Z.
    """
    _require_same_shape(reference, prediction)
    distances = np.full((len(reference), len(values)), np.nan)
    for t in range(len(reference)):  # one frame at a time: the masks of a large study need not fit together
        for k, value in enumerate(values):
            pair = np.stack([reference[t] == value, prediction[t] == value])
            if pair.any(axis=(1, 2, 3)).all():
                distances[t, k] = _frame_hausdorff95_mm(pair, spacing_mm)
    return distances


def _frame_hausdorff95_mm(pair: np.ndarray, spacing_mm: Sequence[float]) -> float:
    """HD95 of one frame's non-empty reference and prediction masks, `pair (2, X, Y, Z)` bool."""
    from monai.metrics import compute_hausdorff_distance  # seconds to import: only when needed

    axes = [axis for axis in range(3) if pair.shape[1 + axis] > 1] or [0]
    pair = _crop(pair)
    pair = pair.reshape(2, 1, 1, *(pair.shape[1 + axis] for axis in axes))  # (2, B, C, space)
    spacing = [float(spacing_mm[axis]) for axis in axes]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI 1.6 passes itself an argument it deprecates
        found = compute_hausdorff_distance(
            y_pred=pair[1], y=pair[0], include_background=True, percentile=95, spacing=spacing
        )
    return float(found)


def volumes_ml(label: np.ndarray, values: Sequence[int], voxel_ml: float) -> np.ndarray:
    """Volume of each class in each frame, `(T, K)` in mL, of a label `(T, X, Y, Z)`: voxels times `voxel_ml`."""
    counts = [[np.count_nonzero(frame == value) for value in values] for frame in label]
    return np.array(counts, np.float64).reshape(len(label), len(values)) * voxel_ml


def extreme_frames(volumes: np.ndarray) -> list[int]:
    """The frames where the class that changes most, of `volumes (T, K)`, is largest and smallest; none where K is 0.

    Of a heart these are end-diastole and end-systole.
    """
    if not volumes.size:
        return []
    k = int(np.argmax(np.ptp(volumes, axis=0)))
    return [int(np.argmax(volumes[:, k])), int(np.argmin(volumes[:, k]))]


def voxel_volume_ml(affine: np.ndarray) -> float:
    """Volume of one voxel in mL from a 4x4 affine in mm: `|det| / 1000`, right for sheared affines too."""
    return float(abs(np.linalg.det(np.asarray(affine, np.float64)[:3, :3]))) / 1000.0


def describe(values: np.ndarray) -> dict[str, float | int | None]:
    """Mean, median, standard deviation (n - 1) and n of the defined entries; None where there are too few."""
    defined = np.asarray(values, np.float64)
    defined = defined[np.isfinite(defined)]
    n = len(defined)
    return {
        "mean": float(defined.mean()) if n else None,
        "median": float(np.median(defined)) if n else None,
        "std": float(defined.std(ddof=1)) if n > 1 else None,
        "n": n,
    }


def shown(value: float | None, digits: int) -> str:
    """A figure for a table; a dash where it is undefined."""
    return "-" if value is None else f"{value:.{digits}f}"


def _crop(pair: np.ndarray) -> np.ndarray:
    """Crop `(2, X, Y, Z)` to the box of all its True voxels; outside an image is background, so no surface changes."""
    box = []
    for axis in (1, 2, 3):
        hit = np.flatnonzero(pair.any(axis=tuple(other for other in range(4) if other != axis)))
        box.append(slice(hit[0], hit[-1] + 1))
    return pair[:, box[0], box[1], box[2]]


def _require_same_shape(reference: np.ndarray, prediction: np.ndarray) -> None:
    if reference.shape != prediction.shape or reference.ndim != 4:
        raise ValueError(
            f"reference {reference.shape} and prediction {prediction.shape} must both be (T, X, Y, Z) of one shape"
        )
