"""`Study` and `Source`: studies of any layout, each with the functions that read it; nothing of them is in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from unet4d.datasets.partial_labels import WHOLE, PartialLabels
from unet4d.images.dicom.volume4d import SliceStack
from unet4d.images.image4d import Image4D, ImageInfo
from unet4d.images.time_axis import TimeAxis
from unet4d.metrics.cardiac_structures import Roles
from unet4d.metrics.regions import ClassValue, Regions, classes_of
from unet4d.metrics.vitals import UNKNOWN_VITALS, Vitals

StudyLabel = tuple[np.ndarray, tuple[int, ...] | None]
"""(T, X, Y, Z) uint8 label values, and the labelled frames, ascending; None where every frame is labelled."""

SHORTEST_FRAME_S, LONGEST_FRAME_S = 1e-6, 1e9
"""Possible frame durations: from the fastest sampling to follow-up over decades."""
FRAME_DURATION_LIMITS = f"seconds above 0, from {SHORTEST_FRAME_S:g} to {LONGEST_FRAME_S:g}"


def is_frame_duration(value: object) -> bool:
    """Return whether a value is a number of seconds that frames can be apart."""
    return type(value) in (int, float) and SHORTEST_FRAME_S <= value <= LONGEST_FRAME_S  # type: ignore[operator]


@dataclass(frozen=True, eq=False)
class FrameReader:
    """The functions that read a study frame by frame, because it may not fit in memory.

    Attributes:
        info: reads what headers alone give. Raises InputError, naming the file.
        frames: yields the frames, each (C, X, Y, Z) float32, from the first on. Raises InputError, naming the file.
    """

    info: Callable[[], ImageInfo]
    frames: Callable[[], Iterator[np.ndarray]]


@dataclass(frozen=True, eq=False)
class Study:
    """A study that can be read.

    Attributes:
        name: unique in its source, and part of the names of output files.
        subject: the person or animal.
        files: all files that it is read from, so that none of them is overwritten.
        image: reads it. Raises InputError, naming the file.
        label: reads its label, given the image; None where it is unlabelled. Raises InputError, naming the file.
        time: "cyclic" or "open"; None where unknown.
        is_test: it belongs to a part that is kept from training.
        nifti: its files where they are 4D NIfTI, one per channel, which a conversion copies as they are; else empty.
        stream: reads it frame by frame; None where that is not possible.
        vitals: height, weight and heart rate, where the source has them.
        dicom: where it is DICOM, the image of each frame and slice: frame t and slice z of its grid lie in `planes[t][z]`, X along
            the columns and Y along the rows of that image. Of several channels the first; None where it cannot be read.
        partial: what was drawn of the label, where that is not all.
        key: columns that link an anonymized name to a patient. They are written only where the user asks for it.
        velocity_unit: of velocity channels, "mm/s", "cm/s" or "m/s"; None where unknown.
    """

    name: str
    subject: str
    files: tuple[Path, ...]
    image: Callable[[], Image4D]
    label: Callable[[Image4D], StudyLabel] | None = None
    time: TimeAxis | None = None
    is_test: bool = False
    nifti: tuple[Path, ...] = ()
    stream: FrameReader | None = None
    vitals: Vitals = UNKNOWN_VITALS
    dicom: SliceStack | None = None
    partial: PartialLabels = WHOLE
    key: Mapping[str, str] = field(default_factory=dict)
    velocity_unit: str | None = None

    def frames(self) -> Iterator[np.ndarray]:
        """Yield its frames, each (C, X, Y, Z) float32, read one by one where that is possible."""
        return self.stream.frames() if self.stream else iter(self.image().array.swapaxes(0, 1))


@dataclass(frozen=True, eq=False)
class Source:
    """Many studies of one layout, and what they have in common.

    Attributes:
        name: of the collection.
        channel_names: in order.
        labels: class name to label value, background at 0; empty where all studies are unlabelled.
        studies: in natural order of their names.
        channel_kinds: kind of each channel, see images/channels.py; empty: all are signal.
        time: "cyclic" or "open"; None where unknown.
        roles: the structure of a heart that a class is, or "other", where the source says so.
        about: further texts for dataset.json: "description", "reference", "licence".
        notes: lines to print about conclusions from names.
        ignore: the value of undrawn voxels in labels; None: there are none. It is no class.
        regions: unions of the label values, see metrics/regions.py.
    """

    name: str
    channel_names: tuple[str, ...]
    labels: Mapping[str, int]
    studies: tuple[Study, ...]
    channel_kinds: tuple[str, ...] = ()
    time: TimeAxis | None = None
    roles: Roles = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    ignore: int | None = None
    regions: Regions = field(default_factory=dict)

    @property
    def classes(self) -> dict[str, ClassValue]:
        """Return the regions, or without any each foreground class."""
        return classes_of(self.labels, self.regions)
