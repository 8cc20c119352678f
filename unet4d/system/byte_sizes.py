"""Sizes of memory as people write them."""

from __future__ import annotations

import math
import re

from unet4d.errors import InputError

_UNITS = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}


def bytes_of(text: str, option: str) -> int:
    """Bytes of "8GB", "8000 MB", "7.5GiB"; of a number alone, GB.

    Args:
        option: whose value it is, for the message.

    Raises:
        InputError: anything else, or nothing above 0.
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-z]*)\s*", text.lower())
    unit = found[2] or "gb" if found else ""
    unit = unit if unit in _UNITS else f"{unit}b"
    size = float(found[1]) * _UNITS[unit] if found and unit in _UNITS else math.nan
    if not 1 <= size < math.inf:
        raise InputError(f"{option} is {text}; wanted a size above 0, such as 8GB, 8000MB, 8GiB or 8, which is 8 GB")
    return int(size)


def describe_bytes(size: float) -> str:
    """Bytes in the unit that suits them: 64.8 kB of 64800."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
