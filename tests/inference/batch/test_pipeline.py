"""Reading, computing and writing at the same time: the order, what is held, and how it ends."""

from __future__ import annotations

import threading
import time

import pytest

from unet4d.inference.batch.pipeline import run_pipeline

ITEMS = list(range(5))


class Watched:
    """Three steps that note what they do and how many items are held."""

    def __init__(self, **fails: int):
        self.done: list[tuple[str, int]] = []
        self.closed: list[int] = []
        self.fails, self.held, self.most, self.reading = fails, 0, 0, 0
        self.lock = threading.Condition()

    def _step(self, name: str, item: int) -> int:
        if self.fails.get(name) == item:
            raise ValueError(f"{name} {item}")
        with self.lock:
            self.done.append((name, item))
        return item

    def read(self, item: int) -> int:
        with self.lock:
            self.held += 1
            self.reading += 1
            self.most = max(self.most, self.held)
        try:
            return self._step("read", item)
        finally:
            with self.lock:
                self.reading -= 1
                self.lock.notify_all()

    def compute(self, item: int, got: int) -> int:
        assert item == got
        return self._step("compute", item)

    def write(self, item: int, made: int) -> None:
        assert item == made
        self._step("write", item)
        with self.lock:
            self.held -= 1

    def close(self, item: int) -> None:
        with self.lock:
            self.closed.append(item)
            self.lock.notify_all()

    def run(self, **options) -> None:
        run_pipeline(ITEMS, self.read, self.compute, self.write, self.close, **options)


def test_every_item_goes_through_all_steps_in_order():
    watched = Watched()
    watched.run()
    for step in ("read", "compute", "write"):
        assert [item for name, item in watched.done if name == step] == ITEMS
    for item in ITEMS:
        assert [name for name, other in watched.done if other == item] == ["read", "compute", "write"]
    assert watched.most <= 3


def test_it_does_overlap():
    """Two items meet at a barrier that no single thread could pass: one is read, one computed, one written."""
    together = threading.Barrier(3, timeout=90)  # a thread that waits alone raises BrokenBarrierError

    def meet(item: int, *more: int, at: int) -> int:
        if item == at:
            together.wait()
        return item

    run_pipeline(
        ITEMS,
        lambda item: meet(item, at=3),
        lambda item, got: meet(item, at=2),
        lambda item, made: meet(item, at=1),
        lambda got: None,
    )


def test_what_may_be_neither_ahead_nor_behind_is_held_alone():
    watched = Watched()
    watched.run(may_read_ahead=lambda item: False, may_write_behind=lambda made: False)
    assert watched.done == [(step, item) for item in ITEMS for step in ("read", "compute", "write")]
    assert watched.most == 1


@pytest.mark.parametrize("step", ["read", "compute", "write"])
@pytest.mark.parametrize("item", [0, 2, 4])
def test_what_is_raised_ends_all_and_what_was_begun_is_written_or_closed(step, item):
    watched = Watched(**{step: item})
    with pytest.raises(ValueError, match=f"{step} {item}"):
        watched.run()
    assert [other for name, other in watched.done if name == "write"] == ITEMS[:item]
    computed = {other for name, other in watched.done if name == "compute"} | ({item} if step == "compute" else set())

    def is_closed() -> bool:  # what was still being read is closed when it comes
        read = {other for name, other in watched.done if name == "read"}
        return not watched.reading and set(watched.closed) == read - computed

    with watched.lock:
        assert watched.lock.wait_for(is_closed, 60), (watched.done, watched.closed)


def test_an_interrupt_has_the_file_in_hand_finished():
    began, interrupted, finished = threading.Event(), threading.Event(), []

    def write(item: int, made: int) -> None:
        began.set()
        assert interrupted.wait(60)
        time.sleep(0.1)  # so that a missing wait for it shows
        finished.append(item)

    def compute(item: int, got: int) -> int:
        if item == 1:
            assert began.wait(60)
            interrupted.set()
            raise KeyboardInterrupt
        return item

    with pytest.raises(KeyboardInterrupt):
        run_pipeline(ITEMS, lambda item: item, compute, write, lambda got: None)
    assert finished == [0]
