"""Samples of foreground voxels, which patches are centered on."""

from __future__ import annotations

import numpy as np

from unet4d.images.grid import IGNORE

FOREGROUND_VOXELS = 10_000
"""Voxels kept per labelled frame and class, evenly spread: as in nnU-Net."""


def foreground_voxels(label: np.ndarray) -> np.ndarray:
    """Return drawn foreground voxels of (L, X, Y, Z) class indices, at most `FOREGROUND_VOXELS` per frame and class.

    Returns:
        (N, 5) int32, rows (l, class, x, y, z) sorted by l, then class, then place.
    """
    rows = [np.zeros((0, 5), np.int32)]
    for row, frame in enumerate(label):
        for class_ in np.unique(frame[(frame > 0) & (frame != IGNORE)]):
            voxels = np.argwhere(frame == class_)
            if len(voxels) > FOREGROUND_VOXELS:
                voxels = voxels[np.linspace(0, len(voxels) - 1, FOREGROUND_VOXELS).astype(int)]
            place = np.broadcast_to([row, class_], (len(voxels), 2))
            rows.append(np.hstack([place, voxels]).astype(np.int32))
    return np.concatenate(rows)
