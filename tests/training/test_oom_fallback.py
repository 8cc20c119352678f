"""A step that runs out of memory is repeated with a leaner schedule; the first steps' peak is reported beside the plan."""

from __future__ import annotations

import gc
import inspect
import operator
import weakref
from types import SimpleNamespace

import pytest
import torch

from tests.builders import build_network, collect_log, tiny_config
from unet4d.config import RecomputeConfig
from unet4d.models.conv import Convolution
from unet4d.pipeline.clip_dataset import Batch
from unet4d.system.byte_sizes import GB
from unet4d.system.distributed import ProcessGroup
from unet4d.training import oom_fallback
from unet4d.training.oom_fallback import OomFallback
from unet4d.training.step import TrainingStep
from unet4d.training.step_memory import PlannedStep, StepCost, recompute_schedules

BATCH = Batch(torch.zeros(1, 8, 1, 4, 4, 2), torch.zeros(1, 8, 4, 4, 2), torch.ones(1, 8, dtype=torch.bool))
PLANNED = PlannedStep(RecomputeConfig(0), StepCost(2 * GB, 3 * GB, GB, 1))


class Step:
    """A step that needs as many units of memory as frames are computed at once."""

    device, frame_wise, network = torch.device("cpu"), False, SimpleNamespace(is_chunkable=True)

    def __init__(self, room: float, ranks: ProcessGroup = ProcessGroup()):  # noqa: B008
        self.room, self.ranks, self.memory, self.taken = room, ranks, RecomputeConfig(0), []
        self.optimizer = torch.optim.SGD([torch.zeros(1)], 0.1)

    def set_recompute(self, memory):
        self.memory = memory

    def gradients(self, batches, number):
        width = self.memory.chunk_frames or batches[0].image.shape[1]
        if width - 0.5 * self.memory.stages > self.room:
            raise torch.OutOfMemoryError("made up")
        self.taken.append((number, self.memory))
        return batches[0].image.sum()

    def update(self):
        return torch.zeros(())


def watched(room: float, planned: PlannedStep | None = None, ranks: ProcessGroup = ProcessGroup()):  # noqa: B008
    said = collect_log()
    step = Step(room, ranks)
    return OomFallback(step, step.memory, 8, planned), step, said


def test_it_goes_down_the_ladder_until_the_step_fits_and_stays_there():
    guard, step, said = watched(room=2)
    for number in range(3):
        guard([BATCH], number)
    assert step.taken == [(number, RecomputeConfig(2)) for number in range(3)]
    assert said == [
        "out of memory with all frames at once; continuing with all frames at once, encoder stages twice",
        "out of memory with all frames at once, encoder stages twice; continuing with chunks of 4 frames, the rest recomputed",
        "out of memory with chunks of 4 frames, the rest recomputed; continuing with chunks of 2 frames, the rest recomputed",
    ]


def test_below_the_leanest_way_there_is_none():
    guard, step, _ = watched(room=0)
    with pytest.raises(torch.OutOfMemoryError):
        guard([BATCH], 0)
    assert step.memory == recompute_schedules(RecomputeConfig(), 8)[-1]


def test_one_of_several_processes_does_not_take_a_step_again_that_the_others_are_in_the_midst_of():
    guard, step, said = watched(room=2, ranks=ProcessGroup(1, 2))
    with pytest.raises(torch.OutOfMemoryError):
        guard([BATCH], 0)
    assert (step.taken, said, step.memory) == ([], [], RecomputeConfig(0))


def test_another_error_is_not_out_of_memory():
    guard, step, said = watched(room=9)
    with pytest.raises(TypeError):
        guard(None, 0)
    assert (said, step.memory) == ([], RecomputeConfig(0))


def real_step() -> TrainingStep:
    """Return a step that drops half of the channels."""
    torch.manual_seed(0)
    config = tiny_config(channels=[4, 6], dropout=0.5, batch_size=1, learning_rate=1e-4, chunk_frames=0)
    return TrainingStep(build_network(config.model, 1, 3), config, torch.device("cpu"))


def test_a_step_taken_again_drops_the_same_channels_and_is_the_step_it_would_have_been(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    image = torch.randn(1, 8, 1, 8, 8, 2, generator=draw)
    batch = Batch(image, torch.randint(0, 3, (1, 8, 8, 8, 2), generator=draw), BATCH.labelled)
    step, plain, other, said = real_step(), real_step(), real_step(), collect_log()
    gradients = step.gradients

    def at_its_very_end_too_large(batches, number):
        loss = gradients(batches, number)
        if step.clip_loss.lengths != (2,):
            raise torch.OutOfMemoryError("made up")
        return loss

    left = []
    monkeypatch.setattr(step, "gradients", at_its_very_end_too_large)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: left.extend(p.grad for p in step.network.parameters()))
    guard = OomFallback(step, RecomputeConfig(0), 8, None)
    for number in (5, 6):
        wanted = plain.gradients([batch], number), plain.update()
        torch.testing.assert_close(guard([batch], number), wanted)
    assert len(said) == 3
    assert left == [None] * len(left)  # nothing of the failed one takes up memory
    for one, same in zip(step.network.parameters(), plain.network.parameters(), strict=True):
        torch.testing.assert_close(one, same, rtol=1e-4, atol=1e-5)
    assert not torch.isclose(other.gradients([batch], 4), real_step().gradients([batch], 5), rtol=1e-3)


@pytest.mark.parametrize("at", ["forward", "backward"])
@pytest.mark.parametrize(
    "memory", [RecomputeConfig(0, lstm="gates"), RecomputeConfig(4), RecomputeConfig(0, stages=True)], ids=str
)
def test_the_graph_of_a_failed_step_is_gone_before_the_next_try(monkeypatch, at, memory):
    """Else the next try, which is to need less, needs its own memory and the failed one's."""
    step, alive = real_step(), []
    step.set_recompute(memory)
    network, gradients = step.network, step.gradients
    decoded, seen, tries = network._decode, [], []

    def watched_and_failing(skips, taught):
        seen.extend(weakref.ref(skip) for skip in skips)
        logits = decoded(skips, taught)
        seen.extend(weakref.ref(one) for one in logits)
        if len(tries) == 1:
            if at == "forward":
                raise RuntimeError("FIND was unable to find an engine to execute this computation")
            logits[0].register_hook(failing_hook)
        return logits

    def failing_hook(grad):
        if len(tries) == 1:
            raise torch.OutOfMemoryError("made up")

    def counted(batches, number):
        tries.append(number)
        alive.append([one.shape for one in map(operator.call, seen) if one is not None])
        return gradients(batches, number)

    monkeypatch.setattr(network, "_decode", watched_and_failing)
    monkeypatch.setattr(step, "gradients", counted)
    guard = OomFallback(step, memory, 8, None)
    gc.disable()
    try:
        image, label = torch.randn(1, 8, 1, 8, 8, 2), torch.zeros(1, 8, 8, 8, 2, dtype=torch.uint8)
        guard([Batch(image, label, BATCH.labelled)], 0)
    finally:
        gc.enable()
    assert seen
    assert alive == [[], []]


def test_cudnn_that_supports_no_schedule_ends_with_its_own_error(monkeypatch):
    """It says the same where memory is short, so smaller steps are tried, each once."""
    guard, step, said = watched(room=9)
    tries = []

    def refused(batches, number):
        tries.append(step.memory)
        raise RuntimeError("FIND was unable to find an engine to execute this computation")

    monkeypatch.setattr(step, "gradients", refused)
    with pytest.raises(RuntimeError, match="unable to find an engine"):
        guard([BATCH], 0)
    assert len(tries) == len(said) + 1 == len({str(one) for one in tries})


@pytest.mark.parametrize("chunk_frames", [0, 4])
def test_the_measured_peak_is_that_of_three_steps_without_new_shapes(monkeypatch, chunk_frames):
    """A step's peak is 2 GB, and 9 GB where a shape is new."""
    other = BATCH._replace(labelled=torch.arange(8)[None] == 0)
    same_shapes = BATCH._replace(labelled=torch.arange(8)[None] == 1)
    short = Batch(*(part[:, :4] for part in BATCH[:3]))
    known: set[str] = set()
    peak = {"bytes": 0}

    def gradients(step, batches, number):
        shape = f"{batches[0].image.shape} {int(batches[0].labelled.sum())}"
        peak["bytes"] = max(peak["bytes"], (2 if shape in known else 9) * GB)
        known.add(shape)
        return torch.zeros(())

    monkeypatch.setattr(Step, "gradients", gradients)
    monkeypatch.setattr(oom_fallback, "reset_peak", lambda device: peak.update(bytes=0))
    monkeypatch.setattr(oom_fallback, "peak_allocated_bytes", lambda device: peak["bytes"])
    guard, _, said = watched(room=9, planned=PLANNED)
    guard.recompute = RecomputeConfig(chunk_frames)
    for number, batch in enumerate([short, short, BATCH, other, BATCH, same_shapes]):
        guard([batch], number)
    assert said == []
    for number in range(5):
        guard([other], number)
    assert len(said) == 1
    assert "planned 3 GB, measured 2 GB" in said[0]


def test_after_a_fallback_nothing_is_compared_with_the_plan(monkeypatch):
    monkeypatch.setattr(oom_fallback, "peak_allocated_bytes", lambda device: 1)
    guard, _, said = watched(room=2, planned=PLANNED)
    for number in range(4):
        guard([BATCH], number)
    assert all(line.startswith("out of memory") for line in said)


def test_at_most_12_stack_frames_lie_between_the_training_loop_and_a_convolution(monkeypatch):
    """All Python frames count, torch's included, from the call that the loop makes to the convolution's own `forward`."""
    step, depths, forward = real_step(), [], Convolution.forward

    def counted(self: Convolution, x: torch.Tensor) -> torch.Tensor:
        depths.append(len(inspect.stack(0)))
        return forward(self, x)

    monkeypatch.setattr(Convolution, "forward", counted)
    draw = torch.Generator().manual_seed(0)
    image, label = torch.randn(1, 8, 1, 8, 8, 2, generator=draw), torch.zeros(1, 8, 8, 8, 2, dtype=torch.uint8)
    batch = Batch(image, label, torch.ones(1, 8, dtype=torch.bool), ("a",))
    OomFallback(step, RecomputeConfig(0), 8, None)([batch], 0)
    assert depths[0] - len(inspect.stack(0)) <= 12
