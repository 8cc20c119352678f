"""Keeps a training within its memory: the first steps' true peak beside the planned one, and a leaner way when it is too much."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from unet4d.config import MemoryConfig
from unet4d.model.fitting import GB, Fit, described, rungs_from
from unet4d.model.step import TrainingStep

FIRST_STEPS = 3
"""Steps after which the peak is what it will be: the optimiser has its state, and every algorithm has been chosen."""


class MemoryWatch:
    """Takes training steps; one that runs out of memory is cut in a leaner way, which changes nothing but time, and taken again.

    Args:
        step: the training step, cut as `memory` says.
        memory: how it is cut.
        frames: T of a clip.
        fit: what was planned; None compares nothing.
        say: where a line for the user goes.
    """

    def __init__(
        self, step: TrainingStep, memory: MemoryConfig, frames: int, fit: Fit | None, say: Callable[[str], None]
    ):
        self.step, self.fit, self.say = step, fit, say
        self.memory, *self.leaner = rungs_from(memory, frames)
        self.steps = 0

    def __call__(self, image: Tensor, label: Tensor, labelled: Sequence[Sequence[bool]]) -> tuple[Tensor, Tensor]:
        """Take one step; see `TrainingStep`.

        Raises:
            torch.OutOfMemoryError: the leanest way is not lean enough.
        """
        while True:
            taken = self._tried(image, label, labelled)
            if taken is not None:
                break
        self.steps += 1
        if self.fit and self.steps == FIRST_STEPS:
            measured, planned = peak_bytes(image.device) / GB, self.fit.planned_bytes / GB
            self.say(f"memory: planned {planned:.2f} GB, measured {measured:.2f} GB at the peak of {FIRST_STEPS} steps")
        return taken

    def _tried(self, *batch) -> tuple[Tensor, Tensor] | None:
        """One step, or None and a leaner way from now on; nothing of the failed one is left to take up memory."""
        try:
            return self.step(*batch)
        except torch.OutOfMemoryError:
            if not self.leaner:
                raise
        self.say(f"out of memory with {described(self.memory)}; going on with {described(self.leaner[0])}")
        self.memory = self.leaner.pop(0)
        self.step.use(self.memory)
        torch.cuda.empty_cache()
        return None


def peak_bytes(device: torch.device) -> int:
    """The most a GPU's allocator has handed out in this process so far."""
    return torch.cuda.max_memory_allocated(device)
