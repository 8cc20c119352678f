"""A test that hangs fails by name and with its stack, wherever it hangs, and the run ends."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import pytest

HANGS = """
import ctypes, threading, time
import multiprocessing as mp
import pytest

def hold(lock, held):
    lock.acquire()
    held.set()
    threading.Event().wait()

def test_semaphore_of_a_killed_process():
    context = mp.get_context("spawn")
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
"""


@pytest.fixture
def hanging(tmp_path, request):
    """Run one of the tests above under limits of seconds; gives the finished process."""
    (tmp_path / "conftest.py").write_text("from limits import pytest_exception_interact\n")
    (tmp_path / "test_hangs.py").write_text(HANGS)
    (tmp_path / "pytest.ini").write_text(
        f"[pytest]\npythonpath = {request.path.parent}\ntimeout = 3\ntimeout_method = signal\n"
        "faulthandler_timeout = 4\nfaulthandler_exit_on_timeout = true\n"
    )

    def run(chosen: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-k", chosen]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)

    return run


def test_a_wait_for_the_semaphore_of_a_killed_process_fails_and_the_run_continues(hanging):
    done = hanging("it or semaphore")
    assert done.returncode == 1, done.stderr
    assert "test_semaphore_of_a_killed_process - Failed: Timeout" in done.stdout
    assert "1 failed, 1 passed" in done.stdout


def test_a_teardown_that_hangs_after_a_failure_ends_the_process_with_its_stack(hanging):
    """Pins a run without end: pytest drops the limit of a test at its failure."""
    done = hanging("failure")
    assert done.returncode == 1
    assert "in never_torn_down" in done.stderr


def test_the_limit_of_this_suite_is_two_minutes(request):
    options = tomllib.loads((request.config.rootpath / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert options["timeout"] == 120
    assert options["timeout_method"] == "signal"
    assert options["faulthandler_exit_on_timeout"]
    assert 120 < options["faulthandler_timeout"] < 200
