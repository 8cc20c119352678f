"""`unet4d predict` where something is wrong: its messages, the studies done all the same, and the files that stay."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil

import pytest
import torch

from tests.builders import edit_dataset
from tests.predictions import names_in
from unet4d import load_model, read_image, segment
from unet4d.errors import InputError, Unet4DError
from unet4d.inference.segment import segment_study

BESIDE = ["labels.txt", "measures.csv", "prediction.json", "volumes.csv"]


def failing(monkeypatch, name: str, error: BaseException) -> None:
    """Have the segmentation of the study of this name fail."""

    def segmented(models, study, *more, **named):
        if study.info.source.name == name:
            raise error
        return segment_study(models, study, *more, **named)

    monkeypatch.setattr("unet4d.inference.batch.run.segment_study", segmented)


def test_one_bad_study_is_told_and_the_others_are_done(command, model_file, tmp_path, study):
    for name in ("a", "c", "d"):
        study(tmp_path / "in" / f"{name}.nii.gz")
    (tmp_path / "in" / "b.nii.gz").write_bytes((tmp_path / "in" / "a.nii.gz").read_bytes()[:900])
    done = command("predict", model_file(), "-i", tmp_path / "in", "-o", tmp_path / "out")
    assert done.code == 2
    assert f"1 of 4 studies could not be segmented, the other 3 are in {tmp_path / 'out'}: b: " in done.line
    assert "truncated" in done.line
    assert names_in(tmp_path / "out") == ["a.nii.gz", "c.nii.gz", "d.nii.gz", *BESIDE]
    rows = list(csv.DictReader((tmp_path / "out" / "volumes.csv").open()))
    assert {row["case"] for row in rows} == {"a", "c", "d"}
    assert [line.split("\t")[:2] for line in done.told.splitlines() if "\t" in line] == [
        ["done", "a"], ["failed", "b"], ["done", "c"], ["done", "d"],
    ]  # fmt: skip


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
    failing(monkeypatch, "b.nii.gz", KeyboardInterrupt())
    done = command("predict", model_file(), "-i", tmp_path / "in", "-o", tmp_path / "out")
    assert (done.code, done.line) == (130, "unet4d: interrupted; whatever is written is whole")
    assert names_in(tmp_path / "out") == ["a.nii.gz", *BESIDE]
    assert {row["case"] for row in csv.DictReader((tmp_path / "out" / "volumes.csv").open())} == {"a"}


def test_a_full_disk_is_one_line_and_exit_code_1(command, model_file, tmp_path, monkeypatch, study):
    study(tmp_path / "heart.nii.gz")
    model = model_file()

    def refuse(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("unet4d.system.files.os.fsync", refuse)
    done = command("predict", model, "-i", tmp_path / "heart.nii.gz", "-o", tmp_path / "out")
    assert done.code == 1
    assert "No space left on device; free space" in done.line
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["lock"]


def test_a_disk_that_fills_ends_the_work_and_not_only_one_study(command, model_file, tmp_path, monkeypatch, study):
    """Pins hours of computing without a label map that the disk takes."""
    for name in ("a", "b", "c", "d", "e"):
        study(tmp_path / "in" / f"{name}.nii.gz")
    written = []

    def refuse(path, *given, **named):
        written.append(path.name)
        raise Unet4DError("could not write: no space") from OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("unet4d.inference.batch.formats.write_image", refuse)
    done = command("predict", model_file(), "-i", tmp_path / "in", "-o", tmp_path / "out")
    assert done.code == 1
    assert written == ["a.nii.gz"]


def test_a_full_disk_is_told_before_any_work(command, model_file, tmp_path, monkeypatch, study):
    study(tmp_path / "heart.nii.gz")
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 0))
    monkeypatch.setattr("unet4d.inference.batch.run.segment_study", None)
    done = command("predict", model_file(), "-i", tmp_path / "heart.nii.gz", "-o", tmp_path / "out")
    assert done.code == 1
    assert "its disk is full; free space or choose another folder" in done.line
    assert not (tmp_path / "out").exists()


def test_an_output_folder_without_permission_is_told_before_any_work(command, model_file, tmp_path, monkeypatch, study):
    study(tmp_path / "heart.nii.gz")
    model = model_file()
    monkeypatch.setattr("unet4d.system.files.os.access", lambda path, mode: False)
    done = command("predict", model, "-i", tmp_path / "heart.nii.gz", "-o", tmp_path / "out")
    assert done.code == 1
    assert "no permission; choose another folder" in done.line
    assert not (tmp_path / "out").exists()


def test_an_answer_that_is_no_number_is_not_taken_for_background(model_file, tmp_path, study):
    study(tmp_path / "heart.nii.gz")
    model = load_model(model_file())
    with torch.no_grad():
        model.network.head.bias.fill_(float("nan"))
    with pytest.raises(Unet4DError, match=r"heart\.nii\.gz: .*not a number, expected finite"):
        segment(model, read_image(tmp_path / "heart.nii.gz"))


def test_a_study_is_never_overwritten_by_its_label_map(command, model_file, tmp_path, study):
    study(tmp_path / "in" / "heart.nii.gz")
    before = (tmp_path / "in" / "heart.nii.gz").read_bytes()
    done = command("predict", model_file(), "-i", tmp_path / "in", "-o", tmp_path / "in" / ".." / "in")
    assert done.code == 2
    assert "is an input, and its label map would replace it; choose another -o" in done.line
    assert (tmp_path / "in" / "heart.nii.gz").read_bytes() == before


def test_labels_are_not_overwritten_by_predictions(command, model_file, own_phantom, tmp_path):
    """Pins ground truth lost to `-o DATASET/labels`, be it from the dataset or from its folder of images."""
    labels = {path: path.read_bytes() for path in (own_phantom / "labels").iterdir()}
    model = model_file()
    for given, words in (
        (own_phantom, "is an input, and its label map would replace it; choose another -o"),
        (
            own_phantom / "images",
            "in a folder without the prediction.json",
        ),
    ):
        done = command("predict", model, "-i", given, "-o", own_phantom / "labels")
        assert done.code == 2
        assert words in done.line
        assert {path: path.read_bytes() for path in (own_phantom / "labels").iterdir()} == labels
    (own_phantom / "labels" / "prediction.json").write_text('{"labels": {}, "cases": {}}')  # even so not its own labels
    assert command("predict", model, "-i", own_phantom, "-o", own_phantom / "labels").code == 2
    assert {path: path.read_bytes() for path in labels} == labels


class Killed(BaseException):
    """Stands for a process that ends on the spot, so that nothing is tidied up."""


@pytest.mark.parametrize("files", range(1, 12, 2))
def test_a_killed_predict_can_be_run_again(command, model_file, tmp_path, monkeypatch, study, files):
    """Killed before the n-th of its files takes its final name, whichever that is."""
    for name in ("a", "b"):
        study(tmp_path / "in" / f"{name}.nii.gz")
    words = ["predict", model_file(), "-i", tmp_path / "in", "-o", tmp_path / "out"]
    with monkeypatch.context() as patch:
        usual, calls = os.replace, []

        def kill(source, target):
            calls.append(target)
            if len(calls) >= files:
                raise Killed
            usual(source, target)

        patch.setattr("unet4d.system.files.os.replace", kill)
        with pytest.raises(Killed):
            command(*words)
    assert command(*words, "--continue").code == 0
    assert names_in(tmp_path / "out") == ["a.nii.gz", "b.nii.gz", *BESIDE]
    assert set(json.loads((tmp_path / "out" / "prediction.json").read_text())["cases"]) == {"a", "b"}


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        (
            "volumes.csv",
            "case,frame,reference_ml\na,0,1\n",
            "volumes.csv exists, in a folder without the prediction.json",
        ),
        ("labels.txt", "mine", "labels.txt exists, in a folder without the prediction.json"),
        (
            "prediction.json",
            '{"labels": {"background": 0, "right ventricle": 1, "myocardium": 2, "left ventricle": 3}, "cases": {"old": {}}}',
            "holds an earlier predict and no ",
        ),
        ("prediction.json", "[]", 'prediction.json holds no object with "cases"'),
        (
            "prediction.json",
            '{"labels": {"tumour": 1}, "cases": {"old": {}}}',
            "holds label maps with the labels {'tumour'",
        ),
    ],
)
def test_a_folder_that_cannot_be_added_to_is_told_before_any_work(
    command, model_file, tmp_path, monkeypatch, study, file, content, words
):
    study(tmp_path / "heart.nii.gz")
    study(tmp_path / "out" / "old.nii.gz")
    (tmp_path / "out" / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    monkeypatch.setattr("unet4d.inference.batch.run.segment_study", None)
    done = command("predict", model_file(), "-i", tmp_path / "heart.nii.gz", "-o", tmp_path / "out")
    assert done.code == 2
    assert words in done.line
    assert names_in(tmp_path / "out") == sorted(["old.nii.gz", file])


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("GET was unable to find an engine to execute this computation"),
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=lambda error: str(error)[:20],
)
def test_a_study_that_runs_out_of_gpu_memory_under_any_name_fails_alone(
    command, model_file, tmp_path, monkeypatch, study, error
):
    for name in ("a", "b"):
        study(tmp_path / "in" / f"{name}.nii.gz")
    failing(monkeypatch, "a.nii.gz", error)
    done = command("predict", model_file(), "-i", tmp_path / "in", "-o", tmp_path / "out")
    assert done.code == 1
    assert "a: the GPU is out of memory" in done.line
    assert (tmp_path / "out" / "b.nii.gz").exists()


@pytest.mark.parametrize(("damaged", "code"), [(False, 1), (True, 2)])
def test_a_study_too_large_for_the_gpu_does_not_end_the_others(
    command, model_file, tmp_path, monkeypatch, study, damaged, code
):
    for name in ("a", "b", "c", "d"):
        study(tmp_path / "in" / f"{name}.nii.gz")
    if damaged:
        (tmp_path / "in" / "d.nii.gz").write_bytes(b"")
    emptied = []
    failing(monkeypatch, "b.nii.gz", torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB."))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    done = command("predict", model_file(), "-i", tmp_path / "in", "-o", tmp_path / "out")
    assert done.code == code
    assert "b: the GPU is out of memory (CUDA out of memory); use --device cpu, or another GPU" in done.line
    assert "of 4 studies could not be segmented" in done.line
    assert emptied
    assert [name for name in names_in(tmp_path / "out") if name not in BESIDE][:2] == ["a.nii.gz", "c.nii.gz"]


def test_another_runtime_error_is_no_lack_of_memory(command, model_file, tmp_path, monkeypatch, study):
    study(tmp_path / "heart.nii.gz")

    failing(monkeypatch, "heart.nii.gz", RuntimeError("CUDA error: an illegal memory access"))
    with pytest.raises(RuntimeError):
        command("predict", model_file(), "-i", tmp_path / "heart.nii.gz", "-o", tmp_path / "out")


def test_studies_of_one_name_are_refused(command, model_file, tmp_path, study):
    for folder in ("a", "b"):
        study(tmp_path / folder / "heart.nii.gz")
    done = command("predict", model_file(), "-i", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "out")
    assert done.code == 2
    assert "several inputs are named heart" in done.line


def test_studies_whose_files_would_be_one_are_refused(command, model_file, tmp_path, study, monkeypatch):
    """On macOS and Windows HEART.nii.gz is heart.nii.gz: the second label map took the place of the first."""
    study(tmp_path / "a" / "heart.nii.gz")
    study(tmp_path / "b" / "HEART.nii.gz")
    words = "predict", model_file(), "-i", tmp_path / "a", tmp_path / "b", "-o"
    monkeypatch.setattr("unet4d.inference.batch.output_folder.ignores_case", lambda folder: True)
    done = command(*words, tmp_path / "one")
    assert done.code == 2
    assert "several inputs are named HEART" in done.line
    monkeypatch.undo()
    if not (tmp_path / "a" / "HEART.nii.gz").exists():
        assert command(*words, tmp_path / "two").code == 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("nowhere", "nowhere is missing; give a NIfTI file, a folder of them or a dataset folder"),
        ("empty", "empty holds no .nii or .nii.gz file"),
        (
            "notes.txt",
            "line 1 of {}/notes.txt names {}/not a study, which is missing; expected a list of inputs, one path per line",
        ),
        ("notes.md", "notes.md is not a study, expected .nii"),
    ],
)
def test_an_input_that_is_none_is_told(command, model_file, tmp_path, given, words, study):
    (tmp_path / "empty").mkdir()
    for name in ("notes.txt", "notes.md"):
        (tmp_path / name).write_text("not a study")
    study(tmp_path / "heart.nii.gz")
    done = command("predict", model_file(), "-i", tmp_path / "heart.nii.gz", tmp_path / given, "-o", tmp_path / "out")
    assert done.code == 2
    assert words.replace("{}", str(tmp_path)) in done.line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--precision", "fp16", "--device", "cpu"], "precision fp16 on the CPU"),
        (["--overlap", "1"], "got overlap 1.0, expected a share"),
        (["--sw_batch_size", "0"], "got sw_batch_size 0, expected 1"),
        (["--device", "tpu"], "auto, cpu, cuda, cuda:N or mps"),
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
        (tmp_path / "in", "expected one file per channel, CASE_0000 to CASE_0001"),
        (tmp_path / "in" / "heart_0000.nii.gz", "is one file, expected 2 channels"),
        (own_phantom, "has the channels cine MRI, expected magnitude, velocity in order"),
    ):
        done = command("predict", model, "-i", given, "-o", tmp_path / "out")
        assert done.code == 2
        assert words in done.line
    with pytest.raises(InputError, match="got 1 channel, expected 2"):
        segment(load_model(model), read_image(tmp_path / "in" / "heart_0000.nii.gz"))


def test_channels_in_another_order_are_told(command, model_file, own_phantom, tmp_path):
    """They would be segmented without a word, and wrongly."""
    with edit_dataset(own_phantom) as about:
        about["channel_names"] = {"0": "velocity", "1": "magnitude"}
        for case in about["training"]:
            case["image"] = [case["image"]] * 2
    model = model_file(channel_names=("magnitude", "velocity"))
    done = command("predict", model, "-i", own_phantom, "-o", tmp_path / "out")
    assert done.code == 2
    assert "has the channels velocity, magnitude, expected magnitude, velocity in order" in done.line


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
