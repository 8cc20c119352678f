"""The parser of one case in dataset.json: its names, its files, its labelled frames and what was drawn of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unet4d.datasets.cases import Case
from unet4d.datasets.partial_labels import PARTIAL_KEYS, PartialLabels, parse_partial_labels
from unet4d.datasets.study import FRAME_DURATION_LIMITS, is_frame_duration
from unet4d.errors import InputError
from unet4d.images.nifti import case_name
from unet4d.metrics.vitals import VITAL_LIMITS, Vitals, is_vital
from unet4d.system.class_values import LONGEST_NAME, is_name
from unet4d.system.safe_paths import path_inside
from unet4d.system.text import count, short_repr, suggest_names

_CASE_KEYS = (
    *("case", "subject", "image", "label", "labelled_frames", "frame_duration_s"),
    *PARTIAL_KEYS,
    *VITAL_LIMITS,
)
_EXAMPLE = '{ "case": ..., "image": ..., "label": ... }'


def parse_case(
    item: Any, part: str, number: int, path: Path, channels: int, channels_last: bool, label_values: Sequence[int]
) -> Case:
    """Turn entry `number` of "training" or "test" into a Case; the files need not exist. Raises InputError."""
    root, where = path.parent, f'{path}: "{part}" entry {number}'
    if part == "test" and isinstance(item, str):
        item = {"image": item}
    check_type(item, dict, where, f"an object {_EXAMPLE}")
    if isinstance(item.get("case"), str):
        where = f"{where} (case {short_repr(item['case'])})"
    check_keys(item, _CASE_KEYS, where)
    for key in ("image",) if part == "test" else ("image", "label"):
        if item.get(key) is None:
            raise InputError(f'{where}: "{key}" is missing, expected {_EXAMPLE}; add it')
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
    if duration is not None and not is_frame_duration(duration):
        raise InputError(
            f'{where}: "frame_duration_s" is {short_repr(duration)}, expected {FRAME_DURATION_LIMITS}; correct it'
        )
    vitals, partial = _parse_vitals(item, where), _parse_partial(item, where, frames, label_values)
    return Case(name, subject, images, label, frames, duration, channels_last, channels, vitals=vitals, partial=partial)


def can_name_a_file(value: object) -> bool:
    """Return whether a case or a subject of this name can name its output files, on any system."""
    if not isinstance(value, str) or not is_name(value) or value.startswith(".") or set(value) & set("/\\"):
        return False
    return len(value.encode()) <= LONGEST_NAME


def is_whole_number(text: str) -> bool:
    """Return whether a key is a whole number from 0, short enough to be a label value or a frame."""
    return text.isascii() and text.isdecimal() and len(text) < 10


def check_type(value: Any, kind: type, where: str, expected: str) -> None:
    """Raise InputError unless a value is of this type."""
    if not isinstance(value, kind):
        raise InputError(f"{where} is of type {type(value).__name__}, expected {expected}; correct it")


def check_keys(entry: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    """Raise InputError for a key that is not known."""
    for key in entry:
        if key not in known:
            near = suggest_names(key, known)
            raise InputError(f"{where}: unknown key {short_repr(key)}{near}, expected {', '.join(known)}; correct it")


def _parse_vitals(item: Mapping[str, Any], where: str) -> Vitals:
    """Return height, weight and heart rate, where they are given."""
    known = {name: item[name] for name in VITAL_LIMITS if item.get(name) is not None}
    for name, value in known.items():
        if not is_vital(name, value):
            low, high = VITAL_LIMITS[name]
            raise InputError(
                f'{where}: "{name}" is {short_repr(value)}, expected a number from {low:g} to {high:g}; correct it'
            )
    return Vitals(**{name: float(value) for name, value in known.items()})


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
    if frames is not None:
        are_numbers = isinstance(frames, list) and frames and all(type(t) is int and t >= 0 for t in frames)
        if not are_numbers or sorted(set(frames)) != frames:
            raise InputError(
                f'{where}: "labelled_frames" is {short_repr(frames)}, expected frame numbers from 0 in increasing order, each '
                "once, [0, 11]; leave it out if all are labelled"
            )
    if not isinstance(label, dict):
        path = None if label is None else path_inside(label, f'{where}: "label"', root)
        return path, None if frames is None else tuple(frames)
    if not label or not all(is_whole_number(key) and str(int(key)) == key for key in label):
        raise InputError(
            f'{where}: "label" has the frames {short_repr(list(label))}, expected frame numbers; give '
            '{"0": "f0.nii.gz", "11": "f11.nii.gz"}'
        )
    files = {int(t): path_inside(label[t], f'{where}: "label" of frame {t}', root) for t in sorted(label, key=int)}
    if frames is not None and frames != list(files):
        raise InputError(
            f'{where}: got "labelled_frames" {short_repr(frames)}, "label" has {list(files)}; leave one out'
        )
    return files, tuple(files)
