"""How a training step is cut so that it fits a memory: the fastest way that does."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from unet4d.config import FRAMES, Config, RecomputeConfig
from unet4d.models.clstm_unet import MOST_ELEMENTS, build_network
from unet4d.models.memory_trace import MemoryTrace
from unet4d.pipeline.clip_dataset import Batch
from unet4d.system.gpu_memory import usable_bytes
from unet4d.training.step import TrainingStep


@dataclass(frozen=True)
class StepMemory:
    """What one training step takes.

    Attributes:
        peak_bytes: bytes of tensors alive at once, at most.
        working_bytes: the same with the copies that a convolution may make while it runs; fragmentation comes on top.
        fixed_bytes: those of weights, gradients, optimiser state and average, which no cutting of the clip makes smaller.
        flops: floating-point operations of convolutions and matrix products, those computed again included.
        largest_elements: elements of the largest tensor.
    """

    peak_bytes: int
    working_bytes: int
    fixed_bytes: int
    flops: int
    largest_elements: int = 0


class StepFit(NamedTuple):
    """A way to cut the step, and what it takes."""

    memory: RecomputeConfig
    step: StepMemory

    @property
    def planned_bytes(self) -> int:
        """The most the allocator is expected to hand out at once."""
        return self.step.working_bytes

    def fits(self, budget_bytes: int) -> bool:
        """Return whether that is within the budget with the spare kept free, and kernels can index every tensor."""
        return self.planned_bytes <= usable_bytes(budget_bytes) and self.is_indexable

    @property
    def is_indexable(self) -> bool:
        """Return whether no tensor has 2**31 elements or more: kernels for those are slow or missing."""
        return self.step.largest_elements <= MOST_ELEMENTS


def ladder(frames: int) -> list[RecomputeConfig]:
    """The ways to cut a clip of so many frames, from the fastest to the slowest, which as a rule needs least.

    First all frames at once, then chunks as wide as possible, for a GPU is starved by narrow ones; computing the inside of the
    encoder's stages twice comes next, and groups of chunks, which cost one more pass, last.
    """
    rungs = [RecomputeConfig(0, lstm="gates"), RecomputeConfig(0), RecomputeConfig(0, stages=True)]
    width = 1 << max(0, frames - 1).bit_length()
    while width > 1:
        width //= 2
        rungs.append(RecomputeConfig(width))
    if frames > 1:
        rungs.append(RecomputeConfig(1, stages=True))
    group = math.isqrt(frames)
    if group > 1:
        rungs.append(RecomputeConfig(1, group, stages=True))
    return rungs


def ways(memory: RecomputeConfig, frames: int) -> list[RecomputeConfig]:
    """The ways to cut a clip, fastest first, that keep what the configuration sets."""
    if memory.chunk_frames is not None:
        return [memory]
    plain, found = RecomputeConfig(), []
    for rung in ladder(frames):
        kept = [memory if getattr(memory, k) != getattr(plain, k) else rung for k in ("group_chunks", "stages", "lstm")]
        way = RecomputeConfig(rung.chunk_frames, kept[0].group_chunks, kept[1].stages, kept[2].lstm)
        if way not in found:
            found.append(way)
    return found


def rungs_from(memory: RecomputeConfig, frames: int) -> list[RecomputeConfig]:
    """This way to cut a clip and all leaner ones of the ladder; with `chunk_frames` left open, all ways that keep what is set."""
    if memory.chunk_frames is None:
        return ways(memory, frames)
    return [memory, *(rung for rung in ladder(frames) if _leanness(rung, frames) > _leanness(memory, frames))]


def _leanness(memory: RecomputeConfig, frames: int) -> tuple[int, bool, int, int]:
    """Rises along the ladder."""
    kept = ("gates", "hidden", "borders").index(memory.lstm)
    return -min(memory.chunk_frames or frames, frames), memory.stages, memory.group_chunks, kept


def describe_recompute(memory: RecomputeConfig) -> str:
    """The way to cut in words."""
    if not memory.chunk_frames:
        words = "all frames at once"
    else:
        words = f"chunks of {memory.chunk_frames} frame{'s' * (memory.chunk_frames > 1)}"
        if memory.group_chunks > 1:
            words += f" in groups of {memory.group_chunks}"
        words += ", the rest computed again"
    kept = {"gates": ", gates kept", "hidden": "", "borders": ", ConvLSTMs run again"}[memory.lstm]
    return words + (", encoder stages twice" if memory.stages else "") + kept


def fitted(
    config: Config, in_channels: int, out_channels: int, labelled_frames: int, budget_bytes: int
) -> tuple[StepFit, bool]:
    """The fastest way to cut the configured step that fits the budget, and True; else the leanest, and False.

    Where the configuration names a way, it and leaner ones are tried. See `training_memory` for the arguments.
    """
    fits: list[StepFit] = []
    for memory in rungs_from(config.recompute, config.data.frames or FRAMES):
        cut = dataclasses.replace(config, recompute=memory)
        fits.append(StepFit(memory, training_memory(cut, in_channels, out_channels, labelled_frames)))
        if fits[-1].fits(budget_bytes):
            return fits[-1], True
    return min(fits, key=lambda fit: fit.planned_bytes), False


def training_memory(config: Config, in_channels: int, out_channels: int, labelled_frames: int) -> StepMemory:
    """Run the training step on tensors without content, and count; nothing random is drawn.

    Args:
        config: resolved: patch, frames, batch and precision are set; `memory.chunk_frames` None counts as 0.
        in_channels: channels C of a frame.
        out_channels: classes K.
        labelled_frames: frames of each clip that are labelled, at least 1; taken to be the last ones, side by side, where one chunk
            has to bear them all while every state before it is kept.
    """
    if config.train.precision == "fp16":
        # Of the same size, and without the loss scaler, which looks at values.
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, precision="bf16"))
    batch, frames, patch = config.train.batch_size, config.data.frames, config.data.patch_size
    assert batch is not None
    assert frames is not None
    assert patch is not None
    labelled = (torch.arange(frames) >= frames - labelled_frames).expand(batch, frames)  # read, so not fake
    with FakeTensorMode(), MemoryTrace() as trace:
        network = build_network(config.model, in_channels, out_channels).train()
        step = TrainingStep(network, config, torch.device("cpu"))
        _make_state(step.optimiser)
        image = torch.empty(batch, frames, in_channels, *patch)
        label = torch.empty(batch, frames, *patch, dtype=torch.uint8)
        # What a `WeightAverage` holds, which it changes in place.
        _average = [weight.detach().clone() for weight in network.parameters() if config.train.ema_decay]
        # From the second batch on, gradients are there while activations are.
        batches = [Batch(image, label, labelled)] * min(config.train.accumulate_batches, 2)
        step.gradients(batches)
        step.update()
        flops = trace.flops // len(batches) * config.train.accumulate_batches
        del image, label, batches
        return StepMemory(trace.peak_bytes, trace.working_bytes, trace.current_bytes, flops, trace.largest_elements)


def _make_state(optimiser: torch.optim.Optimizer) -> None:
    """Have the optimiser make its state, as it does in its first step, so that the next one is like all that follow."""
    for group in optimiser.param_groups:
        for weight in group["params"]:
            weight.grad = torch.zeros_like(weight)
    optimiser.step()
