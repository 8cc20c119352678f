"""Checks of plan before torch is imported: what must exist, and what must be writable.

The command line runs them first. `plan` runs them again, because Python code may call it directly.
"""

from __future__ import annotations

from pathlib import Path

from unet4d.datasets.dataset import open_dataset
from unet4d.errors import InputError
from unet4d.models.checkpoint import find_checkpoint
from unet4d.planning.plan_file import check_replaceable
from unet4d.system.byte_sizes import bytes_of
from unet4d.system.files import PathLike
from unet4d.system.text import short_repr

MOST_GPUS = 10**5
"""Largest number of GPUs that a plan is made for."""


def check_plan(
    dataset: PathLike, out: Path | None, gpu_memory: str | float, gpus: int = 1, init_from: PathLike | None = None
) -> None:
    """Check the arguments of `plan`, and that its `train.init_from` is there.

    Raises InputError, or Unet4DError where the file may not be written.
    """
    if gpu_memory != "auto":
        bytes_of(str(gpu_memory), "--gpu_memory")
    if not 1 <= gpus <= MOST_GPUS:
        raise InputError(
            f"got --gpus {short_repr(gpus)}, expected the GPUs that train together, 1 to {MOST_GPUS}; leave it out for one"
        )
    if out is not None:
        check_replaceable(out)
    open_dataset(dataset)
    if init_from is not None:
        find_checkpoint(init_from)
