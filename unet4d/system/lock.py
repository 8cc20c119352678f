"""One training at a time writes into a run's folder."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from unet4d.errors import InputError

PATIENCE_S = 20.0
"""How long a folder is waited for: the workers of a training that was killed leave it some seconds after."""


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold a run's folder, which is made where it is missing; however this process ends, the system lets go of it.

    Where the system or the file system knows no such locks, it holds nothing.

    Raises:
        InputError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    run.mkdir(parents=True, exist_ok=True)
    folder = os.open(run, os.O_RDONLY)
    try:
        tried_s = time.monotonic()
        while True:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() - tried_s > PATIENCE_S:
                    raise InputError(
                        f"{run} is being written to by another training; wait for it or stop it, or choose a new --out"
                    ) from error
                time.sleep(0.2)
            except OSError:  # of a network file system that cannot
                break
        yield
    finally:
        os.close(folder)
