"""`unet4d info`: runs at every stage, folders of folds and single checkpoints, as text and as JSON."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch
import yaml

from tests.builders import build_network, save_network, tiny_config, tiny_task
from unet4d.cli.main import _parse
from unet4d.config import ResolvedConfig
from unet4d.models.checkpoint import BEST, LAST, PREVIOUS, load_checkpoint
from unet4d.models.folds import FOLDS_FILE
from unet4d.system.distributed import ProcessGroup
from unet4d.training.monitoring.log_lines import LOG
from unet4d.training.monitoring.summary import CONFIG, SUMMARY, write_summary

TASK = tiny_task("wall", "blood", channel_names=("cine MRI",), held_out=("anna", "ben"))


def config(fold: int = 0, lstm_channels: int = 2) -> ResolvedConfig:
    data, loop = {"in_plane_spacing_mm": 1.5, "patch_size": (8, 8, 4)}, {"epochs": 4, "steps_per_epoch": 5}
    return tiny_config(channels=[2, 4], lstm_channels=lstm_channels, fold=fold, **data, **loop)


def line(epoch: int, dice: float | None = None) -> dict:
    found = {"epoch": epoch, "step": 5 * epoch, "loss": 1 / epoch, "seconds": 30.0, "skipped": [{"step": 1}]}
    return (
        found
        if dice is None
        else found | {"mean_foreground_dice": dice, "dice": {"wall": dice - 0.1, "blood": dice + 0.1}}
    )


def made_run(
    run: Path,
    epochs: int = 4,
    state: str | None = "finished",
    best: float = 0.8,
    made: ResolvedConfig | None = None,
    **about,
) -> Path:
    """Write a run of this many epochs, validated after every second one, the last time not as well as before."""
    made = made or config()
    run.mkdir(parents=True, exist_ok=True)
    (run / CONFIG).write_text(yaml.safe_dump(made.as_dict(), sort_keys=False))
    log = [line(epoch, {2: best, 4: best - 0.2}.get(epoch)) for epoch in range(1, epochs + 1)]
    (run / LOG).write_text("".join(json.dumps(one) + "\n" for one in log))
    for name, epoch in ((LAST, epochs), (PREVIOUS, epochs - 1)):
        if epoch > 0:
            save_network(run / name, made, TASK, {"epoch": epoch, "step": 5 * epoch})
    if epochs >= 2:
        save_network(run / BEST, made, TASK)
    if state:
        where = {"config": made, "task": TASK, "device": torch.device("cpu"), "ranks": ProcessGroup()}
        write_summary(run, state=state, step=5 * epochs, lines=log, **where, **about)
    return run


@pytest.fixture
def known(command):
    """Return what `unet4d info PATH --json` prints."""

    def asked(path: Path) -> dict:
        done = command("info", path, "--json")
        assert (done.code, done.error) == (0, "")
        return json.loads(done.told)

    return asked


def check_command(words: str, verb: str) -> list[str]:
    """Check that a command parses; return its words."""
    parts = shlex.split(words)
    assert parts[:2] == ["unet4d", verb]
    assert _parse(parts[1:])[0] == verb
    return parts


def test_a_finished_run(known, command, tmp_path):
    run = made_run(tmp_path / "run")
    found = known(run)
    assert (found["state"], found["epochs"], found["seconds"]) == ("finished", {"done": 4, "of": 4}, 120.0)
    assert found["best"] == {"epoch": 2, "mean_foreground_dice": 0.8, "dice": {"wall": 0.8 - 0.1, "blood": 0.8 + 0.1}}
    assert found["skipped_steps"] == 4
    assert found["held_out"] == ["anna", "ben"]
    places = {name: (one["epoch"], one["step"]) for name, one in found["checkpoints"].items()}
    assert places == {BEST: (None, None), LAST: (4, 20), PREVIOUS: (3, 15)}
    assert check_command(found["next_command"], "predict")[2] == str(run)
    assert found["summary"] == json.loads((run / SUMMARY).read_text())

    told = command("info", run).told
    for words in ("finished", "4 of 4 epochs in 0:02:00; 4 steps skipped", "0.900, optimistic",
                  "0.8000 in epoch 2: wall 0.700, blood 0.900", "bidirectional", "cine MRI", "wall, blood", "cyclic",
                  "after step 20, epoch 4 done", "anna, ben", found["next_command"]):  # fmt: skip
        assert words in told


def test_settings_other_than_the_defaults_are_shown(known, tmp_path):
    assert known(made_run(tmp_path / "run"))["settings"] == {
        "model.channels": [2, 4],
        "train.epochs": 4,
        "train.steps_per_epoch": 5,
        "train.precision": "fp32",
        "data.folds": 5,
        "data.in_plane_spacing_mm": 1.5,
        "data.patch_size": [8, 8, 4],
        "data.frames": 8,
        "data.num_workers": 0,
        "model.lstm_channels": [2, 2],
        "model.strides": [[2, 2, 1]],
        "model.kernel_size": [[3, 3, 1], [3, 3, 3]],
        "train.batch_size": 2,
        "train.init_lr_factor": 1.0,
        "train.framewise_fraction": 0.0,
    }


@pytest.mark.parametrize("state", ["stopped", "failed", "running"])
def test_an_unfinished_run_shows_the_command_to_continue(known, command, tmp_path, state):
    run = made_run(tmp_path / "my run", 3, state, dataset=tmp_path / "my hearts", reason="SIGTERM")
    found = known(run)
    assert (found["state"], found["reason"]) == (state, "SIGTERM")
    words = check_command(found["next_command"], "train")
    assert words[2:] == ["--dataset", str(tmp_path / "my hearts"), "--out", str(run), "--resume"]
    told = command("info", run).told
    last = told.splitlines()[-1]
    assert found["next_command"] in last, "in one line, to be copied"
    assert f"{state}: SIGTERM" in told
    assert last.startswith("if it was killed " if state == "running" else "next command "), (
        "two would write to one folder"
    )


def test_a_run_that_has_just_begun(known, command, tmp_path):
    run = made_run(tmp_path / "run", 0, "running")
    found = known(run)
    assert (found["checkpoints"], found["best"], found["model"], found["held_out"]) == ({}, None, None, ["anna", "ben"])
    assert "none yet" in command("info", run).told


def test_a_damaged_checkpoint_is_reported_and_another_one_described(known, command, tmp_path):
    run = made_run(tmp_path / "run", 3, "failed")
    (run / BEST).write_bytes((run / BEST).read_bytes()[:-100])
    found = known(run)
    assert "damaged" in found["checkpoints"][BEST]["fault"]
    assert found["model"]["labels"] == TASK.labels
    assert "truncated, damaged" in command("info", run).told


FOREIGN = {
    "no task": lambda content: content.update(task={}),
    "an unknown setting": lambda content: content["config"]["model"].update(wings=2),
    "no config": lambda content: content.update(config=None),
    "no training": lambda content: content.update(training=None),
    "no tensors": lambda content: content.update(network={"weight": 1.0}),
}


@pytest.mark.parametrize("fault", FOREIGN)
def test_a_checkpoint_of_another_version_is_reported(known, command, tmp_path, fault):
    """Whole and of the right format, with other content: it ended in a traceback."""
    run = made_run(tmp_path / "run", 3, "failed")
    content = load_checkpoint(run / LAST)
    FOREIGN[fault](content)
    torch.save(content, run / LAST)
    done = command("info", run / LAST)
    assert done.code == 2
    assert f"{run / LAST} does not fit this version of unet4d (" in done.line
    found = known(run)
    assert "does not fit this version of unet4d (" in found["checkpoints"][LAST]["fault"]
    assert found["checkpoints"][PREVIOUS] == {"epoch": 2, "step": 10}


def test_a_log_that_is_being_written_is_read_as_far_as_it_goes(known, tmp_path):
    run = made_run(tmp_path / "run", 3, "running")
    with open(run / LOG, "a", encoding="utf-8") as log:
        log.write('{"epoch": 4, "st')
    assert known(run)["epochs"] == {"done": 3, "of": 4}


@pytest.mark.parametrize("name", [LAST, BEST])
def test_a_checkpoint_file(known, command, tmp_path, name):
    path = made_run(tmp_path / "run", made=config(lstm_channels=0)) / name
    found = known(path)
    assert (found["epoch"], found["step"]) == ((4, 20) if name == LAST else (None, None))
    assert found["model"]["labels"] == TASK.labels
    assert found["model"]["weights"] == sum(
        one.numel() for one in build_network(config(lstm_channels=0).model, 1, 3).parameters()
    )
    assert check_command(found["next_command"], "predict")[2] == str(path)
    told = command("info", path).told
    assert ("after step 20, epoch 4 done" if name == LAST else "to predict with") in told
    assert "frame-wise baseline" in told
    assert "wall, blood" in told


def test_folds_have_a_line_each_with_mean_and_deviation(known, command, tmp_path):
    for fold, best in enumerate((0.6, 0.8)):
        state = ("finished", "running")[fold]
        made_run(tmp_path / f"fold_{fold}", 4 - fold, state, best, config(fold), dataset=tmp_path / "hearts")
    (tmp_path / FOLDS_FILE).write_text(json.dumps({"folds": 5, "seed": 0, "held_out": {}}))
    (tmp_path / CONFIG).write_text("fold: all\n")  # beside them, as train --fold all leaves them
    (tmp_path / SUMMARY).write_text(json.dumps({"folds": 5}))
    found = known(tmp_path)
    assert list(found["runs"]) == ["0", "1"]
    assert found["of"] == 5
    over = found["last"]["over"]["mean_foreground_dice"]
    assert (over["mean"], over["std"], over["n"]) == (pytest.approx(0.6), pytest.approx(0.08**0.5), 2)
    told = command("info", tmp_path).told.splitlines()
    assert [" ".join(one.split()) for one in told[:3]] == [
        "folds 2 of 5 begun",
        "fold 0 finished, 4 of 4 epochs",
        "fold 1 running, 3 of 4 epochs",
    ]
    assert told[3].startswith("if it was killed "), "one of them runs"
    assert told[-1].split() == ["all", "folds", "0.600", "+-", "0.283", "0.500", "+-", "0.283", "0.700", "+-", "0.283"]
    words = check_command(found["next_command"], "train")
    assert words[2:] == ["--dataset", str(tmp_path / "hearts"), "--out", str(tmp_path), "--fold", "all", "--resume"]


def test_folds_that_are_all_finished_predict_together(known, tmp_path):
    for fold in range(2):
        made_run(tmp_path / f"fold_{fold}", made=config(fold))
    assert check_command(known(tmp_path)["next_command"], "predict")[2] == str(tmp_path)
    (tmp_path / FOLDS_FILE).write_text(json.dumps({"folds": 3}))
    assert known(tmp_path)["next_command"].endswith("--resume"), "the third one is not begun"


def test_folds_of_which_none_is_begun(known, tmp_path):
    (tmp_path / FOLDS_FILE).write_text(json.dumps({"folds": 5}))
    (tmp_path / CONFIG).write_text("fold: all\n")
    found = known(tmp_path)
    assert (found["runs"], found["of"]) == ({}, 5)
    assert check_command(found["next_command"], "train")[2:4] == ["--dataset", "DATASET"]


def test_folds_without_a_score_have_no_mean(known, command, tmp_path):
    made_run(tmp_path / "fold_0", 1, "running")
    assert known(tmp_path)["last"] is None
    assert "all folds" not in command("info", tmp_path).told


def test_a_path_without_a_run_is_refused(command, tmp_path):
    (tmp_path / "notes.txt").write_text("no checkpoint")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / CONFIG).write_text("seed: 1\n")
    (tmp_path / "run" / SUMMARY).write_text("[]")
    for path, words in (
        (tmp_path / "nothing", "is missing; give a run's folder"),
        (tmp_path, "holds no run; give a run's folder"),
        (tmp_path / "notes.txt", "no checkpoint; give one written by unet4d train"),
        (tmp_path / "run", "is not what train wrote"),
    ):
        done = command("info", path)
        assert done.code == 2
        assert str(path) in done.line
        assert words in done.line
