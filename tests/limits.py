"""Limits of what tests wait for, and hooks for a conftest.py that end a test where pytest-timeout cannot."""

from __future__ import annotations

import faulthandler
import time
from collections.abc import Callable, Generator

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key

PATIENCE_S = 90
"""Longest wait for anything; under the limit of a test."""
SLOW_S = 900
"""Limit of a test that is marked slow."""
GRACE_S = 30
"""A test that runs this long beyond its limit is in a wait that no signal ends."""


def wait_until(holds: Callable[[], object], what: str) -> None:
    """Wait until something holds that nothing else reports, such as a file that another process writes."""
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, f"waited {PATIENCE_S} s for {what}"
        time.sleep(0.01)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests that are marked slow more time."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_S))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """End the process with every stack where the limit of a test ends nothing, such as in a wait inside a C++ library."""
    _arm(item)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(trylast=True)
def pytest_exception_interact(node: pytest.Item | pytest.Collector) -> None:
    """Limit the time that a failed test takes to tear down: for the sake of a debugger all limits end at the failure."""
    if isinstance(node, pytest.Item):
        _arm(node)


def _arm(item: pytest.Item) -> None:
    own = item.get_closest_marker("timeout")
    limit_s = float(own.args[0] if own else item.config.getini("timeout") or 0)
    if limit_s and not item.config.getoption("usepdb"):
        stderr = item.config.stash[fault_handler_stderr_fd_key]
        faulthandler.dump_traceback_later(limit_s + GRACE_S, exit=True, file=stderr)
