"""A run that was stopped goes on as if it had not been."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
import torch

import unet4d.training.trainer
from unet4d.data.image4d import read_image, write_image
from unet4d.model.checkpoint import BEST, LAST, load_checkpoint, save_checkpoint
from unet4d.model.step import TrainingStep
from unet4d.training.record import BOARD, LOG
from unet4d.train import train

STEPS = 2


@pytest.fixture(scope="module", autouse=True)
def plain_picture():
    """Spares the seconds that contours take; test_train.py looks at real ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unet4d.training.trainer, "contour_sheet", lambda *given, **named: np.zeros((8, 8, 3), np.uint8))
        yield


@pytest.fixture(scope="module")
def config(tiny):
    return tiny(epochs=4, steps_per_epoch=STEPS, validate_every=1)


@pytest.fixture(scope="module")
def uninterrupted(phantom, config, tmp_path_factory):
    """The folder of a run of four epochs that nothing stopped."""
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    train(phantom, run, config, "cpu")
    return run


def log_of(run) -> list[dict]:
    lines = [json.loads(line) for line in (run / LOG).read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def equal(one, other) -> bool:
    """Whether two nests of tensors and plain values are the same to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def stop_in_step(monkeypatch, number: int) -> None:
    usual, calls = TrainingStep.gradients, []

    def stopping(self, *batch):
        calls.append(None)
        if len(calls) == number:
            raise KeyboardInterrupt
        return usual(self, *batch)

    monkeypatch.setattr(TrainingStep, "gradients", stopping)


def stop_before_checkpoint(monkeypatch, name: str, epoch: int) -> None:
    usual = save_checkpoint

    def stopping(path, config, task, network, training):
        if path.name == name and path.with_name(LOG).read_text().count("\n") == epoch:
            raise KeyboardInterrupt
        usual(path, config, task, network, training)

    monkeypatch.setattr(unet4d.training.trainer, "save_checkpoint", stopping)


@pytest.mark.parametrize("where", ["in the middle of epoch 3", "between record and checkpoint", "between checkpoints"])
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(
    phantom, config, uninterrupted, tmp_path, monkeypatch, where
):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        if where == "in the middle of epoch 3":
            stop_in_step(patch, 2 * STEPS + 2)
        else:
            stop_before_checkpoint(patch, BEST if "record" in where else LAST, 3)
        with pytest.raises(KeyboardInterrupt):
            train(phantom, run, config, "cpu")
    assert load_checkpoint(run / LAST)["training"]["epoch"] == 2
    train(phantom, run, config, "cpu", resume=True)
    for name in (LAST, BEST):
        assert equal(load_checkpoint(run / name), load_checkpoint(uninterrupted / name))
    assert log_of(run) == log_of(uninterrupted)
    assert [line["epoch"] for line in log_of(run)] == [1, 2, 3, 4]


def test_a_stopped_command_ends_with_130_and_goes_on_with_resume(
    command, phantom, tiny_options, trained, tmp_path, monkeypatch
):
    words = ["train", "--dataset", phantom, "--out", tmp_path / "run", *tiny_options]
    with monkeypatch.context() as patch:
        stop_in_step(patch, 3)
        stopped = command(*words)
    assert (stopped.code, stopped.line) == (130, "unet4d: interrupted; whatever is written is whole")
    assert command(*words, "--resume").code == 0
    assert equal(load_checkpoint(tmp_path / "run" / LAST), load_checkpoint(trained / LAST))


def test_resuming_a_finished_run_changes_nothing(command, phantom, tiny_options, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    before = {name: (run / name).read_bytes() for name in (BEST, LAST, LOG)}
    assert command("train", "--dataset", phantom, "--out", run, *tiny_options, "--resume").code == 0
    assert {name: (run / name).read_bytes() for name in before} == before


def test_a_folder_that_holds_a_run_is_not_overwritten(command, phantom, tiny_options, trained):
    before = (trained / LAST).read_bytes()
    done = command("train", "--dataset", phantom, "--out", trained, *tiny_options)
    assert done.code == 2
    assert "already holds a run; choose a new --out, or add --resume to go on with it" in done.line
    assert (trained / LAST).read_bytes() == before


def test_resuming_where_nothing_is_is_told(command, phantom, tiny_options, tmp_path):
    done = command("train", "--dataset", phantom, "--out", tmp_path / "run", *tiny_options, "--resume")
    assert done.code == 2
    assert "holds no checkpoint_last.pt" in done.line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--train.epochs", "9"], "train.epochs is 9 and was 2; leave it out, or give a new --out"),
        (["--seed", "5", "--train.epochs", "9"], "seed is 5 and was 0 (and "),
        (["--model.lstm_channels", "0"], "model.lstm_channels is [0, 0] and was [1, 1]"),
    ],
)
def test_resuming_with_another_config_names_what_differs(command, phantom, tiny_options, trained, options, words):
    before = {path.name: path.read_bytes() for path in trained.iterdir() if path.is_file()}
    done = command("train", "--dataset", phantom, "--out", trained, *tiny_options, *options, "--resume")
    assert done.code == 2
    assert words in done.line
    assert {path.name: path.read_bytes() for path in trained.iterdir() if path.is_file()} == before


def test_workers_may_change_on_resume(command, phantom, tiny_options, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    assert (
        command("train", "--dataset", phantom, "--out", run, *tiny_options, "--data.workers", 1, "--resume").code == 0
    )


def test_resuming_with_another_dataset_is_told(command, own_phantom, tiny_options, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns(BOARD))
    about = json.loads((own_phantom / "dataset.json").read_text())
    about["labels"]["aorta"] = 4
    (own_phantom / "dataset.json").write_text(json.dumps(about))
    done = command("train", "--dataset", own_phantom, "--out", run, *tiny_options, "--resume")
    assert done.code == 2
    assert "--resume with another dataset" in done.line
    assert "aorta" in done.line


def test_a_model_without_training_state_cannot_be_gone_on_from(command, phantom, tiny_options, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns(BOARD))
    os.replace(run / BEST, run / LAST)
    done = command("train", "--dataset", phantom, "--out", run, *tiny_options, "--resume")
    assert done.code == 2
    assert "holds a model without the state of its training" in done.line


def test_resuming_needs_no_settings_again(command, phantom, tiny_options, tmp_path, monkeypatch):
    """Pins a --resume that took the defaults for the settings of the run and refused it."""
    settings = ["--dataset", phantom, "--out", tmp_path / "run", *tiny_options]
    with monkeypatch.context() as patch:
        stop_in_step(patch, 3)
        assert command("train", *settings).code == 130
    assert command("train", "--dataset", phantom, "--out", tmp_path / "run", "--resume").code == 0
    assert [line["epoch"] for line in log_of(tmp_path / "run")] == [1, 2]


def test_resuming_with_other_studies_is_refused(command, own_phantom, tiny_options, tmp_path):
    """With another number of studies every clip of the rest of the run would be another."""
    settings = ["--dataset", own_phantom, "--out", tmp_path / "run", *tiny_options]
    assert command("train", *settings).code == 0
    image = next((own_phantom / "images").iterdir())
    os.utime(image, (1, 1))  # the same content, copied say: the same studies
    assert command("train", *settings, "--resume").code == 0
    study = read_image(image)
    write_image(image, np.flip(study.array[0], 1).astype(np.int16), like=study)
    done = command("train", *settings, "--resume")
    assert done.code == 2
    assert f"--resume with other studies, such as {image.name.split('.')[0]}-" in done.line
