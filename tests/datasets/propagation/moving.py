"""A square that moves by whole voxels, and a registration that finds such motion exactly, in place of Greedy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.builders import write_dataset_json
from unet4d.images.image4d import Image4D, write_image

GRID = (16, 14, 3)
PLACES = ((4, 4), (5, 4), (6, 5), (7, 6), (6, 6), (5, 5))
"""Corner of the square in each frame of a cycle."""
LABELS = {"background": 0, "wall": 1, "cavity": 2}


class Shift:
    """Registration of frames that differ by a whole shift of all voxels; implements `Registration`."""

    def __init__(self, spacing_mm: Sequence[float] = (1.0, 1.0, 1.0)):
        self.registered: list[tuple[int, ...]] = []

    def register(self, fixed: np.ndarray, moving: np.ndarray) -> tuple[int, ...]:
        """Return the shift with the largest correlation."""
        found = np.fft.ifftn(np.fft.fftn(fixed) * np.conj(np.fft.fftn(moving))).real
        shift = np.unravel_index(found.argmax(), found.shape)
        self.registered.append(tuple(int(s) - n * (s > n // 2) for s, n in zip(shift, found.shape, strict=True)))
        return self.registered[-1]

    def compose(self, near: tuple[int, ...], far: tuple[int, ...]) -> tuple[int, ...]:
        """Return the sum of two shifts."""
        return tuple(a + b for a, b in zip(near, far, strict=True))

    def carry(self, shares: np.ndarray, deformation: tuple[int, ...]) -> np.ndarray:
        """Return the shares shifted; what leaves on one side enters on the other."""
        return np.roll(shares, deformation, axis=(1, 2, 3)).astype(np.float32)


class Nothing(Shift):
    """Registration that finds no motion."""

    def register(self, fixed: np.ndarray, moving: np.ndarray) -> tuple[int, ...]:
        """Return no shift."""
        return (0, 0, 0)


def labels_of(places: Sequence[tuple[int, int]] = PLACES) -> np.ndarray:
    """Return labels (T, X, Y, Z): a wall of one voxel around a cavity."""
    label = np.zeros((len(places), *GRID), np.uint8)
    for frame, (x, y) in zip(label, places, strict=True):
        frame[x : x + 5, y : y + 4, 1] = 1
        frame[x + 1 : x + 4, y + 1 : y + 3, 1] = 2
    return label


def image_of(label: np.ndarray) -> np.ndarray:
    """Return frames (T, X, Y, Z) float32 in which each class is brighter than the one before."""
    return np.float32(10) * label


def write_moving(root: Path, cases: Sequence[dict[str, Any]], **about: Any) -> Path:
    """Write a dataset of moving squares, a case for each entry; labels are drawn on the labelled frames alone."""
    label = labels_of()
    like = Image4D.from_array(image_of(label)[None], np.eye(4), 0.05)
    entries = []
    for number, given in enumerate(cases):
        entry = {"case": f"square{number}", "labelled_frames": [0, 3], **given}
        drawn = np.isin(np.arange(len(label)), entry["labelled_frames"])[:, None, None, None]
        write_image(root / f"images/{entry['case']}.nii.gz", image_of(label) + number, like=like)
        write_image(root / f"labels/{entry['case']}.nii.gz", np.where(drawn, label, 0), like=like)
        entries.append(entry)
    return write_dataset_json(root, entries, LABELS, time="cyclic", **about)
