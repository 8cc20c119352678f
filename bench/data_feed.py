"""A loader in a process of its own: how many clips it delivers, and what it and its workers hold of the memory meanwhile."""

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

from bench.data_loaders import Drawn, Feeds

MB = 1e6
POLL_S = 0.1
LEAVE_S = 20
"""After so long a process that was asked to end is killed."""


class Memory(NamedTuple):
    """Memory of a process and those below it; None where the system does not tell (only Linux does).

    Attributes:
        own_mb: their own pages, and the batches on their way in shared memory.
        mapped_mb: pages of files that they look at, which the system takes back whenever it needs them.
    """

    own_mb: float | None
    mapped_mb: float | None


class Feed:
    """A process that makes loaders and delivers from them when asked.

    Args:
        make: makes them, from
        drawn: what they draw.
        context: how the process is started; afresh, so that it holds nothing of anybody else's.
    """

    def __init__(self, make: Callable[[Drawn], Feeds], drawn: Drawn, context: Any):
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, make, drawn))
        self.process.start()
        theirs.close()
        self.names: list[str] = self.pipe.recv()

    def seconds_per_clip(self, name: str, workers: int, seconds: float) -> float:
        """Take batches for so many seconds or a little longer; gives seconds a clip."""
        self.pipe.send((name, workers, seconds))
        return self.pipe.recv()

    def memory(self, name: str, workers: int, seconds: float) -> Memory:
        """The same, watched: the most that is held at any moment. Not to be timed, for watching takes time."""
        seen = [held(self.process.pid or 0)]
        self.pipe.send((name, workers, seconds))
        while not self.pipe.poll(POLL_S):
            seen.append(held(self.process.pid or 0))
        self.pipe.recv()
        own, mapped = (max(values) for values in zip(*seen, strict=True))
        return Memory(own or None, mapped or None)

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self.pipe.send(None)
        self.process.join(LEAVE_S)
        self.process.kill()


def _serve(pipe: Connection, make: Callable[[Drawn], Feeds], drawn: Drawn) -> None:
    multiprocessing.set_start_method(None, force=True)  # workers start as in training, not as this process did
    warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores: they are asked for
    feeds = make(drawn)
    pipe.send(list(feeds))
    while (asked := pipe.recv()) is not None:
        name, workers, seconds = asked
        pipe.send(delivered(feeds[name](workers), max(1, workers), seconds))


def delivered(batches: Any, workers: int, seconds: float) -> float:
    """Seconds a clip, over `seconds` or a little more.

    The clock starts with the first batch of the last worker, when all are at work and nothing lies ready, and stops after as many
    batches of each.
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


def held(pid: int) -> tuple[float, float]:
    """MB of a process and all below it: own memory, mapped files; what several share is counted once."""
    own = mapped = 0.0
    batches: dict[int, int] = {}
    for process in (Path(f"/proc/{number}") for number in _tree(pid)):
        with contextlib.suppress(OSError):  # not Linux, or the process is no more
            lines = (process / "smaps_rollup").read_text().splitlines()[1:]
            kilobytes = {name: int(amount) for name, amount, _ in map(str.split, lines)}
            own += 1024 * kilobytes["Pss_Anon:"] / MB
            mapped += 1024 * kilobytes["Pss_File:"] / MB
            batches |= _shared(process)
    return own + sum(batches.values()) / MB, mapped


def _shared(process: Path) -> dict[int, int]:
    """Bytes of the shared memory that a process holds open, by inode: batches on their way lie there, mapped by nobody."""
    found = {}
    for file in (process / "fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            if os.readlink(file).startswith("/dev/shm/"):
                about = file.stat()
                found[about.st_ino] = 512 * about.st_blocks
    return found


def _tree(pid: int) -> list[int]:
    """A process and all below it."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for process in found:  # grows on the way
        found += [child for child, parent in parents.items() if parent == process]
    return found
