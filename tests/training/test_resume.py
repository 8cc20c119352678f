"""A run that was stopped goes on as if it had not been."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import exit_code

import unet4d.training.validation
from tests.builders import change_dataset, skip_drawing
from unet4d.errors import Stopped, Unet4DError
from unet4d.images.image4d import read_image, write_image
from unet4d.models.checkpoint import BEST, LAST, PREVIOUS, load_checkpoint
from unet4d.system.lock import lock_run
from unet4d.training.monitoring.log_lines import LOG
from unet4d.training.monitoring.logger import BOARD
from unet4d.training.step import TrainingStep
from unet4d.training.train import train

STEPS = 2
TIMES = ("seconds", "waited_seconds", "frames_per_second", "validation_seconds")


pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def config(tiny):
    return tiny(epochs=4, steps_per_epoch=STEPS, validate_every=1, framewise_fraction=0.25)


@pytest.fixture(scope="module")
def uninterrupted(phantom, config, tmp_path_factory):
    """Return the folder of a run of four epochs that nothing stopped."""
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    train(phantom, run, config, "cpu")
    return run


def log_of(run) -> list[dict]:
    lines = [json.loads(line) for line in (run / LOG).read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def check_same(run, other) -> None:
    """Losses, scores, weights and everything else that is kept are those of another run, to the bit."""
    assert log_of(run) == log_of(other)
    for name in (LAST, BEST):
        one, two = load_checkpoint(run / name), load_checkpoint(other / name)
        for content in (one, two):
            content["training"].pop("timer", None)
        assert equal(one, two)


def equal(one, other) -> bool:
    """Return whether two nests of tensors and plain values are the same to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def killed_in_step(number: int, signum: int = signal.SIGKILL) -> Callable[[], None]:
    """Have this process sent a signal in the midst of a step, counted from 1; call it where the process is to die."""

    def arm() -> None:
        usual, calls = TrainingStep.update, []

        def struck(self):
            calls.append(None)
            if len(calls) == number:
                os.kill(os.getpid(), signum)
            return usual(self)

        TrainingStep.update = struck

    return arm


def killed_in_validation(number: int, signum: int = signal.SIGKILL) -> Callable[[], None]:
    """Send the signal within a study that is validated."""

    def arm() -> None:
        usual, calls = unet4d.training.validation.segment_study, []

        def struck(*given, **named):
            calls.append(None)
            if len(calls) == number:
                os.kill(os.getpid(), signum)
            return usual(*given, **named)

        unet4d.training.validation.segment_study = struck

    return arm


def killed_in_checkpoint(number: int, call: str) -> Callable[[], None]:
    """Send the signal within the file-system call `call` of a checkpoint file, counted from 1."""

    def arm() -> None:
        usual, calls = getattr(os, call), []

        def struck(path, *others):
            calls.extend([None] * ("checkpoint" in str(path)))
            if len(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return usual(path, *others)

        setattr(os, call, struck)

    return arm


def killed_while_writing(number: int) -> Callable[[], None]:
    """Send the signal when half of a checkpoint is written."""

    def arm() -> None:
        usual, calls = Path.write_bytes, []

        def struck(path, content):
            calls.append(None)
            if len(calls) == number:
                usual(path, bytes(content)[: len(content) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return usual(path, content)

        Path.write_bytes = struck

    return arm


def trained(arm: Callable[[], None], *given) -> None:
    """Arm, then train; to be run in a process of its own."""
    skip_drawing(pytest.MonkeyPatch())
    arm()
    try:
        train(*given)
    except (Unet4DError, Stopped) as error:
        os._exit(error.exit_code)


KILLS = {
    "the first step": (killed_in_step(1), None),
    "a step of epoch 3": (killed_in_step(2 * STEPS + 2), 2 * STEPS),
    "the validation of epoch 3": (killed_in_validation(3), 3 * STEPS),
    "a checkpoint half written": (killed_while_writing(8), None),
    "before a checkpoint has its name": (killed_in_checkpoint(9, "replace"), None),
    "between the names of two checkpoints": (killed_in_checkpoint(10, "replace"), None),
    "a checkpoint's second name": (killed_in_checkpoint(4, "link"), None),
}


@pytest.mark.parametrize("where", KILLS)
def test_a_run_killed_anywhere_resumes_to_the_bit(phantom, config, uninterrupted, tmp_path, where):
    arm, steps = KILLS[where]
    run = tmp_path / "run"
    assert exit_code(trained, arm, phantom, run, config, "cpu") == -signal.SIGKILL
    there = (run / LAST).exists()
    if steps is not None:
        assert load_checkpoint(run / LAST)["training"]["step"] == steps
    train(phantom, run, config, "cpu", resume=there)
    check_same(run, uninterrupted)
    assert not list(run.glob(".*partial*checkpoint*"))


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_keeps_every_step_and_ends_with_a_code_of_its_own(phantom, config, uninterrupted, tmp_path, signum):
    run, taken = tmp_path / "run", 2 * STEPS + 1
    assert exit_code(trained, killed_in_step(taken, signum), phantom, run, config, "cpu") == Stopped.exit_code == 75
    assert load_checkpoint(run / LAST)["training"]["step"] == taken
    train(phantom, run, config, "cpu", resume=True)
    check_same(run, uninterrupted)


def test_a_signal_while_it_validates_costs_the_validation_alone(phantom, tiny, tmp_path):
    config = tiny(["phantom001", "phantom002"], steps_per_epoch=STEPS, validate_every=1)
    train(phantom, tmp_path / "whole", config, "cpu")
    run, third = tmp_path / "run", killed_in_validation(3, signal.SIGTERM)  # the first of two studies of epoch 2
    assert exit_code(trained, third, phantom, run, config, "cpu") == 75
    state = load_checkpoint(run / LAST)["training"]
    assert (state["epoch"], state["step"]) == (1, 2 * STEPS)
    train(phantom, run, config, "cpu", resume=True)
    check_same(run, tmp_path / "whole")


LIVES = [
    killed_in_step(1),
    killed_while_writing(2),
    killed_in_checkpoint(2, "replace"),
    killed_in_step(STEPS + 1),
    killed_in_validation(1),
    killed_in_checkpoint(1, "link"),
    killed_in_step(STEPS),
    killed_in_checkpoint(3, "replace"),
]
"""Events at which each process of one run is killed, counted from its own start."""


def test_a_run_killed_again_and_again_is_the_same_run(phantom, config, uninterrupted, tmp_path):
    run, steps = tmp_path / "run", []
    for arm in LIVES:
        code = exit_code(trained, arm, phantom, run, config, "cpu", (run / LAST).exists())
        assert code == -signal.SIGKILL
        steps.append(load_checkpoint(run / LAST)["training"]["step"] if (run / LAST).exists() else 0)
    assert steps == sorted(steps)
    assert len(set(steps)) > 3
    train(phantom, run, config, "cpu", resume=True)
    check_same(run, uninterrupted)


def test_a_damaged_checkpoint_costs_what_came_after_the_one_before(phantom, config, uninterrupted, tmp_path, capsys):
    run = tmp_path / "run"
    assert exit_code(trained, killed_in_step(2 * STEPS + 2), phantom, run, config, "cpu") == -signal.SIGKILL
    whole = (run / LAST).read_bytes()
    (run / LAST).write_bytes(whole[: len(whole) // 2])
    train(phantom, run, config, "cpu", resume=True)
    assert f"resuming from {run / PREVIOUS}" in capsys.readouterr().err
    check_same(run, uninterrupted)


def test_dropout_accumulation_averages_and_consistency_resume_to_the_bit(phantom, config, tmp_path):
    """Everything that a run carries, and several workers."""
    full = replace(
        config,
        model=replace(config.model, dropout=0.25, deep_supervision=True),
        train=replace(
            config.train, accumulate_batches=2, ema_decay=0.9, consistency_weight=1.0, framewise_fraction=0.5
        ),
        data=replace(config.data, num_workers=1),
    )
    train(phantom, tmp_path / "whole", full, "cpu")
    assert exit_code(trained, killed_in_step(3, signal.SIGTERM), phantom, tmp_path / "run", full, "cpu") == 75
    train(phantom, tmp_path / "run", full, "cpu", resume=True)
    check_same(tmp_path / "run", tmp_path / "whole")


def stop_in_step(monkeypatch, number: int) -> None:
    """Have this process asked to stop in a step, counted from 1."""
    usual, calls = TrainingStep.update, []

    def struck(self):
        calls.append(None)
        if len(calls) == number:
            signal.raise_signal(signal.SIGTERM)
        return usual(self)

    monkeypatch.setattr(TrainingStep, "update", struck)


def test_a_stopped_command_ends_with_75_and_continues_with_resume(
    command, phantom, tiny_options, trained, tmp_path, monkeypatch
):
    words = ["train", "--dataset", phantom, "--out", tmp_path / "run", *tiny_options]
    with monkeypatch.context() as patch:
        stop_in_step(patch, 3)
        stopped = command(*words)
    said = "unet4d: stopped by SIGTERM in epoch 2 after step 3; nothing is lost; continue with --resume"
    assert (stopped.code, stopped.line) == (75, said)
    assert command(*words, "--resume").code == 0
    assert equal(load_checkpoint(tmp_path / "run" / LAST)["network"], load_checkpoint(trained / LAST)["network"])


def test_fine_tuning_is_resumed_to_the_bit_without_the_checkpoint_that_it_began_with(
    command, phantom, tiny_options, trained, tmp_path, monkeypatch
):
    start = tmp_path / "start.unet4d"
    assert command("export", trained / LAST, "--out", start).code == 0
    rates = ["--train.init_lr_factor", 0.3, "--train.init_hold_steps", 2, "--train.freeze", "encoder"]
    words = ["train", "--dataset", phantom, *tiny_options, "--train.init_from", start, *rates]
    whole = command(*words, "--out", tmp_path / "whole")
    assert (
        f"begins with 100 % of its {sum(w.numel() for w in load_checkpoint(start / 'model')['network'].values()):,} weights"
        in whole.told
    )
    with monkeypatch.context() as patch:
        stop_in_step(patch, 3)
        assert command(*words, "--out", tmp_path / "run").code == 75
    start.unlink()
    assert command(*words, "--out", tmp_path / "run", "--resume").code == 0
    one, two = (load_checkpoint(tmp_path / name / LAST) for name in ("run", "whole"))
    assert equal(one["network"], two["network"])
    assert equal(one["training"]["optimization"], two["training"]["optimization"])
    began = load_checkpoint(trained / LAST)["network"]
    assert all(equal(one["network"][name], began[name]) == name.startswith("encoder.") for name in began)
    said = json.loads((tmp_path / "run" / "summary.json").read_text())["initial_weights"]
    assert said.endswith(f"from {start / 'model'}")


def test_resuming_a_finished_run_changes_nothing(command, phantom, tiny_options, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    before = {name: (run / name).read_bytes() for name in (BEST, LAST, LOG)}
    assert command("train", "--dataset", phantom, "--out", run, *tiny_options, "--resume").code == 0
    assert {name: (run / name).read_bytes() for name in before} == before


def test_a_folder_that_holds_a_run_is_not_overwritten(command, phantom, tiny_options, trained):
    before = (trained / LAST).read_bytes()
    done = command("train", "--dataset", phantom, "--out", trained, *tiny_options)
    assert done.code == 2
    assert "already holds a run; choose a new --out, or add --resume to continue it" in done.line
    assert (trained / LAST).read_bytes() == before


def test_resuming_an_empty_folder_is_refused(command, phantom, tiny_options, tmp_path):
    done = command("train", "--dataset", phantom, "--out", tmp_path / "run", *tiny_options, "--resume")
    assert done.code == 2
    assert "holds no checkpoint" in done.line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--train.epochs", "9"], "train.epochs is 9 and was 2; leave it out, or give a new --out"),
        (["--seed", "5", "--train.epochs", "9"], "seed is 5 and was 0 (and "),
        (["--model.lstm_channels", "0"], "model.lstm_channels is [0, 0] and was [0, 1]"),
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
        command("train", "--dataset", phantom, "--out", run, *tiny_options, "--data.num_workers", 1, "--resume").code
        == 0
    )


def test_resuming_with_another_dataset_is_refused(command, own_phantom, tiny_options, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns(BOARD))
    change_dataset(own_phantom, lambda about: about["labels"].update(aorta=4))
    done = command("train", "--dataset", own_phantom, "--out", run, *tiny_options, "--resume")
    assert done.code == 2
    assert "--resume with another dataset" in done.error
    assert "aorta" in done.error


def test_a_model_without_training_state_cannot_be_resumed(command, phantom, tiny_options, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns(BOARD))
    os.replace(run / BEST, run / LAST)
    (run / PREVIOUS).unlink()
    done = command("train", "--dataset", phantom, "--out", run, *tiny_options, "--resume")
    assert done.code == 2
    assert "holds a model without the state of its training" in done.line


def test_resuming_needs_no_settings_again(command, phantom, tiny_options, tmp_path, monkeypatch):
    """Pins a --resume that took the defaults for the settings of the run and refused it."""
    settings = ["--dataset", phantom, "--out", tmp_path / "run", *tiny_options]
    with monkeypatch.context() as patch:
        stop_in_step(patch, 3)
        assert command("train", *settings).code == 75
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
    assert f"--resume with other studies, such as {image.name.split('.')[0]}-" in done.error


def test_a_checkpoint_of_another_version_is_reported(command, phantom, tiny_options, trained, tmp_path):
    """Pins a traceback, KeyError: 'stats'."""
    run = shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns(BOARD))
    content = load_checkpoint(run / LAST)
    del content["training"]["stats"]
    torch.save(content, run / LAST)
    done = command("train", "--dataset", phantom, "--out", run, *tiny_options, "--resume")
    assert done.code == 2
    assert "is of another version of unet4d, without stats" in done.line


def test_two_trainings_do_not_write_into_one_folder(command, phantom, tiny_options, trained, tmp_path, monkeypatch):
    run = shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns(BOARD))
    monkeypatch.setattr("unet4d.system.lock.LOCK_PATIENCE_S", 0.3)
    words = ["train", "--dataset", phantom, "--out", run, *tiny_options, "--resume"]
    with lock_run(run):
        done = command(*words)
    assert done.code == 2
    assert f"{run} is being written to by another training" in done.line
    again = command(*words)
    assert again.code == 0
    assert "all 2 epochs were done before" in again.told


def test_no_run_begins_in_a_folder_of_folds_or_over_a_model(command, phantom, tiny_options, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "cv" / "fold_0")
    done = command("train", "--dataset", phantom, "--out", tmp_path / "cv", *tiny_options)
    assert done.code == 2
    assert "holds the folds of a cross-validation; train one with --out" in done.line
    (tmp_path / "model").mkdir()
    shutil.copy(trained / BEST, tmp_path / "model")
    for more in ([], ["--resume"]):
        done = command("train", "--dataset", phantom, "--out", tmp_path / "model", *tiny_options, *more)
        assert done.code == 2
        assert f"holds {BEST} and no {LAST} to resume from" in done.line
