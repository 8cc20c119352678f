"""One phantom study, the description of a dataset of them, and the checks that all phantoms share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet4d.config import Size
from unet4d.errors import InputError
from unet4d.images.time_axis import TimeAxis
from unet4d.system.text import short_repr

Array = NDArray[np.floating[Any]]
Seed = int | Sequence[int]
MOST_FRAMES = 10_000


@dataclass(frozen=True)
class PhantomStudy:
    """One subject's study and all that is known about it.

    Attributes:
        channels: whole numbers as a scanner stores them, each (T, X, Y, Z), or (X, Y, Z) where the channel is a map.
        label: (T, X, Y, Z).
        affine: (4, 4), voxel to mm (RAS).
        frame_duration_s: seconds from frame to frame.
        volumes_ml: (T, K), of the label.
        shape_volumes_ml: (T, K), of the smooth shape before it was sampled into voxels; NaN for the background.
        labelled_frames: the two frames that a rater labels who labels two only.
        truth: the subject's entry in truth/subjects.json.
    """

    channels: tuple[Array, ...]
    label: NDArray[np.uint8]
    affine: NDArray[np.float64]
    frame_duration_s: float
    volumes_ml: NDArray[np.float64]
    shape_volumes_ml: NDArray[np.float64]
    labelled_frames: tuple[int, int]
    truth: dict[str, Any]

    @property
    def image(self) -> Array:
        """Return the first channel, (T, X, Y, Z)."""
        return self.channels[0]


@dataclass(frozen=True)
class PhantomType:
    """One type of phantom: the entries of its dataset.json, and the function that makes a study of a seed."""

    name: str
    description: str
    channel_names: tuple[str, ...]
    channel_kinds: tuple[str, ...]
    labels: Mapping[str, int]
    time: TimeAxis
    make: Callable[[Seed], PhantomStudy]


def label_volumes(label: NDArray[np.uint8], classes: int, voxel_ml: float) -> NDArray[np.float64]:
    """Return volumes in mL (T, K) of a label (T, X, Y, Z)."""
    counts = [np.count_nonzero(label == value, axis=(1, 2, 3)) for value in range(classes)]
    return np.stack(counts, axis=1) * voxel_ml


def check_size(frames: int, shape: Size | None, smallest: Size) -> None:
    """Raise InputError for no frame, and for a shape that the anatomy does not fit into."""
    if frames < 1:
        raise InputError(f"frames is {frames}; a study has at least 1: give --frames 1 or more")
    if frames > MOST_FRAMES:
        raise InputError(f"frames is {short_repr(frames)}, expected at most {MOST_FRAMES}; give fewer --frames")
    if shape is not None and (len(shape) != 3 or any(n < least for n, least in zip(shape, smallest, strict=True))):
        raise InputError(f"shape is {tuple(shape)}; the phantom needs (X, Y, Z) of at least {smallest}")
