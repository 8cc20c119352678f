"""Advice is given when something is wrong, when it becomes so, and never of a training that goes as trainings do."""

from __future__ import annotations

import pytest

from tests.builders import tiny_config
from unet4d.config import ResolvedConfig
from unet4d.training.monitoring.advice import training_advice, validation_warnings

STEPS = 20


def config(epochs: int = 100, **loop) -> ResolvedConfig:
    return tiny_config(num_workers=3, epochs=epochs, steps_per_epoch=STEPS, **loop)


def line(epoch: int, **values) -> dict:
    well = {"seconds": 10.0, "waited_seconds": 0.1, "skipped": []}
    return {"epoch": epoch, "step": epoch * STEPS, "loss": 1 / epoch, **well, **values}


def test_nothing_given_without_a_log():
    assert training_advice([], config()) == validation_warnings([], config()) == []


# waiting and skipping


@pytest.mark.parametrize(
    ("seconds", "waited", "given"), [(10, 2.4, 0), (10, 2.6, 1), (3, 0.9, 0), (3, 1.1, 1), (0, 0, 0)]
)
def test_a_training_that_waits_for_batches_is_reported(seconds, waited, given):
    used = config()
    told = training_advice([line(1, seconds=seconds, waited_seconds=waited)], used)
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
    log = [line(epoch, waited_seconds=wait) for epoch, wait in enumerate(waits, 1)]
    assert [epoch for epoch in range(1, len(log) + 1) if training_advice(log[:epoch], used)] == [4, len(log)]


def test_many_skipped_steps_are_reported():
    one = {"step": 1, "cases": ["a", "b"], "scale": 1.0}
    assert training_advice([line(1, skipped=[one])], config()) == []  # 5 %
    (sentence,) = training_advice([line(1, skipped=[one, one])], config())
    assert sentence.startswith("2 of 20 steps of epoch 1 were skipped")


# validation


def validated(epoch: int, dice: float | None, predicted: dict, reference: dict) -> dict:
    scores = {"mean_foreground_dice": dice, "predicted_voxels": predicted, "reference_voxels": reference}
    return line(epoch, **scores)


def test_a_class_that_is_never_predicted_is_reported_when_it_becomes_so():
    used, reference = config(), {"myocardium": 70, "scar": 9, "edema": 0}
    history = [(70, 0), (70, 0), (0, 0), (0, 3), (70, 4)]
    log, told = [line(4)], []
    for at, (muscle, scar) in enumerate(history, 1):
        predicted = {"myocardium": muscle, "scar": scar, "edema": 0}
        log += [validated(5 * at, 0.5, predicted, reference), line(5 * at + 1)]
        told.append(validation_warnings(log[:-1], used))
        assert validation_warnings(log, used) == []  # nothing new without a validation
    assert [len(sentences) for sentences in told] == [1, 0, 1, 0, 0]
    assert told[0][0].startswith(
        "class scar is predicted in no voxel of the validation studies of epoch 5, expected 9: "
    )
    assert told[2][0].startswith("class myocardium is predicted in no voxel of the validation studies of epoch 15")


def test_within_warm_up_no_validation_is_reported_and_no_reference_is_no_fault():
    used = config(warmup_steps=200)  # ten epochs
    zero = [validated(epoch, 0.0, {"a": 0}, {"a": 5}) for epoch in (5, 9, 10)]
    assert [len(validation_warnings(zero[:n], used)) for n in (1, 2, 3)] == [0, 0, 1]
    assert validation_warnings([validated(20, None, {"a": 0}, {"a": 0})], used) == []


def test_every_sentence_is_one_line_without_broken_numbers():
    used = config()
    sentences = [
        *training_advice([line(1, waited_seconds=9.0, skipped=[{"cases": ["a"]}] * 9)], used),
        *validation_warnings([validated(9, 0.0, {"a": 0}, {"a": 5})], used),
    ]
    assert len(sentences) == 3
    assert not any("\n" in one or "nan" in one or "None" in one for one in sentences)
