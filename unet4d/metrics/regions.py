"""Regions: classes that are unions of label values, so that they may overlap or nest, in nnU-Net's notation.

    "labels": {"background": 0, "whole heart": [1, 2, 3], "left heart": [2, 3], "left ventricle": 3},
    "regions_class_order": [1, 2, 3]

A network has one output per region, in this order. A prediction is painted region by region, later ones over earlier ones, each
with its value of "regions_class_order" (Isensee et al. 2021; nnU-Net, documentation/region_based_training.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from unet4d.errors import InputError
from unet4d.system.class_values import BACKGROUND, IGNORE_NAME, class_fault
from unet4d.system.text import short_repr, shorten_list

ORDER = "regions_class_order"


@dataclass(frozen=True)
class Region:
    """A union of label values.

    Attributes:
        values: the label values, ascending.
        paint: the one of them that a prediction of the region gets in a label map.
    """

    values: tuple[int, ...]
    paint: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"values": list(self.values), "paint": self.paint}


ClassValue = int | Region
"""A class in a label map: a label value, or a region."""
Regions = Mapping[str, Region]
"""Regions by name, in the order of a network's outputs; empty where the classes exclude one another."""


def class_mask(label: np.ndarray, value: ClassValue) -> np.ndarray:
    """Return where a label map of any shape has a class, bool."""
    return np.isin(label, value.values) if isinstance(value, Region) else label == value


def label_values(classes: Iterable[ClassValue]) -> list[int]:
    """Return the label values that some of the classes have, ascending."""
    return sorted({v for value in classes for v in (value.values if isinstance(value, Region) else (value,))})


def painted_value(value: ClassValue) -> int:
    """Return the label value that a prediction of the class gets."""
    return value.paint if isinstance(value, Region) else value


def describe_values(value: ClassValue) -> int | str:
    """Return a label value for a table; several as text, "1+2+3"."""
    return "+".join(map(str, value.values)) if isinstance(value, Region) else value


def classes_of(labels: Mapping[str, int], regions: Regions) -> dict[str, ClassValue]:
    """Return what is predicted and measured: the regions, or without any each foreground class."""
    return {**regions} or {name: value for name, value in labels.items() if value}


def region_classes(labels: Mapping[str, int], regions: Regions) -> tuple[tuple[int, ...], ...]:
    """Return the class indices of each region: the positions of its values among those of the labels, background first."""
    index = {value: k for k, value in enumerate(labels.values())}
    return tuple(tuple(index[value] for value in region.values) for region in regions.values())


def parse_regions(labels: Any, order: Any, what: str) -> tuple[Any, dict[str, Region]]:
    """Return the labels with one value per name, and the regions; the labels as they are, and none, where no list has two values.

    A label value has the name of the region that is this value alone, else "label 1" and the like. As in nnU-Net, a list of one
    value is that value, and without regions `order` means nothing.

    Args:
        labels: content of "labels".
        order: content of "regions_class_order".
        what: the file, for messages.

    Raises:
        InputError: a region without values, with the background, or with the values of another; an order of another length, or
            with a value that its region does not have.
    """
    if not isinstance(labels, dict):
        return labels, {}
    one_each = {
        name: value[0] if isinstance(value, list) and len(value) == 1 else value for name, value in labels.items()
    }
    if not any(isinstance(value, list) for value in one_each.values()):
        return one_each, {}
    beside = {name: value for name, value in one_each.items() if name in (BACKGROUND, IGNORE_NAME)}
    found = {name: _values(name, value, what) for name, value in one_each.items() if name not in beside}
    background = beside.get(BACKGROUND)
    fault = class_fault((name, number) for number, name in enumerate(found, 1))
    if fault or type(background) is not int or background:
        got = short_repr(labels)
        raise InputError(
            f'{what}: "labels" is {got}, expected {fault or "background at 0, beside the regions"}; correct it'
        )
    every = sorted({value for values in found.values() for value in values})
    alone = {values[0]: name for name, values in found.items() if len(values) == 1}
    named = [*beside.items(), *((alone.get(value, f"label {value}"), value) for value in every)]
    if fault := class_fault(named):
        raise InputError(f'{what}: "labels" is {short_repr(labels)}, expected {fault}; rename a region')
    twice = next((name for name, values in found.items() if list(found.values()).count(values) > 1), None)
    if twice is not None:
        names = " and ".join(name for name, values in found.items() if values == found[twice])
        raise InputError(
            f'{what}: "labels" has the values {list(found[twice])} for {names}, expected one region; remove one'
        )
    return dict(named), _painted(found, order, every, what)


def regions_from_dict(values: Any, what: str) -> dict[str, Region]:
    """Return regions of plain values, as `Region.as_dict` gives them by name. Raises InputError, which begins with `what`."""
    try:
        labels = {BACKGROUND: 0} | {name: list(region["values"]) for name, region in values.items()}
        order = [region["paint"] for region in values.values()]
        found = {name: _values(name, value, what) for name, value in labels.items() if name != BACKGROUND}
    except (LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{what} is {short_repr(values)}, expected label values by region; make it again") from error
    return _painted(found, order, sorted({v for region in found.values() for v in region}), what) if found else {}


def regions_entry(regions: Regions) -> dict[str, Any]:
    """Return "labels" and "regions_class_order" of dataset.json; the inverse of `parse_regions`."""
    values = {
        name: region.values[0] if len(region.values) == 1 else list(region.values) for name, region in regions.items()
    }
    return {"labels": {BACKGROUND: 0, **values}, ORDER: [region.paint for region in regions.values()]}


def _values(name: str, value: Any, what: str) -> tuple[int, ...]:
    """Return the values of a region."""
    values = value if isinstance(value, list) else [value]
    if not values or not all(type(v) is int and 0 < v <= 255 for v in values):
        raise InputError(
            f'{what}: "labels" has {short_repr(value)} for {short_repr(name)}, expected label values from 1 to 255, without the '
            "background; correct it"
        )
    return tuple(sorted(set(values)))


def _painted(found: Mapping[str, tuple[int, ...]], order: Any, every: list[int], what: str) -> dict[str, Region]:
    """Return the regions with the values that they are painted with."""
    where = f'{what}: "{ORDER}" is {"missing" if order is None else short_repr(order)}'
    if not isinstance(order, list) or len(order) != len(found):
        raise InputError(
            f"{where}, expected one label value for each of the {len(found)} regions {shorten_list(found)}; correct it"
        )
    for (name, values), value in zip(found.items(), order, strict=True):
        if value not in values or type(value) is not int:
            known = (
                f"which is in {shorten_list(n for n, v in found.items() if value in v)}"
                if value in every
                else "in no region"
            )
            raise InputError(
                f"{where}: got {short_repr(value)} for {name}, {known}, expected one of its values {list(values)}; correct it"
            )
    return {name: Region(values, value) for (name, values), value in zip(found.items(), order, strict=True)}
