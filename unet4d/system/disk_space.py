"""Free space on the disk of a folder that need not exist yet."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from unet4d.errors import Unet4DError
from unet4d.system.byte_sizes import describe_bytes


def free_disk_bytes(folder: str | os.PathLike[str]) -> int:
    """Return what is free on the disk that a folder lies on, or will lie on."""
    folder = Path(folder).absolute()
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.is_dir())).free


def check_disk_space(folder: str | os.PathLike[str], needed_bytes: float, purpose: str, advice: str) -> None:
    """Raise Unet4DError where a disk has less room than needed.

    Args:
        folder: what is written to.
        needed_bytes: size of what is written.
        purpose: what is written, for the message.
        advice: what to do, beside freeing space, for the message.
    """
    free = free_disk_bytes(folder)
    if needed_bytes > free:
        raise Unet4DError(
            f"{folder} needs {describe_bytes(needed_bytes)} for {purpose}, and {describe_bytes(free)} are free: its disk is full; "
            f"free space or {advice}"
        )
