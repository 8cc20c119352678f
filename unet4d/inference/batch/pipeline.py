"""A pipeline of three stages: one item is read ahead and one written behind the one that is computed.

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

_Item = TypeVar("_Item")
_Read = TypeVar("_Read")
_Computed = TypeVar("_Computed")
LAST_WRITE_S = 60.0
"""Longest wait of a failure or a stop for the item that is being written; its files are whole either way."""


def run_pipeline(
    items: Sequence[_Item],
    read: Callable[[_Item], _Read],
    compute: Callable[[_Item, _Read], _Computed],
    write: Callable[[_Item, _Computed], object],
    close: Callable[[_Read], object],
    may_read_ahead: Callable[[_Item], bool] = lambda item: True,
    may_write_behind: Callable[[_Computed], bool] = lambda computed: True,
) -> None:
    """Read, compute and write each item, in order.

    An exception in any of the three ends everything; a failure of one item alone is to be returned as a value instead. However
    it ends, what is being written is finished first, unless it takes longer than `LAST_WRITE_S`; what is being read is dropped.

    Args:
        items: in this order.
        read, write: each in a thread of its own, one item at a time.
        compute: in this thread; closes what was read.
        close: what was read and will not be computed.
        may_read_ahead: whether an item may be read while the one before it is computed.
        may_write_behind: whether a result may be written while the next item is read and computed.

    Raises:
        Stopped: a stop signal came; checked before each item, and while this thread waits for another one.
    """
    reading: Future[_Read] | None = None
    writing: Future[object] | None = None
    try:
        for number, item in enumerate(items, 1):
            check_stop()
            reading = reading or started(read, item)
            found, reading = result_of(reading), None
            if number < len(items) and may_read_ahead(items[number]):
                reading = started(read, items[number])
            computed = compute(item, found)
            del found
            if writing:
                result_of(writing)
            writing = started(write, item, computed)
            if not may_write_behind(computed):
                result_of(writing)
            del computed
        if writing:
            result_of(writing)
    finally:
        if writing:
            wait([writing], LAST_WRITE_S)
        if reading:
            reading.add_done_callback(lambda done: None if done.exception() else close(done.result()))
