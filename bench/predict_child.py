"""A prediction in a process of its own, started afresh, so that what it holds is nobody else's."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Any, Protocol

import torch

from bench.predict_watch import NETWORK, Part, Watch, peak_mb

LEAVE_S = 20
"""After so long a process that was asked to end is killed."""


@dataclass(frozen=True)
class Done:
    """What a prediction took.

    Attributes:
        parts: what took what, by name; empty where it was not watched.
        windows: that the network answered.
        on_disk: the study was too large for the memory.
        asked_mb: the memory it was to stay within; None: what is free.
        idle_mb: that its process held before it,
        peak_mb: and the most it has held by its end.
        gpu_mb: the most that lay on the GPU.
    """

    parts: dict[str, Part] = field(default_factory=dict)
    windows: int = 0
    on_disk: bool = False
    asked_mb: float | None = None
    idle_mb: float = 0.0
    peak_mb: float = 0.0
    gpu_mb: float = 0.0

    @property
    def seconds(self) -> float:
        """Of all parts."""
        return sum(part.seconds for part in self.parts.values())

    @property
    def own_mb(self) -> float:
        """The most it held beside what was there before."""
        return self.peak_mb - self.idle_mb

    @property
    def peak_over_asked(self) -> float | None:
        """The most that was held over what was asked for."""
        return self.peak_mb / self.asked_mb if self.asked_mb and self.peak_mb else None


class Work(Protocol):
    """What a process is to do, whenever it is asked; can be sent to it."""

    def ready(self) -> Callable[[], Done]:
        """All that is done once, before it is asked."""
        ...


class Child:
    """A process that does some work whenever it is called, and counts; a context, in which it lives.

    Args:
        work: what it does.
        context: how it is started.

    Attributes:
        done: what it told, call by call.
    """

    def __init__(self, work: Work, context: Any):
        self.done: list[Done] = []
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, work, torch.get_num_threads()))
        self.process.start()
        theirs.close()

    def __call__(self) -> Done:
        """Do it once more.

        Raises:
            Exception: what the work raised there.
            EOFError: the process is gone.
        """
        self.pipe.send(True)
        told = self.pipe.recv()
        if isinstance(told, Exception):
            raise told
        self.done.append(told)
        return told

    def __enter__(self) -> Child:
        """It lives already."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        with contextlib.suppress(OSError):
            self.pipe.send(False)
        self.process.join(LEAVE_S)
        self.process.kill()
        self.pipe.close()


def _serve(pipe: Connection, work: Work, threads: int) -> None:
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    run: Callable[[], Done] | None = None
    while pipe.recv():
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                run = run or work.ready()
                told: Done | Exception = run()
        except Exception as error:
            told = error
        pipe.send(told)


def measured(idle_mb: float, watch: Watch | None = None, asked_mb: float | None = None) -> Done:
    """What a prediction in this process took, by its end."""
    gpu_mb = torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else 0.0
    done = Done(asked_mb=asked_mb, idle_mb=idle_mb, peak_mb=peak_mb(), gpu_mb=gpu_mb)
    if watch is None:
        return done
    return replace(done, parts=watch.parts, windows=watch.parts[NETWORK].calls, on_disk=watch.on_disk)
