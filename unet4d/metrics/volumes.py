"""Volume of each class in each frame, and the frames where it is extreme."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


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
