"""What a `dataset.json` says: its cases, channels and labels, and every check that needs no image.

The file is a superset of the Medical Segmentation Decathlon's, which is read as it is ("modality", labels by value,
test studies by path alone). Paths are relative to the folder it lies in, and stay in it, see data/inside.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unet4d.datasets.faults import Issue
from unet4d.datasets.study import LONGEST_S, SHORTEST_S, is_frame_duration
from unet4d.errors import InputError
from unet4d.images.channels import CHANNEL_KINDS, MAP, SIGNAL, velocity_axis
from unet4d.images.image4d import Image4D, ImageInfo, read_image, read_image_info
from unet4d.images.nifti import case_name
from unet4d.images.time_axis import TimeAxis, check_time_axis
from unet4d.system.class_values import LONGEST_NAME, class_fault, is_name
from unet4d.system.safe_paths import path_inside
from unet4d.system.text import count, short_repr, suggest_names

_DATASET_KEYS = (
    "name",
    "description",
    "reference",
    "licence",
    "license",
    "channel_names",
    "channel_kinds",
    "labels",
    "time",
)
_DECATHLON_KEYS = ("modality", "release", "relase", "tensorImageSize", "numTraining", "numTest")  # "relase": as shipped
_CASE_KEYS = ("case", "subject", "image", "label", "labelled_frames", "frame_duration_s")
_LISTED_MISSING = 5


@dataclass(frozen=True)
class Case:
    """One study of a dataset.

    Attributes:
        name: unique in the dataset; output files carry it.
        subject: the person or animal; the unit of every split.
        images: one file a channel, or a single file.
        label: a 4D file; or frame -> 3D file; None where there is none (test).
        labelled_frames: increasing; None where every frame is labelled.
        frame_duration_s: overrides the header's; None leaves it to the header.
        channels_last: the single image file holds channels, not frames, along its 4th axis.
        channels: how many channels the dataset names.
        channel_kinds: what each channel holds, see data/channels.py.
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

    @property
    def files(self) -> tuple[Path, ...]:
        """Its image files, then its label files."""
        labels = self.label.values() if isinstance(self.label, Mapping) else (self.label,)
        return (*self.images, *(label for label in labels if label is not None))

    def image(self) -> Image4D:
        """Read the study. Raises InputError as `read_image`, and for another number of channels."""
        image = read_image(self.images, channels_last=self.channels_last, kinds=self.channel_kinds)
        if self.channels_last and image.channels != self.channels:
            raise InputError(other_channels(self, image.channels))
        return image if self.frame_duration_s is None else replace(image, frame_duration_s=self.frame_duration_s)

    def outline(self) -> ImageInfo:
        """What the study is like, from the header of its first file alone; not for `channels_last`. Raises InputError."""
        outline = read_image_info(self.images, kinds=self.channel_kinds)
        return outline if self.frame_duration_s is None else replace(outline, frame_duration_s=self.frame_duration_s)


def other_channels(case: Case, came: int) -> str:
    """Return the message about a file with another number of channels than the dataset names."""
    return f"{case.images[0]}: got {count(came, 'channel')}, expected the {case.channels} that dataset.json names"


@dataclass(frozen=True)
class Dataset:
    """What a `dataset.json` says.

    Attributes:
        labels: (class name, value in the label files), by value, background (0) first. The class index is the place in
            this tuple; values may have gaps.
        time: "cyclic" (the last frame leads into the first) or "open"; None where the file does not say, which a
            network learns as open.
        channel_kinds: what each channel holds, see data/channels.py.
    """

    root: Path
    name: str
    channel_names: tuple[str, ...]
    labels: tuple[tuple[str, int], ...]
    time: TimeAxis | None
    training: tuple[Case, ...]
    test: tuple[Case, ...] = ()
    channel_kinds: tuple[str, ...] = (SIGNAL,)

    @property
    def class_names(self) -> tuple[str, ...]:
        """K names, background first."""
        return tuple(name for name, _ in self.labels)

    @property
    def label_values(self) -> tuple[int, ...]:
        """K values as in the label files, increasing; the place is the class index."""
        return tuple(value for _, value in self.labels)

    @property
    def cyclic(self) -> bool:
        """Whether the file says that the last frame leads into the first."""
        return self.time == "cyclic"

    @property
    def subjects(self) -> tuple[str, ...]:
        """The subjects of the training cases, sorted."""
        return tuple(sorted({case.subject for case in self.training}))

    def case(self, name: str) -> Case:
        """The training or test case of that name. Raises InputError with the nearest names."""
        for case in (*self.training, *self.test):
            if case.name == name:
                return case
        names = [case.name for case in (*self.training, *self.test)]
        raise InputError(
            f"{self.root}: there is no case {name!r}{suggest_names(name, names)}; wanted one of its {len(names)}"
        )


def parse_dataset(entry: Any, path: Path) -> Dataset:
    """Turn what the `dataset.json` at `path` holds into a Dataset; see `case_faults` for what it may yet be wrong with.

    Raises:
        InputError: it is no object, or a key, type or value in it is wrong; it lists no case.
    """
    _check_type(entry, dict, f"{path}", "an object { ... }")
    if "file_ending" in entry and "numTraining" in entry and "training" not in entry:
        raise InputError(
            f"{path} is nnU-Net's; convert it: unet4d convert nnunet {path.parent} --out DATASET, and give that"
        )
    _check_keys(entry, (*_DATASET_KEYS, *_DECATHLON_KEYS, "training", "test"), f"{path}")
    channel_names = _parse_channels(entry, path)
    channel_kinds = _parse_kinds(entry.get("channel_kinds", {}), len(channel_names), path)
    labels = _parse_labels(entry.get("labels"), path)
    time = check_time_axis(entry["time"], f'{path}: "time"', "correct it") if "time" in entry else None
    cases: dict[str, tuple[Case, ...]] = {}
    for part in ("training", "test"):
        _check_type(entry.get(part, []), list, f'{path}: "{part}"', "a list of cases [ ... ]")
        channels_last = "modality" in entry and len(channel_names) > 1
        cases[part] = tuple(
            replace(
                _parse_case(item, part, f'{path}: "{part}" entry {i}', path.parent, len(channel_names), channels_last),
                channel_kinds=channel_kinds,
            )
            for i, item in enumerate(entry.get(part, []))
        )
    if not any(cases.values()):
        raise InputError(f'{path}: no case came; wanted one or more under "training" (or "test", to predict only)')
    name = entry.get("name") or path.absolute().parent.name
    _check_type(name, str, f'{path}: "name"', "a text")
    if not is_name(name):
        raise InputError(f'{path}: "name" is {short_repr(name)}; wanted a text of at most {LONGEST_NAME} characters')
    return Dataset(path.parent, name, channel_names, labels, time, cases["training"], cases["test"], channel_kinds)


def _parse_channels(entry: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """The channels' names in order, from "channel_names" or the Decathlon's "modality"."""
    keys = [key for key in ("channel_names", "modality") if key in entry]
    if len(keys) != 1:
        raise InputError(f'{path}: {keys or "no channels"} came; wanted "channel_names": {{"0": "cine MRI"}}')
    names = entry[keys[0]]
    wanted = (
        f'{path}: "{keys[0]}" is {short_repr(names)}; wanted names by channel number, {{"0": "first", "1": "second"}}'
    )
    if not isinstance(names, dict) or not all(is_name(name) for name in names.values()):
        raise InputError(wanted)
    numbers = [str(i) for i in range(len(names))]
    if not numbers or set(names) != set(numbers):
        raise InputError(wanted)
    return tuple(names[number] for number in numbers)


def _parse_kinds(entry: Any, channels: int, path: Path) -> tuple[str, ...]:
    """The kind of each channel, from {"1": "velocity X"}; what is not named is signal."""
    known = ", ".join(CHANNEL_KINDS)
    wanted = (
        f'{path}: "channel_kinds" is {short_repr(entry)}; wanted kinds by channel number, {{"1": "map"}}, of {known}'
    )
    numbers = [str(i) for i in range(channels)]
    if (
        not isinstance(entry, dict)
        or not set(entry) <= set(numbers)
        or not all(isinstance(kind, str) and kind in CHANNEL_KINDS for kind in entry.values())
    ):
        raise InputError(wanted)
    kinds = tuple(entry.get(number, SIGNAL) for number in numbers)
    axes = [axis[0] for axis in map(velocity_axis, kinds) if axis]
    if kinds[0] == MAP or len(set(axes)) < len(axes):
        raise InputError(
            f"{wanted}; the first channel not a map, for it tells the frames, and each axis of velocity once"
        )
    return kinds


def _parse_labels(labels: Any, path: Path) -> tuple[tuple[str, int], ...]:
    """(name, value) by value, from {"name": value} or the Decathlon's {"value": "name"}."""
    wanted = (
        f'{path}: "labels" is {short_repr(labels)}; wanted values by name, {{"background": 0, "left ventricle": 1}}'
    )
    if not isinstance(labels, dict):
        raise InputError(wanted)
    if labels and all(isinstance(name, str) and _is_number(value) for value, name in labels.items()):
        pairs = [(name, int(value)) for value, name in labels.items()]
    elif all(type(value) is int for value in labels.values()):
        pairs = list(labels.items())
    else:
        raise InputError(wanted)
    if fault := class_fault(pairs):
        raise InputError(f"{wanted}: {fault}")
    pairs.sort(key=lambda pair: pair[1])
    if len(pairs) < 2 or pairs[0][1] != 0:
        raise InputError(f"{wanted}: background at 0, and another class or more")
    return tuple(pairs)


def _is_number(text: str) -> bool:
    """Return whether a key is a whole number from 0, short enough to be a label value or a frame."""
    return text.isascii() and text.isdecimal() and len(text) < 10


def _parse_case(item: Any, part: str, where: str, root: Path, channels: int, channels_last: bool) -> Case:
    """Turn one entry of "training" or "test" into a Case; the files need not exist."""
    if part == "test" and isinstance(item, str):
        item = {"image": item}
    _check_type(item, dict, where, 'an object { "case": ..., "image": ..., "label": ... }')
    if isinstance(item.get("case"), str):
        where = f"{where} (case {short_repr(item['case'])})"
    _check_keys(item, _CASE_KEYS, where)
    for key in ("image",) if part == "test" else ("image", "label"):
        if item.get(key) is None:
            raise InputError(f'{where}: "{key}" is missing; wanted {{ "case": ..., "image": ..., "label": ... }}')
    files = item["image"] if isinstance(item["image"], list) else [item["image"]]
    if len(files) != (1 if channels_last else channels):
        came, names = count(len(files), "image file") + " came", f"the {count(channels, 'channel')} that are named"
        raise InputError(
            f"{where}: {came}; wanted {'one file with' if channels_last else 'one file for each of'} {names}"
        )
    images = tuple(path_inside(file, f'{where}: "image"', root) for file in files)
    name = item["case"] if "case" in item else case_name(images[0])
    subject = item.get("subject", name)
    for key, value in (("case", name), ("subject", subject)):
        if not can_name_a_file(value):
            limit = f"without slashes and control characters, of at most {LONGEST_NAME} bytes"
            raise InputError(f'{where}: "{key}" is {short_repr(value)}; wanted a text that can name a file, {limit}')
    label, frames = _parse_label(item, where, root)
    duration = item.get("frame_duration_s")
    if duration is not None and not is_frame_duration(duration):
        limits = f"seconds above 0, from {SHORTEST_S:g} to {LONGEST_S:g}"
        raise InputError(f'{where}: "frame_duration_s" is {short_repr(duration)}; wanted {limits}, or no such key')
    return Case(name, subject, images, label, frames, duration, channels_last, channels)


def can_name_a_file(value: object) -> bool:
    """Return whether a case or a subject of this name can name the files that are written of it, on any system."""
    if not isinstance(value, str) or not is_name(value) or value.startswith(".") or set(value) & set("/\\"):
        return False
    return len(value.encode()) <= LONGEST_NAME


def _parse_label(
    item: Mapping[str, Any], where: str, root: Path
) -> tuple[Path | dict[int, Path] | None, tuple[int, ...] | None]:
    """Give the label file, or the files by frame, and the labelled frames (None: all)."""
    frames, label = item.get("labelled_frames"), item.get("label")
    if frames is not None:
        fine = isinstance(frames, list) and frames and all(type(t) is int and t >= 0 for t in frames)
        if not fine or sorted(set(frames)) != frames:
            wanted = "frame numbers from 0 in increasing order, each once, [0, 11]; leave it out if all are labelled"
            raise InputError(f'{where}: "labelled_frames" is {short_repr(frames)}; wanted {wanted}')
    if not isinstance(label, dict):
        path = None if label is None else path_inside(label, f'{where}: "label"', root)
        return path, None if frames is None else tuple(frames)
    if not label or not all(_is_number(key) and str(int(key)) == key for key in label):
        raise InputError(
            f'{where}: "label" has the frames {short_repr(list(label))}; wanted {{"0": "f0.nii.gz", "11": "f11.nii.gz"}}'
        )
    files = {int(t): path_inside(label[t], f'{where}: "label" of frame {t}', root) for t in sorted(label, key=int)}
    if frames is not None and frames != list(files):
        raise InputError(
            f'{where}: "labelled_frames" is {short_repr(frames)}, "label" has {short_repr(list(files))}; leave the first out'
        )
    return files, tuple(files)


def case_faults(dataset: Dataset) -> list[Issue]:
    """Names and subjects that stand where they must not, and files that are not there. Opens no file."""
    path, cases = dataset.root / "dataset.json", (*dataset.training, *dataset.test)
    found = [
        Issue(
            "case-twice", f"{path}: {times} cases are named {name}; wanted each name once; rename them", str(path), name
        )
        for name, times in Counter(case.name for case in cases).items()
        if times > 1
    ]
    shared = {case.subject for case in dataset.training} & {case.subject for case in dataset.test}
    found += [
        Issue(
            "subject-split",
            f"{path}: subject {one} is in training and in test; wanted either; move its cases",
            str(path),
        )
        for one in sorted(shared)
    ]
    missing = {(case.name, file): None for case in cases for file in case.files if not file.is_file()}
    found += [Issue("missing-file", _missing(path, [one]), str(one[1]), one[0]) for one in missing]
    return found


def check_cases(dataset: Dataset) -> None:
    """Raise InputError for the first kind of what `case_faults` finds; all missing files are one."""
    faults = case_faults(dataset)
    if faults and faults[0].kind == "missing-file":
        raise InputError(_missing(dataset.root / "dataset.json", [(fault.case, fault.file) for fault in faults]))
    if faults:
        raise InputError(faults[0].message)


def _missing(path: Path, files: Sequence[tuple[str, Path | str]]) -> str:
    """What is said of files, each with its case, that are not there."""
    listed = ", ".join(f"{case}: {file}" for case, file in files[:_LISTED_MISSING])
    more = f" and {len(files) - _LISTED_MISSING} more" if len(files) > _LISTED_MISSING else ""
    are = count(len(files), "file is", "files are")
    return f"{path}: {are} missing: {listed}{more}; add them or correct the paths"


def _check_type(value: Any, kind: type, where: str, wanted: str) -> None:
    if not isinstance(value, kind):
        raise InputError(f"{where} is of type {type(value).__name__}; wanted {wanted}")


def _check_keys(entry: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in entry:
        if key not in known:
            raise InputError(
                f"{where}: unknown key {short_repr(key)}{suggest_names(key, known)}; wanted keys of {', '.join(known)}"
            )
