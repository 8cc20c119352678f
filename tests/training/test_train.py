"""`unet4d train`, end to end on a tiny phantom."""

from __future__ import annotations

import errno
import json
import re
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.builders import make_config, skip_drawing
from unet4d import load_model, read_image, segment
from unet4d.datasets.dataset import read_dataset
from unet4d.datasets.subject_folds import split_folds
from unet4d.errors import InputError
from unet4d.images.image4d import read_label
from unet4d.inference.postprocessing_steps import POSTPROCESSING
from unet4d.metrics.overlap import count_voxels, dice
from unet4d.models.checkpoint import BEST, LAST, PREVIOUS, load_checkpoint
from unet4d.models.model_file import TRAINING_DATA
from unet4d.phantom import write_phantom
from unet4d.training.checkpoints import Checkpoints
from unet4d.training.loss import ClipLoss
from unet4d.training.monitoring.log_lines import LOG
from unet4d.training.monitoring.logger import BOARD
from unet4d.training.monitoring.summary import CONFIG, SUMMARY
from unet4d.training.train import train


@pytest.fixture
def plain_picture(monkeypatch):
    """Spare the second that contours take."""
    skip_drawing(monkeypatch)


def log_of(run) -> list[dict]:
    return [json.loads(line) for line in (run / LOG).read_text().splitlines()]


def weights_of(run) -> dict[str, torch.Tensor]:
    return load_checkpoint(run / LAST)["network"]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def validated_case(run) -> str:
    """Return the only study that the last epoch was validated on."""
    [case] = log_of(run)[-1]["case_dice"]
    return case


def test_a_run_leaves_checkpoints_config_log_and_tensorboard(command, phantom, tiny_options, tmp_path):
    run = tmp_path / "run"
    done = command("train", "--dataset", phantom, "--out", run, "--device", "cpu", *tiny_options)
    assert done.code == 0
    assert all("is predicted in no voxel" in line for line in done.error.splitlines()), (
        "a warning of a network of four steps"
    )
    assert "2 training and 1 validation studies" in done.told
    told = done.told.splitlines()
    chosen = next(line for line in told if line.startswith("choosing post-processing on held-out subjects"))
    assert told.index(f"best model: {run / BEST}") < told.index(chosen), (
        "said, because it takes its time after the training"
    )
    assert done.told.splitlines()[-1] == f"recorded: {run / POSTPROCESSING}"
    assert sorted(path.name for path in run.iterdir() if path.name != ".lock") == sorted(
        [BEST, LAST, PREVIOUS, CONFIG, LOG, BOARD, SUMMARY, TRAINING_DATA, POSTPROCESSING]
    )

    log = log_of(run)
    assert [(line["epoch"], line["step"]) for line in log] == [(1, 2), (2, 4)]
    assert all(np.isfinite(line["loss"]) and line["gradient_norm"] > 0 for line in log)
    assert "dice" not in log[0]
    assert list(log[1]["dice"]) == ["right ventricle", "myocardium", "left ventricle"]
    assert log[1]["mean_foreground_dice"] == pytest.approx(np.mean(list(log[1]["dice"].values())))

    events = EventAccumulator(str(run / BOARD)).Reload()
    assert {"loss", "learning_rate", "dice/left ventricle", "mean_foreground_dice"} <= set(events.Tags()["scalars"])
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (line["step"], pytest.approx(line["loss"])) for line in log
    ]
    assert events.Tags()["images"] == ["validation/best contours", "validation/best volumes"]


@pytest.mark.usefixtures("plain_picture")
def test_the_kept_config_is_resolved_and_gives_the_same_run_again(command, trained, phantom, tmp_path):
    kept = yaml.safe_load((trained / CONFIG).read_text())
    assert kept["data"]["in_plane_spacing_mm"] > 0
    assert kept["model"]["lstm_channels"] == [0, 1]
    assert len(kept["model"]["strides"]) == 1
    assert kept["train"]["precision"] == "fp32"
    assert kept == load_checkpoint(trained / BEST)["config"]
    again = tmp_path / "again"
    assert command("train", "--dataset", phantom, "--out", again, "--config", trained / CONFIG).code == 0
    assert (again / CONFIG).read_text() == (trained / CONFIG).read_text()
    assert same(weights_of(again), weights_of(trained))


@pytest.mark.usefixtures("plain_picture")
@pytest.mark.parametrize("workers", [0, 1])
def test_one_seed_gives_the_same_weights_whatever_the_workers(trained, phantom, tiny, tmp_path, workers):
    train(phantom, tmp_path / "run", tiny(num_workers=workers), "cpu")
    assert same(weights_of(tmp_path / "run"), weights_of(trained))


@pytest.mark.usefixtures("plain_picture")
def test_clips_too_short_to_compare_areas_are_refused(phantom, tiny, tmp_path):
    config = tiny(consistency_weight=2.0)
    short = replace(config, data=replace(config.data, frames=2))
    with pytest.raises(InputError, match=r"consistency_weight 2 for clips of 2 frames, expected 3 frames or more"):
        train(phantom, tmp_path / "run", short, "cpu")
    assert not (tmp_path / "run").exists()


def test_another_seed_gives_other_weights(trained, phantom, tiny, tmp_path):
    train(phantom, tmp_path / "run", tiny(seed=1, epochs=1), "cpu")
    assert not same(weights_of(tmp_path / "run"), weights_of(trained))


@pytest.mark.usefixtures("plain_picture")
def test_the_frame_wise_baseline_trains_with_the_same_command(command, phantom, tiny_options, tmp_path):
    options = [*tiny_options, "--model.lstm_channels", "0", "--train.epochs", "1"]
    done = command("train", "--dataset", phantom, "--out", tmp_path / "baseline", *options)
    assert done.code == 0
    assert "frame-wise baseline" in done.told
    assert load_model(tmp_path / "baseline").network.is_frame_wise


@pytest.mark.usefixtures("plain_picture")
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_both_precisions_train_on_the_cpu(phantom, tiny, tmp_path, precision):
    train(phantom, tmp_path / "run", tiny(epochs=1, precision=precision), "cpu")
    assert load_checkpoint(tmp_path / "run" / LAST)["config"]["train"]["precision"] == precision
    assert all(weight.dtype == torch.float32 for weight in weights_of(tmp_path / "run").values())


def test_fp16_on_the_cpu_is_refused(command, phantom, tiny_options, tmp_path):
    options = [*tiny_options, "--train.precision", "fp16", "--device", "cpu"]
    done = command("train", "--dataset", phantom, "--out", tmp_path / "run", *options)
    assert done.code == 2
    assert "fp16 on the CPU, expected bf16 or fp32" in done.line
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("plain_picture")
@pytest.mark.parametrize("fold", [1, 2])
def test_a_fold_validates_on_its_own_subjects(phantom, tiny, tmp_path, fold):
    train(phantom, tmp_path / "run", tiny(fold=fold, epochs=1, steps_per_epoch=1), "cpu")
    assert [validated_case(tmp_path / "run")] == split_folds(read_dataset(phantom), 3, 0)[fold]


@pytest.mark.usefixtures("plain_picture")
def test_held_out_subjects_are_validated_on_in_place_of_a_fold(command, phantom, tiny_options, tmp_path):
    options = [*tiny_options, "--data.val_subjects", "[phantom002]", "--train.epochs", "1", "--data.folds", "2"]
    assert command("train", "--dataset", phantom, "--out", tmp_path / "run", *options).code == 0
    assert validated_case(tmp_path / "run") == "phantom002"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data.folds", "5"], "5 folds of 3 labelled subjects"),
        (["--data.val_subjects", "[phantom009]"], "no training case has the subject 'phantom009'"),
        (["--data.val_subjects", "[phantom001,phantom002,phantom003]"], "all 3 subjects"),
    ],
)
def test_an_impossible_split_is_refused(command, phantom, tiny_options, tmp_path, options, words):
    done = command("train", "--dataset", phantom, "--out", tmp_path / "run", *tiny_options, *options)
    assert done.code == 2
    assert words in done.line
    assert not (tmp_path / "run").exists()


def test_without_validation_the_latest_model_is_the_best(phantom, tiny, tmp_path):
    best = train(phantom, tmp_path / "run", tiny(val_subjects=[]), "cpu")
    assert same(load_checkpoint(best)["network"], weights_of(tmp_path / "run"))
    assert all("dice" not in line for line in log_of(tmp_path / "run"))


@pytest.mark.usefixtures("plain_picture")
def test_where_no_dice_is_defined_the_latest_model_is_the_best(phantom, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("unet4d.training.validation.dice", lambda counts: np.full(counts.tp.shape, np.nan))
    best = train(phantom, tmp_path / "run", tiny(), "cpu")
    assert same(load_checkpoint(best)["network"], weights_of(tmp_path / "run"))
    assert log_of(tmp_path / "run")[-1]["mean_foreground_dice"] is None


@pytest.mark.usefixtures("plain_picture")
def test_labels_of_unlabelled_frames_never_matter(tmp_path, tiny):
    """Pins a loss that read the zeros, or the garbage, which stand on unlabelled frames."""
    clean = write_phantom(tmp_path / "clean", 2, 4, labelled="two", shape=(40, 36, 5)).parent
    corrupted = shutil.copytree(clean, tmp_path / "corrupted")
    entries = json.loads((clean / "dataset.json").read_text())["training"]
    for entry in entries:
        source = nib.load(corrupted / entry["label"])
        label = np.asarray(source.dataobj).copy()
        unlabelled = sorted({0, 1, 2, 3} - set(entry["labelled_frames"]))
        assert len(unlabelled) == 2
        label[..., unlabelled] = np.random.default_rng(0).choice([0, 1, 2, 3, 9], label[..., unlabelled].shape)
        nib.save(nib.Nifti1Image(label, source.affine, source.header), corrupted / entry["label"])
    for root in (clean, corrupted):
        train(root, tmp_path / f"run_{root.name}", tiny(val_subjects=["phantom001"]), "cpu")
    runs = [tmp_path / f"run_{name}" for name in ("clean", "corrupted")]
    assert same(*map(weights_of, runs))
    assert log_of(runs[0])[1]["dice"] == log_of(runs[1])[1]["dice"]


def test_one_study_can_be_memorized(tmp_path):
    root = write_phantom(tmp_path / "one", 1, 2, shape=(32, 32, 4)).parent
    data = {
        "val_subjects": [],
        "patch_size": (32, 32, 4),
        "frames": 2,
        "augmentation": "off",
        "foreground_fraction": 0.0,
    }
    loop = {"epochs": 3, "steps_per_epoch": 30, "batch_size": 1, "learning_rate": 2e-2, "precision": "fp32"}
    config = make_config(**data, **loop, num_workers=0, channels=[8, 16])
    model = load_model(train(root, tmp_path / "run", config, "cpu"))
    log = log_of(tmp_path / "run")
    assert log[-1]["loss"] < log[0]["loss"] / 2
    predicted = segment(model, read_image(root / "images" / "phantom001.nii.gz"), precision="fp32")
    counts = count_voxels(read_label(root / "labels" / "phantom001.nii.gz"), predicted, [1, 2, 3])
    assert dice(counts).mean() > 0.9


class Breaking(torch.autograd.Function):
    """The same number, with a gradient that is none."""

    @staticmethod
    def forward(ctx, loss):
        return loss.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("nan")


@pytest.mark.usefixtures("plain_picture")
@pytest.mark.parametrize("corrupted", [lambda loss: loss * float("nan"), Breaking.apply], ids=["loss", "gradient"])
def test_a_step_that_is_not_finite_is_skipped_reported_and_logged(
    command, phantom, tiny_options, tmp_path, monkeypatch, corrupted
):
    run, usual, calls = tmp_path / "run", ClipLoss.forward, []

    def breaking(self, *given):
        calls.append(None)
        loss = usual(self, *given)
        return corrupted(loss) if len(calls) == 3 else loss

    monkeypatch.setattr(ClipLoss, "forward", breaking)
    assert command("train", "--dataset", phantom, "--out", run, *tiny_options).code == 0
    first, second = log_of(run)
    [skipped] = second["skipped"]
    assert first["skipped"] == []
    assert (skipped["step"], len(skipped["cases"]), skipped["scale"]) == (3, 1, 1.0)
    assert np.isfinite(second["loss"])
    assert all(weight.isfinite().all() for weight in weights_of(run).values())


@pytest.mark.usefixtures("plain_picture")
def test_too_many_steps_in_a_row_that_are_not_finite_end_the_run_and_name_the_cases(
    command, phantom, tiny_options, tmp_path, monkeypatch
):
    run, usual = tmp_path / "run", ClipLoss.forward
    monkeypatch.setattr(ClipLoss, "forward", lambda *given: Breaking.apply(usual(*given)))
    words = [*tiny_options, "--train.skip_limit", "2"]
    done = command("train", "--dataset", phantom, "--out", run, *words)
    assert done.code == 1
    line = done.error.splitlines()[-1]  # after those of the skipped steps
    assert "3 steps in a row, up to step 3, had a loss or gradient that is not finite" in line
    assert re.search(r"their cases: phantom00\d, phantom00\d;", line)
    assert json.loads((run / SUMMARY).read_text())["state"] == "failed"
    monkeypatch.undo()
    assert command("train", "--dataset", phantom, "--out", run, *words, "--resume").code == 0  # from epoch 1


@pytest.mark.parametrize("part", ["a training step", "validation"])
def test_out_of_gpu_memory_names_the_part_of_the_training(command, phantom, tiny_options, tmp_path, monkeypatch, part):
    def refuse(*given, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    refusing = {"a training step": "oom_fallback.OomFallback.__call__", "validation": "validation.segment_study"}
    monkeypatch.setattr(f"unet4d.training.{refusing[part]}", refuse)
    done = command("train", "--dataset", phantom, "--out", tmp_path / "run", *tiny_options)
    assert done.code == 1
    assert f"{part} ran out of GPU memory" in done.line


@pytest.mark.usefixtures("plain_picture")
def test_a_full_disk_ends_the_run_and_keeps_the_epoch_before(command, phantom, tiny_options, tmp_path, monkeypatch):
    run, usual = tmp_path / "run", Checkpoints.save_last

    def refuse(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    def filling(self, config, task, network, training):
        if training["step"] == 4:
            monkeypatch.setattr("unet4d.system.files.os.fsync", refuse)
        usual(self, config, task, network, training)

    monkeypatch.setattr(Checkpoints, "save_last", filling)
    done = command("train", "--dataset", phantom, "--out", run, *tiny_options)
    assert done.code == 1
    assert "checkpoint_last.pt: No space left on device; free space" in done.line
    assert load_checkpoint(run / LAST)["training"]["epoch"] == 1
    assert [path.name for path in run.iterdir() if "partial" in path.name] == []


def test_an_impossible_output_folder_is_refused_before_any_work(command, phantom, tiny_options, tmp_path):
    (tmp_path / "file").write_text("mine")
    done = command("train", "--dataset", phantom, "--out", tmp_path / "file" / "run", *tiny_options)
    assert done.code == 2
    assert "file is a file, expected a folder" in done.line
    assert (tmp_path / "file").read_text() == "mine"


def test_an_unknown_device_is_refused(phantom, tiny, tmp_path):
    with pytest.raises(InputError, match="expected auto, cpu, cuda, cuda:N or mps"):
        train(phantom, tmp_path / "run", tiny(), "tpu")
