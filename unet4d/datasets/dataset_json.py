"""The parser of dataset.json: names, channels, labels and time; case_json.py parses its cases, after dataset_schema.py checked it.

The file is a superset of the Medical Segmentation Decathlon's, which is read as it is ("modality", labels by value,
test studies by path alone). Paths are relative to its folder, and stay in it, see system/safe_paths.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from unet4d.datasets.case_json import parse_case
from unet4d.datasets.cases import Case, Dataset
from unet4d.datasets.dataset_schema import case_place, check_structure
from unet4d.datasets.partial_labels import split_ignore
from unet4d.errors import InputError
from unet4d.images.channels import CHANNEL_KINDS, MAP, SIGNAL, velocity_axis
from unet4d.images.time_axis import check_time_axis
from unet4d.metrics.cardiac_structures import parse_roles
from unet4d.metrics.regions import ORDER, classes_of, parse_regions
from unet4d.system.class_values import IGNORE, LONGEST_NAME, class_fault, is_name
from unet4d.system.text import short_repr


def parse_dataset(entry: Any, path: Path) -> Dataset:
    """Turn the content of the dataset.json at `path` into a Dataset; `find_case_issues` finds what is still wrong with it.

    Raises:
        InputError: it is no object, or a key, type or value in it is wrong; it lists no case.
    """
    if isinstance(entry, dict) and "file_ending" in entry and "numTraining" in entry and "training" not in entry:
        raise InputError(f"{path} is nnU-Net's; convert it: unet4d convert nnunet {path.parent} --out DATASET")
    check_structure(entry, f"{path}")
    entry = _whole_numbers(entry)
    channel_names = _parse_channels(entry, path)
    channel_kinds = _parse_kinds(entry.get("channel_kinds", {}), len(channel_names), path)
    one_each, regions = parse_regions(entry.get("labels"), entry.get(ORDER), str(path))
    labels, ignore = _parse_labels(one_each, path)
    values = [value for _, value in labels]
    roles = parse_roles(entry.get("roles", {}), list(classes_of(dict(labels), regions)), f'{path}: "roles"')
    time = check_time_axis(entry["time"], f'{path}: "time"', "correct it") if "time" in entry else None
    cases: dict[str, tuple[Case, ...]] = {}
    channels_last = "modality" in entry and len(channel_names) > 1
    for part in ("training", "test"):
        parsed = (
            parse_case(item, case_place(item, part, i, f"{path}"), path, len(channel_names), channels_last, values)
            for i, item in enumerate(entry.get(part, []))
        )
        cases[part] = tuple(replace(case, channel_kinds=channel_kinds) for case in parsed)
    if not any(cases.values()):
        raise InputError(f'{path}: got no case, expected one or more; list them under "training" or "test"')
    name = entry.get("name") or path.absolute().parent.name
    if not is_name(name):
        raise InputError(
            f'{path}: "name" is {short_repr(name)}, expected at most {LONGEST_NAME} characters; correct it'
        )
    about = (path.parent, name, channel_names, labels, time)
    parts = (cases["training"], cases["test"])
    return Dataset(*about, *parts, channel_kinds, roles, ignore, regions, entry.get("velocity_unit"))


def parse_channel_names(names: Any, what: str) -> tuple[str, ...]:
    """Return names in order of {"0": "first", "1": "second"}. Raises InputError, which begins with `what`."""
    numbers = [str(i) for i in range(len(names))] if isinstance(names, dict) else []
    if not numbers or set(names) != set(numbers) or not all(map(is_name, names.values())):
        raise InputError(
            f'{what} is {short_repr(names)}, expected names by number, {{"0": "first", "1": "second"}}; correct it'
        )
    return tuple(names[number] for number in numbers)


def _parse_channels(entry: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """Return the channels' names in order, from "channel_names" or the Decathlon's "modality"."""
    key = "channel_names" if "channel_names" in entry else "modality"
    return parse_channel_names(entry[key], f'{path}: "{key}"')


def _parse_kinds(entry: Any, channels: int, path: Path) -> tuple[str, ...]:
    """Return the kind of each channel, from {"1": "velocity X"}; an unnamed channel is a signal."""
    error = InputError(
        f'{path}: "channel_kinds" is {short_repr(entry)}, expected kinds by channel number, {{"1": "map"}}, of '
        f"{', '.join(CHANNEL_KINDS)}; the first channel is no map, because its frames count, and each axis of velocity "
        "comes once; correct it"
    )
    numbers = [str(i) for i in range(channels)]
    if not set(entry) <= set(numbers):
        raise error
    kinds = tuple(entry.get(number, SIGNAL) for number in numbers)
    axes = [axis[0] for axis in map(velocity_axis, kinds) if axis]
    if kinds[0] == MAP or len(set(axes)) < len(axes):
        raise error
    return kinds


def _parse_labels(labels: Any, path: Path) -> tuple[tuple[tuple[str, int], ...], int | None]:
    """Return (name, value) by value, from {"name": value} or the Decathlon's {"value": "name"}; and the value of "ignore"."""
    wrong = (
        f'{path}: "labels" is {short_repr(labels)}, expected values by name, {{"background": 0, "left ventricle": 1}}'
    )
    is_decathlon = any(isinstance(name, str) for name in labels.values())
    pairs = [(name, int(value)) for value, name in labels.items()] if is_decathlon else list(labels.items())
    if fault := class_fault(pairs):
        raise InputError(f"{wrong}: {fault}")
    pairs, ignore = split_ignore(pairs, f'{path}: "labels"')
    pairs.sort(key=lambda pair: pair[1])
    if len(pairs) < 2 or pairs[0][1] != 0:
        raise InputError(f"{wrong}: background at 0, and another class or more")
    if len(pairs) > IGNORE:
        raise InputError(f"{wrong}: at most {IGNORE} classes, because one index is of ignored voxels")
    return tuple(pairs), ignore


def _whole_numbers(value: Any) -> Any:
    """Return a value of JSON with 1.0 as 1, because both are the same number in JSON."""
    if isinstance(value, dict):
        return {key: _whole_numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_whole_numbers(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
