"""Distances between the surfaces of label maps, in mm, per frame and class."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from unet4d.metrics.overlap import require_same_shape


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
    require_same_shape(reference, prediction)
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


def _crop(pair: np.ndarray) -> np.ndarray:
    """Crop `(2, X, Y, Z)` to the box of all its True voxels; outside an image is background, so no surface changes."""
    box = []
    for axis in (1, 2, 3):
        hit = np.flatnonzero(pair.any(axis=tuple(other for other in range(4) if other != axis)))
        box.append(slice(hit[0], hit[-1] + 1))
    return pair[:, box[0], box[1], box[2]]
