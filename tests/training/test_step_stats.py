"""An epoch's means count the steps that were taken, in order; skipped steps are reported, and too many in a row end the run."""

from __future__ import annotations

import json
import math

import pytest
import torch

from unet4d.errors import Unet4DError
from unet4d.training.step_stats import DeferredScalars, EpochStats, StepOutcome

NAN, INF = math.nan, math.inf


def untouched():
    raise AssertionError("asked for a step that was taken")


def add(stats: EpochStats, step: int, loss: float, norm: float, cases=("a", "b"), scale: float = 1.0) -> str | None:
    outcome = StepOutcome(step, loss, norm, scale)
    return stats.add(outcome, untouched if outcome.is_finite else lambda: list(cases))


def test_the_means_are_over_the_steps_taken():
    stats = EpochStats(10)
    said = [add(stats, step, *values) for step, values in enumerate([(1.0, 4.0), (NAN, 2.0), (2.0, INF), (4.0, 5.0)])]
    assert [line is None for line in said] == [True, False, False, True]
    values = stats.values()
    assert (values["loss"], stats.mean_loss, values["gradient_norm"]) == (2.5, 2.5, 4.5)
    assert [step["step"] for step in values["skipped"]] == [2, 3]


def test_an_epoch_without_a_step_taken_has_no_mean():
    stats = EpochStats(10)
    assert stats.values() == {"loss": None, "gradient_norm": None, "skipped": []}
    add(stats, 0, INF, 1.0)
    assert (stats.values()["loss"], stats.values()["gradient_norm"]) == (None, None)


def test_skipped_steps_are_plain_values_for_json():
    stats = EpochStats(10)
    add(stats, 6, 0.5, INF, ["c"], 1024.0)
    add(stats, 7, NAN, NAN, ["d", "e"])
    wanted = [
        {"step": 7, "loss": 0.5, "gradient_norm": None, "cases": ["c"], "scale": 1024.0},
        {"step": 8, "loss": None, "gradient_norm": None, "cases": ["d", "e"], "scale": 1.0},
    ]
    assert json.loads(json.dumps(stats.values(), allow_nan=False))["skipped"] == wanted


@pytest.mark.parametrize(
    ("loss", "norm", "scale", "line"),
    [
        (NAN, 1.25, 1.0, "step 5 is skipped: loss nan, gradient norm 1.25; cases a, b; loss scale 1"),
        (0.7, -INF, 1.0, "step 5 is skipped: loss 0.7, gradient norm -inf; cases a, b; loss scale 1"),
        (INF, INF, 64.0, "step 5 is skipped: loss inf, gradient norm inf; cases a, b; loss scale 64"),
        (
            0.7,
            INF,
            32768.0,
            "step 5 is skipped: loss 0.7, gradient norm inf; cases a, b; the loss scale was too high and is halved, to 32768: "
            "normal while fp16 searches for it",
        ),
    ],
)
def test_a_skipped_step_is_reported_with_its_cases_and_the_scale(loss, norm, scale, line):
    assert add(EpochStats(10), 4, loss, norm, scale=scale) == line


def test_one_more_than_the_limit_in_a_row_ends_the_run_and_names_the_cases():
    stats = EpochStats(2)
    for step, norm in enumerate([INF, INF, 1.0, NAN, NAN]):
        add(stats, step, 0.5, norm, ["a", f"s{step}"])
    stats.clear()  # an epoch's end does not break the row
    with pytest.raises(Unet4DError) as caught:
        add(stats, 5, 0.5, INF, ["a", "last"])
    for words in (
        "3 steps in a row, up to step 6",
        "train.skip_limit is 2",
        "their cases: a, s3, s4, last;",
        "unet4d verify",
    ):
        assert words in str(caught.value)


def test_with_a_limit_of_none_the_first_ends_the_run_and_of_many_cases_some_are_named():
    with pytest.raises(Unet4DError, match="their cases: c0, c1, c2, c3, c4, c5, c6, c7 and 4 more;"):
        add(EpochStats(0), 0, NAN, 1.0, [f"c{i}" for i in range(12)])


def test_a_restored_state_continues_to_the_bit(tmp_path):
    generator = torch.Generator().manual_seed(0)
    steps = [(float(a) * 10**i, float(b)) for i, (a, b) in enumerate(torch.rand(9, 2, generator=generator).tolist())]
    steps[2], steps[5] = (NAN, 1.0), (0.25, INF)
    whole = EpochStats(3)
    for step, values in enumerate(steps):
        add(whole, step, *values)
    for cut in range(10):
        first, second = EpochStats(3), EpochStats(3)
        for step in range(cut):
            add(first, step, *steps[step])
        torch.save(first.state_dict(), tmp_path / "state.pt")
        second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        for step in range(cut, 9):
            add(second, step, *steps[step])
        assert second.values() == whole.values()
        assert second.state_dict() == whole.state_dict()


def test_steps_in_a_row_are_known_after_a_resume():
    before, after = EpochStats(2), EpochStats(2)
    for step in range(2):
        add(before, step, NAN, NAN, [f"s{step}"])
    after.load_state_dict(before.state_dict())
    with pytest.raises(Unet4DError, match=r"3 steps in a row, up to step 3, .* cases: s0, s1, new;"):
        add(after, 2, NAN, NAN, ["new"])


def test_a_state_does_not_change_with_the_tally_it_is_of():
    stats = EpochStats(5)
    add(stats, 0, NAN, 1.0)
    state, values = stats.state_dict(), stats.values()
    add(stats, 1, NAN, 1.0, ["z"])
    assert (len(state["skipped"]), len(state["suspects"]), len(values["skipped"])) == (1, 2, 1)


def test_on_a_cpu_a_step_is_read_at_once():
    reader = DeferredScalars()
    loss, norm = torch.tensor(0.1, requires_grad=True), torch.tensor(2.0, dtype=torch.float64)
    read = reader.push(3, loss, norm, torch.tensor(2.0**40))
    assert read == [StepOutcome(3, float(torch.tensor(0.1)), 2.0, 2.0**40)]
    assert reader.flush() == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_gpu_a_step_is_read_when_the_next_is_queued():
    reader, read = DeferredScalars(), []
    for step in range(20):
        loss = (torch.ones(2000, 2000, device="cuda") @ torch.ones(2000, 2000, device="cuda")).mean() * 0 + step
        known = reader.push(step, loss, loss * 2, loss * 3)
        assert [outcome.step for outcome in known] == ([step - 1] if step else [])
        read += known
    read += reader.flush()
    assert read == [StepOutcome(step, float(step), 2.0 * step, 3.0 * step) for step in range(20)]
    assert reader.flush() == []
