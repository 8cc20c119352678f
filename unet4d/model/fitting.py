"""How a training step is cut so that it fits a memory: the fastest way that does."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from typing import NamedTuple

import torch

from unet4d.config import FRAMES, Config, MemoryConfig
from unet4d.model.clstm_unet import MOST_ELEMENTS
from unet4d.model.memory import StepMemory, training_memory

GB = 10**9
SPARE_SHARE = 0.09
"""Share of a memory that stays free, because blocks of many sizes do not fill it without gaps, and libraries need workspaces."""
LEAST_SPARE_BYTES = int(1.5 * GB)
"""The least that stays free..."""
MOST_SPARE_SHARE = 0.25
"""... unless the memory is so small (below 6 GB) that this would be more than this share of it."""
NCCL_BYTES = GB
"""Memory set aside on each GPU where several train together, for NCCL's buffers and the buckets of gradients; an assumption."""
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
        """Return whether that is within the budget with the spare kept free, and kernels can index every tensor."""
        return self.planned_bytes <= usable_bytes(budget_bytes) and self.is_indexable

    @property
    def is_indexable(self) -> bool:
        """Return whether no tensor has 2**31 elements or more: kernels for those are slow or missing."""
        return self.step.largest_elements <= MOST_ELEMENTS


def usable_bytes(budget_bytes: float) -> float:
    """Return what a step may take of a memory: all but the spare, 9 % and at least 1.5 GB; of a small memory, a quarter."""
    spare_bytes = min(max(SPARE_SHARE * budget_bytes, LEAST_SPARE_BYTES), MOST_SPARE_SHARE * budget_bytes)
    return budget_bytes - spare_bytes


def sufficient_bytes(needed_bytes: float) -> float:
    """Return the smallest memory of which a step may take this much: the inverse of `usable_bytes`."""
    ample_bytes = max(needed_bytes / (1 - SPARE_SHARE), needed_bytes + LEAST_SPARE_BYTES)
    return min(needed_bytes / (1 - MOST_SPARE_SHARE), ample_bytes)


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


@functools.cache
def warm_up(device: torch.device) -> None:
    """Create the driver's context and the handles of cuBLAS and cuDNN, so that their memory no longer counts as free."""
    # A GPU without room for them has next to nothing free, which is then read.
    with contextlib.suppress(RuntimeError), torch.inference_mode(False), torch.enable_grad():
        image = torch.ones(2, 8, 8, 8, 8, device=device, requires_grad=True)
        weight = torch.ones(8, 8, 3, 3, 3, device=device, requires_grad=True)
        features = torch.nn.functional.conv3d(image, weight, padding=1).flatten(2)
        (features @ features.mT).sum().backward()
        torch.cuda.synchronize(device)


def free_bytes(device: torch.device) -> int:
    """Return what a GPU has left for this process now, right under MIG and within `set_per_process_memory_fraction`, too.

    Blocks that this process holds unused count as free.
    """
    warm_up(device)
    free, total = torch.cuda.mem_get_info(device)
    reserved = torch.cuda.memory_reserved(device)
    index = torch.cuda.current_device() if device.index is None else device.index  # "cuda" alone is refused here
    allowed = int(torch.cuda.get_per_process_memory_fraction(index) * total) - reserved
    return min(free, allowed) + reserved - torch.cuda.memory_allocated(device)
