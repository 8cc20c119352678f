"""One item read ahead and one written behind the one that is computed, so that disk and GPU work at the same time.

reading    |  1  |  2  |  3  |
computing        |  1  |  2  |  3  |
writing                |  1  |  2  |  3  |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import TypeVar

from unet4d.system.signals import check_stop
from unet4d.system.threads import result_of, started

Item = TypeVar("Item")
Read = TypeVar("Read")
Made = TypeVar("Made")
LAST_WRITE_S = 60.0
"""Time for which a failure or a stop waits for the item that is being written; its files are whole either way."""


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
    ends, be it by an interrupt, what is being written is finished first, unless it takes longer than `LAST_WRITE_S`, and what is
    being read is left.

    Args:
        items: in this order.
        read: in a thread of its own, one item at a time.
        compute: in this thread; closes what was read.
        write: in a thread of its own, one item at a time.
        close: what was read and is not going to be computed.
        ahead: whether an item may be read while the one before it is computed; else it is read when that is done.
        behind: whether what was made may be written while the next item is read and computed; else they wait.

    Raises:
        Stopped: a stop signal came; asked before each item, and while this thread waits for another one.
    """
    coming: Future[Read] | None = None
    writing: Future[object] | None = None
    try:
        for place, item in enumerate(items):
            check_stop()
            coming = coming or started(read, item)
            got, coming = result_of(coming), None
            if place + 1 < len(items) and ahead(items[place + 1]):
                coming = started(read, items[place + 1])
            made = compute(item, got)
            del got
            if writing:
                result_of(writing)
            writing = started(write, item, made)
            if not behind(made):
                result_of(writing)
            del made
        if writing:
            result_of(writing)
    finally:
        if writing:
            wait([writing], LAST_WRITE_S)
        if coming:
            coming.add_done_callback(lambda done: None if done.exception() else close(done.result()))
