"""The time limit of a test, where pytest and pytest-timeout drop theirs. Import the hook into a conftest.py."""

from __future__ import annotations

import faulthandler

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key


@pytest.hookimpl(trylast=True)
def pytest_exception_interact(node: pytest.Item | pytest.Collector) -> None:
    """Limit the time that a failed test takes to tear down: for the sake of a debugger the limits end at the failure."""
    limit_s = float(node.config.getini("faulthandler_timeout"))
    if isinstance(node, pytest.Item) and limit_s and not node.config.getoption("usepdb"):
        faulthandler.dump_traceback_later(limit_s, exit=True, file=node.config.stash[fault_handler_stderr_fd_key])
