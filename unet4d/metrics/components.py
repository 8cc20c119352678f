"""Connected components of a class in each frame, their number and the largest's share; and the contact of two classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unet4d.metrics.regions import ClassValue, Region, class_mask


def count_components(label: np.ndarray, values: Sequence[ClassValue]) -> tuple[np.ndarray, np.ndarray]:
    """Count the components of each class in each frame, `(T, K)` int64, and measure the largest's share, `(T, K)`, 0 to 1.

    Voxels are connected by faces, so that a checkerboard falls apart. The share is 0 where the class is not in the frame.

    Args:
        label: `(T, X, Y, Z)` integer labels.
        values: the K label values, or regions, to measure, above 0.
    """
    from scipy import ndimage  # only when needed

    numbers = np.zeros((len(label), len(values)), np.int64)
    shares = np.zeros(numbers.shape)
    for t, frame in enumerate(label):
        boxes = ndimage.find_objects(frame, max_label=max((v for v in values if not isinstance(v, Region)), default=0))
        for k, value in enumerate(values):
            if isinstance(value, Region):
                [box] = ndimage.find_objects(class_mask(frame, value).view(np.uint8), max_label=1)
            else:
                box = boxes[value - 1]
            if box is not None:
                numbered, numbers[t, k] = ndimage.label(class_mask(frame[box], value))
                sizes = np.bincount(numbered.ravel())[1:]
                shares[t, k] = sizes.max() / sizes.sum()
    return numbers, shares


def contact_share(inside: np.ndarray, other: np.ndarray) -> float:
    """Return the share of the surface of a class that touches another one, over all frames: faces of voxels, 0 to 1.

    It is 0 where the class has no surface.

    Args:
        inside: `(T, X, Y, Z)` bool, the class.
        other: `(T, X, Y, Z)` bool, the class that it may touch.
    """
    surface = touching = 0
    for axis in (1, 2, 3):
        within, beyond = np.moveaxis(inside, axis, 0), np.moveaxis(other, axis, 0)
        for near, far in ((slice(None, -1), slice(1, None)), (slice(1, None), slice(None, -1))):
            faces = within[near] & ~within[far]
            surface += int(np.count_nonzero(faces))
            touching += int(np.count_nonzero(faces & beyond[far]))
    return touching / surface if surface else 0.0
