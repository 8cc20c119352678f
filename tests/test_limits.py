"""A test that hangs fails by name and with its stack, wherever it hangs, and the run ends."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import limits
import pytest

HANGS = """
import ctypes, threading
import multiprocessing as mp
import pytest

def hold(lock, held):
    lock.acquire()
    held.set()
    threading.Event().wait()

def test_semaphore_of_a_killed_process():
    context = mp.get_context("fork")
    lock, held = context.RLock(), context.Event()
    holder = context.Process(target=hold, args=(lock, held))
    holder.start()
    held.wait()
    holder.kill()
    holder.join()
    lock.acquire()

def test_after_it():
    pass

@pytest.fixture
def never_torn_down():
    yield
    threading.Event().wait()

def test_failure(never_torn_down):
    raise ValueError

def test_mutex_of_the_system():
    mutex, library = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    library.pthread_mutex_init(mutex, None)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)

@pytest.mark.slow
def test_with_more_time(request):
    assert request.node.get_closest_marker("timeout").args[0] > 600

@pytest.mark.slow
@pytest.mark.timeout(7)
def test_with_time_of_its_own(request):
    assert request.node.get_closest_marker("timeout").args[0] == 7
"""


@pytest.fixture
def hanging(tmp_path, request):
    """Run one of the tests above under limits of seconds; gives the finished process."""
    (tmp_path / "conftest.py").write_text("import limits\nlimits.GRACE_S = 0.5\nfrom limits import *\n")
    (tmp_path / "test_hangs.py").write_text(HANGS)
    (tmp_path / "pytest.ini").write_text(
        f"[pytest]\npythonpath = {request.path.parent}\ntimeout = 2\ntimeout_method = signal\n"
    )

    def run(chosen: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-k", chosen]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)

    return run


def test_a_wait_for_the_semaphore_of_a_killed_process_fails_and_the_run_continues(hanging):
    done = hanging("after_it or semaphore")
    assert done.returncode == 1, done.stderr
    assert "test_semaphore_of_a_killed_process - Failed: Timeout" in done.stdout
    assert "1 failed, 1 passed" in done.stdout


def test_a_teardown_that_hangs_after_a_failure_ends_the_process_with_its_stack(hanging):
    """Pins a run without end: pytest drops the limit of a test at its failure."""
    done = hanging("failure")
    assert done.returncode == 1
    assert "in never_torn_down" in done.stderr


def test_a_wait_that_no_signal_ends_ends_the_process_with_its_stack(hanging):
    done = hanging("mutex")
    assert done.returncode == 1
    assert "in test_mutex_of_the_system" in done.stderr


def test_a_slow_test_has_more_time(hanging):
    assert "2 passed" in hanging("time").stdout


def test_the_limit_of_this_suite_is_two_minutes(request):
    options = tomllib.loads((request.config.rootpath / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert options["timeout"] == 120
    assert options["timeout_method"] == "signal"
    assert 0 < limits.GRACE_S < 60
    assert limits.PATIENCE_S < 100
