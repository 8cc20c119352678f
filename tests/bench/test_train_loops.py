"""The benchmark of the training loop at toy sizes: both loops compute the same, and the tables' arithmetic."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import unet4d.training.budget
from bench import train, train_loops
from bench.__main__ import PARTS, print_table
from bench.measure import Rounds
from bench.train import PLAIN, READY, WORKERS, Sizes, overhead_bars, step_table
from bench.train_loops import Job, OurLoop, PlainLoop, fed_by_workers

TOY = Sizes((16, 16, 4), 3, (4, 8), 2, 2, (40, 36, 5), steps=3, rounds=1, workers=0)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    """Two phantoms, in float32, the gradient not clipped."""
    config = train.configure(TOY)
    config = replace(config, train=replace(config.train, precision="fp32", gradient_clip=0.0))
    return Job.write(tmp_path_factory.mktemp("bench"), config, CPU, TOY.subjects, TOY.shape)


def losses_of(loop: OurLoop) -> list[torch.Tensor]:
    """The losses of a turn of our loop."""
    usual, seen = loop.trainer.take_step, []

    def take_step(batches, number):
        loss, norm = usual(batches, number)
        seen.append(loss)
        return loss, norm

    loop.trainer.take_step = take_step
    loop()
    loop.trainer.take_step = usual
    return seen


def test_both_loops_compute_the_same_to_the_bit(job, monkeypatch):
    """But for the learning rate's schedule, which the plain loop has not."""
    monkeypatch.setattr(unet4d.training.budget, "learning_rate_factor", lambda step, config: 1.0)
    batches = job.batches(2)
    ours = OurLoop(job, batches=batches)
    plain = PlainLoop(ours.trainer.network, job.config, batches, CPU)
    for _ in range(2):  # of three steps on two batches in turn
        losses = plain()
        assert losses == losses_of(ours)
        assert len(set(map(float, losses))) == 3
    for one, other in zip(plain.step.network.parameters(), ours.trainer.network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_batches_that_are_ready_are_those_of_the_run_with_every_frame_labelled(job):
    with fed_by_workers(job) as fed:
        for ready in job.batches(2):
            [made] = fed.trainer.loader.next_step()
            assert torch.equal(ready.image, made.image)
            assert torch.equal(ready.label, made.label)
            assert ready.labelled.all()
            assert ready.label.any()


def test_a_turn_of_our_loop_is_an_epoch_of_a_run_with_its_bar(job, monkeypatch, capsys):
    drawn = []

    class Kept(train_loops._Terminal):
        def write(self, text):
            drawn.append(text)
            return super().write(text)

    monkeypatch.setattr(train_loops, "_Terminal", Kept)
    loop = OurLoop(job, batches=job.batches(1))
    loop()
    loop()
    assert (loop.trainer.steps_done, loop.trainer.epochs_done) == (2 * TOY.steps, 2)
    assert loop.trainer.training_step.optimizer.param_groups[0]["lr"] > 0
    assert "epoch 2/" in "".join(drawn)
    assert capsys.readouterr().err == ""
    assert loop.waiting == 0


def test_every_table_is_filled_printed_and_written(capsys):
    assert "train" in PARTS
    tables = train.run(replace(TOY, workers=1))
    assert [row["loop"] for row in tables["step"]] == [PLAIN, READY, WORKERS]
    assert [row["workers"] for row in tables["step"]] == [0, 0, 1]
    assert 0 < tables["step"][2]["waiting for batches"] < 1
    for table in tables.values():
        print_table(table)
        assert len({tuple(row) for row in table}) == 1
    assert "a step in our loop over the same step in a plain one" in capsys.readouterr().out
    json.dumps(tables, allow_nan=False)


def test_a_step_is_its_turn_over_its_steps_and_the_overhead_that_of_the_same_round(job):
    """3 steps of 2 clips of 3 frames of 16 x 16 x 4 in 0.6 s: 30720 voxel-frames a second."""
    rounds = Rounds({PLAIN: [0.6, 6.0, 0.3], READY: [0.63, 6.6, 0.306], WORKERS: [1.2, 3.0, 0.9]})
    rows = step_table(rounds, job, {READY: 0.0, WORKERS: 0.25})
    assert [row["ms / step"] for row in rows] == pytest.approx([200, 210, 400])
    assert rows[0]["million voxel-frames / s"] == pytest.approx(2 * 3 * 16 * 16 * 4 / 0.2 / 1e6)
    assert [row["time over plain"].median for row in rows] == pytest.approx([1, 1.05, 2])
    assert [row["waiting for batches"] for row in rows] == [None, 0.0, 0.25]


@pytest.mark.parametrize(("ratio", "met"), [(1.049, "yes"), (1.06, "no")])
def test_the_bar_is_that_of_the_loop_with_batches_that_are_there(job, ratio, met):
    rows = step_table(Rounds({PLAIN: [1.0], READY: [ratio], WORKERS: [3.0]}), job, {})
    [row] = overhead_bars(rows)
    assert row["measured"] == pytest.approx(ratio)
    assert (row["wanted"], row["met"]) == ("<= 1.05", met)


def test_what_does_not_fit_is_not_met(job):
    rows = step_table(Rounds({READY: [1.0]}), job, {})
    assert overhead_bars(rows)[0]["met"] == "no"
