"""Progress bars: lines and steps of other threads, stops, forks, and a caller's own tqdm."""

from __future__ import annotations

import io
import os
import signal
import threading

import pytest
from tqdm import tqdm

from tests.cli.stops import Terminal
from tests.processes import exit_code
from unet4d.errors import Stopped
from unet4d.system.progress_bar import ProgressBar, draw_handed_over, print_line
from unet4d.system.signals import stop_signals


def in_thread(work, *given) -> None:
    thread = threading.Thread(target=work, args=given)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()


def test_another_threads_lines_and_steps_are_drawn_by_the_bars_own_thread(monkeypatch):
    terminal, drawn_by = Terminal(), []
    usual = ProgressBar.write.__func__
    monkeypatch.setattr(
        ProgressBar,
        "write",
        classmethod(lambda *given, **named: drawn_by.append(threading.get_ident()) or usual(*given, **named)),
    )
    with ProgressBar(total=3, file=terminal, mininterval=0) as bar:
        in_thread(print_line, "one", terminal)
        in_thread(bar.update, 2)
        assert (bar.n, drawn_by) == (0, [])
        bar.update()
        assert (bar.n, drawn_by) == (3, [threading.get_ident()])
        in_thread(print_line, "two", terminal)
    assert [text for text in terminal.getvalue().split() if text in ("one", "two")] == ["one", "two"]
    in_thread(print_line, "three", terminal)
    assert terminal.getvalue().endswith("three\n")
    assert set(drawn_by[:2]) == {threading.get_ident()}


def test_a_bar_that_is_not_set_up_yet_keeps_no_line(capsys):
    """It may turn out to be disabled, and then drew the line never."""
    bar = ProgressBar.__new__(ProgressBar)
    try:
        in_thread(print_line, "while it is set up")
        assert capsys.readouterr().out == "while it is set up\n"
    finally:
        bar.disable = True
        ProgressBar._instances.discard(bar)
        draw_handed_over()


def test_lines_without_a_bar_are_printed_at_once(capsys):
    in_thread(print_line, "from a thread")
    print_line("from here")
    with ProgressBar(total=1):  # no terminal: it is disabled
        in_thread(print_line, "beside a bar that is not shown")
        assert capsys.readouterr().out == "from a thread\nfrom here\nbeside a bar that is not shown\n"


def test_no_line_is_lost_whenever_the_bar_closes():
    file = io.StringIO()

    def say() -> None:
        for number in range(200):
            print_line(str(number), file)

    thread = threading.Thread(target=say)
    thread.start()
    while thread.is_alive():
        with ProgressBar(total=1, file=Terminal()) as bar:
            bar.update()
    draw_handed_over()
    assert file.getvalue().split() == [str(number) for number in range(200)]


@pytest.mark.parametrize("kind", [Terminal, io.StringIO])
def test_iterating_is_stopped_between_two_items(kind):
    seen = []

    def iterate() -> None:
        for item in ProgressBar(range(5), file=kind()):
            seen.append(item)
            if item == 2:
                signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Stopped), stop_signals():
        iterate()
    assert seen == [0, 1, 2]


def test_a_callers_own_tqdm_is_left_as_it_is():
    before = set(threading.enumerate())  # another test or library may use tqdm as it comes
    with ProgressBar(total=1, file=Terminal()) as bar:
        bar.update()
        assert bar not in tqdm._instances
        assert not any(thread.name == "tqdm_monitor" for thread in set(threading.enumerate()) - before)
    assert (tqdm.monitor_interval, ProgressBar.monitor_interval) == (10, 0)
    assert tqdm.__dict__.get("_lock") is not ProgressBar._lock


def _use_a_bar() -> None:
    with ProgressBar(total=3, file=Terminal(), mininterval=0) as bar:
        for number in range(3):
            print_line(f"line {number}", bar.fp)
            bar.update()


def _killed_inside_the_lock() -> None:
    """Fork a process that is killed while it holds a bar's lock, then use a bar."""
    _use_a_bar()
    child = os.fork()
    if not child:
        ProgressBar.get_lock().acquire()
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    _use_a_bar()


def _forked_while_another_thread_has_the_lock() -> None:
    taken, done = threading.Event(), threading.Event()

    def hold() -> None:
        with ProgressBar.get_lock():
            taken.set()
            done.wait()

    threading.Thread(target=hold, daemon=True).start()
    taken.wait()
    child = os.fork()
    if not child:
        _use_a_bar()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    done.set()


@pytest.mark.parametrize("work", [_killed_inside_the_lock, _forked_while_another_thread_has_the_lock])
def test_a_lock_held_elsewhere_does_not_hang_a_bar_after_a_fork(work):
    """Pins the hang of every later bar: tqdm's own lock is shared with forked processes."""
    assert exit_code(work) == 0


def test_a_line_is_flushed_at_once(monkeypatch):
    """Pins that a line waited in a buffer of 8 kB where stdout is a file."""
    written = []

    class File:
        def write(self, text):
            written.append(text)

        def flush(self):
            written.append("flushed")

    monkeypatch.setattr("sys.stdout", File())
    print_line("hello")
    monkeypatch.undo()
    assert "".join(written).startswith("hello\n")
    assert written[-1] == "flushed"
