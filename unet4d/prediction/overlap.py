"""One item read ahead and one written behind the one that is computed, so that disk and GPU work at the same time.

reading    |  1  |  2  |  3  |
computing        |  1  |  2  |  3  |
writing                |  1  |  2  |  3  |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from threading import Thread
from typing import Any, TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
Made = TypeVar("Made")


def overlapped(
    items: Sequence[Item],
    read: Callable[[Item], Read],
    compute: Callable[[Item, Read], Made],
    write: Callable[[Item, Made], object],
    close: Callable[[Read], object],
    ahead: Callable[[Item], bool] = lambda item: True,
    behind: Callable[[Made], bool] = lambda made: True,
) -> None:
    """Read, compute and write each item, in order.

    What any of the three raises ends all; whatever is to concern its own item alone they give as a value instead. However it
    ends, be it by an interrupt, what is being written is finished first, and what is being read is left.

    Args:
        items: in this order.
        read: in a thread of its own, one item at a time.
        compute: in this thread; closes what was read.
        write: in a thread of its own, one item at a time.
        close: what was read and is not going to be computed.
        ahead: whether an item may be read while the one before it is computed; else it is read when that is done.
        behind: whether what was made may be written while the next item is read and computed; else they wait.
    """
    coming: Future[Read] | None = None
    writing: Future[object] | None = None
    try:
        for place, item in enumerate(items):
            got, coming = (coming or _started(read, item)).result(), None
            if place + 1 < len(items) and ahead(items[place + 1]):
                coming = _started(read, items[place + 1])
            made = compute(item, got)
            del got
            if writing:
                writing.result()
            writing = _started(write, item, made)
            if not behind(made):
                writing.result()
            del made
        if writing:
            writing.result()
    finally:
        if writing:
            wait([writing])
        if coming:
            coming.add_done_callback(lambda done: None if done.exception() else close(done.result()))


def _started(work: Callable[..., Any], *given: Any) -> Future[Any]:
    """Run it in a thread that does not keep the process alive."""
    future: Future[Any] = Future()
    Thread(target=_run, args=(future, work, given), daemon=True).start()
    return future


def _run(future: Future[Any], work: Callable[..., Any], given: tuple[Any, ...]) -> None:
    try:
        future.set_result(work(*given))
    except BaseException as error:
        future.set_exception(error)
