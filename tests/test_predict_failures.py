"""`unet4d predict` where something is wrong: what is told, what is done all the same, and what is left alone."""

from __future__ import annotations

import csv
import errno
import json
import shutil
from pathlib import Path

import pytest
import torch

from unet4d import load_model, read_image, segment
from unet4d.errors import InputError, Unet4DError


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_one_bad_study_is_told_and_the_others_are_done(command, model_file, tmp_path, study):
    for name in ("a", "c", "d"):
        study(tmp_path / "in" / f"{name}.nii.gz")
    (tmp_path / "in" / "b.nii.gz").write_bytes((tmp_path / "in" / "a.nii.gz").read_bytes()[:900])
    done = command("predict", model_file(), "-i", tmp_path / "in", "-o", tmp_path / "out")
    assert done.code == 2
    assert f"1 of 4 studies could not be segmented, the other 3 are in {tmp_path / 'out'}: b: " in done.line
    assert "truncated" in done.line
    assert names_in(tmp_path / "out") == ["a.nii.gz", "c.nii.gz", "d.nii.gz", "prediction.json", "volumes.csv"]
    rows = list(csv.DictReader((tmp_path / "out" / "volumes.csv").open()))
    assert {row["case"] for row in rows} == {"a", "c", "d"}


def test_where_every_study_is_bad_nothing_is_written(command, model_file, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{name}.nii.gz").write_bytes(b"")
    done = command("predict", model_file(), "-i", tmp_path / "in", "-o", tmp_path / "out")
    assert done.code == 2
    assert "2 of 2 studies could not be segmented, nothing was written: a: " in done.line
    assert not (tmp_path / "out").exists()


def test_a_stop_leaves_whole_label_maps_and_their_volumes(command, model_file, tmp_path, monkeypatch, study):
    for name in ("a", "b"):
        study(tmp_path / "in" / f"{name}.nii.gz")
    usual = segment

    def stopping(model, image, **options):
        if image.source.name == "b.nii.gz":
            raise KeyboardInterrupt
        return usual(model, image, **options)

    monkeypatch.setattr("unet4d.predict.segment", stopping)
    done = command("predict", model_file(), "-i", tmp_path / "in", "-o", tmp_path / "out")
    assert (done.code, done.line) == (130, "unet4d: interrupted; whatever is written is whole")
    assert names_in(tmp_path / "out") == ["a.nii.gz", "prediction.json", "volumes.csv"]


def test_a_full_disk_is_one_line_and_exit_code_1(command, model_file, tmp_path, monkeypatch, study):
    study(tmp_path / "heart.nii.gz")
    model = model_file()

    def refuse(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("unet4d.files.os.fsync", refuse)
    done = command("predict", model, "-i", tmp_path / "heart.nii.gz", "-o", tmp_path / "out")
    assert done.code == 1
    assert "heart.nii.gz: No space left on device; free space" in done.line
    assert names_in(tmp_path / "out") == []


def test_an_output_folder_without_permission_is_told_before_any_work(command, model_file, tmp_path, monkeypatch, study):
    study(tmp_path / "heart.nii.gz")
    model = model_file()
    monkeypatch.setattr("unet4d.files.os.access", lambda path, mode: False)
    done = command("predict", model, "-i", tmp_path / "heart.nii.gz", "-o", tmp_path / "out")
    assert done.code == 1
    assert "no permission; choose another folder" in done.line
    assert not (tmp_path / "out").exists()


def test_an_answer_that_is_no_number_is_not_taken_for_background(model_file, tmp_path, study):
    study(tmp_path / "heart.nii.gz")
    model = load_model(model_file())
    with torch.no_grad():
        model.network.head.bias.fill_(float("nan"))
    with pytest.raises(Unet4DError, match=r"heart\.nii\.gz is not a number somewhere; wanted finite numbers; set"):
        segment(model, read_image(tmp_path / "heart.nii.gz"))


def test_a_study_is_never_overwritten_by_its_label_map(command, model_file, tmp_path, study):
    study(tmp_path / "in" / "heart.nii.gz")
    before = (tmp_path / "in" / "heart.nii.gz").read_bytes()
    done = command("predict", model_file(), "-i", tmp_path / "in", "-o", tmp_path / "in" / ".." / "in")
    assert done.code == 2
    assert "is an input, and its label map would replace it; choose another -o" in done.line
    assert (tmp_path / "in" / "heart.nii.gz").read_bytes() == before


def test_studies_of_one_name_are_refused(command, model_file, tmp_path, study):
    for folder in ("a", "b"):
        study(tmp_path / folder / "heart.nii.gz")
    done = command("predict", model_file(), "-i", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "out")
    assert done.code == 2
    assert "several inputs are named heart" in done.line


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("nowhere", "nowhere is missing; give a NIfTI file, a folder of them or a dataset folder"),
        ("empty", "empty holds no .nii or .nii.gz file"),
        ("notes.txt", "notes.txt is not a .nii or .nii.gz file"),
    ],
)
def test_an_input_that_is_none_is_told(command, model_file, tmp_path, given, words, study):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("not a study")
    study(tmp_path / "heart.nii.gz")
    done = command("predict", model_file(), "-i", tmp_path / "heart.nii.gz", tmp_path / given, "-o", tmp_path / "out")
    assert done.code == 2
    assert words in done.line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--precision", "fp16", "--device", "cpu"], "precision fp16 was asked for on the CPU"),
        (["--overlap", "1"], "inference.overlap is 1.0; wanted a share from 0 to below 1"),
        (["--sw_batch_size", "0"], "inference.sw_batch_size is 0; wanted 1 or more"),
        (["--device", "tpu"], "wanted auto, cpu, cuda or cuda:N"),
    ],
)
def test_an_option_that_cannot_be_is_told_once_and_not_for_every_study(command, model_file, phantom, options, words):
    done = command("predict", model_file(), "-i", phantom, "-o", phantom.parent / "never", *options)
    assert done.code == 2
    assert words in done.line
    assert "of 3 studies" not in done.line


def test_another_number_of_channels_is_told(command, model_file, own_phantom, tmp_path, study):
    study(tmp_path / "in" / "heart_0000.nii.gz")
    model = model_file(channel_names=("magnitude", "velocity"))
    for given, words in (
        (tmp_path / "in", "wanted one file a channel, named CASE_0000 to CASE_0001"),
        (tmp_path / "in" / "heart_0000.nii.gz", "is one file and the model wants 2 channels"),
        (own_phantom, "has the channels cine MRI; the model wants magnitude, velocity, in this order"),
    ):
        done = command("predict", model, "-i", given, "-o", tmp_path / "out")
        assert done.code == 2
        assert words in done.line
    with pytest.raises(InputError, match="has 1 channels; the model wants 2"):
        segment(load_model(model), read_image(tmp_path / "in" / "heart_0000.nii.gz"))


def test_channels_in_another_order_are_told(command, model_file, own_phantom, tmp_path):
    """They would be segmented without a word, and wrongly."""
    about = json.loads((own_phantom / "dataset.json").read_text())
    about["channel_names"] = {"0": "velocity", "1": "magnitude"}
    for case in about["training"]:
        case["image"] = [case["image"]] * 2
    (own_phantom / "dataset.json").write_text(json.dumps(about))
    model = model_file(channel_names=("magnitude", "velocity"))
    done = command("predict", model, "-i", own_phantom, "-o", tmp_path / "out")
    assert done.code == 2
    assert "has the channels velocity, magnitude; the model wants magnitude, velocity, in this order" in done.line


@pytest.mark.parametrize("spoil", ["missing", "truncated", "folder"])
def test_a_model_that_is_none_is_told(command, trained, phantom, tmp_path, spoil):
    run = tmp_path / "run"
    if spoil != "missing":
        shutil.copytree(trained, run)
    if spoil == "folder":
        for checkpoint in run.glob("*.pt"):
            checkpoint.unlink()
    if spoil == "truncated":
        (run / "checkpoint_best.pt").write_bytes((run / "checkpoint_best.pt").read_bytes()[:2000])
    done = command("predict", run, "-i", phantom, "-o", tmp_path / "out")
    assert done.code == 2
    assert "give " in done.line
    assert str(run) in done.line
    assert not (tmp_path / "out").exists()
