"""How a training step is cut so that it fits a memory: the fastest way that does."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import torch

from unet4d.config import FRAMES, Config, MemoryConfig
from unet4d.model.memory import StepMemory, training_memory

GB = 10**9
SPARE_SHARE = 0.05
"""Part of a memory that is left free: blocks of many sizes do not fill it without gaps."""
CONTEXT_BYTES = int(0.8 * GB)
"""What the driver and the libraries take of a card before the first tensor; already gone from what a running process finds free."""


class Fit(NamedTuple):
    """A way to cut the step, and what it takes."""

    memory: MemoryConfig
    step: StepMemory

    @property
    def planned_bytes(self) -> int:
        """The most the allocator is expected to hand out at once."""
        return self.step.working_bytes

    def fits(self, budget_bytes: int) -> bool:
        """Whether that is within the budget, with something to spare."""
        return self.planned_bytes <= budget_bytes * (1 - SPARE_SHARE)


def ladder(frames: int) -> list[MemoryConfig]:
    """The ways to cut a clip of so many frames, from the fastest to the slowest, which as a rule needs least.

    First all frames at once, then chunks as wide as possible, for a GPU is starved by narrow ones; computing the inside of the
    encoder's stages twice comes next, and groups of chunks, which cost one more pass, last.
    """
    rungs = [MemoryConfig(0, lstm="gates"), MemoryConfig(0), MemoryConfig(0, stages=True)]
    width = 1 << max(0, frames - 1).bit_length()
    while width > 1:
        width //= 2
        rungs.append(MemoryConfig(width))
    if frames > 1:
        rungs.append(MemoryConfig(1, stages=True))
    group = math.isqrt(frames)
    if group > 1:
        rungs.append(MemoryConfig(1, group, stages=True))
    return rungs


def ways(memory: MemoryConfig, frames: int) -> list[MemoryConfig]:
    """The ways to cut a clip, fastest first, that keep what the configuration sets."""
    if memory.chunk_frames is not None:
        return [memory]
    plain, found = MemoryConfig(), []
    for rung in ladder(frames):
        kept = [memory if getattr(memory, k) != getattr(plain, k) else rung for k in ("group_chunks", "stages", "lstm")]
        way = MemoryConfig(rung.chunk_frames, kept[0].group_chunks, kept[1].stages, kept[2].lstm)
        if way not in found:
            found.append(way)
    return found


def rungs_from(memory: MemoryConfig, frames: int) -> list[MemoryConfig]:
    """This way to cut a clip and all leaner ones of the ladder; with `chunk_frames` left open, all ways that keep what is set."""
    if memory.chunk_frames is None:
        return ways(memory, frames)
    return [memory, *(rung for rung in ladder(frames) if _leanness(rung, frames) > _leanness(memory, frames))]


def _leanness(memory: MemoryConfig, frames: int) -> tuple[int, bool, int, int]:
    """Rises along the ladder."""
    kept = ("gates", "hidden", "borders").index(memory.lstm)
    return -min(memory.chunk_frames or frames, frames), memory.stages, memory.group_chunks, kept


def described(memory: MemoryConfig) -> str:
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
) -> tuple[Fit, bool]:
    """The fastest way to cut the configured step that fits the budget, and True; else the leanest, and False.

    Where the configuration names a way, it and leaner ones are tried. See `training_memory` for the arguments.
    """
    fits: list[Fit] = []
    for memory in rungs_from(config.memory, config.data.frames or FRAMES):
        cut = dataclasses.replace(config, memory=memory)
        fits.append(Fit(memory, training_memory(cut, in_channels, out_channels, labelled_frames)))
        if fits[-1].fits(budget_bytes):
            return fits[-1], True
    return min(fits, key=lambda fit: fit.planned_bytes), False


def free_bytes(device: torch.device) -> int:
    """What a GPU has left for this process now (right under MIG, too); blocks this process holds unused count as free."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
