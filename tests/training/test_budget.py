"""A run by the clock: it ends in time with a validation, and its learning rate has fallen to nothing then."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import unet4d.training.budget
from tests.builders import make_config, skip_drawing
from unet4d.config import TrainConfig
from unet4d.errors import InputError, Stopped
from unet4d.models.checkpoint import LAST, load_checkpoint
from unet4d.system.clocks import SLURM_END
from unet4d.training.batches import BatchLoader
from unet4d.training.budget import VALIDATION_SHARE, EpochBudget, TimeBudget, make_budget
from unet4d.training.checks import check_cross_validation, check_train
from unet4d.training.monitoring.info import info
from unet4d.training.monitoring.log_lines import LOG
from unet4d.training.monitoring.summary import SUMMARY
from unet4d.training.optimizer import learning_rate_factor
from unet4d.training.step import TrainingStep
from unet4d.training.train import train
from unet4d.training.validation import Validation


@dataclass
class Run:
    """A run as the trainer drives it, whose steps and validations take a fake clock's seconds; the first step takes
    `first` times as long."""

    config: TrainConfig
    step_s: float
    validation_s: float
    now_s: float = 1000.0
    factors: list[float] = field(default_factory=list)
    validated: list[int] = field(default_factory=list)
    epochs_done: int = 0
    steps_done: int = 0
    is_warm: bool = False
    first: int = 8

    def open(self, state: dict | None = None, start_s: float = 0.0) -> TimeBudget:
        """Open the budget, which takes a start and a sample of a tenth of a validation."""
        self.budget = TimeBudget(self.config, lambda: self.now_s)
        self.now_s += start_s
        if state:
            self.budget.load_state_dict(state)
        self.budget.begin(self._sample)
        return self.budget

    def _sample(self, frames: int) -> float:
        """Take the share that these frames are of 100, and once, at first, 3 s more."""
        self.now_s += self.validation_s * frames / 100 + 3 * (not self.is_warm)
        self.is_warm = True
        return frames / 100

    def train(self, most_steps: int = 10**6) -> None:
        """Train to the end, or until this many steps are taken."""
        per_epoch = self.config.steps_per_epoch
        while self.epochs_done != self.budget.last_epoch:
            while self.steps_done < (self.epochs_done + 1) * per_epoch:
                if self.steps_done >= most_steps:
                    return
                self.budget.set_readings(*self.budget.read_clock())
                if self.budget.is_over and self.steps_done > self.epochs_done * per_epoch:
                    break
                self.factors.append(self.budget.learning_rate_factor(self.steps_done))
                self.now_s += self.step_s * (self.first if self.steps_done == 0 else 1)
                self.steps_done += 1
            self.budget.last_epoch, is_validated = self.budget.end_steps(self.epochs_done + 1, True)
            is_whole = self.steps_done == (self.epochs_done + 1) * per_epoch
            assert is_whole or self.budget.last_epoch == self.epochs_done + 1, "the last epoch alone is cut short"
            if is_validated:
                self.validated.append(self.epochs_done + 1)
                self.now_s += self.validation_s
            self.epochs_done += 1
            self.budget.clear()
            self.budget.end_epoch()


def timed(budget: str = "40m", **more) -> TrainConfig:
    return TrainConfig(time_budget=budget, **({"steps_per_epoch": 20, "validate_every": 1, "warmup_steps": 5} | more))


@settings(max_examples=30)
@given(st.floats(3, 40), st.floats(0, 400), st.floats(0, 600), st.integers(1, 200))
def test_a_run_ends_in_time_validated_and_with_its_rate_at_nothing(step_s, validation_s, start_s, per_epoch):
    run = Run(timed(steps_per_epoch=per_epoch), step_s, validation_s)
    budget = run.open(start_s=start_s)
    run.train()
    spent_s = run.now_s - 1000
    assert spent_s <= 2400
    assert spent_s >= 2400 - 0.2 * validation_s - 3 * step_s - 10
    assert run.validated[-1] == run.epochs_done == budget.last_epoch
    assert 0 <= run.factors[-1] < 0.1
    assert max(run.factors) == 1
    assert (len(run.validated) - 1) * validation_s <= VALIDATION_SHARE * 2400


@pytest.mark.parametrize("start_s", np.arange(10, 15, 0.5).tolist())
def test_no_epoch_but_the_last_is_cut_short(start_s):
    """Even where the slow first step is forgotten between the decision to end and the end."""
    run = Run(timed("5m"), 1, 60, first=100)
    run.open(start_s=start_s)
    run.train()
    assert run.validated == [run.epochs_done]


def test_validations_are_spread_over_the_run_and_rarer_where_they_are_long():
    """A validation of 1 s every 20 s is a twentieth; one of 40 s fits five times into the tenth that holds the last one, too."""
    short, long, all_of_it = Run(timed(), 1, 1), Run(timed(), 1, 40), Run(timed(), 1, 200)
    for run in (short, long, all_of_it):
        run.open()
        run.train()
    assert short.validated == list(range(short.validated[0], short.epochs_done + 1))
    assert short.validated[0] <= 5
    assert 3 <= len(long.validated) <= 6
    gaps = [later - earlier for earlier, later in zip(long.validated, long.validated[1:], strict=False)]
    assert min(gaps) >= long.epochs_done // 8
    assert all_of_it.validated == [all_of_it.epochs_done]


@pytest.mark.parametrize("schedule", ["polynomial", "cosine"])
@pytest.mark.parametrize("warmup", [1, 5, 100])
def test_steps_of_equal_length_have_the_rates_of_a_run_of_as_many(schedule, warmup):
    """With a warm-up of more than a tenth the time ends it where the tenth of all steps does."""
    counted = TrainConfig(epochs=10, steps_per_epoch=10, warmup_steps=min(warmup, 9), schedule=schedule)
    budget = TimeBudget(timed(warmup_steps=min(warmup, 9), schedule=schedule), lambda: 0.0)
    for step in range(101):
        budget.set_readings(float(step), step / 100, False)
        assert budget.learning_rate_factor(step) == pytest.approx(learning_rate_factor(step, counted)), step
    slow = TimeBudget(timed(warmup_steps=warmup), lambda: 0.0)
    slow.set_readings(10.0, 0.3, False)
    slow.learning_rate_factor(0)
    slow.set_readings(20.0, 0.41, False)
    assert slow.learning_rate_factor(1) == 1.0, "a tenth has passed since the first step"


def test_after_a_long_start_the_rate_rises_within_a_tenth_of_what_is_left():
    budget, factors = TimeBudget(timed(warmup_steps=1000), lambda: 0.0), []
    for step in range(101):
        budget.set_readings(float(step), 0.8 + 0.2 * step / 100, False)
        factors.append(budget.learning_rate_factor(step))
    assert max(factors) == factors[10] == 1.0
    assert factors[100] == 0


def test_other_ranks_do_as_the_first_one_measures():
    now_s = [100.0]
    first, other = (TimeBudget(timed(), lambda pace=pace: pace * now_s[0]) for pace in (1.0, 7.0))
    for step in range(50):
        now_s[0] += 40.0
        readings = first.read_clock()
        first.set_readings(*readings)
        other.set_readings(*readings)
        assert (first.is_over, first.learning_rate_factor(step)) == (other.is_over, other.learning_rate_factor(step))


def test_a_resumed_run_has_what_is_left():
    whole, first = Run(timed(), 1, 10), Run(timed(), 1, 10)
    whole.open()
    whole.train()
    first.open()
    first.train(most_steps=1001)
    state, spent_s = json.loads(json.dumps(first.budget.state_dict())), first.now_s - 1000
    second = Run(timed(), 1, 10, 50_000.0, epochs_done=first.epochs_done, steps_done=first.steps_done)
    second.open(state, start_s=30)
    assert second.now_s == 50_030, "how long a validation takes is known"
    second.train()
    assert 2380 <= spent_s + second.now_s - 50_000 <= 2400
    assert len(whole.factors) - 60 <= len(first.factors) + len(second.factors) <= len(whole.factors)
    assert first.factors[-1] > second.factors[0] > first.factors[-1] - 0.05
    assert second.factors[-1] < 0.02


def test_a_run_that_stops_in_its_last_validation_takes_no_step_more():
    run = Run(timed(), 1, 10)
    budget = run.open()
    run.train()
    again = TimeBudget(timed(), lambda: 0.0)
    again.load_state_dict(budget.state_dict())
    again.set_readings(*again.read_clock())
    assert again.is_over
    assert again.end_steps(run.epochs_done, True) == (run.epochs_done, True)


@pytest.mark.parametrize("seconds", [20, 60, 120])
def test_a_short_budget_is_used_but_for_its_closing(seconds):
    """Without validation, by steps of 0.1 s; a short run has one epoch, so that the end of an epoch is not timed before."""
    run = Run(timed(f"{seconds}s", steps_per_epoch=10_000), 0.1, 0.0)
    run.open()
    run.train()
    assert 0.92 * seconds - 1 <= run.now_s - 1000 <= 0.95 * seconds


def test_no_time_for_a_step_is_refused():
    with pytest.raises(InputError, match=r"time_budget 90s.*start"):
        Run(timed("90s"), 1, 1).open(start_s=85)
    with pytest.raises(InputError, match=r"time_budget 90s.*validation"):
        Run(timed("90s"), 1, 85).open()


def test_a_slurm_job_ends_before_its_end(monkeypatch):
    monkeypatch.setattr(unet4d.system.clocks.time, "time", lambda: 1000.0)
    monkeypatch.setenv(SLURM_END, "4600")
    budget = TimeBudget(timed("slurm"), lambda: 0.0)
    assert 3400 < budget.total_s < 3600
    total_s = budget.total_s
    budget.load_state_dict(Run(timed(), 1, 1).open(start_s=100).state_dict())
    assert budget.total_s - budget.now() == pytest.approx(total_s), "the time of this job"
    monkeypatch.delenv(SLURM_END)
    with pytest.raises(InputError, match=SLURM_END):
        make_budget(timed("slurm"))


def test_slurm_is_checked_before_torch_is_imported(monkeypatch, phantom, tmp_path):
    monkeypatch.delenv(SLURM_END, raising=False)
    config = make_config(time_budget="slurm")
    with pytest.raises(InputError, match=SLURM_END):
        check_train(phantom, tmp_path / "run", config, "cpu", False)
    with pytest.raises(InputError, match="one fold"):
        check_cross_validation(phantom, tmp_path / "run", config, "cpu", False)


@pytest.mark.parametrize("given", ["40", "soon", "0s", "1h-5m"])
def test_bad_times_are_refused(given):
    with pytest.raises(InputError, match=r"train\.time_budget.*40m"):
        TrainConfig(time_budget=given)


def test_slurm_has_no_cpu_clock():
    with pytest.raises(InputError, match=r"budget_clock.*wall"):
        TrainConfig(time_budget="slurm", budget_clock="cpu")


def test_epochs_end_a_run_without_a_budget():
    budget = make_budget(TrainConfig(epochs=7, validate_every=3))
    assert type(budget) is EpochBudget
    assert [epoch for epoch in range(1, 8) if budget.end_steps(epoch, True)[1]] == [3, 6, 7]
    assert not budget.end_steps(7, False)[1]
    assert (budget.read_clock(), budget.state_dict()) == ([], {})
    assert budget.learning_rate_factor(3) == learning_rate_factor(3, budget.config)


@pytest.fixture
def fake_clock(monkeypatch):
    """Have CPU seconds pass by steps, of 1 s, and validations, of 2 s, alone."""
    skip_drawing(monkeypatch)
    now_s = [0.0]

    def takes(owner: type, name: str, seconds: float) -> None:
        usual = getattr(owner, name)

        def timed_call(*given, **named):
            now_s[0] += seconds
            return usual(*given, **named)

        monkeypatch.setattr(owner, name, timed_call)

    takes(TrainingStep, "update", 1.0)
    takes(Validation, "_score", 2.0)
    monkeypatch.setattr(unet4d.training.budget, "cpu_seconds", lambda: now_s[0])
    return now_s


@pytest.mark.parametrize("is_waiting", [False, True])
def test_a_training_stopped_and_resumed_ends_in_time(phantom, tiny, tmp_path, fake_clock, monkeypatch, is_waiting):
    """Stopped before a step, or while it waits for the step's batches."""
    config = tiny(time_budget="20s", budget_clock="cpu", steps_per_epoch=3, epochs=1000)
    asked: list[str | None] = []
    usual = unet4d.training.trainer.stop_requested, BatchLoader.next_step

    def stop_at_eighth():
        asked.append(None)
        return "SIGTERM" if len(asked) in (8, 9) or "SIGTERM" in asked else usual[0]()

    def wait(loader):
        if len(asked) >= 5:
            asked.append("SIGTERM")
            loader.check()
        return usual[1](loader)

    with monkeypatch.context() as patch:
        patch.setattr(unet4d.training.trainer, "stop_requested", stop_at_eighth)
        if is_waiting:
            patch.setattr(BatchLoader, "next_step", wait)
        with pytest.raises(Stopped):
            train(phantom, tmp_path / "run", config, "cpu")
    fake_clock[0] += 1000
    train(phantom, tmp_path / "run", config, "cpu", resume=True)
    lines = [json.loads(line) for line in (tmp_path / "run" / LOG).read_text().splitlines()]
    rates = [rate for line in lines for rate in line["learning_rates"]]
    summary = json.loads((tmp_path / "run" / SUMMARY).read_text())
    assert len(rates) == lines[-1]["step"] == summary["steps"]["done"]
    assert rates[-1] < 0.3 * max(rates)
    assert ["dice" in line for line in lines] == [False] * (len(lines) - 1) + [True], "2 s are more than a tenth"
    assert summary["state"] == "finished"
    assert 10 <= summary["time_budget"]["spent_seconds"] <= 20
    assert summary["epochs"] == {"done": len(lines), "of": None}
    assert load_checkpoint(tmp_path / "run" / LAST)["training"]["budget"]["last_epoch"] == len(lines)
    assert "0:00:20 spent, cpu time" in " ".join(info(tmp_path / "run")[1])
    train(phantom, tmp_path / "run", config, "cpu", resume=True)
    assert (tmp_path / "run" / LOG).read_text().count("\n") == len(lines), "it was done before"


@pytest.mark.parametrize("config", [timed(), TrainConfig(epochs=10)])
def test_the_first_share_of_a_run_is_frame_wise(config):
    if config.time_budget:
        run = Run(config, 2.0, 10.0)
        budget, stages = run.open(), []
        assert budget.is_frame_wise(0, 0.3)
        while run.epochs_done != budget.last_epoch:
            run.train(run.steps_done + 1)
            stages.append(budget.is_frame_wise(run.epochs_done, 0.3))
            again = TimeBudget(config, lambda: run.now_s)
            again.load_state_dict(budget.state_dict())
            assert again.is_frame_wise(run.epochs_done, 0.3) == stages[-1]
    else:
        stages = [make_budget(config).is_frame_wise(epoch, 0.3) for epoch in range(10)]
    assert stages == sorted(stages, reverse=True)
    assert sum(stages) / len(stages) == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize(
    ("epochs", "share", "frame_wise"), [(3, 0.5, 1), (1, 0.9, 0), (10, 0.3, 3), (10, 1.0, 10), (4, 0.0, 0)]
)
def test_a_share_below_1_leaves_an_epoch_for_recurrence(epochs: int, share: float, frame_wise: int):
    budget = make_budget(TrainConfig(epochs=epochs))
    found = [budget.is_frame_wise(epoch, share) for epoch in range(epochs)]
    assert found == [epoch < frame_wise for epoch in range(epochs)]
