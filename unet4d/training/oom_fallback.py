"""Training steps that fall back to smaller chunks after running out of memory, and their measured memory beside the planned one."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from torch import Tensor

from unet4d.config import RecomputeConfig
from unet4d.pipeline.clip_dataset import Batch
from unet4d.system.byte_sizes import describe_bytes
from unet4d.system.gpu_memory import peak_allocated_bytes, reset_peak
from unet4d.system.memory_errors import drop_failed_work, is_out_of_memory
from unet4d.training.step import TrainingStep
from unet4d.training.step_memory import PlannedStep, describe_recompute, recompute_schedules

logger = logging.getLogger(__name__)

MEASURED_STEPS = 3
"""Steps that are compared with the plan: only those on full-length clips without new shapes. At a new shape cuDNN takes memory to
try its algorithms, and the first step creates the optimizer's state."""


class OomFallback:
    """A callable that takes training steps; after out-of-memory it repeats the step with the next recompute schedule.

    Results stay the same, only time changes. One of several ranks cannot repeat a step, because the others are in the midst of it.

    Args:
        step: the training step, computed with `recompute`.
        recompute: the first schedule.
        frames: T of a clip.
        planned: the plan; None compares nothing.
    """

    def __init__(self, step: TrainingStep, recompute: RecomputeConfig, frames: int, planned: PlannedStep | None):
        self.step, self.planned = step, planned
        self.recompute, *self.leaner = recompute_schedules(recompute, frames, step.network.is_chunkable)
        if step.ranks.size > 1:
            self.leaner = []
        self.frames, self.measured_steps, self.measured_bytes = frames, 0, 0
        self._seen: set[tuple[int, ...]] = set()

    def __call__(self, batches: Sequence[Batch], number: int) -> tuple[Tensor, Tensor]:
        """Take step `number`; return loss and gradient norm, scalars on the device, see `TrainingStep.gradients`.

        Raises:
            RuntimeError: the last schedule needs too much memory, too; see `is_out_of_memory`.
        """
        is_measured = self._is_measured(batches)
        if is_measured:
            reset_peak(self.step.device)
        while True:
            try:
                loss = self.step.gradients(batches, number)
                break
            except (RuntimeError, MemoryError) as error:
                if not (self.leaner and is_out_of_memory(error)):
                    raise
            self._fall_back()  # out here the error and its frames, which hold the failed step's graph, are gone
        norm = self.step.update()
        if is_measured and self.planned:
            self._measure(self.planned)
        return loss, norm

    def _fall_back(self) -> None:
        """Switch to the next schedule, and free what the failed step held."""
        before, self.recompute = self.recompute, self.leaner.pop(0)
        logger.warning(
            f"out of memory with {describe_recompute(before)}; continuing with {describe_recompute(self.recompute)}"
        )
        self.planned = None  # the plan of another schedule
        self.step.set_recompute(self.recompute)
        self.step.optimizer.zero_grad(set_to_none=True)
        drop_failed_work()

    def _is_measured(self, batches: Sequence[Batch]) -> bool:
        """Return whether the peak of the next step is to be compared with the plan; note its shapes."""
        if not self.planned or self.measured_steps == MEASURED_STEPS or self.step.frame_wise:
            return False
        shapes = set(self._shapes(batches))
        is_known, self._seen = shapes <= self._seen, self._seen | shapes
        return is_known and batches[0].image.shape[1] == self.frames

    def _shapes(self, batches: Sequence[Batch]) -> Iterator[tuple[int, ...]]:
        """Yield the shapes that convolutions get: those of clips, with the number of decoded frames of each chunk."""
        for batch in batches:
            frames = batch.image.shape[1]
            length = self.recompute.chunk_frames or frames
            decoded = batch.labelled if batch.compared is None else batch.labelled | batch.compared
            for first in range(0, frames, length):
                yield (*batch.image.shape, length, int(decoded[:, first : first + length].sum()))

    def _measure(self, planned: PlannedStep) -> None:
        """Note the peak of the last step; report the highest of `MEASURED_STEPS` beside the plan."""
        self.measured_steps += 1
        self.measured_bytes = max(self.measured_bytes, peak_allocated_bytes(self.step.device))
        if self.measured_steps == MEASURED_STEPS:
            logger.info(
                f"memory: planned {describe_bytes(planned.planned_bytes)}, measured {describe_bytes(self.measured_bytes)} at the "
                f"peak of {MEASURED_STEPS} steps without new shapes"
            )
