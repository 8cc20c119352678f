"""Checks of the names and values of a dataset's classes, for every place that names classes."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

BACKGROUND = "background"
IGNORE_NAME = "ignore"
"""Name in "labels" of the value of undrawn voxels; it is the highest, as in nnU-Net (Isensee et al. 2021)."""
IGNORE = 255
"""Class index of ignored voxels in a label: they are undrawn, and of no class."""
LONGEST_NAME = 200
"""Characters of a class, a channel, a case or a subject; what is longer cannot name a file."""
_NOT_IN_NAMES = ("Cc", "Cs")
"""Unicode categories of control characters and lone surrogates; pages and terminals escape what else is not visible."""


def class_fault(pairs: Iterable[tuple[object, object]]) -> str:
    """Return what is wrong with pairs of class name and label value; empty where nothing is.

    Two names are the same class where they differ by case and white space alone, because a table cannot tell them apart.
    """
    pairs = list(pairs)
    names = [name for name, _ in pairs]
    if not all(is_name(name) for name in names):
        return f"each name a text of 1 to {LONGEST_NAME} characters, without control characters"
    if not all(type(value) is int and 0 <= value <= 255 for _, value in pairs):
        return "each name and each value once, whole values from 0 to 255"
    plain = [" ".join(str(name).split()).casefold() for name in names]
    if any(name == BACKGROUND and value != 0 for name, (_, value) in zip(plain, pairs, strict=True)):
        return "background at 0"
    doubled = _doubled([value for _, value in pairs])
    if doubled:
        of = f"{IGNORE_NAME!r} and of a class" if (IGNORE_NAME, doubled[0]) in pairs else "two classes"
        return f"each name and each value once, and {doubled[0]} is the value of {of}"
    doubled = _doubled(plain)
    return f"each name and each value once, and {doubled[0]!r} is the name of two classes" if doubled else ""


def is_name(value: object) -> bool:
    """Return whether a value is a text that can name a class, a channel, a case or a subject."""
    if not isinstance(value, str) or not value.strip() or len(value) > LONGEST_NAME:
        return False
    return value.isprintable() or not any(unicodedata.category(letter) in _NOT_IN_NAMES for letter in value)


def _doubled(values: Sequence[object]) -> list[object]:
    return [value for value in dict.fromkeys(values) if values.count(value) > 1]
