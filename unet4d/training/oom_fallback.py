"""Keeps a training within its memory: the first steps' true peak beside the planned one, and a leaner way when it is too much."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from unet4d.config import RecomputeConfig
from unet4d.pipeline.clip_dataset import Batch
from unet4d.system.gpu_memory import GB
from unet4d.system.memory_errors import drop_failed_work, is_out_of_memory
from unet4d.training.step import TrainingStep
from unet4d.training.step_memory import StepFit, describe_recompute, recompute_schedules

MEASURED_STEPS = 3
"""Number of steps to compare with the plan. Only steps on full-length clips without new shapes count: where a shape is new, cuDNN
takes memory to try its algorithms, and in the first step the optimizer makes its state."""


class OomFallback:
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
        self, step: TrainingStep, memory: RecomputeConfig, frames: int, fit: StepFit | None, say: Callable[[str], None]
    ):
        self.step, self.fit, self.say = step, fit, say
        self.memory, *self.leaner = recompute_schedules(memory, frames)
        if step.ranks.size > 1:
            self.leaner = []
        self.frames, self.measured_steps, self.measured_bytes = frames, 0, 0
        self._seen: set[tuple[int, ...]] = set()

    def __call__(self, batches: Sequence[Batch], number: int) -> tuple[Tensor, Tensor]:
        """Take step `number`: the loss and the gradient's norm, scalars on the device; see `TrainingStep.gradients`.

        Raises:
            RuntimeError: the leanest way is not lean enough; see `is_out_of_memory`.
        """
        measures = self._measures(batches)
        if measures:
            forget_peak(self.step.device)
        while (loss := self._tried(batches, number)) is None:
            pass
        norm = self.step.update()
        if measures and self.fit:
            self._measure(self.fit)
        return loss, norm

    def _measures(self, batches: Sequence[Batch]) -> bool:
        """Return whether the peak of the next step is to be compared with the plan; note its shapes."""
        if not self.fit or self.measured_steps == MEASURED_STEPS:
            return False
        shapes = set(self._shapes(batches))
        is_known, self._seen = shapes <= self._seen, self._seen | shapes
        return is_known and batches[0].image.shape[1] == self.frames

    def _shapes(self, batches: Sequence[Batch]) -> Iterator[tuple[int, ...]]:
        """Yield the shapes that convolutions get: those of clips, with the number of labelled frames of each chunk."""
        for batch in batches:
            frames = batch.image.shape[1]
            length = self.memory.chunk_frames or frames
            for first in range(0, frames, length):
                yield (*batch.image.shape, length, int(batch.labelled[:, first : first + length].sum()))

    def _measure(self, fit: StepFit) -> None:
        """Take the peak of the last step; report it beside the plan after `MEASURED_STEPS`."""
        self.measured_steps += 1
        self.measured_bytes = max(self.measured_bytes, peak_bytes(self.step.device))
        if self.measured_steps == MEASURED_STEPS:
            self.say(
                f"memory: planned {fit.planned_bytes / GB:.2f} GB, measured {self.measured_bytes / GB:.2f} GB at the peak of "
                f"{MEASURED_STEPS} steps without new shapes"
            )

    def _tried(self, batches: Sequence[Batch], number: int) -> Tensor | None:
        """The loss, with gradients; or None, and a leaner way from now on; nothing of the failed one is left to take up memory."""
        try:
            return self.step.gradients(batches, number)
        except (RuntimeError, MemoryError) as error:
            if not (self.leaner and is_out_of_memory(error)):
                raise
        # Out here the error and its frames, which hold the failed step's graph, are gone.
        self.say(
            f"out of memory with {describe_recompute(self.memory)}; going on with {describe_recompute(self.leaner[0])}"
        )
        self.memory, self.fit = self.leaner.pop(0), None  # the plan was another one's
        self.step.set_recompute(self.memory)
        self.step.optimizer.zero_grad(set_to_none=True)
        drop_failed_work()
        return None


def peak_bytes(device: torch.device) -> int:
    """The most a GPU's allocator has handed out at once since `forget_peak`; 0 on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def forget_peak(device: torch.device) -> None:
    """Begin anew to take the peak."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
