"""Commands run in processes of their own that are sent a signal at an event, or have one injected at a certain place."""

from __future__ import annotations

import io
import itertools
import os
import pkgutil
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.builders import skip_drawing
from unet4d.cli.main import main

Arm = Callable[[], None]


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def run_armed(arm: Arm, *words: object, terminal: bool = False) -> None:
    """Arm, then run `unet4d` with these words; to be run in a process of its own."""
    if terminal:
        sys.stderr = Terminal()
    skip_drawing(pytest.MonkeyPatch(), "unet4d.report.report")
    arm()
    try:
        main(list(map(str, words)))
    finally:
        if terminal:
            sys.__stderr__.write(sys.stderr.getvalue())


def at_call(target: str, number: int, act: Callable[[], Any], then: Callable[[], Any] = lambda: None) -> Arm:
    """Return a function that has this process call `act` before the `number`-th call of `target`, such as "os.replace".

    `then` is called after `act`, and before every later call.
    """

    def arm() -> None:
        home, _, name = target.rpartition(".")
        place = pkgutil.resolve_name(home)
        usual, calls = getattr(place, name), itertools.count(1)

        def struck(*given: Any, **named: Any) -> Any:
            count = next(calls)
            if count == number:
                act()
            if count >= number:
                then()
            return usual(*given, **named)

        setattr(place, name, struck)

    return arm


def signalled(target: str, number: int, signum: int = signal.SIGTERM) -> Arm:
    """Return a function that has this process sent a signal before the `number`-th call of `target`."""
    return at_call(target, number, lambda: os.kill(os.getpid(), signum))


def hanging(target: str, number: int, signum: int = signal.SIGTERM) -> Arm:
    """The same, and the threads that make this call and later ones never return from it."""
    return at_call(target, number, lambda: os.kill(os.getpid(), signum), lambda: threading.Event().wait())
