"""Stop signals: their handlers only note SIGTERM and SIGINT, and every long loop asks `check_stop` between two steps.

A handler that raised could do so anywhere: inside a lock, or inside a library's `except Exception`. A second signal
ends the process at once, since the first one restores the default actions. Files are whole at any moment, see
`unet4d.system.files`. Under torchrun each further signal is ignored: torchrun passes on what its whole process group
received already, and kills what does not end. Native code that hangs, as on a broken GPU, delays a first signal until
it returns; only SIGKILL ends it before.

Slurm's scancel, a preemption and Ctrl-C reach every process of a group. Workers ignore them, see `ignore_stop_signals`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from unet4d.errors import ReportedByOtherRank, Stopped
from unet4d.system.operating_system import (
    STOP_SIGNALS,
    after_fork,
    blocked_signals,
    drop_repeated_signals,
    unblock_signals,
)

STOPPING = STOP_SIGNALS
TORCHRUN = "TORCHELASTIC_RUN_ID"
"""An environment variable that torchrun sets for each of its processes."""
REPEAT_S = 0.02
"""Time in which the same request may arrive twice: GNU timeout sends it to the process and to its group."""
AGAIN = "what is written is whole; run the same command again"
"""The advice where nothing better is known."""


class _State:
    """The signal that has been noted, and the contexts that are open. Only the main thread changes it."""

    def __init__(self) -> None:
        self.noted: signal.Signals | None = None
        self.advice: list[str | None] = []  # one for each open `stop_signals`, outermost first
        self.deferred = 0
        self.process = os.getpid()
        self.before: dict[signal.Signals, Any] = {}


_state = _State()


@contextlib.contextmanager
def stop_signals(advice: str | None = None, *, passed_on: bool = True) -> Iterator[None]:
    """Note SIGTERM and SIGINT within this context, and have `check_stop` raise `Stopped`.

    Contexts may be nested; a signal noted before an inner one begins is raised there. In another thread than the main one, where
    Python handles no signals, nothing is changed. It is also a decorator.

    Args:
        advice: how the user continues; that of the outermost context which has one is shown.
        passed_on: send a signal that stopped nothing, because all was done or something failed meanwhile, to this process again
            after the outermost context. False: forget it, because the process ends anyway.

    Raises:
        Stopped: a signal was noted before this context.
    """
    if not _in_main_thread():
        yield
        return
    outermost = not _state.advice
    if outermost:
        _state.noted, _state.process = None, os.getpid()
        _state.before = {number: signal.signal(number, _note) for number in STOPPING}
    _state.advice.append(advice)
    obeyed = False
    try:
        check_stop()
        yield
    except (Stopped, ReportedByOtherRank):  # the second where several processes stop together
        obeyed = True
        raise
    finally:
        _state.advice.pop()
        if outermost:
            for number, handler in _state.before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            if passed_on and not obeyed and _state.noted is not None:
                signal.raise_signal(_state.noted)


def check_stop() -> None:
    """Raise `Stopped` in the main thread if a stop signal was noted; to be called between two steps of all long work."""
    if _state.noted is None or not _state.advice or _state.deferred or not _in_main_thread():
        return
    advice = next((advice for advice in _state.advice if advice is not None), AGAIN)
    raise Stopped(f"stopped by {_state.noted.name}; {advice}")


def stop_requested() -> str | None:
    """Return the name of the stop signal that was noted, such as "SIGTERM"; None if there was none."""
    return _state.noted.name if _state.noted is not None and _state.advice else None


@contextlib.contextmanager
def deferred_stop() -> Iterator[None]:
    """Have `check_stop` raise nothing within, for work that must be finished or asks `stop_requested` itself."""
    if not _in_main_thread():
        yield
        return
    _state.deferred += 1
    try:
        yield
    finally:
        _state.deferred -= 1


@contextlib.contextmanager
def blocked_stop_signals() -> Iterator[None]:
    """Block stop signals in this process while it starts workers: one that comes meanwhile is delivered to it afterwards.

    A process begins with the signals blocked that its parent blocks, and would die of one before it calls `ignore_stop_signals`.
    """
    with blocked_signals(STOPPING):
        yield


def ignore_stop_signals(worker: int = 0) -> None:
    """Ignore stop signals in a worker process, which its parent ends in another way: a DataLoader's `worker_init_fn`.

    `Process.terminate` is a SIGTERM, too, and does nothing to it; `Process.kill` ends it.
    """
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    unblock_signals(STOPPING)


def _note(number: int, frame: FrameType | None) -> None:
    """Note the first signal, and leave the next one to the system, which ends the process even inside a lock."""
    forked = os.getpid() != _state.process or not _state.advice
    if not forked:
        drop_repeated_signals(STOPPING, REPEAT_S)
    if forked or TORCHRUN not in os.environ:
        for other in STOPPING:
            signal.signal(other, signal.SIG_DFL)
    if forked:  # it has nothing to finish: it obeys
        signal.raise_signal(number)
        return
    _state.noted = _state.noted or signal.Signals(number)


def _reset() -> None:
    """Forget the contexts of the process that this one was forked from."""
    global _state
    _state = _State()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


after_fork(_reset)
