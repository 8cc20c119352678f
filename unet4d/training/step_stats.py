"""Statistics of an epoch's steps: mean loss and gradient norm, skipped steps, and time."""

from __future__ import annotations

import copy
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unet4d.errors import Unet4DError
from unet4d.system.text import shorten_list

STATS = ("loss", "norm", "taken", "skipped", "in_a_row", "suspects")
"""Attributes of `EpochStats` that a checkpoint holds."""


class StepOutcome(NamedTuple):
    """The outcome of a step: its number from 0, loss, gradient norm before clipping, and fp16's loss scale after it, else 1."""

    step: int
    loss: float
    gradient_norm: float
    scale: float

    @property
    def is_finite(self) -> bool:
        """Return whether it changed the weights."""
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)


class DeferredScalars:
    """A queue that reads the outcome of a GPU's step after the next one was launched, so that the GPU need not wait."""

    def __init__(self) -> None:
        self._queued: deque[tuple[int, Tensor, torch.cuda.Event]] = deque()

    def push(self, step: int, loss: Tensor, norm: Tensor, scale: Tensor) -> list[StepOutcome]:
        """Queue the scalars of a step, which later steps do not change; return the outcomes that are known now, in order."""
        values = torch.stack([value.detach().float() for value in (loss, norm, scale)])
        if not values.is_cuda:
            return [StepOutcome(step, *values.tolist())]
        on_host = torch.empty(len(values), pin_memory=True).copy_(values, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(values.device))
        self._queued.append((step, on_host, copied))
        return self._read(all_but=1)

    def flush(self) -> list[StepOutcome]:
        """Return the outcomes of all queued steps; wait for the last."""
        return self._read(all_but=0)

    def _read(self, all_but: int) -> list[StepOutcome]:
        known = []
        while len(self._queued) > all_but:
            step, values, copied = self._queued.popleft()
            copied.synchronize()
            known.append(StepOutcome(step, *values.tolist()))
        return known


class EpochTimer:
    """A timer of the running epoch; `spent` is part of a checkpoint: seconds of steps, of waiting for batches, and frames."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin the next epoch."""
        self.spent: dict[str, float] = {"seconds": 0, "waited_s": 0, "frames": 0}

    def start(self, waited_s: float) -> None:
        """Begin to measure; `waited_s` is the time that the batch loader has waited since it was made."""
        self._last = time.perf_counter(), waited_s

    def lap(self, frames: int, waited_s: float) -> None:
        """Add the time since the last call, and a step's frames."""
        now = time.perf_counter(), waited_s
        added = {"seconds": now[0] - self._last[0], "waited_s": now[1] - self._last[1], "frames": frames}
        self.spent = {name: value + added[name] for name, value in self.spent.items()}
        self._last = now

    def values(self) -> dict[str, float]:
        """Return the epoch's times, for the log."""
        seconds, waited_s, frames = self.spent["seconds"], self.spent["waited_s"], self.spent["frames"]
        return {
            "seconds": round(seconds, 2),
            "waited_seconds": round(waited_s, 2),
            "frames_per_second": round(frames / seconds, 2),
        }


class EpochStats:
    """The statistics of the running epoch. They are part of a checkpoint: a resumed epoch has the same means to the bit.

    Args:
        skip_limit: steps in a row that may be skipped.
    """

    def __init__(self, skip_limit: int):
        self.skip_limit = skip_limit
        self.in_a_row, self.suspects = 0, list[str]()
        self.clear()

    def clear(self) -> None:
        """Begin the next epoch; the count of steps skipped in a row stays."""
        self.loss, self.norm, self.taken = 0.0, 0.0, 0
        self.skipped: list[dict[str, Any]] = []

    def add(self, outcome: StepOutcome, cases: Callable[[], list[str]]) -> str | None:
        """Count a step; return a line to print if its loss or gradient is not finite, so that it changed no weight.

        Args:
            outcome: of the step after the one added last.
            cases: returns the cases of its clips; called only if it was skipped.

        Raises:
            Unet4DError: more than `skip_limit` steps in a row were skipped; names their cases.
        """
        step, loss, norm, scale = outcome.step + 1, outcome.loss, outcome.gradient_norm, outcome.scale
        if outcome.is_finite:
            self.loss, self.norm, self.taken = self.loss + loss, self.norm + norm, self.taken + 1
            self.in_a_row, self.suspects = 0, []
            return None
        names = cases()
        finite = [value if math.isfinite(value) else None for value in (loss, norm)]  # JSON has no other numbers
        self.skipped.append(
            {"step": step, "loss": finite[0], "gradient_norm": finite[1], "cases": names, "scale": scale}
        )
        self.in_a_row += 1
        self.suspects = list(dict.fromkeys([*self.suspects, *names]))
        if self.in_a_row > self.skip_limit:
            raise Unet4DError(
                f"{self.in_a_row} steps in a row, up to step {step}, had a loss or gradient that is not finite, and "
                f"train.skip_limit is {self.skip_limit}; their cases: {shorten_list(self.suspects, 8)}"
                "; check these studies with unet4d verify, or train anew with a lower --train.learning_rate or "
                "--train.precision fp32"
            )
        line = f"step {step} is skipped: loss {loss:.4g}, gradient norm {norm:.4g}; cases {', '.join(names)}"
        if math.isfinite(loss) and scale > 1:
            return f"{line}; the loss scale was too high and is halved, to {scale:g}: normal while fp16 searches for it"
        return f"{line}; loss scale {scale:g}"

    @property
    def mean_loss(self) -> float | None:
        """Return the mean loss over the steps that were taken, None if none was."""
        return self.loss / self.taken if self.taken else None

    def values(self) -> dict[str, Any]:
        """Return the epoch so far, for the log.

        `loss` and `gradient_norm`: means over the steps that were taken, None if none was. `skipped`: one dict per skipped step, of
        `step` (counted from 1, as the log's), `loss` and `gradient_norm` (None where not finite), `cases` and `scale`.
        """
        norm = self.norm / self.taken if self.taken else None
        return {"loss": self.mean_loss, "gradient_norm": norm, "skipped": list(self.skipped)}

    def state_dict(self) -> dict[str, Any]:
        """Return all statistics, in plain values."""
        return {name: copy.copy(getattr(self, name)) for name in STATS}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name in STATS:
            setattr(self, name, copy.copy(state[name]))
