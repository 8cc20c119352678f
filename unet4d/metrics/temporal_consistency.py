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
    """The `single_frame_components`: how many in each frame, `(T, K)`, and their voxels, `(T, K)`, both int64.

    Args:
        label: `(T, X, Y, Z)` integer labels.
        values: the K label values to measure, above 0.
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
    label: np.ndarray, t: int, value: int | None, cyclic: bool
) -> tuple[tuple[slice, ...], np.ndarray, np.ndarray] | None:
    """The components of a class in a frame, and which of them live for that frame alone: the one home of what that means.

    A component is what hangs together in one frame by faces, edges or corners (26 neighbours). It lives one frame if no voxel of it
    has the class at its own place, or at one of the 26 around it, in the frame before or the frame after: in 4D, where voxels that
    share a corner belong together, a component of one frame. At the ends of an open series only the one neighbour counts; in a
    study of one frame nothing lives one frame.

    Args:
        label: `(T, X, Y, Z)` integer labels.
        t: the frame.
        value: of the class; None for all classes above 0 as one.
        cyclic: whether the last frame leads into the first.

    Returns:
        The box that holds them all; in it their numbers from 1, 0 elsewhere; and `(n + 1,)` bool, by number, whether it lives one
        frame. None where the class is not in the frame, or the frame has no neighbour.
    """
    from scipy import ndimage  # only when needed

    frames = len(label)
    beside = {(t - 1) % frames, (t + 1) % frames} if cyclic else {t - 1, t + 1} & set(range(frames))
    beside -= {t}
    tight = ndimage.find_objects(_mask(label[t], value).view(np.uint8), max_label=1)[
        0
    ]  # a frame costs ten times its box
    if tight is None or not beside:
        return None
    corners = np.ones((3, 3, 3), bool)
    box = tuple(slice(max(0, side.start - 1), side.stop + 1) for side in tight)
    numbered, count = ndimage.label(_mask(label[t][box], value), corners)
    near = np.zeros(numbered.shape, bool)
    for other in beside:
        near |= _mask(label[other][box], value)
    single = np.ones(count + 1, bool)
    single[numbered[ndimage.binary_dilation(near, corners)]] = False
    single[0] = False  # background
    return box, numbered, single


def _mask(frame: np.ndarray, value: int | None) -> np.ndarray:
    """Where a frame (X, Y, Z) has the value; where it has any class, for None."""
    return frame != 0 if value is None else frame == value
