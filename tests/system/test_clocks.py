"""Durations are read from text, and CPU time has that of workers in it."""

from __future__ import annotations

import multiprocessing
import time

import pytest

from tests.masking import needs_posix
from unet4d.errors import InputError
from unet4d.system import clocks
from unet4d.system.clocks import SLURM_END, cpu_seconds, seconds_of, slurm_seconds_left

BURNT_S = 0.06
"""CPU seconds that a worker takes; the system counts in hundredths."""


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("40m", 2400), ("8h", 28800), ("1h30m", 5400), ("2d", 172800), ("1.5h", 5400), (" 1H 5s ", 3605)],
)
def test_durations(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "40", "m", "30m1h", "-5m", "0s", "0.5s", "367d", "8 hours", "1h-2m", "nan", "1e3s"]
)
def test_no_durations(text):
    assert seconds_of(text) is None


def test_the_end_of_a_slurm_job(monkeypatch):
    monkeypatch.setattr(clocks.time, "time", lambda: 1000.0)
    monkeypatch.setenv(SLURM_END, "4600")
    assert slurm_seconds_left() == 3600
    for end in ("", "soon"):
        monkeypatch.setenv(SLURM_END, end)
        with pytest.raises(InputError, match=SLURM_END):
            slurm_seconds_left()


def _burn(pipe) -> None:
    """Take CPU time, tell so, and wait to be killed."""
    while time.process_time() < BURNT_S:
        pass
    pipe.send("burnt")
    pipe.poll(None)


@needs_posix("elsewhere psutil tells it, see test_operating_system.py")
def test_cpu_seconds_of_a_worker_count_while_it_lives_and_after():
    own, theirs = multiprocessing.Pipe()
    worker = multiprocessing.get_context("fork").Process(target=_burn, args=(theirs,))
    before_s = cpu_seconds() - time.process_time()
    worker.start()
    assert own.recv() == "burnt"
    living_s = cpu_seconds() - time.process_time()
    worker.kill()
    worker.join()
    ended_s = cpu_seconds() - time.process_time()
    assert living_s >= before_s + BURNT_S / 2
    assert ended_s >= before_s + BURNT_S / 2
