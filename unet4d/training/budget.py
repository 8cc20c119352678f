"""The length of a run, in epochs or by a clock: its learning rate, its validations and its end."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from unet4d.config import TrainConfig
from unet4d.errors import InputError
from unet4d.system.clocks import SLURM, cpu_seconds, seconds_of, slurm_seconds_left
from unet4d.system.progress_bar import format_interval
from unet4d.training.monitoring.log_lines import seconds_left
from unet4d.training.optimizer import falling_factor, learning_rate_factor

VALIDATION_SHARE = 0.1
"""Most of a time budget that validations take, unless the last one alone takes more."""
WARMUP_SHARE = 0.1
"""Most of the time for steps in which the learning rate rises."""
SAMPLE_FRAMES = 4
"""Frames of a study from which the time of a validation is expected."""
UNCERTAINTY = 0.1
"""Fraction by which the end of the run may take longer than it is known to."""
EXIT_S, UNMEASURED_S = 2.0, 5.0
"""Reserved to end the process, and for scores, pictures and files before they have been timed, but at most..."""
EXIT_SHARE, UNMEASURED_SHARE = 0.02, 0.04
"""... these shares of the budget, so that a short one is not spent on reserves."""
SLURM_MARGIN_S = 60.0
"""A run ends this long before its Slurm job."""
ENDLESS = 2**40
"""More steps than any run takes."""


class EpochBudget:
    """The length of a run of a fixed number of epochs.

    Attributes:
        last_epoch: number of the last epoch, from 1; None while a clock has not decided it.
        steps: optimizer steps that the run takes at most.
        is_over: no further step is to be taken.
    """

    def __init__(self, config: TrainConfig):
        self.config, self.is_over = config, False
        self.last_epoch: int | None = config.epochs
        self.steps = config.epochs * config.steps_per_epoch

    def begin(self, sample: Callable[[int], float]) -> None:
        """Prepare for the first step on rank 0; `sample` validates on a few frames and returns the share of all that they are."""

    def read_clock(self) -> list[float]:
        """Return rank 0's readings before a step, for `set_readings` of every rank; as many numbers on every rank."""
        return []

    def set_readings(self, *readings: float) -> None:
        """Set the state to what rank 0 has read; there is none without a clock."""

    def is_frame_wise(self, epochs_done: int, fraction: float) -> bool:
        """Return whether the next epoch ends within this fraction of the run, which comes first."""
        return epochs_done + 1 <= round(fraction * self.config.epochs, 6)

    def learning_rate_factor(self, step: int) -> float:
        """Return the fraction of the peak learning rate at a step, counted from 0."""
        return learning_rate_factor(step, self.config)

    def end_steps(self, epoch: int, has_validation: bool) -> tuple[int | None, bool]:
        """Return the last epoch's number, and whether this epoch is validated; called on rank 0 after its steps."""
        is_due = epoch == self.last_epoch or epoch % self.config.validate_every == 0
        return self.last_epoch, has_validation and is_due

    def clear(self) -> None:
        """Forget the numbers of the epoch, which are logged."""

    def end_epoch(self) -> None:
        """Note that the epoch is logged and saved."""

    def seconds_left(self, lines: Sequence[Mapping[str, Any]], running: bool = False) -> float | None:
        """Return the expected wall time that is left; see `log_lines.seconds_left`."""
        return seconds_left(lines, self.config.epochs, self.config.validate_every, running)

    def values(self, steps_done: int) -> dict[str, Any]:
        """Return the numbers of the epoch, for the log: the learning rate of the next step."""
        return {"learning_rate": self.config.learning_rate * learning_rate_factor(steps_done, self.config)}

    def summary(self) -> dict[str, Any] | None:
        """Return budget, clock and spent seconds, for summary.json; None without a clock."""
        return None

    def report(self) -> str:
        """Return a line about the time that was spent; an empty text without a clock."""
        return ""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds besides the epochs done, by name."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; `state` may hold more."""


class TimeBudget(EpochBudget):
    """The length of a run that a clock ends, with its last validation and checkpoint within the time.

    Rank 0 alone measures; what `read_clock` returns there decides on all ranks. The clock counts from here, and from the spent
    seconds of a checkpoint.

    Args:
        config: with a time budget.
        clock: returns seconds; None: the configured clock.

    Attributes:
        total_s: the budget in seconds.
        spent_s: spent at the last `set_readings`.
        progress: the part of the time for steps that was spent then, 0 to 1.
    """

    def __init__(self, config: TrainConfig, clock: Callable[[], float] | None = None):
        super().__init__(config)
        self.last_epoch, self.steps = None, ENDLESS
        self.clock = clock or (cpu_seconds if config.budget_clock == "cpu" else time.monotonic)
        self._start, self._wall_start, self._before_s = self.clock(), time.monotonic(), 0.0
        given = config.time_budget or ""
        self.total_s = max(0.0, slurm_seconds_left() - SLURM_MARGIN_S) if given == SLURM else seconds_of(given) or 0.0
        self.spent_s, self.progress = 0.0, 0.0
        self.began: float | None = None  # progress at the first step...
        self.risen: float | None = None  # ... and when the learning rate had risen
        self.unmeasured_s = min(UNMEASURED_S, UNMEASURED_SHARE * self.total_s)
        self.closing_s, self.saving_s, self.validations_s = 0.0, self.unmeasured_s, 0.0
        self.rates: list[float] = []
        self._steps_s, self._step_began_s = deque[float](maxlen=8), 0.0
        self._closing_from_s, self._is_validated = 0.0, False

    def now(self) -> float:
        """Return the seconds spent, which never decrease."""
        return max(self.spent_s, self._before_s + self.clock() - self._start)

    @property
    def reserve_s(self) -> float:
        """Return the time to keep for one more step, the last validation, the checkpoint and the end of the process."""
        closing_s = max(self.closing_s, self.saving_s)
        return max(self._steps_s, default=0.0) + (1 + UNCERTAINTY) * closing_s + min(EXIT_S, EXIT_SHARE * self.total_s)

    def begin(self, sample: Callable[[int], float]) -> None:
        """Reserve the time of the last validation, expected from the sample.

        Raises:
            InputError: no time is left for a step of a new run.
        """
        if not self.closing_s:
            sample(1)  # what happens once alone is not part of the last validation
            began_s = self.now()
            share = sample(SAMPLE_FRAMES)
            self.closing_s = (self.now() - began_s) / share + self.unmeasured_s
        spent_s = self.now()
        if self.began is None and spent_s + self.reserve_s >= self.total_s:
            raise InputError(
                f"got train.time_budget {self.config.time_budget}, of which {format_interval(self.total_s)} can be used, expected "
                f"more than {format_interval(spent_s)} for the start and about {format_interval(self.reserve_s)} for the last "
                "validation; give more time (preprocessed studies are kept), or fewer validation subjects"
            )

    def read_clock(self) -> list[float]:
        """Return the seconds spent, the progress, and whether the time for steps is over."""
        spent_s, steps_s = self.now(), self.total_s - self.reserve_s
        is_over = self.last_epoch is not None or spent_s >= steps_s
        return [spent_s, 1.0 if steps_s <= spent_s else spent_s / steps_s, is_over]

    def set_readings(self, *readings: float) -> None:
        """Set seconds spent, progress and end to what rank 0 has read."""
        self.spent_s, self.progress, self.is_over = readings[0], readings[1], bool(readings[2])

    def is_frame_wise(self, epochs_done: int, fraction: float) -> bool:
        """Return whether the next epoch begins within this fraction of the time for steps."""
        return self.progress < fraction

    def learning_rate_factor(self, step: int) -> float:
        """Return the fraction of the peak learning rate at a step, by the progress set before it.

        The rate rises over `warmup_steps`, or over a tenth of the time where that is shorter, then falls to 0 at the end. With
        steps of equal length it is that of a run of as many steps.
        """
        if self.began is None:
            self.began = self.progress
        if self._step_began_s:
            self._steps_s.append(self.spent_s - self._step_began_s)
        self._step_began_s = self.spent_s
        rise = WARMUP_SHARE * (1 - self.began) or 1.0
        risen = max((step + 1) / (self.config.warmup_steps + 1), (self.progress - self.began) / rise)
        if self.risen is None and risen >= 1:
            self.risen = self.progress
        if self.risen is None:
            factor = risen
        else:
            done = (self.progress - self.risen) / (1 - self.risen) if self.risen < 1 else 1.0
            factor = falling_factor(min(1.0, max(0.0, done)), self.config.schedule)
        self.rates.append(float(f"{factor * self.config.learning_rate:.6g}"))
        return factor

    def end_steps(self, epoch: int, has_validation: bool) -> tuple[int | None, bool]:
        """Return the last epoch's number, None while it is open, and whether this epoch is validated.

        Validations before the last one take as much of their share as the time that has passed.
        """
        self._closing_from_s = spent_s = self.now()
        self._steps_s.append(spent_s - self._step_began_s if self._step_began_s else 0.0)
        _, progress, is_over = self.read_clock()
        last = epoch if self.last_epoch is None and (is_over or self.is_over) else self.last_epoch
        untimed_s = 0.0 if self.validations_s else UNMEASURED_S - self.unmeasured_s
        closing_s, share_s = max(self.closing_s, self.saving_s) + untimed_s, VALIDATION_SHARE * self.total_s
        is_affordable = self.validations_s + closing_s <= progress * (share_s - closing_s)
        is_affordable &= spent_s + closing_s + self.reserve_s < self.total_s
        is_due = epoch == last or (epoch % self.config.validate_every == 0 and is_affordable)
        self._is_validated = has_validation and is_due
        return last, self._is_validated

    def clear(self) -> None:
        """Forget the epoch's learning rates, which are logged."""
        self.rates, self._step_began_s = [], 0.0

    def end_epoch(self) -> None:
        """Measure what validation, log and checkpoints took since `end_steps`."""
        took_s = self.now() - self._closing_from_s
        if self._is_validated:
            self.closing_s, self.validations_s = took_s, self.validations_s + took_s
        else:
            self.saving_s = took_s

    def seconds_left(self, lines: Sequence[Mapping[str, Any]], running: bool = False) -> float:
        """Return the wall time that is left; for CPU seconds, at the pace of this process so far."""
        spent_s = self.now() - self._before_s
        pace = (time.monotonic() - self._wall_start) / spent_s if self.config.budget_clock == "cpu" and spent_s else 1.0
        return max(0.0, self.total_s - self.now()) * pace

    def values(self, steps_done: int) -> dict[str, Any]:
        """Return spent seconds, progress, the last learning rate, and that of every step of the epoch."""
        values = {"spent_seconds": round(self.now(), 2), "progress": round(self.progress, 4)}
        return values | {"learning_rate": self.rates[-1], "learning_rates": list(self.rates)}

    def summary(self) -> dict[str, Any]:
        """Return budget, clock and spent seconds."""
        given, clock = self.config.time_budget, self.config.budget_clock
        return {
            "given": given,
            "clock": clock,
            "seconds": round(self.total_s, 2),
            "spent_seconds": round(self.now(), 2),
        }

    def report(self) -> str:
        """Return a line about the time that was spent."""
        spent, total = format_interval(self.now()), format_interval(self.total_s)
        return f"{spent} of {total} spent ({self.config.budget_clock} time), validations {format_interval(self.validations_s)}"

    def state_dict(self) -> dict[str, Any]:
        """Return the spent seconds and all that was measured, on rank 0."""
        names = ("last_epoch", "progress", "began", "risen", "closing_s", "saving_s", "validations_s", "rates")
        return {"budget": {name: getattr(self, name) for name in names} | {"spent_s": self.now()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; a Slurm job's time comes on top of what was spent before."""
        kept = dict(state["budget"])
        before_s = kept.pop("spent_s")
        for name, value in kept.items():
            setattr(self, name, value)
        self.is_over, self._before_s = self.last_epoch is not None, before_s
        if self.config.time_budget == SLURM:
            self.total_s += before_s


def make_budget(config: TrainConfig) -> EpochBudget:
    """Return the budget of a run, whose clock begins now. Raises InputError: the end of the Slurm job is unknown."""
    return TimeBudget(config) if config.time_budget else EpochBudget(config)
