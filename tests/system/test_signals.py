"""Stop signals: noted by the handlers, obeyed where `check_stop` is asked; a second one ends the process; nothing of it stays."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from torch.utils.data import DataLoader, Dataset

from tests.processes import exit_code
from unet4d.errors import Stopped
from unet4d.system import operating_system
from unet4d.system.signals import (
    STOPPING,
    blocked_stop_signals,
    check_stop,
    deferred_stop,
    ignore_stop_signals,
    stop_requested,
    stop_signals,
)  # fmt: skip

BOTH = pytest.mark.parametrize("number", STOPPING, ids=lambda number: number.name)


def handlers():
    return [signal.getsignal(number) for number in (*STOPPING, signal.SIGUSR1, signal.SIGHUP)]


@pytest.fixture(autouse=True)
def unchanged():
    """The handlers are as they were, whatever a test did."""
    before = handlers()
    yield
    assert handlers() == before
    assert stop_requested() is None


@contextlib.contextmanager
def stopped_within(advice: str | None = None, match: str = "stopped by") -> Iterator[None]:
    """A context that ends by `Stopped`."""
    with pytest.raises(Stopped, match=match) as stopped, stop_signals(advice):
        yield
    assert stopped.value.exit_code == 75


@BOTH
def test_a_signal_is_noted_and_obeyed_when_asked(number):
    with stopped_within("do that", f"stopped by {number.name}; do that"):
        check_stop()
        assert stop_requested() is None
        signal.raise_signal(number)
        assert stop_requested() == number.name
        check_stop()


def test_stopped_is_no_exception_that_a_library_could_catch():
    assert not issubclass(Stopped, Exception)
    with stopped_within():
        try:
            signal.raise_signal(signal.SIGTERM)
            check_stop()
        except Exception:
            pytest.fail("caught")


def test_only_these_two_are_noted():
    assert set(STOPPING) == {signal.SIGTERM, signal.SIGINT}
    before = handlers()
    with stop_signals():
        assert [now == then for now, then in zip(handlers(), before, strict=True)] == [False, False, True, True]


def test_the_handlers_come_back_after_a_failure():
    before = handlers()
    with pytest.raises(ZeroDivisionError), stop_signals():
        1 / 0  # noqa: B018
    assert handlers() == before


def test_the_outermost_advice_is_shown_and_inner_contexts_change_nothing():
    @stop_signals("inner")
    def work() -> None:
        signal.raise_signal(signal.SIGTERM)
        check_stop()

    for outer, shown in (("outer", "outer"), (None, "inner")):
        with pytest.raises(Stopped, match=shown), stop_signals(outer, passed_on=False):
            work()
    with pytest.raises(Stopped, match="inner"):
        work()


def test_a_signal_before_an_inner_context_is_obeyed_there():
    with stopped_within():
        signal.raise_signal(signal.SIGTERM)
        with stop_signals():
            pytest.fail("it began")


def test_deferred_stops_wait():
    with stopped_within():
        with deferred_stop():
            signal.raise_signal(signal.SIGTERM)
            check_stop()
            assert stop_requested() == "SIGTERM"
        check_stop()


def test_a_signal_that_came_too_late_is_passed_on_to_the_caller():
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a process in the background begins with it ignored
    try:
        with pytest.raises(KeyboardInterrupt), stop_signals():
            signal.raise_signal(signal.SIGINT)
        with stop_signals(passed_on=False):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_that_a_failure_forestalled_is_passed_on_too():
    """Pins a signal that was lost: a caller's loop that catches the failure began its next call."""

    def fail() -> None:
        signal.raise_signal(signal.SIGINT)
        raise ValueError("wrong")

    with pytest.raises(KeyboardInterrupt) as interrupted, stop_signals():
        fail()
    assert isinstance(interrupted.value.__context__, ValueError)
    with pytest.raises(ValueError, match="wrong"), stop_signals(passed_on=False):
        fail()


def test_under_torchrun_a_signal_that_comes_twice_stops_once(monkeypatch):
    """Ctrl-C and scancel reach torchrun and its processes, and torchrun passes the signal on to them."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with stopped_within(match="stopped by SIGTERM"):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        check_stop()


def test_another_thread_changes_no_handlers_and_is_not_stopped():
    seen = []

    def work():
        with stop_signals():
            check_stop()
            seen.extend([handlers(), stop_requested()])

    with stopped_within():
        signal.raise_signal(signal.SIGTERM)
        before = handlers()
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(60)
        assert seen == [before, "SIGTERM"]
        check_stop()


def _stuck_in_a_lock(first: int, second: int) -> None:
    """Note a signal, wait for a lock that is never released, and be sent another signal there."""
    lock, main = threading.Lock(), os.getpid()
    lock.acquire()
    with stop_signals():
        signal.raise_signal(first)
        threading.Thread(target=os.kill, args=(main, second), daemon=True).start()
        lock.acquire()


@pytest.mark.parametrize(
    ("first", "second"),
    [(signal.SIGTERM, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT), (signal.SIGINT, signal.SIGINT)],
)
def test_a_second_signal_ends_the_process_even_inside_a_lock(first, second):
    assert exit_code(_stuck_in_a_lock, first, second) == -second


def _sent_twice_at_once() -> None:
    """Be sent the same signal once more while the first one is noted, and end with 0 if that stopped once."""
    sent = []

    def send_again(seconds: float) -> None:
        operating_system.sleep = time.sleep
        os.kill(os.getpid(), signal.SIGTERM)
        sent.append(seconds)

    operating_system.sleep = send_again
    with contextlib.suppress(Stopped), stop_signals():
        signal.raise_signal(signal.SIGTERM)
        check_stop()
        os._exit(3)
    os._exit(0 if sent else 4)


def test_the_copy_of_a_signal_that_a_process_group_receives_is_no_second_one():
    assert exit_code(_sent_twice_at_once) == 0


def _forked_meanwhile(number: int, again: bool) -> None:
    """Fork within a context, have the child be sent a signal, and see that it obeys by the default action."""
    with stop_signals():
        child = os.fork()
        if not child:
            if again:
                with stop_signals():
                    signal.raise_signal(number)
                    os._exit(0 if stop_requested() else 3)
            signal.raise_signal(number)
            os._exit(4)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os._exit(0 if code == (0 if again else -number) and stop_requested() is None else 5)


@BOTH
def test_a_process_forked_meanwhile_obeys_unless_it_opens_a_context_of_its_own(number):
    assert exit_code(_forked_meanwhile, number, False) == 0
    assert exit_code(_forked_meanwhile, number, True) == 0


class Numbers(Dataset):
    """Numbers; the process that made each comes along."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return index, os.getpid()


def _batches_with_signals_to_all() -> None:
    with stopped_within():
        with blocked_stop_signals():
            batches = iter(DataLoader(Numbers(), batch_size=4, num_workers=2, worker_init_fn=ignore_stop_signals))
        numbers = []
        for first, (indices, makers) in enumerate(batches):
            numbers += indices.tolist()
            if first == 2:
                for worker in {*makers.tolist()}:
                    send_both(worker)
                os.kill(os.getpid(), signal.SIGTERM)
        assert numbers == list(range(40))
        check_stop()


def test_workers_outlive_a_signal_to_the_whole_group():
    assert exit_code(_batches_with_signals_to_all) == 0


def send_both(process: int) -> None:
    """Both signals to a process, from one that is not its parent."""
    subprocess.run(["sh", "-c", f"kill -INT {process}; kill -TERM {process}"], check=True)


WORKER = """
import os, sys
import numpy, torch
from unet4d.system.signals import ignore_stop_signals
ignore_stop_signals(0)
print("ready", flush=True)
for line in sys.stdin:
    print(line, end="", flush=True)
"""


def test_a_worker_leaves_the_signals_to_its_parent_which_can_kill_it():
    """It has imported libraries. Their threads must not take a signal that the main thread would not."""
    process = subprocess.Popen([sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        for number in range(5):
            send_both(process.pid)
            process.terminate()
            process.stdin.write(f"{number}\n")
            process.stdin.flush()
            assert process.stdout.readline() == f"{number}\n"
        process.kill()
        assert process.wait(60) == -signal.SIGKILL
    finally:
        process.kill()
        process.communicate()
