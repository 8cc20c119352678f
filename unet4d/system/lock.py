"""Exclusive locks between processes: on the folder of a run, and on the tables of a folder of predictions."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from unet4d.errors import InputError
from unet4d.system.operating_system import open_to_lock, try_lock, unlock

LOCK_PATIENCE_S = 20.0
"""Longest wait for a lock: the workers of a killed training release it some seconds later; a process may be suspended."""


@contextlib.contextmanager
def exclusive_lock(path: Path, patience_s: float | None = None) -> Iterator[bool | None]:
    """Hold a lock on a file or folder; the system releases it however this process ends.

    Network file systems lock only what is open for writing, so a file is the safer choice; a missing file is created. On Windows a
    file in a folder stands for the folder, so that neither can be removed or renamed before the end.

    Yields:
        Whether the lock is held: False after `patience_s` (`LOCK_PATIENCE_S`) in which another process held it; None where the
        system or the file system has no locks.
    """
    descriptor, is_held = open_to_lock(path), None
    try:
        end_s = time.monotonic() + (LOCK_PATIENCE_S if patience_s is None else patience_s)
        while (is_held := try_lock(descriptor)) is False and time.monotonic() <= end_s:
            time.sleep(0.02)
        yield is_held
    finally:
        if is_held:
            unlock(descriptor)
        os.close(descriptor)


@contextlib.contextmanager
def lock_run(run: Path) -> Iterator[None]:
    """Hold the folder of a run, which is created where it is missing, so that one training at a time writes to it.

    Raises:
        InputError: another process holds it.
    """
    run.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(run) as is_held:
        if is_held is False:
            raise InputError(
                f"{run} is being written to by another training; wait for it or stop it, or choose a new --out"
            )
        yield
