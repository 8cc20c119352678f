"""The bar of an epoch: what it shows on a terminal, and that elsewhere it shows nothing."""

from __future__ import annotations

import io
import re

import pytest

import unet4d.training.monitoring.epoch_bar
from unet4d.training.monitoring.epoch_bar import EpochBar


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """Return a clock of the bar's own that a test sets."""
    time = [100.0]
    monkeypatch.setattr(unet4d.training.monitoring.epoch_bar.time, "perf_counter", lambda: time[0])
    return time


def stepped(monkeypatch, clock, steps: int, *made, stderr=Terminal, enabled: bool = True, later_s=None) -> str:
    """Return the bar as it is on stderr after this many steps of 2 s and 6 frames."""
    told = stderr()
    monkeypatch.setattr("sys.stderr", told)  # in the test itself: pytest sets its own before it
    with EpochBar(*made, enabled=enabled, later_s=later_s) as bar:
        for _ in range(steps):
            clock[0] += 2.0
            bar.step(0.51234, 6)
        bar.bar.refresh()
        return re.split(r"[\r\n]+", told.getvalue())[-1]


def test_it_shows_how_the_epoch_and_the_run_go(monkeypatch, clock):
    """Epoch 3 of 5, 4 of 10 steps taken at 2 s each: 6 + 20 steps are left, 52 s."""
    told = stepped(monkeypatch, clock, 4, 3, 5, 10, 0, 0.8712)
    assert told.startswith("epoch 3/5 ")
    assert told.endswith("4/10, loss 0.5123, Dice 0.871, ETA 00:52, 3 frames/s")


def test_a_resumed_epoch_begins_where_it_was_left(monkeypatch, clock):
    """7 of 10 steps lie behind; the pace is that of the two taken now: one is left, and another epoch's ten."""
    told = stepped(monkeypatch, clock, 2, 4, 5, 10, 7, None)
    assert told.endswith("9/10, loss 0.5123, ETA 00:22, 3 frames/s")


def test_the_time_of_later_epochs_can_be_given(monkeypatch, clock):
    """Six steps of this epoch at 2 s, and the time of validations and later epochs; 0 s counts, too."""
    assert ", ETA 01:52, " in stepped(monkeypatch, clock, 4, 3, 5, 10, 0, None, later_s=100.0)
    assert ", ETA 00:12, " in stepped(monkeypatch, clock, 4, 3, 5, 10, 0, None, later_s=0.0)


def test_a_loss_that_is_not_known_yet_is_a_dash(monkeypatch):
    told = Terminal()
    monkeypatch.setattr("sys.stderr", told)
    with EpochBar(1, 1, 2, 0, None, True) as bar:
        bar.step(None, 6)
        bar.bar.refresh()
    assert "loss -," in told.getvalue()


@pytest.mark.parametrize(("stderr", "enabled"), [(io.StringIO, True), (Terminal, False)])
def test_nothing_is_shown_elsewhere(monkeypatch, clock, stderr, enabled):
    assert stepped(monkeypatch, clock, 3, 1, 1, 3, 0, 0.5, stderr=stderr, enabled=enabled) == ""
