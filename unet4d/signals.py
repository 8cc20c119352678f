"""The signals that ask a training to end: it notes them and ends between two steps; its workers leave them to it.

Slurm's scancel, a preemption and Ctrl-C reach every process of a group, workers too; one that dies of it takes the training with it
before a checkpoint is written.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

from unet4d.errors import Stopped

STOPPING = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """A context in which SIGTERM and SIGINT are noted and not obeyed; a second SIGINT is KeyboardInterrupt, for who cannot wait.

    In another thread than the main one, where Python handles no signals, it does nothing.

    Attributes:
        requested: the first signal that came, such as "SIGTERM"; None so far.
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        self._interrupts = 0
        self._process = os.getpid()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in STOPPING}
        return self

    def __exit__(self, *failure: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a process forked in here has nothing to finish: it obeys
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.requested = self.requested or signal.Signals(number).name
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            raise KeyboardInterrupt


@contextlib.contextmanager
def stopped_by_sigterm(advice: str) -> Iterator[None]:
    """A context that SIGTERM ends wherever it stands, as Ctrl-C does, for work that has nothing to finish.

    In another thread than the main one, where Python handles no signals, it does nothing.

    Args:
        advice: how to go on.

    Raises:
        Stopped: a SIGTERM came.
    """

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise Stopped(f"stopped by SIGTERM; {advice}")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


@contextlib.contextmanager
def stop_signals_held() -> Iterator[None]:
    """A context to start workers in: a stop signal reaches this process after it, and never those.

    A process begins with the signals blocked that its parent blocks, and would die of one before it calls `ignore_stop_signals`.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows has no signals to a group
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_stop_signals(worker: int = 0) -> None:
    """Have a worker process leave the stop signals to its parent, which ends it in another way: a DataLoader's `worker_init_fn`.

    `Process.terminate` is a SIGTERM, too, and does nothing to it; `Process.kill` ends it.

    Args:
        worker: its number, which makes no difference.
    """
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
