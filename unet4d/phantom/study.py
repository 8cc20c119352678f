"""What every kind of phantom gives: one study with its exact labels, and what is said of the whole dataset."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet4d.errors import InputError
from unet4d.system.text import short_repr

Array = NDArray[np.floating[Any]]
Seed = int | Sequence[int]
Shape = tuple[int, int, int]
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
        shape_volumes_ml: (T, K), of the smooth shape before it was cut into voxels; NaN for the background.
        drawn_frames: those that a rater draws who draws two.
        truth: the subject's entry in truth/subjects.json.
    """

    channels: tuple[Array, ...]
    label: NDArray[np.uint8]
    affine: NDArray[np.float64]
    frame_duration_s: float
    volumes_ml: NDArray[np.float64]
    shape_volumes_ml: NDArray[np.float64]
    drawn_frames: tuple[int, int]
    truth: dict[str, Any]

    @property
    def image(self) -> Array:
        """The first channel, (T, X, Y, Z)."""
        return self.channels[0]


@dataclass(frozen=True)
class Kind:
    """A kind of phantom: what its dataset.json says, and how a study is made.

    Attributes:
        check: raises InputError where no study can be made of this many frames, share of ambiguous frames and shape.
        make: the study of a seed, frames, share of ambiguous frames and shape (X, Y, Z), which is drawn if None; the same arguments
            give the same arrays.
    """

    name: str
    description: str
    channel_names: tuple[str, ...]
    channel_kinds: tuple[str, ...]
    labels: Mapping[str, int]
    time: str
    check: Callable[[int, float, Shape | None], None]
    make: Callable[[Seed, int, float, Shape | None], PhantomStudy]


def volumes_of(label: NDArray[np.uint8], classes: int, voxel_ml: float) -> NDArray[np.float64]:
    """Volumes in mL (T, K) of a label (T, X, Y, Z)."""
    counts = [np.count_nonzero(label == value, axis=(1, 2, 3)) for value in range(classes)]
    return np.stack(counts, axis=1) * voxel_ml


def check_size(frames: int, shape: Shape | None, smallest: Shape) -> None:
    """Raise InputError for no frame, and for a shape that the anatomy does not fit into."""
    if frames < 1:
        raise InputError(f"frames is {frames}; a study has at least 1: give --frames 1 or more")
    if frames > MOST_FRAMES:
        raise InputError(f"frames is {short_repr(frames)}, expected at most {MOST_FRAMES}; give fewer --frames")
    if shape is not None and (len(shape) != 3 or any(n < least for n, least in zip(shape, smallest, strict=True))):
        raise InputError(f"shape is {tuple(shape)}; the phantom needs (X, Y, Z) of at least {smallest}")


def check_intact(frames: int, ambiguous: float, shape: Shape | None, smallest: Shape) -> None:
    """As `check_size`, for a kind of phantom whose frames are never spoilt."""
    check_size(frames, shape, smallest)
    if ambiguous != 0:
        raise InputError(f"ambiguous is {ambiguous}; only the cine phantom has ambiguous frames: leave it out")
