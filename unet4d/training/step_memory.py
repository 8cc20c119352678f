"""Recompute schedules of a training step, and what the step costs with each: the fastest one that fits a memory."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from unet4d.config import RecomputeConfig, ResolvedConfig
from unet4d.errors import InputError
from unet4d.models.clstm_unet import MOST_ELEMENTS, CLSTMUNet, can_be_chunked
from unet4d.models.memory_trace import MemoryTrace
from unet4d.pipeline.clip_dataset import Batch
from unet4d.system.gpu_memory import usable_bytes
from unet4d.system.text import count
from unet4d.training.step import TrainingStep


@dataclass(frozen=True)
class StepCost:
    """Memory and work of one training step.

    Attributes:
        peak_bytes: bytes of tensors alive at once, at most.
        working_bytes: the same with the copies that a convolution may make while it runs; fragmentation comes on top.
        fixed_bytes: bytes of weights, gradients, optimizer state and average, which no schedule makes smaller.
        flops: floating-point operations of convolutions and matrix products, recomputed ones included.
        largest_elements: elements of the largest tensor.
    """

    peak_bytes: int
    working_bytes: int
    fixed_bytes: int
    flops: int
    largest_elements: int = 0


class PlannedStep(NamedTuple):
    """A recompute schedule of a training step, and what the step costs with it."""

    recompute: RecomputeConfig
    cost: StepCost

    @property
    def planned_bytes(self) -> int:
        """Return the most bytes that the allocator is expected to hand out at once."""
        return self.cost.working_bytes

    def fits(self, budget_bytes: int) -> bool:
        """Return whether the step leaves the spare of the budget free, and kernels can index every tensor."""
        return self.planned_bytes <= usable_bytes(budget_bytes) and self.is_indexable

    @property
    def is_indexable(self) -> bool:
        """Return whether no tensor has 2**31 elements or more: kernels for those are slow or missing."""
        return self.cost.largest_elements <= MOST_ELEMENTS


def recompute_schedules(asked: RecomputeConfig, frames: int, chunkable: bool = True) -> list[RecomputeConfig]:
    """Return the recompute schedules to try for a clip of this many frames, from the fastest to the leanest.

    All frames at once come first, then chunks as wide as possible, because narrow ones starve a GPU. Next the inside of the
    encoder's stages is computed twice; groups of chunks, which cost one more pass, come last.

    Args:
        asked: with `chunk_frames` set, it comes first and leaner schedules follow; else all schedules keep what it sets.
        frames: T of a clip.
        chunkable: whether the network's frames may be computed in chunks; if not, no schedule has any.
    """
    ladder = [RecomputeConfig(0, lstm="gates"), RecomputeConfig(0), RecomputeConfig(0, stages=True)]
    if chunkable:
        ladder += [RecomputeConfig(1 << power) for power in reversed(range((frames - 1).bit_length()))]
        ladder += [RecomputeConfig(1, stages=True)] * (frames > 1)
        ladder += [RecomputeConfig(1, math.isqrt(frames), stages=True)] * (frames > 3)
    if asked.chunk_frames is None:
        default = RecomputeConfig()
        given = {name: value for name, value in vars(asked).items() if value != getattr(default, name)}
        ladder = [dataclasses.replace(schedule, **given) for schedule in ladder]
        return [schedule for place, schedule in enumerate(ladder) if schedule not in ladder[:place]]

    def leanness(schedule: RecomputeConfig) -> tuple[int, bool, int, bool]:
        width = min(schedule.chunk_frames or frames, frames)
        return -width, schedule.stages, schedule.group_chunks, schedule.lstm == "hidden"

    return [asked, *(schedule for schedule in ladder if leanness(schedule) > leanness(asked))]


def describe_clips(config: ResolvedConfig) -> str:
    """Return the clips of a step and their size, as text."""
    data, train = config.data, config.train
    batches = f"{train.accumulate_batches} batches of " * (train.accumulate_batches > 1)
    voxels = " x ".join(map(str, data.patch_size))
    return f"{batches}{count(train.batch_size, 'clip')} of {count(data.frames, 'frame')} of {voxels} voxels"


def describe_recompute(recompute: RecomputeConfig) -> str:
    """Return the recompute schedule as text for messages."""
    if not recompute.chunk_frames:
        words = "all frames at once"
    else:
        words = f"chunks of {count(recompute.chunk_frames, 'frame')}"
        if recompute.group_chunks > 1:
            words += f" in groups of {recompute.group_chunks}"
        words += ", the rest recomputed"
    return words + ", encoder stages twice" * recompute.stages + ", gates kept" * (recompute.lstm == "gates")


def choose_recompute(
    config: ResolvedConfig,
    in_channels: int,
    out_channels: int,
    labelled_frames: int,
    budget_bytes: int,
    is_whole: bool = True,
    regions: Sequence[Sequence[int]] = (),
) -> tuple[PlannedStep, bool]:
    """Return the fastest schedule of the configured step that fits the budget, and True; else the leanest, and False.

    See `count_step_cost` for the arguments.
    """
    tried: list[PlannedStep] = []
    for recompute in recompute_schedules(config.recompute, config.data.frames, can_be_chunked(config.model)):
        scheduled = dataclasses.replace(config, recompute=recompute)
        cost = count_step_cost(scheduled, in_channels, out_channels, labelled_frames, is_whole, regions)
        tried.append(PlannedStep(recompute, cost))
        if tried[-1].fits(budget_bytes):
            return tried[-1], True
    return min(tried, key=lambda step: step.planned_bytes), False


def count_step_cost(
    config: ResolvedConfig,
    in_channels: int,
    out_channels: int,
    labelled_frames: int,
    is_whole: bool = True,
    regions: Sequence[Sequence[int]] = (),
) -> StepCost:
    """Count the cost of a training step by running it on tensors without content; nothing random is drawn.

    Args:
        config: of the run; `recompute.chunk_frames` None counts as 0.
        in_channels: channels C of a frame.
        out_channels: classes K, or regions.
        labelled_frames: labelled frames of each clip, at least 1; taken to be the last ones, where one chunk has them all while
            every state before it is kept.
        is_whole: whether every label is whole; the loss of partly drawn ones takes more memory.
        regions: as in `TrainingStep`.
    """
    if config.train.precision == "fp16":
        # bf16 has the same size, and no loss scaler, which looks at values.
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, precision="bf16"))
    batch, frames, patch = config.train.batch_size, config.data.frames, config.data.patch_size
    # These are read, so they are not fake.
    labelled = (torch.arange(frames) >= frames - labelled_frames).expand(batch, frames)
    weights = None if is_whole else labelled.float()
    compared = None
    if config.train.consistency_weight:
        # Before the labelled ones: no more frames can be decoded in a clip, or in a chunk.
        first = max(0, frames - labelled_frames - config.train.consistency_frames)
        compared = torch.zeros(batch, frames, dtype=torch.bool)
        compared[:, first : first + config.train.consistency_frames] = True
    with FakeTensorMode(), MemoryTrace() as trace:
        network = CLSTMUNet(config.model, in_channels, out_channels).train()
        step = TrainingStep(network, config, torch.device("cpu"), regions=regions)
        _create_state(step.optimizer)
        image = torch.empty(batch, frames, in_channels, *patch)
        label = torch.empty(batch, frames, *patch, dtype=torch.uint8)
        # The weights of a `WeightAverage`.
        _average = [weight.detach().clone() for weight in network.parameters() if config.train.ema_decay]
        # From the second batch on, gradients are there while activations are.
        batches = [Batch(image, label, labelled, (), compared, weights, (None,) * batch)] * min(
            config.train.accumulate_batches, 2
        )
        with _counted(config):
            step.gradients(batches)
        step.update()
        flops = trace.flops // len(batches) * config.train.accumulate_batches
        del image, label, batches
        return StepCost(trace.peak_bytes, trace.working_bytes, trace.current_bytes, flops, trace.largest_elements)


@contextlib.contextmanager
def _counted(config: ResolvedConfig) -> Iterator[None]:
    """Explain a failure inside the context of a class of the user's that reads values of tensors."""
    try:
        yield
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        classes = {"model.temporal": config.model.temporal, "train.loss": config.train.loss}
        named = " and ".join(f"{name} {path}" for name, path in classes.items() if path)
        if not named:
            raise
        raise InputError(
            f"{named}: got code that reads values of tensors "
            f"({error}), expected none, because the memory of a step is counted on tensors without content; compute with tensors "
            "alone, or train on a CPU, where nothing is counted"
        ) from error


def _create_state(optimizer: torch.optim.Optimizer) -> None:
    """Let the optimizer create its state, as it does in its first step, so that the next step is like all that follow."""
    for group in optimizer.param_groups:
        for weight in group["params"]:
            weight.grad = torch.zeros_like(weight)
    optimizer.step()
