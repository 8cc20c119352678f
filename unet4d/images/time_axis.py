"""The time axis of a study: "cyclic", where the last frame leads into the first, or "open"."""

from __future__ import annotations

from typing import Literal, get_args

from unet4d.errors import InputError
from unet4d.system.text import short_repr

TimeAxis = Literal["cyclic", "open"]
TIME_AXES: tuple[TimeAxis, ...] = get_args(TimeAxis)


def time_axis(cyclic: bool) -> TimeAxis:
    """Return "cyclic" or "open"."""
    return "cyclic" if cyclic else "open"


def check_time_axis(value: object, name: str, fix: str) -> TimeAxis:
    """Return a value that is "cyclic" or "open"; `name` begins the message about any other, and `fix` ends it.

    Raises:
        InputError: it is neither.
    """
    if value not in TIME_AXES:
        raise InputError(f"{name} is {short_repr(value)}, expected {' or '.join(TIME_AXES)}; {fix}")
    return value
