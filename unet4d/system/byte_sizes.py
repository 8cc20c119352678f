"""Sizes of memory and of disks as text: read from options, and written in messages."""

from __future__ import annotations

import math
import re

from unet4d.errors import InputError

GB = 10**9
MOST_BYTES = 10**6 * GB
_UNITS = {f"{prefix}b": 1000**power for power, prefix in enumerate(("", "k", "m", "g", "t"))}
_UNITS |= {f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgt", 1)}


def bytes_of(text: str, option: str) -> int:
    """Return the bytes of "8GB", "8000 MB", "7.5GiB"; of a number alone, GB.

    Args:
        option: the option with this value, for the message.

    Raises:
        InputError: anything else, less than a byte or more than `MOST_BYTES`.
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-z]*)\s*", text.lower())
    unit = found[2] or "gb" if found else ""
    unit = unit if unit in _UNITS else f"{unit}b"
    size = float(found[1]) * _UNITS[unit] if found and unit in _UNITS else math.nan
    if not 1 <= size <= MOST_BYTES:
        raise InputError(
            f"{option} is {text}, expected a size above 0 and up to 1000000 GB, such as 8GB, 8000MB, 8GiB or 8, which is 8 GB"
        )
    return int(size)


def describe_bytes(size: float) -> str:
    """Return bytes in the unit that suits them, to three digits: 64.8 kB of 64800."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
