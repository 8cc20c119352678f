"""Keeps a training within its memory: the first steps' true peak beside the planned one, and a leaner way when it is too much."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from unet4d.config import MemoryConfig
from unet4d.model.fitting import GB, Fit, described, rungs_from
from unet4d.model.step import TrainingStep

SETTLED = 1, 3
"""The peak is that of the steps after the first of these, in which cuDNN tries its algorithms, up to the second."""


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
        while (loss := self._tried(image, label, labelled)) is None:
            pass
        norm = self.step.update()
        self.steps += 1
        if self.fit and self.steps == SETTLED[0]:
            forget_peak(image.device)
        if self.fit and self.steps == SETTLED[1]:
            measured, planned = peak_bytes(image.device) / GB, self.fit.planned_bytes / GB
            self.say(
                f"memory: planned {planned:.2f} GB, measured {measured:.2f} GB at the peak of steps 2 to {SETTLED[1]}"
            )
        return loss, norm

    def _tried(self, *batch) -> Tensor | None:
        """The loss, with gradients; or None, and a leaner way from now on; nothing of the failed one is left to take up memory."""
        drawn = torch.get_rng_state()
        try:
            return self.step.gradients(*batch)
        except torch.OutOfMemoryError:
            if not self.leaner:
                raise
        self.say(f"out of memory with {described(self.memory)}; going on with {described(self.leaner[0])}")
        self.memory, self.fit = self.leaner.pop(0), None  # the plan was another one's
        self.step.use(self.memory)
        self.step.optimiser.zero_grad(set_to_none=True)
        torch.set_rng_state(drawn)  # the same channels are dropped
        torch.cuda.empty_cache()
        return None


def peak_bytes(device: torch.device) -> int:
    """The most a GPU's allocator has handed out at once since `forget_peak`."""
    return torch.cuda.max_memory_allocated(device)


def forget_peak(device: torch.device) -> None:
    """Begin anew to take the peak."""
    torch.cuda.reset_peak_memory_stats(device)
