"""Explanations of failed DataLoader workers: why one died, and what to do."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np

from unet4d.errors import Unet4DError
from unet4d.pipeline.cached_study import CachedStudy
from unet4d.system.operating_system import SHARED_MEMORY, signal_number


def explain_worker_failure(
    error: Exception, processes: Iterable[BaseProcess], studies: Sequence[CachedStudy], workers: int
) -> Unet4DError | None:
    """Return the error for the user where workers failed; None where the error is not about a worker.

    The `processes` have ended by now. The files of the `studies` are checked for damage.

    Returns:
        Where a worker raised an Unet4DError, one of its type and message.
    """
    text = str(error)
    number = re.search(r"DataLoader worker \(pid(?:\(s\))? (\d+)", text)
    raised_in_worker = "in DataLoader worker process" in text
    if isinstance(error, Unet4DError):  # the last line of the worker's traceback is its message
        return type(error)(text.rstrip().rsplit("\n", 1)[-1].partition(": ")[2]) if raised_in_worker else None
    code = next((process.exitcode or 0 for process in processes if number and process.pid == int(number[1])), 0)
    fewer = f"lower data.num_workers, now {workers}"
    if "DataLoader timed out" in text:
        return Unet4DError("got no batch because a worker hangs, most often on a disk; check the disk of the dataset")
    if "Too many open files" in text or "received 0 items of ancdata" in text:
        return Unet4DError(f"the workers opened more files than this process may; ulimit -n 65536, or {fewer}")
    if not number and not raised_in_worker:
        return None
    if code and -code == signal_number("SIGKILL"):
        return Unet4DError(f"a worker was killed, most often because memory ran out; free memory, or {fewer}")
    if damaged := _damaged_file(studies):
        return Unet4DError(
            f"{damaged} was removed or cut short during training; delete its folder, and it is built again"
        )
    if (code and -code == signal_number("SIGBUS")) or "</torch_" in text:
        return Unet4DError(f"{SHARED_MEMORY} is full; docker run --ipc=host, or with a larger --shm-size; or {fewer}")
    if not number:
        return None
    ended = f"by the signal {signal.Signals(-code).name}" if code < 0 else "unexpectedly"
    return Unet4DError(f"a worker ended {ended}; see its error with --data.num_workers 0, or {fewer}")


def _damaged_file(studies: Sequence[CachedStudy]) -> Path | None:
    """Return a file of a study that is missing or shorter than what was mapped of it."""
    for study in studies:
        for array in (study.image, study.label, study.foreground):
            if isinstance(array, np.memmap) and array.filename is not None:
                path = Path(array.filename)
                if not path.exists() or path.stat().st_size < array.offset + array.nbytes:
                    return path
    return None
