"""Clocks that a run is timed by, wall time or CPU time of a process and its workers, and durations read from text."""

from __future__ import annotations

import os
import re
import time

from unet4d.errors import InputError
from unet4d.system.operating_system import living_children_s

SLURM, SLURM_END = "slurm", "SLURM_JOB_END_TIME"
MOST_S = 366 * 86400.0
"""The longest duration that may be asked for, in seconds."""
_UNITS_S = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION = "".join(rf"(?:(\d+(?:\.\d+)?)\s*{unit})?\s*" for unit in _UNITS_S)


def seconds_of(text: str) -> float | None:
    """Return the seconds of "90s", "40m", "1h30m" or "2d"; None of anything else, of less than 1 s and of more than a year."""
    found = re.fullmatch(_DURATION, text.strip().lower())
    parts = zip(found.groups(), _UNITS_S.values(), strict=True) if found else ()
    seconds = sum(float(number) * unit_s for number, unit_s in parts if number)
    return seconds if 1 <= seconds <= MOST_S else None


def slurm_seconds_left() -> float:
    """Return the seconds until the end of the Slurm job that this process belongs to.

    Raises:
        InputError: the environment does not name the end.
    """
    end = os.environ.get(SLURM_END, "")
    if not end.isdecimal():
        raise InputError(
            f"got train.time_budget {SLURM} and {SLURM_END} {end or 'unset'}, expected the end of the job in seconds since 1970; "
            f"name a time, such as --train.time_budget 8h, or set it: "
            f'export {SLURM_END}=$(date -d "$(squeue -h -j $SLURM_JOB_ID -o %e)" +%s)'
        )
    return int(end) - time.time()


def cpu_seconds() -> float:
    """Return the CPU seconds of this process, of the children it has waited for (on Windows not of these), and of living ones."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system + living_children_s()
