"""Several processes train as one: the same losses, the same weights, one run folder, and one end for all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from limits import wait_until
from processes import run_ranks

from tests.builders import change_dataset, skip_drawing
from unet4d.cli.console import start_logging
from unet4d.errors import InputError, ReportedByOtherRank, Stopped, Unet4DError
from unet4d.models.checkpoint import BEST, LAST, load_checkpoint
from unet4d.system.distributed import ProcessGroup
from unet4d.training.checkpoints import Checkpoints
from unet4d.training.monitoring.log_lines import LOG
from unet4d.training.step import TrainingStep
from unet4d.training.train import train

CURVES = ("loss", "gradient_norm", "mean_foreground_dice")


pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def config(tiny):
    """Return a configuration of two epochs of three steps of two batches of four clips, with dropout; one is frame-wise."""
    loop = {"epochs": 2, "steps_per_epoch": 3, "batch_size": 4, "accumulate_batches": 2, "validate_every": 1}
    made = tiny(**loop, framewise_fraction=0.5, consistency_weight=5.0)
    return replace(made, model=replace(made.model, dropout=0.25))


@pytest.fixture(scope="module")
def alone(phantom, config, tmp_path_factory):
    """Return the folder of the run of one process."""
    return _trained(ProcessGroup(), phantom, tmp_path_factory.mktemp("alone") / "run", config)


def _trained(ranks, dataset, run, config, resume=False):
    start_logging(silent=not ranks.is_first)  # as the command line does
    with pytest.MonkeyPatch.context() as patch:
        skip_drawing(patch)
        train(dataset, run, config, "cpu", resume, ranks=ranks)
    return run


def curves(run) -> np.ndarray:
    lines = [json.loads(line) for line in (run / LOG).read_text().splitlines()]
    return np.array([[line[name] for name in CURVES] for line in lines])


def weights(run, name: str = LAST) -> dict[str, torch.Tensor]:
    return load_checkpoint(run / name)["network"]


def check_same_run(one, other) -> None:
    """Check that two runs are the same to within another order of sums."""
    np.testing.assert_allclose(curves(one), curves(other), rtol=2e-4, atol=2e-5)
    for name, weight in weights(one).items():
        torch.testing.assert_close(weight, weights(other)[name], rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("size", [2, 3])
def test_several_processes_train_as_one_on_the_same_batches(phantom, config, alone, tmp_path, size, capfd):
    """Three share four clips unevenly, and two or three share one validation study."""
    run_ranks(size, _trained, phantom, tmp_path / "run", config)
    check_same_run(tmp_path / "run", alone)
    told = capfd.readouterr().out
    assert told.count("epoch 2  loss") == 1, "only the first process speaks"
    assert f"{size} processes" in told
    assert told.count("from epoch 2 on: recurrence on whole clips") == 1
    names = [
        {path.name for path in run.iterdir()} - {".lock"} for run in (tmp_path / "run", alone)
    ]  # which Windows needs
    assert names[0] == names[1]


def test_partly_drawn_labels_and_a_frozen_encoder_train_as_in_one_process(own_phantom, trained, tiny, tmp_path):
    """One study is drawn whole, one in every second slice with weights, one without a class; ranks have different ones."""

    def partly(about):
        second, third = about["training"][1:]
        second |= {"labelled_slices": [0, 2, 4], "frame_weights": {"1": 0.5, "2": 0.0}}
        third["annotated_labels"] = [1, 3]

    change_dataset(own_phantom, partly)
    file = own_phantom / "labels" / "phantom003.nii.gz"
    stored = nib.load(file)
    voxels = np.asanyarray(stored.dataobj)
    nib.save(type(stored)(np.where(voxels == 2, 0, voxels).astype(voxels.dtype), stored.affine, stored.header), file)
    start = {"init_from": str(trained), "freeze": "encoder", "init_lr_factor": 0.5, "init_hold_steps": 1}
    chosen = tiny(val_subjects=[], epochs=1, steps_per_epoch=3, batch_size=3, **start)
    alone = _trained(ProcessGroup(), own_phantom, tmp_path / "alone", chosen)
    run_ranks(2, _trained, own_phantom, tmp_path / "two", chosen)
    losses = [json.loads((run / LOG).read_text())["loss"] for run in (alone, tmp_path / "two")]
    assert losses[0] == pytest.approx(losses[1], rel=2e-4)
    before = weights(trained, BEST)
    for name, weight in weights(alone).items():
        torch.testing.assert_close(weight, weights(tmp_path / "two")[name], rtol=1e-3, atol=2e-4)
        assert torch.equal(weights(tmp_path / "two")[name], before[name]) == name.startswith("encoder."), name


def test_more_validation_studies_than_processes_are_shared_unevenly(phantom, config, tmp_path):
    held_out = ["phantom001", "phantom003"]
    chosen = replace(
        config, data=replace(config.data, val_subjects=held_out), train=replace(config.train, accumulate_batches=1)
    )
    runs = [_trained(ProcessGroup(), phantom, tmp_path / "alone", chosen)]
    run_ranks(3, _trained, phantom, tmp_path / "three", chosen)
    runs.append(tmp_path / "three")
    lines = [[json.loads(line)["case_dice"] for line in (run / LOG).read_text().splitlines()] for run in runs]
    assert [sorted(line) for line in lines[0]] == [sorted(held_out)] * 2
    for one, other in zip(*lines, strict=True):
        assert one == pytest.approx(other, abs=2e-3)


def _stopped_in_step(ranks, dataset, run, config, number, stop):
    usual, calls = TrainingStep.update, []

    def stopping(self):
        calls.append(None)
        if len(calls) == number:
            stop(ranks)
        return usual(self)

    TrainingStep.update = stopping  # of this process alone
    return _trained(ranks, dataset, run, config)


def _signal_second(ranks):
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGTERM)


def _kill_second(ranks):
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_signal_to_one_stops_all_at_one_step_and_another_number_resumes(phantom, config, alone, tmp_path):
    run = tmp_path / "run"
    ended = run_ranks(2, _stopped_in_step, phantom, run, config, 5, _signal_second, fails=True)
    assert [type(end) for end in ended] == [Stopped, ReportedByOtherRank]
    assert ended[1].exit_code == Stopped.exit_code
    assert load_checkpoint(run / LAST)["training"]["step"] == 5
    run_ranks(3, _trained_on, phantom, run, config)
    check_same_run(run, alone)


def _trained_on(ranks, dataset, run, config):
    return _trained(ranks, dataset, run, config, resume=True)


def test_a_killed_process_ends_all_and_one_alone_resumes(phantom, config, alone, tmp_path):
    run = tmp_path / "run"
    first, second = run_ranks(2, _stopped_in_step, phantom, run, config, 5, _kill_second, fails=True)
    assert second is None
    assert type(first) is Unet4DError
    assert "lost another one of the 2" in str(first)
    assert load_checkpoint(run / LAST)["training"]["step"] == 3
    _trained_on(ProcessGroup(), phantom, run, config)
    check_same_run(run, alone)


def _fail_second(ranks):
    if ranks.rank == 1:
        raise torch.OutOfMemoryError("made up")


def test_an_error_of_one_in_a_step_ends_all_with_its_reason(phantom, config, tmp_path):
    """Pins a way out on which the one that failed waited for the others, and they for it."""
    ended = run_ranks(2, _stopped_in_step, phantom, tmp_path / "run", config, 5, _fail_second, fails=True)
    assert [type(end) for end in ended] == [Unet4DError, Unet4DError]
    assert "process 0 lost another one of the 2" in str(ended[0])
    assert "a training step ran out of GPU memory" in str(ended[1])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["state"] == "failed"
    assert summary["reason"].startswith("process 0 lost another one of the 2")


def _stopped_on_a_full_disk(ranks, dataset, run, config):
    def refuse(*given):
        raise Unet4DError("could not write it: No space left on device")

    Checkpoints.save_last = refuse  # of this process alone
    return _stopped_in_step(ranks, dataset, run, config, 2, _signal_second)


def test_a_stop_without_room_for_a_checkpoint_is_an_error_for_all(phantom, config, tmp_path):
    ended = run_ranks(2, _stopped_on_a_full_disk, phantom, tmp_path / "run", config, fails=True)
    assert [type(end) for end in ended] == [Unet4DError, ReportedByOtherRank]
    assert "No space left" in str(ended[0])


def test_each_process_of_a_machine_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [ProcessGroup(5, 8, 1, 4).device_name(name) for name in ("auto", "cuda", "cpu")] == [
        "cuda:1",
        "cuda:1",
        "cpu",
    ]
    assert [ProcessGroup().device_name(name) for name in ("auto", "cuda:3")] == ["auto", "cuda:3"]
    with pytest.raises(InputError, match="a GPU each; leave --device out"):
        ProcessGroup(5, 8, 1, 4).device_name("cuda:0")


def test_a_mistake_is_reported_once_and_ends_all(phantom, config, tmp_path):
    small = replace(config, train=replace(config.train, batch_size=1))
    ended = run_ranks(2, _trained, phantom, tmp_path / "run", small, fails=True)
    assert [type(end) for end in ended] == [InputError, ReportedByOtherRank]
    assert "--train.batch_size 1 for 2 processes, expected 2 or more" in str(ended[0])
    ended = run_ranks(2, _trained, tmp_path, tmp_path / "run", config, fails=True)
    assert sorted(type(end).__name__ for end in ended) == ["InputError", ReportedByOtherRank.__name__]
    assert not (tmp_path / "run").exists()


def test_gradients_are_exchanged_once_a_step(phantom, config, tmp_path):
    """Pins a sync a batch, which gradient accumulation does not need."""
    [first, _] = run_ranks(2, _counted_exchanges, phantom, tmp_path / "run", config)
    assert first == 2 * 3  # of two epochs of three steps of two batches


def _counted_exchanges(ranks, dataset, run, config):
    usual, exchanged = TrainingStep.__init__, []

    def hooked(self, *given):
        usual(self, *given)

        def count(state, bucket):
            exchanged.append(bucket.is_last())
            future = torch.distributed.all_reduce(bucket.buffer(), async_op=True).get_future()
            return future.then(lambda done: done.value()[0] / ranks.size)

        self.loss.register_comm_hook(None, count)

    TrainingStep.__init__ = hooked
    _trained(ranks, dataset, run, config)
    return sum(exchanged)


@pytest.mark.slow
@pytest.mark.timeout(300)  # two starts of three processes
def test_torchrun_trains_and_ends_all_when_one_is_killed(phantom, tiny_options, tmp_path):
    """As a user starts it; the processes find one another, one of them is killed, and the run is resumed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "unet4d", "train"]
    words += ["--dataset", str(phantom), "--out", str(tmp_path / "run"), *tiny_options, "--train.batch_size", "2"]
    with open(tmp_path / "told", "w", encoding="utf-8") as output:
        command = [*words, "--train.epochs", "500"]
        running = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        wait_until(lambda: (tmp_path / "run" / LAST).exists() or running.poll() is not None, "a checkpoint")
        children = subprocess.run(["pgrep", "-P", str(running.pid)], capture_output=True, text=True).stdout.split()
        os.kill(int(children[-1]), signal.SIGKILL)
        assert running.wait(100) != 0
    finally:
        running.terminate()  # it ends its processes, which have sessions of their own
        running.wait(100)
    told = (tmp_path / "told").read_text()
    assert "SIGKILL" in told or "lost another one" in told
    done = subprocess.run(
        [*words, "--train.epochs", "500", "--resume", "--train.steps_per_epoch", "9"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stderr.count("--resume with another configuration: train.steps_per_epoch is 9 and was 2") == 1
