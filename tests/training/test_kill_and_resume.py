"""The experiment that kills a training: what it reads off a terminal, what it calls a difference, and all of it on a phantom."""

from __future__ import annotations

import csv
import json
import signal

import pytest
import torch


def test_the_bars_show_what_a_training_does(script):
    killing = script("killing")
    written = [
        ("preprocessing:  50%|#####     | 1/2", "starting", 0, 0),
        ("epoch 1/8 ##5        0/12", "in a step", 1, 0),
        ("epoch 1/8 ##5        3/12, loss 0.512, ETA 3:12:01, 412 frames/s", "in a step", 1, 3),
        ("step 4 is skipped: loss nan", "in a step", 1, 3),
        ("  ", "between an epoch's steps and the next", 1, 3),
        ("epoch 1  loss 0.5000  seconds 2.0  ETA 3:12", "between an epoch's steps and the next", 1, 3),
        ("epoch 2/8 █▎         12/12, loss 0.5, ETA 3:12", "between an epoch's steps and the next", 2, 12),
        ("validating:  33%|###3      | 1/3 [00:01<00:03,  1.5s/study]", "validating", 2, 12),
        ("   ", "between an epoch's steps and the next", 2, 12),
        ("", "between an epoch's steps and the next", 2, 12),
    ]
    doing = killing.Doing(killing.STARTING)
    for text, *wanted in written:
        doing = killing.seen(doing, text)
        assert list(doing) == wanted, text


def test_any_bit_is_a_difference(script):
    differences = script("kill_and_resume").differences
    one = {"a": torch.tensor([1.0, 2.0]), "b": [1, {"c": None}], "d": 0.1}
    assert list(differences(one, {"a": torch.tensor([1.0, 2.0]), "b": [1, {"c": None}], "d": 0.1}, "x")) == []
    others = {
        "x/a differs by 2.38e-07": one | {"a": torch.tensor([1.0, 2.0 + 2.0**-22])},
        "x/a is torch.float32 (2,) and torch.float64 (2,)": one | {"a": torch.tensor([1.0, 2.0]).double()},
        "x/b is [1, {'c': None}] and [1]": one | {"b": [1]},
        "x/b/1/c is None and 0": one | {"b": [1, {"c": 0}]},
        "x/d is 0.1 and 0.10000000000000002": one | {"d": 0.1 + 2e-17},
        "x/e is in one alone": one | {"e": 1},
    }
    for said, other in others.items():
        assert list(differences(one, other, "x")) == [said]
    assert list(differences(one, {"a": one["a"], "b": one["b"]}, "x")) == ["x/d is in one alone"]


def test_kills_follow_from_the_seed_and_one_is_by_sigterm(script):
    module = script("kill_and_resume")
    drawn = module.plan_kills(6, 0, 100.0)
    assert drawn == module.plan_kills(6, 0, 100.0)
    assert drawn != module.plan_kills(6, 1, 100.0)
    assert [kill.number for kill in drawn].count(signal.SIGTERM) == 1
    assert [kill.aim for kill in drawn if kill.number == signal.SIGKILL] == 2 * list(module.AIMS)
    assert sum(kill.wait_s for kill in module.plan_kills(400, 0, 100.0)) == pytest.approx(100, rel=0.1)


def test_it_reads_how_far_a_checkpoint_is(script, trained, tmp_path):
    progress = script("kill_and_resume").checkpoint_progress
    assert progress(trained) == (2, 4)
    assert progress(tmp_path) == (0, 0)


def test_a_folder_in_use_is_left_alone(script, tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ValueError, match="is in use"):
        script("kill_and_resume").main(tmp_path, tmp_path)


def test_the_kept_curves_are_those_of_the_kept_summary(request):
    """Check that the two runs of the record are equal, column by column."""
    kept = request.config.rootpath / "experiments" / "results" / "kill_and_resume"
    summary = json.loads((kept / "summary.json").read_text())
    assert summary["equal"]
    assert summary["differing"] == []
    assert {row["signal"]: row["exit_code"] for row in summary["signals"]} == {"SIGKILL": -9, "SIGTERM": 75}
    rows = list(csv.DictReader((kept / "curves.csv").read_text().splitlines()))
    assert len(rows) == summary["epochs"]
    for row in rows:
        assert row["loss_uninterrupted"] == row["loss_resumed"]
        assert row["dice_uninterrupted"] == row["dice_resumed"]


@pytest.mark.slow
def test_a_killed_run_on_a_phantom_equals_an_unkilled_one(script, phantom, tmp_path, monkeypatch):
    module = script("kill_and_resume")
    (tmp_path / "tiny.yaml").write_text(
        "data: {patch_size: [16, 16, 4], frames: 3, folds: 3}\nmodel: {channels: [4, 8]}\n"
        "train: {epochs: 3, steps_per_epoch: 20, batch_size: 1, validate_every: 2}\n"
    )
    planned = [
        module.Kill(signal.SIGTERM, 0.0, module.MOMENT, 0.0),
        module.Kill(signal.SIGKILL, 0.0, module.VALIDATION, 0.0),
    ]
    monkeypatch.setattr(module, "plan_kills", lambda kills, seed, training_s: planned)
    out = tmp_path / "out"
    assert module.main(phantom, out, tmp_path / "tiny.yaml"), (out / "summary.json").read_text()
    summary = json.loads((out / "summary.json").read_text())
    assert summary["equal"]
    assert [row["exit_code"] for row in summary["signals"]] == [75, -9]
    assert [row["doing"] for row in summary["signals"]] == ["in a step", "validating"]
    assert [row["steps_lost"] for row in summary["signals"]] == [0, 0]
    assert (out / "curves.png").stat().st_size > 1000
    (out / "killed" / "checkpoint_best.pt").write_bytes((out / "killed" / "checkpoint_previous.pt").read_bytes())
    best = [module.content(out / run / "checkpoint_best.pt") for run in ("whole", "killed")]
    assert list(module.differences(*best, "best"))
