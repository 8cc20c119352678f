"""Work in other threads, for which the main thread never waits without asking whether to stop.

The threads do not keep the process alive, so one that hangs on a disk does not hold up its end.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from threading import Thread
from typing import Any, TypeVar
from weakref import WeakSet

from unet4d.system.progress_bar import draw_handed_over
from unet4d.system.signals import check_stop

Item = TypeVar("Item")
Value = TypeVar("Value")
ASKED_EVERY_S = 0.1
"""Interval at which a wait asks whether to stop."""
_started: WeakSet[Thread] = WeakSet()


def started(work: Callable[..., Value], *given: Any) -> Future[Value]:
    """Run `work(*given)` in a thread."""
    future: Future[Value] = Future()
    thread = Thread(target=_run, args=(future, work, given), daemon=True)
    _started.add(thread)
    thread.start()
    return future


def are_running() -> bool:
    """Return whether a thread of `started` still works."""
    return any(thread.is_alive() for thread in list(_started))


def result_of(future: Future[Value]) -> Value:
    """Wait for a future and return its result. Raises Stopped: a stop signal came meanwhile."""
    _any_done([future])
    return future.result()


def each_done(work: Callable[[Item], Value], items: Iterable[Item], threads: int) -> Iterator[tuple[Item, Value]]:
    """Yield each item with `work(item)`, in the order in which they get done, `threads` at once.

    What one raises is raised here, after the results that are there by then.

    Raises:
        Stopped: a stop signal came meanwhile.
    """
    left, running = iter(items), dict[Future[Value], Item]()
    while True:
        for item in itertools.islice(left, threads - len(running)):
            running[started(work, item)] = item
        if not running:
            return
        for future in sorted(_any_done(running), key=lambda one: one.exception() is not None):
            yield running.pop(future), future.result()


def _any_done(futures: Iterable[Future[Value]]) -> set[Future[Value]]:
    """Wait until one or more are done, and return these."""
    futures = list(futures)
    while True:
        check_stop()
        done, _ = wait(futures, ASKED_EVERY_S, FIRST_COMPLETED)
        if done:
            return done
        draw_handed_over()


def _run(future: Future[Any], work: Callable[..., Any], given: tuple[Any, ...]) -> None:
    try:
        future.set_result(work(*given))
    except BaseException as error:
        future.set_exception(error)
