"""Signals that ask a training to end: noted, not obeyed, and nothing of it stays."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import threading
import time

import pytest
from torch.utils.data import DataLoader, Dataset

from unet4d.signals import STOPPING, StopSignals, ignore_stop_signals


def handlers():
    return [signal.getsignal(number) for number in (*STOPPING, signal.SIGUSR1, signal.SIGHUP)]


@pytest.fixture(autouse=True)
def unchanged():
    """The handlers are as they were, whatever a test did."""
    before = handlers()
    yield
    assert handlers() == before


@pytest.mark.parametrize("number", STOPPING, ids=lambda number: number.name)
def test_a_signal_is_noted_and_not_obeyed(number):
    with StopSignals() as stop:
        assert stop.requested is None
        signal.raise_signal(number)
        assert stop.requested == number.name
    assert stop.requested == number.name


def test_the_first_one_is_kept_and_sigterm_may_come_again():
    with StopSignals() as stop:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(number)
        assert stop.requested == "SIGTERM"


def test_a_second_sigint_interrupts():
    with StopSignals() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.requested == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_only_these_two_are_noted():
    assert set(STOPPING) == {signal.SIGTERM, signal.SIGINT}
    before = handlers()
    with StopSignals():
        assert [now == then for now, then in zip(handlers(), before, strict=True)] == [False, False, True, True]


def test_the_handlers_come_back_after_a_failure():
    before = handlers()
    with pytest.raises(ZeroDivisionError), StopSignals():
        1 / 0  # noqa: B018
    assert handlers() == before


def test_another_thread_handles_none():
    seen = []

    def work():
        with StopSignals() as stop:
            seen.extend([handlers(), stop.requested])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [handlers(), None]


def wait_for_a_signal(ready) -> None:
    ready.set()
    time.sleep(60)


@pytest.mark.parametrize("number", STOPPING, ids=lambda number: number.name)
def test_a_process_forked_meanwhile_obeys(number):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    with StopSignals() as stop:
        process = context.Process(target=wait_for_a_signal, args=(ready,), daemon=True)
        process.start()
        assert ready.wait(20)
        os.kill(process.pid, number)
        process.join(20)
        assert process.exitcode == -number
        assert stop.requested is None


class Slow(Dataset):
    """Numbers, each after a while; the number of who made them comes along."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        time.sleep(0.01)
        return index, os.getpid()


def test_workers_outlive_a_signal_to_the_whole_group():
    batches = DataLoader(Slow(), batch_size=4, num_workers=2, worker_init_fn=ignore_stop_signals)
    numbers = []
    with StopSignals() as stop:
        for first, (indices, makers) in enumerate(batches):
            numbers += indices.tolist()
            if first == 2:
                for worker in {*makers.tolist()}:
                    send_from_elsewhere(worker)
                send_from_elsewhere(os.getpid())
    assert numbers == list(range(40))
    assert stop.requested in ("SIGINT", "SIGTERM")  # which of two sent at once is handled first is the system's affair


def send_from_elsewhere(process: int) -> None:
    """Both signals to a process, from one that is not its parent."""
    subprocess.run(["sh", "-c", f"kill -INT {process}; kill -TERM {process}"], check=True)


def wait_as_worker(ready) -> None:
    ignore_stop_signals(0)
    ready.set()
    time.sleep(60)


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_a_worker_leaves_the_signals_to_its_parent_which_can_kill_it(method):
    """Under forkserver it has imported libraries, whose threads must not take a signal that the main thread would not."""
    context = multiprocessing.get_context(method)
    ready = context.Event()
    process = context.Process(target=wait_as_worker, args=(ready,), daemon=True)
    process.start()
    assert ready.wait(60)
    for _ in range(5):
        send_from_elsewhere(process.pid)
        process.terminate()
    process.join(0.3)
    assert process.is_alive()
    process.kill()
    process.join(20)
    assert process.exitcode == -signal.SIGKILL
