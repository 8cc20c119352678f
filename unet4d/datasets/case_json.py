"""The parser of one case in dataset.json: its names, its files, its labelled frames and what was drawn of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unet4d.datasets.cases import Case
from unet4d.datasets.partial_labels import PARTIAL_KEYS, PartialLabels, parse_partial_labels
from unet4d.errors import InputError
from unet4d.images.nifti import case_name
from unet4d.metrics.vitals import VITAL_LIMITS, Vitals
from unet4d.system.class_values import LONGEST_NAME, is_name
from unet4d.system.safe_paths import path_inside
from unet4d.system.text import count, short_repr


def parse_case(
    item: Any, where: str, path: Path, channels: int, channels_last: bool, label_values: Sequence[int]
) -> Case:
    """Turn an entry of "training" or "test" that is as its schema describes it into a Case; the files need not exist.

    Args:
        item: the entry.
        where: which one it is, for messages.
        path: the dataset.json.
        channels: number of channels.
        channels_last: the single image file has channels, not frames, along its 4th axis.
        label_values: of the dataset's classes, background 0 included.

    Raises:
        InputError: a path, a name or a frame is not usable.
    """
    root = path.parent
    if isinstance(item, str):
        item = {"image": item}
    files = item["image"] if isinstance(item["image"], list) else [item["image"]]
    if len(files) != (1 if channels_last else channels):
        each = "one file with" if channels_last else "one file for each of"
        raise InputError(
            f"{where}: got {count(len(files), 'image file')}, expected {each} the {count(channels, 'channel')} that are named; "
            "correct it"
        )
    images = tuple(path_inside(file, f'{where}: "image"', root) for file in files)
    name = item["case"] if "case" in item else case_name(images[0])
    subject = item.get("subject", name)
    for key, value in (("case", name), ("subject", subject)):
        if not can_name_a_file(value):
            limit = f"without slashes, at most {LONGEST_NAME} bytes"
            raise InputError(f'{where}: "{key}" is {short_repr(value)}, expected a file name {limit}; rename it')
    label, frames = _parse_label(item, where, root)
    duration = item.get("frame_duration_s")
    known = {name: float(item[name]) for name in VITAL_LIMITS if item.get(name) is not None}
    vitals, partial = Vitals(**known), _parse_partial(item, where, frames, label_values)
    return Case(name, subject, images, label, frames, duration, channels_last, channels, vitals=vitals, partial=partial)


def can_name_a_file(value: object) -> bool:
    """Return whether a case or a subject of this name can name its output files, on any system."""
    if not isinstance(value, str) or not is_name(value) or value.startswith(".") or set(value) & set("/\\"):
        return False
    return len(value.encode()) <= LONGEST_NAME


def _parse_partial(
    item: Mapping[str, Any], where: str, frames: tuple[int, ...] | None, label_values: Sequence[int]
) -> PartialLabels:
    """Return what was drawn of the label, checked against the labelled frames as far as dataset.json has them."""
    partial = parse_partial_labels(item, where, label_values)
    if given := [key for key in PARTIAL_KEYS if key in item and item.get("label") is None]:
        raise InputError(f'{where}: got "{given[0]}" without "label", expected both; add "label", or leave it out')
    if frames is not None and (fault := partial.find_fault(frames)):
        raise InputError(f"{where}: {fault}")
    return partial


def _parse_label(
    item: Mapping[str, Any], where: str, root: Path
) -> tuple[Path | dict[int, Path] | None, tuple[int, ...] | None]:
    """Return the label file, or the files by frame, and the labelled frames (None: all)."""
    frames, label = item.get("labelled_frames"), item.get("label")
    if frames is not None and sorted(frames) != frames:
        raise InputError(f'{where}: "labelled_frames" is {short_repr(frames)}, expected increasing order; correct it')
    if not isinstance(label, dict):
        path = None if label is None else path_inside(label, f'{where}: "label"', root)
        return path, None if frames is None else tuple(frames)
    files = {int(t): path_inside(label[t], f'{where}: "label" of frame {t}', root) for t in sorted(label, key=int)}
    if frames is not None and frames != list(files):
        raise InputError(
            f'{where}: got "labelled_frames" {short_repr(frames)}, "label" has {list(files)}; leave one out'
        )
    return files, tuple(files)
