"""A study wherever it lies and in whatever layout: its name, how it is read, what is known of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from unet4d.images.image4d import Image4D, ImageInfo
from unet4d.images.time_axis import TimeAxis

Label = tuple[np.ndarray, tuple[int, ...] | None]
"""(T, X, Y, Z) uint8 label values, and the labelled frames, ascending; None where every frame is labelled."""

SHORTEST_S, LONGEST_S = 1e-6, 1e9
"""Frame durations that can be: from the fastest sampling to follow-up over decades."""


def is_frame_duration(value: object) -> bool:
    """Return whether a value is a number of seconds that frames can be apart."""
    return type(value) in (int, float) and SHORTEST_S <= value <= LONGEST_S  # type: ignore[operator]


@dataclass(frozen=True, eq=False)
class FrameReader:
    """How a study is read that may be too large to be held.

    Attributes:
        outline: what it is like, from headers alone. Raises InputError, naming the file.
        frames: its frames, each (C, X, Y, Z) float32, from the first on. Raises InputError, naming the file.
    """

    outline: Callable[[], ImageInfo]
    frames: Callable[[], Iterator[np.ndarray]]


@dataclass(frozen=True, eq=False)
class Study:
    """A study that can be read; nothing of it is held.

    Attributes:
        name: unique in its source; what is written about it carries the name.
        subject: the person or animal.
        files: all that it is read from, so that none of them is overwritten.
        image: reads it. Raises InputError, naming the file.
        label: reads what somebody drew, given the image; None where nobody drew any. Raises InputError, naming the file.
        time: "cyclic" or "open"; None where nobody says.
        is_test: it belongs to a part that is kept from training.
        nifti: where it lies as 4D NIfTI, one file a channel: those files, which a conversion copies as they are.
        stream: how it is read frame by frame, if it is too large to be held; None where it cannot be.
    """

    name: str
    subject: str
    files: tuple[Path, ...]
    image: Callable[[], Image4D]
    label: Callable[[Image4D], Label] | None = None
    time: TimeAxis | None = None
    is_test: bool = False
    nifti: tuple[Path, ...] = ()
    stream: FrameReader | None = None


@dataclass(frozen=True, eq=False)
class Source:
    """Many studies of one layout, and what the layout says of them all.

    Attributes:
        name: of the collection.
        channel_names: in order.
        labels: class name to label value, background at 0; empty where nobody drew any.
        studies: in natural order of their names.
        channel_kinds: what each channel holds, see data/channels.py; empty: all are signal.
        time: "cyclic" or "open"; None where nobody says.
        about: further texts for dataset.json: "description", "reference", "licence".
        notes: lines to print of what was concluded from names.
        key: what the names of anonymised studies stand for, one row per study, the header first; nothing prints or writes it
            unless the user asks for it.
    """

    name: str
    channel_names: tuple[str, ...]
    labels: Mapping[str, int]
    studies: tuple[Study, ...]
    channel_kinds: tuple[str, ...] = ()
    time: TimeAxis | None = None
    about: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    key: tuple[tuple[str, ...], ...] = ()
