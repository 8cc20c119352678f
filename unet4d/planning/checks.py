"""Checks of plan before torch is imported, which takes seconds: what must exist, and what must be writable.

The command line runs them first. The functions behind the commands run them again, because Python code may call those directly.
This module and all that it imports are light; a test holds that.
"""

from __future__ import annotations

import math
from pathlib import Path

from unet4d.datasets.dataset import open_dataset
from unet4d.errors import InputError
from unet4d.planning.plan_file import check_replaceable
from unet4d.system.checks import describe_value
from unet4d.system.files import PathLike
from unet4d.system.text import short_repr

MOST_GB, MOST_GPUS = 10**6, 10**5
"""The largest GPU, and number of GPUs, that a plan is made for."""


def check_plan(dataset: PathLike, out: Path, gpu_memory: str | float, gpus: int = 1) -> None:
    """Check what `plan` is given. Raises InputError, or Unet4DError where the file may not be written."""
    if gpu_memory != "auto":
        gpu_size_gb(gpu_memory)
    if not 1 <= gpus <= MOST_GPUS:
        raise InputError(
            f"--gpus is {short_repr(gpus)}; wanted how many GPUs train together, 1 or more, at most {MOST_GPUS}"
        )
    check_replaceable(out)
    open_dataset(dataset)


def gpu_size_gb(text: str | float) -> float:
    """Return the size of a GPU in GB. Raises InputError for what is no such size."""
    try:
        size = float(text)
    except ValueError:
        size = math.nan
    except OverflowError:
        size = math.inf
    if not 0 < size <= MOST_GB:
        raise InputError(
            f"--gpu-memory is {describe_value(text)}; wanted a number of GB above 0, such as 24, or auto; at most {MOST_GB}"
        )
    return size
