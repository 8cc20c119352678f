"""Surface distances of label maps, per frame and class: 95 % Hausdorff distance, average distance, surface Dice.

A surface voxel is a voxel of the class with a face neighbor outside it; beyond the image counts as outside. Distances run
between voxel centers, in mm. An axis of length 1 is no axis: a single-slice study is measured in its plane, by its contour (in 3D
every voxel of a single slice is surface, and the overlap would hide the contour's error).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unet4d.metrics.overlap import require_same_shape
from unet4d.metrics.regions import ClassValue, class_mask

TOLERANCE_MM = 2.0
_ROUNDING_MM = 1e-6  # a distance of exactly the tolerance is within it, whatever its last bits


@dataclass(frozen=True)
class SurfaceScores:
    """Arrays `(T, K)`.

    Attributes:
        hd95_mm: 95 % Hausdorff distance; NaN where the class is absent from reference or prediction.
        asd_mm: average symmetric surface distance; NaN there too.
        nsd: normalized surface Dice in [0, 1]; 0 where the class is absent from exactly one, NaN where it is from both.
    """

    hd95_mm: np.ndarray
    asd_mm: np.ndarray
    nsd: np.ndarray


def surface_scores(
    reference: np.ndarray,
    prediction: np.ndarray,
    values: Sequence[ClassValue],
    spacing_mm: Sequence[float],
    tolerance_mm: float = TOLERANCE_MM,
    ignored: np.ndarray | None = None,
) -> SurfaceScores:
    """Measure the distances between the surfaces of two label maps, each once for all three scores.

    With R and P the surface voxels of reference and prediction, d(p, R) the distance from p to the nearest of R,

        HD95 = max( q95 over P of d(p, R),  q95 over R of d(r, P) )
        ASD  = ( sum over P of d(p, R) + sum over R of d(r, P) ) / ( |P| + |R| )
        NSD  = ( |{p: d(p, R) <= tolerance}| + |{r: d(r, P) <= tolerance}| ) / ( |P| + |R| )

    HD: Huttenlocher et al., "Comparing images using the Hausdorff distance", IEEE TPAMI 1993; the percentile against single
    outlying voxels: Taha & Hanbury, "Metrics for evaluating 3D medical image segmentation", BMC Med Imaging 2015. ASD: Heimann et
    al., "Comparison and evaluation of methods for liver segmentation from CT datasets", IEEE TMI 2009. NSD: Nikolov et al.,
    "Clinically applicable segmentation of head and neck anatomy for radiotherapy", J Med Internet Res 2021, its areas counted in
    surface voxels.

    Args:
        reference: `(T, X, Y, Z)` integer labels.
        prediction: the same shape.
        values: the K label values, or regions, to measure.
        spacing_mm: voxel size along X, Y, Z.
        tolerance_mm: how far two surfaces may lie apart and be the same.
        ignored: the same shape, bool: voxels of unknown class, which are of none in both label maps. A surface is only where a
            known voxel lies outside the class, so a face towards ignored voxels is none; without any surface, all three are NaN.
    """
    require_same_shape(reference, prediction)
    hd95, asd, nsd = (np.full((len(reference), len(values)), np.nan) for _ in range(3))
    for t in range(len(reference)):  # one frame at a time: the masks of a large study need not fit together
        for k, value in enumerate(values):
            pair = np.stack([class_mask(reference[t], value), class_mask(prediction[t], value)])
            there = pair.any(axis=(1, 2, 3))
            if there.all():
                ahead, back = _distances_mm(pair, spacing_mm, None if ignored is None else ignored[t])
                if not len(ahead) or not len(back):
                    continue
                both = np.concatenate([ahead, back])
                hd95[t, k] = max(np.percentile(ahead, 95), np.percentile(back, 95))
                asd[t, k] = both.mean()
                nsd[t, k] = np.mean(both <= tolerance_mm + _ROUNDING_MM)
            elif there.any():
                nsd[t, k] = 0.0
    return SurfaceScores(hd95, asd, nsd)


def _distances_mm(
    pair: np.ndarray, spacing_mm: Sequence[float], ignored: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance from each surface voxel of one mask to the nearest of the other, and back.

    Args:
        pair: (2, X, Y, Z) bool, neither mask empty.
        spacing_mm: along X, Y and Z.
        ignored: (X, Y, Z) bool; None: none is.
    """
    from scipy.ndimage import binary_erosion, find_objects  # takes a while to import: only when needed
    from scipy.spatial import cKDTree

    axes = [axis for axis in range(3) if pair.shape[1 + axis] > 1] or [0]
    spacing = np.array([float(spacing_mm[axis]) for axis in axes])
    box = find_objects(pair.any(axis=0).view(np.uint8))[0]
    if ignored is not None:  # those beside the class matter
        box = tuple(slice(max(0, side.start - 1), side.stop + 1) for side in box)
    pair = pair[(slice(None), *box)]  # outside an image is background, so no surface changes
    pair = pair.reshape(2, *(pair.shape[1 + axis] for axis in axes))
    hidden = False if ignored is None else ignored[box].reshape(pair.shape[1:])
    reference, prediction = (np.argwhere(mask & ~binary_erosion(mask | hidden)) * spacing for mask in pair)
    return cKDTree(reference).query(prediction)[0], cKDTree(prediction).query(reference)[0]
