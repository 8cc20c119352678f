"""Limits of what tests wait for, and of a test where pytest and pytest-timeout drop theirs: import that hook into a conftest.py."""

from __future__ import annotations

import faulthandler
import time
from collections.abc import Callable

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key

PATIENCE_S = 90
"""Longest wait for anything; under the limit of a test."""


@pytest.hookimpl(trylast=True)
def pytest_exception_interact(node: pytest.Item | pytest.Collector) -> None:
    """Limit the time that a failed test takes to tear down: for the sake of a debugger the limits end at the failure."""
    limit_s = float(node.config.getini("faulthandler_timeout"))
    if isinstance(node, pytest.Item) and limit_s and not node.config.getoption("usepdb"):
        faulthandler.dump_traceback_later(limit_s, exit=True, file=node.config.stash[fault_handler_stderr_fd_key])


def wait_until(holds: Callable[[], object], what: str) -> None:
    """Wait until something holds that nothing else reports, such as a file that another process writes."""
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, f"waited {PATIENCE_S} s for {what}"
        time.sleep(0.01)
