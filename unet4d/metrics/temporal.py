"""What a label map does from one frame to the next: how much of a class stays, and what lives for one frame alone.

A cyclic study's last frame leads into its first. Volume curves are measured in `curves.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def frame_to_frame_dice(label: np.ndarray, values: Sequence[int], cyclic: bool) -> np.ndarray:
    """Dice of each frame with the next, `(pairs, K)`; NaN where the class is in neither.

    There are T - 1 pairs, and with a cyclic study of 3 frames or more one from the last frame to the first.

    Args:
        label: `(T, X, Y, Z)` integer labels.
        values: the K label values to measure.
        cyclic: whether the last frame leads into the first.
    """
    pairs = frame_pairs(len(label), cyclic)
    found = np.full((len(pairs), len(values)), np.nan)
    for k, value in enumerate(values):
        for i, (t, after) in enumerate(pairs):
            here, there = label[t] == value, label[after] == value
            size = np.count_nonzero(here) + np.count_nonzero(there)
            if size:
                found[i, k] = 2.0 * np.count_nonzero(here & there) / size
    return found


def frame_pairs(frames: int, cyclic: bool) -> list[tuple[int, int]]:
    """Each frame's number with that of the next."""
    pairs = [(t, t + 1) for t in range(frames - 1)]
    return [*pairs, (frames - 1, 0)] if cyclic and frames > 2 else pairs


def flicker(label: np.ndarray, values: Sequence[int], cyclic: bool) -> tuple[np.ndarray, np.ndarray]:
    """Components that live one frame: how many in each frame, `(T, K)`, and their voxels, `(T, K)`, both int64.

    A component is what hangs together in one frame of a class by faces, edges or corners (26 neighbours). It flickers if none of
    its voxels has the class in the frame before or the frame after. At the ends of an open study there is one of them; in a study
    of one frame nothing flickers.

    Args:
        label: `(T, X, Y, Z)` integer labels.
        values: the K label values to measure, above 0.
        cyclic: whether the last frame leads into the first.
    """
    from scipy import ndimage  # only when needed

    components, voxels = (np.zeros((len(label), len(values)), np.int64) for _ in range(2))
    neighbours: dict[int, set[int]] = {t: set() for t in range(len(label))}
    for t, after in frame_pairs(len(label), cyclic):
        neighbours[t].add(after)
        neighbours[after].add(t)
    for t, near in neighbours.items():
        boxes = dict(enumerate(ndimage.find_objects(label[t]), 1)) if near else {}  # of each value
        for k, value in enumerate(values):
            box = boxes.get(value)
            if box is None:
                continue
            numbered, count = ndimage.label(label[t][box] == value, np.ones((3, 3, 3)))
            stays = np.zeros(count + 1, bool)
            stays[0] = True  # background
            for other in near:
                stays[numbered[label[other][box] == value]] = True
            sizes = np.bincount(numbered.ravel(), minlength=count + 1)
            components[t, k] = np.count_nonzero(~stays)
            voxels[t, k] = sizes[~stays].sum()
    return components, voxels
