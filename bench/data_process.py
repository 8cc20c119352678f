"""A loader in a process of its own: the speed of its clips, and the memory of it and its workers."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from bench.data_loaders import Clips, Loaders

MB = 1e6
POLL_S = 0.1
TIMEOUT_S = 20
"""Seconds after which a process that was asked to end is killed."""


class Memory(NamedTuple):
    """Memory of a process and those below it; None where the system does not report it (only Linux does).

    Attributes:
        own_mb: their own pages, and batches in shared memory.
        mapped_mb: pages of mapped files, which the system takes back when it needs them.
    """

    own_mb: float | None
    mapped_mb: float | None


class LoaderProcess:
    """A process that makes loaders and loads from them when asked.

    Args:
        make: makes the loaders.
        clips: the clips to load.
        context: of multiprocessing; a process is started afresh, so that its memory is its own.
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

    def memory(self, name: str, workers: int, seconds: float) -> Memory:
        """Load batches likewise, and return the most memory of any moment. Not to be timed: watching takes time."""
        seen = [memory_mb(self.process.pid or 0)]
        self.pipe.send((name, workers, seconds))
        while not self.pipe.poll(POLL_S):
            seen.append(memory_mb(self.process.pid or 0))
        self.pipe.recv()
        own, mapped = (max(values) for values in zip(*seen, strict=True))
        return Memory(own or None, mapped or None)

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


def memory_mb(pid: int) -> tuple[float, float]:
    """Return own memory and mapped files of a process and all below it, in MB; what several share is counted once."""
    own = mapped = 0.0
    batches: dict[int, int] = {}
    for process in (Path(f"/proc/{number}") for number in _tree(pid)):
        with contextlib.suppress(OSError):  # not Linux, or the process has ended
            lines = (process / "smaps_rollup").read_text().splitlines()[1:]
            kilobytes = {name: int(amount) for name, amount, _ in map(str.split, lines)}
            own += 1024 * kilobytes["Pss_Anon:"] / MB
            mapped += 1024 * kilobytes["Pss_File:"] / MB
            batches |= _shared(process)
    return own + sum(batches.values()) / MB, mapped


def _shared(process: Path) -> dict[int, int]:
    """Return the bytes of a process's open shared memory by inode: batches wait there, mapped by no process."""
    found = {}
    for file in (process / "fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            if os.readlink(file).startswith("/dev/shm/"):
                about = file.stat()
                found[about.st_ino] = 512 * about.st_blocks
    return found


def _tree(pid: int) -> list[int]:
    """Return a process and all below it."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for process in found:  # grows on the way
        found += [child for child, parent in parents.items() if parent == process]
    return found
