"""Checks of settings: types, choices and ranges, with one line about the first that is wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from unet4d.errors import InputError
from unet4d.system.text import short_repr, shortened

_TYPES: dict[Any, str] = {
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    bool: "true or false",
    NoneType: "null",
    dict: "values by name {a: 1, b: 2}",
    tuple[int, int, int]: "three whole numbers [X, Y, Z]",
    list[int]: "a list of whole numbers [1, 2]",
    list[str]: "a list of names [a, b]",
    list[tuple[int, int, int]]: "a list of triples [[2, 2, 1], [2, 2, 2]]",
}


def require(holds: bool, name: str, got: object, expected: str) -> None:
    """Raise an InputError about the setting `name` unless a condition holds."""
    if not holds:
        raise InputError(
            f"{name} is {describe_value(got)}, expected {expected}; correct it in the config or on the command line"
        )


def require_class_path(name: str, path: str | None) -> None:
    """Raise an InputError about the setting `name` unless it is unset, or a dotted path."""
    parts = ["package", "Class"] if path is None else path.split(".")
    is_dotted = len(parts) > 1 and all(part.isidentifier() for part in parts)
    require(is_dotted, name, path, "a class as package.module.Class")


def describe_value(value: object) -> str:
    """Return a value for a message, a text without quotes, however large it is."""
    return shortened(value, 200) if isinstance(value, str) else short_repr(value)


def check_types(section: Any, name: str) -> None:
    """Check the type of every setting of a dataclass, and that it is one of its choices.

    Numbers must be finite, and texts free of null bytes.

    Raises:
        InputError: names the setting.
    """
    for key, kind in get_type_hints(type(section)).items():
        value = getattr(section, key)
        require(_fits(value, kind), f"{name}.{key}", value, describe_type(kind))


def check_ranges(section: Any, name: str, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Check that numbers, or all numbers in lists, lie in their ranges, ends included; None and words are left as they are.

    Raises:
        InputError: names the setting.
    """
    for key, (low, high) in ranges.items():
        value = getattr(section, key)
        for number in _numbers(value):
            require(number >= low, f"{name}.{key}", value, f"{low} or more")
            require(number <= high, f"{name}.{key}", value, f"{high} or less")


def _numbers(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return [number for item in value for number in _numbers(item)]
    return [] if value is None or isinstance(value, str) else [value]


def _fits(value: Any, kind: Any) -> bool:
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in get_args(kind))
    if origin in (list, tuple):  # how long a tuple must be is the setting's own check
        return isinstance(value, (list, tuple)) and all(_fits(item, get_args(kind)[0]) for item in value)
    if origin is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if kind is NoneType:
        return value is None
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        return isinstance(value, Integral) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, Real) and not isinstance(value, bool) and _is_finite(value)
    return isinstance(value, kind) and not (kind is str and "\0" in value)


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float can hold
        return False


def describe_type(kind: Any) -> str:
    """Return the type of a setting for a message: "a whole number, or null"."""
    if kind in _TYPES:
        return _TYPES[kind]
    if get_origin(kind) is dict:
        return _TYPES[dict]
    if get_origin(kind) is Literal:
        choices = ", ".join(map(str, get_args(kind)))
        return choices if len(get_args(kind)) == 1 else f"one of {choices}"
    if get_origin(kind) in (Union, UnionType):
        return ", or ".join(map(describe_type, get_args(kind)))
    return f"settings under it, such as {next(iter(get_type_hints(kind)))}"
