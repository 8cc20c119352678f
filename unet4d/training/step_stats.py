"""What the steps of an epoch came to: their loss and gradient's norm, and those that were skipped."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unet4d.errors import Unet4DError

NAMED = 8
"""So many cases at most are named in an error."""


class StepOutcome(NamedTuple):
    """What a step came to.

    Attributes:
        step: its number, counted from 0.
        loss: of its batches.
        gradient_norm: before clipping.
        scale: what fp16's loss scaler scales by after it, 1 without one.
    """

    step: int
    loss: float
    gradient_norm: float
    scale: float

    @property
    def is_finite(self) -> bool:
        """Whether the weights were changed by it."""
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)


class DeferredScalars:
    """Reads what steps came to one step late, so that a GPU is given its next before it has done this one; on a CPU at once."""

    def __init__(self) -> None:
        self._queued: deque[tuple[int, Tensor, torch.cuda.Event]] = deque()

    def push(self, step: int, loss: Tensor, norm: Tensor, scale: Tensor) -> list[StepOutcome]:
        """The outcomes that are known now that this step is queued, in order.

        Args:
            step: its number, counted from 0.
            loss: a scalar on the device.
            norm: a scalar on the device.
            scale: a scalar on the device, which the next step does not change.
        """
        values = torch.stack([value.detach().float() for value in (loss, norm, scale)])
        if not values.is_cuda:
            return [StepOutcome(step, *values.tolist())]
        kept = torch.empty(len(values), pin_memory=True).copy_(values, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(values.device))
        self._queued.append((step, kept, copied))
        return self._read(all_but=1)

    def flush(self) -> list[StepOutcome]:
        """The outcomes of all steps that are still queued; waits for the last."""
        return self._read(all_but=0)

    def _read(self, all_but: int) -> list[StepOutcome]:
        known = []
        while len(self._queued) > all_but:
            step, values, copied = self._queued.popleft()
            copied.synchronize()
            known.append(StepOutcome(step, *values.tolist()))
        return known


class EpochStats:
    """What the running epoch's steps came to. Its state is part of a checkpoint: a resumed epoch's means are the same to the bit.

    Args:
        skip_limit: so many steps in a row may be skipped.
    """

    def __init__(self, skip_limit: int):
        self.skip_limit = skip_limit
        self.clear()
        self._in_a_row = 0
        self._suspects: list[str] = []

    def add(self, outcome: StepOutcome, cases: Callable[[], list[str]]) -> str | None:
        """Count a step; gives a line to say if its loss or its gradient is not finite, so that it changed no weight.

        Args:
            outcome: of the step after the one added last.
            cases: the cases of its clips; called only if it was skipped.

        Raises:
            Unet4DError: more than `skip_limit` steps in a row were skipped; names their cases.
        """
        if outcome.is_finite:
            self._loss += outcome.loss
            self._norm += outcome.gradient_norm
            self._taken += 1
            self._in_a_row, self._suspects = 0, []
            return None
        names = cases()
        number, loss, norm, factor = outcome.step + 1, outcome.loss, outcome.gradient_norm, outcome.scale
        kept = [value if math.isfinite(value) else None for value in (loss, norm)]  # JSON knows no other numbers
        self._skipped.append(
            {"step": number, "loss": kept[0], "gradient_norm": kept[1], "cases": names, "scale": factor}
        )
        self._in_a_row += 1
        self._suspects = list(dict.fromkeys([*self._suspects, *names]))
        line = f"step {number} is skipped: loss {loss:.4g}, gradient norm {norm:.4g}; cases {', '.join(names)}"
        if self._in_a_row > self.skip_limit:
            raise Unet4DError(self._too_many(number))
        if math.isfinite(loss) and factor > 1:
            return f"{line}; the loss scale was too high and is halved, to {factor:g}: normal while fp16 looks for it"
        return f"{line}; loss scale {factor:g}"

    @property
    def loss(self) -> float | None:
        """Mean loss over the steps that were taken, None if none was."""
        return self._loss / self._taken if self._taken else None

    def values(self) -> dict[str, Any]:
        """The epoch so far, for the log.

        `loss` and `gradient_norm`: means over the steps that were taken, None if none was. `skipped`: one dict a skipped step, of
        `step` (counted from 1, as the log's), `loss` and `gradient_norm` (None where not finite), `cases` and `scale`.
        """
        means = [total / self._taken if self._taken else None for total in (self._loss, self._norm)]
        return {"loss": means[0], "gradient_norm": means[1], "skipped": list(self._skipped)}

    def clear(self) -> None:
        """Begin the next epoch; how many steps in a row were skipped is still known."""
        self._loss = self._norm = 0.0
        self._taken = 0
        self._skipped: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """All of it, in plain values."""
        return {
            "loss": self._loss,
            "norm": self._norm,
            "taken": self._taken,
            "skipped": list(self._skipped),
            "in_a_row": self._in_a_row,
            "suspects": list(self._suspects),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._loss, self._norm, self._taken = state["loss"], state["norm"], state["taken"]
        self._skipped, self._in_a_row = list(state["skipped"]), state["in_a_row"]
        self._suspects = list(state["suspects"])

    def _too_many(self, number: int) -> str:
        named, left = ", ".join(self._suspects[:NAMED]), len(self._suspects) - NAMED
        more = f" and {left} more" if left > 0 else ""
        return (
            f"{self._in_a_row} steps in a row, up to step {number}, had a loss or gradient that is not finite, and "
            f"train.skip_limit is {self.skip_limit}; their cases: {named}{more}; look at these studies with unet4d verify, or "
            "begin anew with a lower --train.learning_rate or --train.precision fp32"
        )
