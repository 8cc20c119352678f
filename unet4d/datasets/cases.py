"""`Case` and `Dataset`: one study of a dataset, and the content of a dataset.json."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from unet4d.datasets.partial_labels import WHOLE, PartialLabels
from unet4d.errors import InputError
from unet4d.images.channels import SIGNAL
from unet4d.images.image4d import Image4D, ImageInfo, read_image, read_image_info
from unet4d.images.time_axis import TimeAxis
from unet4d.metrics.cardiac_structures import Roles
from unet4d.metrics.regions import ClassValue, Regions, classes_of
from unet4d.metrics.vitals import UNKNOWN_VITALS, Vitals
from unet4d.system.text import count, suggest_names


@dataclass(frozen=True)
class Case:
    """One study of a dataset.

    Attributes:
        name: unique in the dataset; output files carry it.
        subject: the person or animal; the unit of every split.
        images: one file per channel, or a single file.
        label: a 4D file; or frame -> 3D file; None where there is none (test).
        labelled_frames: increasing; None where every frame is labelled.
        frame_duration_s: overrides the header's; None leaves it to the header.
        channels_last: the single image file has channels, not frames, along its 4th axis.
        channels: number of channels that the dataset names.
        channel_kinds: kind of each channel, see images/channels.py.
        vitals: height, weight and heart rate, where dataset.json has them.
        partial: what was drawn of the label, where that is not all.
    """

    name: str
    subject: str
    images: tuple[Path, ...]
    label: Path | Mapping[int, Path] | None = None
    labelled_frames: tuple[int, ...] | None = None
    frame_duration_s: float | None = None
    channels_last: bool = False
    channels: int = 1
    channel_kinds: tuple[str, ...] = (SIGNAL,)
    vitals: Vitals = UNKNOWN_VITALS
    partial: PartialLabels = WHOLE

    @property
    def files(self) -> tuple[Path, ...]:
        """Return its image files, then its label files."""
        labels = self.label.values() if isinstance(self.label, Mapping) else (self.label,)
        return (*self.images, *(label for label in labels if label is not None))

    @property
    def has_drawn_frame(self) -> bool:
        """Return whether it has a label, and a frame of it that was drawn, not propagated.

        The header of the image is read where every frame is labelled and some are propagated; one that is damaged counts as drawn,
        because reading the study reports it.
        """
        frames: Sequence[int] | None = self.labelled_frames
        if frames is None and self.partial.propagated:
            with contextlib.suppress(InputError):
                frames = range(1 if self.channels_last else self.info().frames)
        return self.label is not None and (frames is None or not set(frames) <= set(self.partial.propagated))

    def image(self) -> Image4D:
        """Read the study. Raises InputError as `read_image`, and for another number of channels."""
        image = read_image(self.images, channels_last=self.channels_last, kinds=self.channel_kinds)
        if self.channels_last and image.channels != self.channels:
            raise InputError(channel_count_message(self, image.channels))
        return image if self.frame_duration_s is None else replace(image, frame_duration_s=self.frame_duration_s)

    def info(self) -> ImageInfo:
        """Read the header of the first file alone; not for `channels_last`. Raises InputError."""
        info = read_image_info(self.images, kinds=self.channel_kinds)
        return info if self.frame_duration_s is None else replace(info, frame_duration_s=self.frame_duration_s)


def channel_count_message(case: Case, channels: int) -> str:
    """Return the message about a file with another number of channels than the dataset names."""
    return f"{case.images[0]}: got {count(channels, 'channel')}, expected the {case.channels} that dataset.json names; correct it"


@dataclass(frozen=True)
class Dataset:
    """The content of a dataset.json.

    Attributes:
        root: the folder of dataset.json.
        name: of the dataset.
        channel_names: in order.
        labels: (class name, value in the label files), by value, background (0) first. The class index is the position
            in this tuple; values may have gaps.
        time: "cyclic" (the last frame leads into the first) or "open"; None where unset, which trains as open.
        training: the cases to train and validate on.
        test: the cases to predict only.
        channel_kinds: kind of each channel, see images/channels.py.
        roles: the structure of a heart that a class is, or "other", where dataset.json says so.
        ignore: the value of undrawn voxels, "ignore" in labels; None: there is none. It is no class.
        regions: unions of the label values that are predicted and measured in place of them, see metrics/regions.py.
        velocity_unit: of velocity channels, "mm/s", "cm/s" or "m/s"; None where unset.
    """

    root: Path
    name: str
    channel_names: tuple[str, ...]
    labels: tuple[tuple[str, int], ...]
    time: TimeAxis | None
    training: tuple[Case, ...]
    test: tuple[Case, ...] = ()
    channel_kinds: tuple[str, ...] = (SIGNAL,)
    roles: Roles = field(default_factory=dict)
    ignore: int | None = None
    regions: Regions = field(default_factory=dict)
    velocity_unit: str | None = None

    @property
    def classes(self) -> dict[str, ClassValue]:
        """Return what is predicted and measured: the regions, or without any each foreground class."""
        return classes_of(dict(self.labels), self.regions)

    @property
    def cases(self) -> tuple[Case, ...]:
        """Return the training cases, then the test cases."""
        return (*self.training, *self.test)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return K names, background first."""
        return tuple(name for name, _ in self.labels)

    @property
    def label_values(self) -> tuple[int, ...]:
        """Return K values as in the label files, increasing; the position is the class index."""
        return tuple(value for _, value in self.labels)

    @property
    def ignored_value(self) -> int:
        """Return the value of ignored voxels in arrays of label values: `ignore`, or else the highest that is no class.

        Raises:
            InputError: each of the 256 values is a class.
        """
        if self.ignore is not None:
            return self.ignore
        free = set(range(256)) - set(self.label_values)
        if not free:
            raise InputError(
                f"{self.root}: got 256 classes, expected fewer where labels are partly drawn; leave one out"
            )
        return max(free)

    @property
    def has_whole_labels(self) -> bool:
        """Return whether dataset.json says that every label teaches every voxel, class and frame alike."""
        parts = (case.partial for case in self.training)
        return self.ignore is None and not any(p.has_slices or p.annotated or p.weights for p in parts)

    @property
    def cyclic(self) -> bool:
        """Return whether the last frame leads into the first."""
        return self.time == "cyclic"

    @property
    def subjects(self) -> tuple[str, ...]:
        """Return the subjects of the training cases, sorted."""
        return tuple(sorted({case.subject for case in self.training}))

    def case(self, name: str) -> Case:
        """Return the training or test case of that name. Raises InputError with the nearest names."""
        cases = {case.name: case for case in reversed(self.cases)}
        if name not in cases:
            near = suggest_names(name, cases)
            raise InputError(f"{self.root}: got the case {name!r}{near}, expected one of its {len(cases)}; correct it")
        return cases[name]
