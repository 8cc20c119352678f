"""Keeps a training within its memory: the first steps' true peak beside the planned one, and a leaner way when it is too much."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from unet4d.config import MemoryConfig
from unet4d.model.fitting import GB, Fit, described, rungs_from
from unet4d.model.step import Clips, TrainingStep
from unet4d.system.memory_errors import drop_failed_work, is_out_of_memory

SETTLED = 1, 3
"""The peak is that of the steps after the first of these, in which cuDNN tries its algorithms, up to the second. Steps on clips
that are still to grow are not counted."""


class MemoryWatch:
    """Takes training steps; one that runs out of memory is cut in a leaner way, which changes nothing but time, and taken again.

    One of several processes cannot take a step again, for the others are in the midst of it.

    Args:
        step: the training step, cut as `memory` says.
        memory: how it is cut.
        frames: T of a clip, once it has grown.
        fit: what was planned; None compares nothing.
        say: where a line for the user goes.
    """

    def __init__(
        self, step: TrainingStep, memory: MemoryConfig, frames: int, fit: Fit | None, say: Callable[[str], None]
    ):
        self.step, self.fit, self.say = step, fit, say
        self.memory, *self.leaner = rungs_from(memory, frames)
        if step.ranks.size > 1:
            self.leaner = []
        self.frames, self.steps = frames, 0

    def __call__(self, batches: Sequence[Clips], number: int) -> tuple[Tensor, Tensor]:
        """Take step `number`: the loss and the gradient's norm, scalars on the device; see `TrainingStep.gradients`.

        Raises:
            RuntimeError: the leanest way is not lean enough; see `is_out_of_memory`.
        """
        while (loss := self._tried(batches, number)) is None:
            pass
        norm = self.step.update()
        self.steps += batches[0][0].shape[1] == self.frames
        if self.fit and self.steps == SETTLED[0]:
            forget_peak(self.step.device)
        if self.fit and self.steps == SETTLED[1]:
            measured, planned = peak_bytes(self.step.device) / GB, self.fit.planned_bytes / GB
            self.say(
                f"memory: planned {planned:.2f} GB, measured {measured:.2f} GB at the peak of steps 2 to {SETTLED[1]}"
            )
        return loss, norm

    def _tried(self, batches: Sequence[Clips], number: int) -> Tensor | None:
        """The loss, with gradients; or None, and a leaner way from now on; nothing of the failed one is left to take up memory."""
        try:
            return self.step.gradients(batches, number)
        except (RuntimeError, MemoryError) as error:
            if not (self.leaner and is_out_of_memory(error)):
                raise
        # Out here the error and its frames, which hold the failed step's graph, are gone.
        self.say(f"out of memory with {described(self.memory)}; going on with {described(self.leaner[0])}")
        self.memory, self.fit = self.leaner.pop(0), None  # the plan was another one's
        self.step.use(self.memory)
        self.step.optimiser.zero_grad(set_to_none=True)
        drop_failed_work()
        return None


def peak_bytes(device: torch.device) -> int:
    """The most a GPU's allocator has handed out at once since `forget_peak`; 0 on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def forget_peak(device: torch.device) -> None:
    """Begin anew to take the peak."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
