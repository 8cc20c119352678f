"""Temporal consistency of label maps: overlap of neighboring frames, and components that exist in a single frame.

The last frame of a cyclic study leads into its first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unet4d.metrics.regions import ClassValue, class_mask


def frame_to_frame_dice(label: np.ndarray, values: Sequence[ClassValue], cyclic: bool) -> np.ndarray:
    """Return the Dice overlap of each frame with the next, `(pairs, K)`; NaN where the class is in neither.

    There are T - 1 pairs, and with a cyclic study of 3 frames or more one from the last frame to the first.

    Args:
        label: `(T, X, Y, Z)` integer labels.
        values: the K label values, or regions, to measure.
        cyclic: whether the last frame leads into the first.
    """
    pairs = frame_pairs(len(label), cyclic)
    found = np.full((len(pairs), len(values)), np.nan)
    for k, value in enumerate(values):
        for i, (t, after) in enumerate(pairs):
            here, there = class_mask(label[t], value), class_mask(label[after], value)
            size = np.count_nonzero(here) + np.count_nonzero(there)
            if size:
                found[i, k] = 2.0 * np.count_nonzero(here & there) / size
    return found


def frame_pairs(frames: int, cyclic: bool) -> list[tuple[int, int]]:
    """Return the number of each frame with that of the next."""
    pairs = [(t, t + 1) for t in range(frames - 1)]
    return [*pairs, (frames - 1, 0)] if cyclic and frames > 2 else pairs


def flicker(label: np.ndarray, values: Sequence[ClassValue], cyclic: bool) -> tuple[np.ndarray, np.ndarray]:
    """Count the components that exist in a single frame, `(T, K)`, and their voxels, `(T, K)`, both int64.

    Args:
        label: `(T, X, Y, Z)` integer labels.
        values: the K label values, or regions, to measure, above 0.
        cyclic: whether the last frame leads into the first.
    """
    components, voxels = (np.zeros((len(label), len(values)), np.int64) for _ in range(2))
    for t in range(len(label)):
        for k, value in enumerate(values):
            found = single_frame_components(label, t, value, cyclic)
            if found is not None:
                _, numbered, single = found
                components[t, k] = np.count_nonzero(single)
                voxels[t, k] = np.bincount(numbered.ravel(), minlength=len(single))[single].sum()
    return components, voxels


def single_frame_components(
    label: np.ndarray, t: int, value: ClassValue | None, cyclic: bool
) -> tuple[tuple[slice, ...], np.ndarray, np.ndarray] | None:
    """Find the components of a class in a frame, and which of them exist in that frame alone.

    A component is connected within its frame by faces, edges or corners (26 neighbors). It exists in a single frame if neither
    neighboring frame has the class at one of its voxels or at one of the 26 around them. At the ends of an open series only one
    neighbor counts. A study of one frame has no such components.

    Args:
        label: `(T, X, Y, Z)` integer labels.
        t: the frame.
        value: of the class; None for all classes above 0 as one.
        cyclic: whether the last frame leads into the first.

    Returns:
        The box around them all; in it their numbers from 1, 0 elsewhere; and `(n + 1,)` bool, by number, whether the component
        exists in this frame alone. None where the class is not in the frame, or the frame has no neighbor.
    """
    from scipy import ndimage  # only when needed

    frames = len(label)
    beside = {(t - 1) % frames, (t + 1) % frames} if cyclic else {t - 1, t + 1} & set(range(frames))
    beside -= {t}
    tight = ndimage.find_objects(_mask(label[t], value).view(np.uint8), max_label=1)[0]
    if tight is None or not beside:
        return None
    corners = np.ones((3, 3, 3), bool)  # of the structuring element: all 26 neighbors
    box = tuple(slice(max(0, side.start - 1), side.stop + 1) for side in tight)
    numbered, count = ndimage.label(_mask(label[t][box], value), corners)
    near = np.zeros(numbered.shape, bool)
    for other in beside:
        near |= _mask(label[other][box], value)
    single = np.ones(count + 1, bool)
    single[numbered[ndimage.binary_dilation(near, corners)]] = False
    single[0] = False  # background
    return box, numbered, single


def _mask(frame: np.ndarray, value: ClassValue | None) -> np.ndarray:
    """Return where a frame (X, Y, Z) has the value; for None, where it has any class."""
    return frame != 0 if value is None else class_mask(frame, value)
