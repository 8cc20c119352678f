"""Progress bars on stderr, and lines above them: the only module that uses tqdm.

tqdm's own lock is shared with forked processes, one of which may be killed while it holds it, and its monitor thread is started
under an `except Exception`. These bars have a thread lock and no monitor thread; the caller's own tqdm is left as it is. Only the
thread that made a bar touches it, other threads hand over what they have for it.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar, TextIO
from weakref import WeakSet

from tqdm import tqdm

from unet4d.system.operating_system import after_fork
from unet4d.system.signals import check_stop

format_interval = tqdm.format_interval
RESULT = logging.INFO + 5
"""Level of the log's records that hold the result a command was called for; they are printed with --quiet, too."""
logging.addLevelName(RESULT, "RESULT")
_handed_over: queue.SimpleQueue[Callable[[], Any]] = queue.SimpleQueue()
"""Lines and steps that threads without a bar hand to those with one."""


class ProgressBar(tqdm):  # type: ignore[type-arg]
    """A tqdm bar, nothing where stderr is no terminal. Iterating over it raises `Stopped` after a stop signal.

    The arguments are those of tqdm. There are no bars where the logger "unet4d" is set to more than INFO.
    """

    monitor_interval = 0
    _lock = threading.RLock()
    _instances: ClassVar[WeakSet[ProgressBar]] = WeakSet()
    thread = 0  # tqdm lists a bar before it is set up

    def __init__(self, *given: Any, disable: bool | None = None, **named: Any):
        self.thread = threading.get_ident()
        disable = True if logging.getLogger("unet4d").level > logging.INFO else disable
        super().__init__(*given, disable=disable, **named)  # type: ignore[call-overload]

    def __iter__(self) -> Iterator[Any]:
        """Yield the items, and ask before and after each whether to stop."""
        items: Any = super().__iter__()
        with contextlib.closing(items):
            check_stop()
            for item in items:
                yield item
                check_stop()

    def update(self, n: float | None = 1) -> bool | None:
        """Move the bar by `n`; from another thread, at the next move or `draw_handed_over` of the bar's own."""
        if self.disable:
            return None
        if threading.get_ident() != self.thread:
            _handed_over.put(partial(self.update, n))
            return None
        draw_handed_over()
        return super().update(n)

    def close(self) -> None:
        """Remove the bar or leave it as it is; whatever was handed over is drawn before."""
        if self.disable:
            return
        draw_handed_over()
        super().close()
        with self._lock:
            if not self._instances:
                draw_handed_over()


def print_line(line: str, file: TextIO | None = None) -> None:
    """Print a line above the bars, at once; from a thread without a bar while another has one, when that one moves next."""
    with ProgressBar.get_lock():
        # A bar that tqdm lists before it is set up may turn out to be disabled, and would never draw what it was handed.
        threads = {bar.thread for bar in ProgressBar._instances if not getattr(bar, "disable", True)}
        if threads and threading.get_ident() not in threads:
            _handed_over.put(partial(_print, line, file or sys.stdout))
        else:
            _print(line, file or sys.stdout)


def draw_handed_over() -> None:
    """Print and draw what other threads handed over; for a thread that has a bar."""
    for _ in range(_handed_over.qsize()):
        try:
            draw = _handed_over.get_nowait()
        except queue.Empty:  # a thread with another bar was faster
            return
        draw()


def close_bars() -> None:
    """Close the bars of this thread that a failure left open, so that what is printed next begins on a line of its own."""
    for bar in list(ProgressBar._instances):
        if bar.thread == threading.get_ident():
            bar.close()


def _print(line: str, file: TextIO) -> None:
    ProgressBar.write(line, file=file)
    file.flush()


def _reset() -> None:
    """Begin anew in a forked process, in which no other thread exists to release a lock."""
    global _handed_over
    ProgressBar._lock, ProgressBar._instances, _handed_over = threading.RLock(), WeakSet(), queue.SimpleQueue()


after_fork(_reset)
