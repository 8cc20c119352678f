"""A loader in a process of its own, and the speed of its clips."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from bench.data_loaders import Clips, Loaders

TIMEOUT_S = 20
"""Seconds after which a process that was asked to end is killed."""


class LoaderProcess:
    """A process that makes loaders and loads from them when asked.

    Args:
        make: makes the loaders.
        clips: the clips to load.
        context: of multiprocessing; a process is started afresh, so that it shares nothing.
    """

    def __init__(self, make: Callable[[Clips], Loaders], clips: Clips, context: Any):
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, make, clips))
        self.process.start()
        theirs.close()
        self.names: list[str] = self.pipe.recv()

    def seconds_per_clip(self, name: str, workers: int, seconds: float) -> float:
        """Load batches for this many seconds or a little longer; return the seconds per clip."""
        self.pipe.send((name, workers, seconds))
        return self.pipe.recv()

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self.pipe.send(None)
        self.process.join(TIMEOUT_S)
        self.process.kill()


def _serve(pipe: Connection, make: Callable[[Clips], Loaders], clips: Clips) -> None:
    multiprocessing.set_start_method(None, force=True)  # workers start as in training, not as this process did
    warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores: they are asked for
    loaders = make(clips)
    pipe.send(list(loaders))
    while (asked := pipe.recv()) is not None:
        name, workers, seconds = asked
        pipe.send(seconds_per_clip(loaders[name](workers), max(1, workers), seconds))


def seconds_per_clip(batches: Any, workers: int, seconds: float) -> float:
    """Return the seconds per clip, measured over `seconds` or a little more.

    The clock starts with the first batch of the last worker, when all work and no batch is ready, and stops after as many batches
    of each.
    """
    batches = iter(batches)
    for _ in range(workers):
        next(batches)
    clips, began = 0, time.perf_counter()
    while True:
        clips += sum(len(next(batches)) for _ in range(workers))
        taken = time.perf_counter() - began
        if taken >= seconds:
            return taken / clips
