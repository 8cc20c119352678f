"""Advice is given when something is wrong, when it becomes so, and never of a training that goes as trainings do."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from tests.builders import tiny_config
from unet4d.config import Config, ResolvedConfig
from unet4d.training.monitoring.advice import training_advice, validation_warnings
from unet4d.training.optimizer import learning_rate_factor

STEPS = 20


def config(epochs: int = 100, **loop) -> ResolvedConfig:
    return tiny_config(num_workers=3, epochs=epochs, steps_per_epoch=STEPS, **loop)


def line(epoch: int, loss: float | None, used: Config, **values) -> dict:
    rate = used.train.learning_rate * learning_rate_factor(epoch * STEPS, used.train)
    well = {"learning_rate": rate, "seconds": 10.0, "waited_seconds": 0.1, "skipped": []}
    return {"epoch": epoch, "step": epoch * STEPS, "loss": loss, **well, **values}


def said(losses, used: Config, **values) -> dict[int, list[str]]:
    """Return the advice after each epoch of a run with these losses."""
    log = [line(epoch, loss, used, **values) for epoch, loss in enumerate(losses, 1)]
    told = {epoch: training_advice(log[:epoch], used) for epoch in range(1, len(log) + 1)}
    return {epoch: sentences for epoch, sentences in told.items() if sentences}


def falling(epochs: int, noise: float, seed: int, kind: str) -> np.ndarray:
    """Return losses that fall by 4 % or more per window of a fifth of the run, with noise of this relative deviation."""
    t = np.arange(epochs) / epochs
    curve = {
        "power": 2.0 / (1 + 30 * t) ** 0.7,
        "exponential": 1.5 * np.exp(-3 * t) + 0.02,
        "late": 2 - 1.5 * t,
        "slow": 0.7 * (1 - 0.05) ** (5 * t),
    }[kind]
    return curve * (1 + noise * np.random.default_rng(seed).standard_normal(epochs))


# the loss


def test_nothing_given_without_a_log():
    assert training_advice([], config()) == validation_warnings([], config()) == []


@pytest.mark.parametrize("kind", ["power", "exponential", "late", "slow"])
@pytest.mark.parametrize("noise", [0.0, 0.01, 0.03, 0.1])
@pytest.mark.parametrize("epochs", [30, 100])
def test_a_loss_that_falls_is_never_called_flat_however_noisy(kind, noise, epochs):
    for seed in range(3):
        losses = falling(epochs, noise, seed, kind)
        window = max(10, epochs // 5)
        smooth = falling(epochs, 0.0, seed, kind)
        assert all(b < 0.981 * a for a, b in pairwise(smooth[:: window - 1]))  # it is what the test says
        assert said(losses, config(epochs)) == {}


@pytest.mark.parametrize("level", [0.693, 1e-4, 40.0])
@pytest.mark.parametrize("noise", [0.0, 0.003])
def test_a_loss_that_stands_still_is_called_flat_once(level, noise):
    losses = level * (1 + noise * np.random.default_rng(1).standard_normal(100))
    ((epoch, (sentence,)),) = list(said(losses[:60], config()).items())
    assert 22 <= epoch <= 35  # 20 epochs after the first ten steps' warm-up
    assert sentence.startswith(f"the loss has stayed at about {np.median(losses[2:epoch]):.2g}"[:34])
    assert "for 20 epochs" in sentence
    assert "--train.learning_rate 0.0003 or 0.003" in sentence


def test_one_that_rises_is_flat_too_and_single_outliers_do_not_hide_it():
    losses = np.linspace(0.5, 0.55, 60)
    losses[[30, 37, 41]] = 3.0, 0.1, 2.0
    assert min(said(losses, config())) < 30
    flat = np.full(60, 0.5)
    flat[[5, 11, 16]] = 3.0, 0.01, 2.0
    assert said(flat, config())


def test_a_loss_that_falls_and_then_stands_is_flat_a_window_later():
    losses = [2 * 0.9**t for t in range(30)] + [2 * 0.9**30] * 40
    (epoch,) = said(losses, config())
    assert 45 <= epoch <= 52


def test_nothing_is_flat_within_warm_up_or_too_short_a_time_or_at_a_low_learning_rate():
    warm = config(warmup_steps=200)  # ten epochs
    assert min(said([0.5] * 60, warm)) == 10 + 20
    assert said([0.5] * 20, config()) == {}
    assert said([0.5] * 12 + [None] * 7, config(20)) == {12: said([0.5] * 12, config(20))[12]}
    assert said([0.5] * 60, config(), learning_rate=0.99e-4) == {}
    assert said([0.5] * 60, config(), learning_rate=1.01e-4)


# waiting and skipping


@pytest.mark.parametrize(
    ("seconds", "waited", "given"), [(10, 2.4, 0), (10, 2.6, 1), (3, 0.9, 0), (3, 1.1, 1), (0, 0, 0)]
)
def test_a_training_that_waits_for_batches_is_reported(seconds, waited, given):
    used = config()
    told = training_advice([line(1, 1.0, used, seconds=seconds, waited_seconds=waited)], used)
    assert len(told) == given
    if told:
        share = round(100 * waited / seconds)
        assert told[0].startswith(
            f"{share}% of epoch 1 went by waiting for batches ({waited:.1f} of {seconds:.1f} s): "
        )
        assert "--data.num_workers, now 3" in told[0]


def test_waiting_is_reported_when_it_begins_and_not_at_every_epoch():
    used = config()
    waits = [0.0] * 3 + [5.0] * 20 + [0.0, 5.0] * 3 + [0.0] * 11 + [5.0]
    log = [line(epoch, 1 / epoch, used, waited_seconds=wait) for epoch, wait in enumerate(waits, 1)]
    assert [epoch for epoch in range(1, len(log) + 1) if training_advice(log[:epoch], used)] == [4, len(log)]


def test_many_skipped_steps_are_reported_with_the_most_frequent_case():
    used = config()
    one, other = {"step": 1, "cases": ["a", "b"], "scale": 1.0}, {"step": 2, "cases": ["b"], "scale": 1.0}
    assert training_advice([line(1, 1.0, used, skipped=[one])], used) == []  # 5 %
    (sentence,) = training_advice([line(1, 1.0, used, skipped=[one, other])], used)
    assert sentence.startswith("2 of 20 steps of epoch 1 were skipped")
    assert "case b (2 times): check it with unet4d verify" in sentence


# validation


def validated(epoch: int, used: Config, dice: float | None, predicted: dict, reference: dict) -> dict:
    scores = {"mean_foreground_dice": dice, "predicted_voxels": predicted, "reference_voxels": reference}
    return line(epoch, 1 / epoch, used, **scores)


def test_a_class_that_is_never_predicted_is_reported_when_it_becomes_so():
    used, reference = config(), {"myocardium": 70, "scar": 9, "edema": 0}
    history = [(70, 0), (70, 0), (0, 0), (0, 3), (70, 4)]
    log, told = [line(4, 1.0, used)], []
    for at, (muscle, scar) in enumerate(history, 1):
        predicted = {"myocardium": muscle, "scar": scar, "edema": 0}
        log += [validated(5 * at, used, 0.5, predicted, reference), line(5 * at + 1, 0.1, used)]
        told.append(validation_warnings(log[:-1], used))
        assert validation_warnings(log, used) == []  # nothing new without a validation
    assert [len(sentences) for sentences in told] == [1, 0, 1, 0, 0]
    assert told[0][0].startswith(
        "class scar is predicted in no voxel of the validation studies of epoch 5, expected 9: "
    )
    assert told[2][0].startswith("class myocardium is predicted in no voxel of the validation studies of epoch 15")


@pytest.mark.parametrize(
    ("predicted", "words"),
    [(0, "only background is predicted"), (8, "the prediction lies elsewhere")],
)
def test_a_dice_of_zero_is_reported_once_and_not_class_by_class(predicted, words):
    used = config()
    log = [validated(epoch, used, 0.0, {"a": predicted, "b": 0}, {"a": 5, "b": 6}) for epoch in (5, 10)]
    (sentence,) = validation_warnings(log[:1], used)
    assert sentence.startswith(f"the validation Dice of epoch 5 is 0 because {words}: ")
    assert validation_warnings(log, used) == []


def test_within_warm_up_no_validation_is_reported_and_no_reference_is_no_fault():
    used = config(warmup_steps=200)
    zero = [validated(epoch, used, 0.0, {"a": 0}, {"a": 5}) for epoch in (5, 9, 10)]
    assert [len(validation_warnings(zero[:n], used)) for n in (1, 2, 3)] == [0, 0, 1]
    assert validation_warnings([validated(20, used, None, {"a": 0}, {"a": 0})], used) == []


def test_every_sentence_is_one_line_without_broken_numbers():
    used = config(40)
    told = [
        *said([0.5] * 15, used).values(),
        training_advice([line(1, 1.0, used, waited_seconds=9.0, skipped=[{"cases": ["a"]}] * 9)], used),
        validation_warnings([validated(9, used, 0.0, {"a": 0}, {"a": 5})], used),
    ]
    sentences = [sentence for group in told for sentence in group]
    assert len(sentences) == 4
    assert not any("\n" in one or "nan" in one or "None" in one for one in sentences)
