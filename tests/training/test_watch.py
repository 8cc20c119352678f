"""A step that runs out of memory is taken again in a leaner way; the first steps' peak is told beside the planned one."""

from __future__ import annotations

import pytest
import torch

from unet4d.training import watch
from unet4d.config import MemoryConfig
from unet4d.model.fitting import GB, Fit, ladder
from unet4d.model.memory import StepMemory
from unet4d.training.watch import MemoryWatch

BATCH = torch.zeros(1, 8, 1, 4, 4, 2), torch.zeros(1, 8, 4, 4, 2), [[True] * 8]
PLANNED = Fit(MemoryConfig(0), StepMemory(2 * GB, 3 * GB, GB, 1))


class Step:
    """A step that needs as many units of memory as frames are computed at once."""

    def __init__(self, room: float):
        self.room, self.memory, self.taken, self.drawn = room, MemoryConfig(0), [], []
        self.optimiser = torch.optim.SGD([torch.zeros(1)], 0.1)

    def use(self, memory):
        self.memory = memory

    def gradients(self, image, label, labelled):
        torch.rand(())
        width = self.memory.chunk_frames or image.shape[1]
        if width - 0.5 * self.memory.stages > self.room:
            raise torch.OutOfMemoryError("made up")
        self.taken.append(self.memory)
        self.drawn.append(float(torch.rand(())))
        return image.sum()

    def update(self):
        return torch.zeros(())


def watched(room: float, memory: MemoryConfig = MemoryConfig(0), fit: Fit | None = None):  # noqa: B008
    said: list[str] = []
    step = Step(room)
    step.use(memory)
    return MemoryWatch(step, memory, 8, fit, said.append), step, said


def test_it_goes_down_the_ladder_until_the_step_fits_and_stays_there():
    watch, step, said = watched(room=2)
    for _ in range(3):
        watch(*BATCH)
    assert step.taken == [MemoryConfig(2)] * 3
    assert said == [
        "out of memory with all frames at once; going on with all frames at once, encoder stages twice",
        "out of memory with all frames at once, encoder stages twice; going on with chunks of 4 frames, the rest computed again",
        "out of memory with chunks of 4 frames, the rest computed again; going on with chunks of 2 frames, the rest computed again",
    ]


def test_below_the_leanest_way_there_is_none():
    watch, step, _ = watched(room=0)
    with pytest.raises(torch.OutOfMemoryError):
        watch(*BATCH)
    assert step.memory == ladder(8)[-1]


def test_another_error_is_not_out_of_memory():
    watch, step, said = watched(room=9)
    step.use = None
    with pytest.raises(AttributeError):
        watch(None, None, None)
    assert said == []


def test_the_retried_step_draws_what_the_first_try_drew():
    drawn = []
    for room in (9, 2):
        torch.manual_seed(0)
        guard, step, _ = watched(room)
        guard(*BATCH)
        drawn.append(step.drawn)
    assert drawn[0] == drawn[1]


def test_the_third_step_tells_what_was_planned_and_what_was_measured(monkeypatch):
    peaks = []
    monkeypatch.setattr(watch, "forget_peak", lambda device: peaks.append(int(2.5 * GB)))
    monkeypatch.setattr(watch, "peak_bytes", lambda device: peaks[-1])
    guard, _, said = watched(room=9, fit=PLANNED)
    for _ in range(2):
        guard(*BATCH)
    assert said == []
    for _ in range(3):
        guard(*BATCH)
    assert said == ["memory: planned 3.00 GB, measured 2.50 GB at the peak of steps 2 to 3"]


def test_a_plan_that_did_not_hold_is_not_held_against_the_way_that_did(monkeypatch):
    monkeypatch.setattr(watch, "peak_bytes", lambda device: 1)
    guard, _, said = watched(room=2, fit=PLANNED)
    for _ in range(4):
        guard(*BATCH)
    assert all(line.startswith("out of memory") for line in said)
