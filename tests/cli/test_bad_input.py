"""Tests: bad input to every command ends in one line, exit code 2, and nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.builders import change_dataset
from tests.datasets.verify.planting import moved, put, rewrite
from tests.masking import needs_posix

IMAGE, LABEL = "images/phantom002.nii.gz", "labels/phantom002.nii.gz"
Spoil = Callable[[Path], object]


def truncate(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def empty(root: Path) -> None:
    shutil.rmtree(root)
    root.mkdir()


IMAGE_DEFECTS: dict[str, tuple[Spoil, str]] = {
    "NaN": (
        lambda root: rewrite(root / IMAGE, put(np.nan), dtype=np.float32),
        "are NaN or infinite, the first at frame 2, voxel (3, 4, 1)",
    ),
    "truncated": (lambda root: truncate(root / IMAGE), "images/phantom002.nii.gz is truncated"),
    "not NIfTI": (lambda root: (root / IMAGE).write_bytes(b"DICM" * 200), "images/phantom002.nii.gz cannot be read"),
    "no file": (lambda root: (root / IMAGE).unlink(), "1 file is missing: phantom002: "),
}
LABEL_DEFECTS: dict[str, tuple[Spoil, str]] = {
    "frames": (
        lambda root: rewrite(root / LABEL, lambda v: v[:3]),
        "labels/phantom002.nii.gz: the label of case phantom002 has 3 frames, the image 4",
    ),
    "affine": (
        lambda root: rewrite(root / LABEL, header=moved(5)),
        "(corners up to 5 mm apart); resample one onto the other's grid, or correct the header",
    ),
    "grid": (lambda root: rewrite(root / LABEL, lambda v: v[:, :-1]), "(X, Y, Z) is (39, 36, 5), in "),
    "value": (
        lambda root: rewrite(root / LABEL, put(7)),
        "label value 7 in frame 2 of case phantom002, expected one of [0, 1, 2, 3]; name it in dataset.json or correct",
    ),
    "fraction": (
        lambda root: rewrite(root / LABEL, put(1.5), dtype=np.float32),
        "label value 1.5 at frame 2, voxel (3, 4, 1) (1 such in this frame)",
    ),
    "truncated": (lambda root: truncate(root / LABEL), "labels/phantom002.nii.gz is truncated"),
    "no file": (lambda root: (root / LABEL).unlink(), "1 file is missing: phantom002: "),
}
DATASET_DEFECTS: dict[str, tuple[Spoil, str]] = {
    "wrong key": (
        lambda root: change_dataset(root, lambda about: about.update(lables=about.pop("labels"))),
        "dataset.json: unknown key 'lables' (near: labels",
    ),
    "wrong key of a case": (
        lambda root: change_dataset(root, lambda about: about["training"][1].update(labeled_frames=[0])),
        "\"training\" entry 1 (case 'phantom002'): unknown key 'labeled_frames' (near: labelled_frames",
    ),
    "not JSON": (lambda root: (root / "dataset.json").write_text("{'name': 1}"), "dataset.json is not valid JSON"),
    "path outside": (
        lambda root: change_dataset(root, lambda about: about["training"][0].update(image="../secret.nii.gz")),
        "is '../secret.nii.gz', expected a path",
    ),
    "no case": (
        lambda root: change_dataset(root, lambda about: about.update(training=[])),
        "got no case, expected one or more",
    ),
}
FOLDER_DEFECTS: dict[str, tuple[Spoil, str]] = {
    "empty folder": (empty, "is an empty folder, expected a dataset folder"),
    "no folder": (
        shutil.rmtree,
        "is missing, expected a dataset folder, with dataset.json in it; give the path of one",
    ),
}


def defects(*tables: dict[str, tuple[Spoil, str]]) -> pytest.MarkDecorator:
    rows = [pytest.param(*row, id=name) for table in tables for name, row in table.items()]
    return pytest.mark.parametrize(("spoil", "words"), rows)


def told(outcome, words: str) -> None:
    """One line, code 2, and the words in it."""
    assert outcome.code == 2
    assert words in outcome.line
    assert outcome.line.startswith("unet4d: ")
    assert "Traceback" not in outcome.told


@defects(IMAGE_DEFECTS, LABEL_DEFECTS, DATASET_DEFECTS, FOLDER_DEFECTS)
def test_train_tells_it_and_leaves_no_run(command, own_phantom, tiny_options, tmp_path, spoil, words):
    spoil(own_phantom)
    out = tmp_path / "run"
    told(command("train", "--dataset", own_phantom, "--out", out, *tiny_options), words)
    assert not out.exists()


def test_train_tells_an_image_with_fewer_frames_than_its_label(command, own_phantom, tiny_options, tmp_path):
    rewrite(own_phantom / IMAGE, lambda voxels: voxels[:3])
    words = "the label of case phantom002 has 4 frames, the image 3"
    told(command("train", "--dataset", own_phantom, "--out", tmp_path / "run", *tiny_options), words)


def test_the_corrected_retry_of_train_is_not_refused(command, phantom, own_phantom, tiny_options, tmp_path):
    """Pins a run folder left behind by bad input, and a damaged study kept in the cache."""
    words = ["train", "--dataset", own_phantom, "--out", tmp_path / "run", *tiny_options]
    words += ["--train.epochs", "1", "--data.val_subjects", "[]"]
    rewrite(own_phantom / LABEL, lambda voxels: voxels[:3])
    assert command(*words).code == 2
    shutil.copy(phantom / LABEL, own_phantom / LABEL)
    assert command(*words).code == 0


@defects(IMAGE_DEFECTS, DATASET_DEFECTS)
def test_predict_tells_it(command, model_file, own_phantom, tmp_path, spoil, words):
    spoil(own_phantom)
    out = tmp_path / "out"
    told(command("predict", model_file(), "-i", own_phantom, "-o", out), words)
    assert "phantom002.nii.gz" not in [path.name for path in out.glob("*")]
    assert [path for path in tmp_path.rglob("*partial*") if path.is_file()] == []


@defects({name: row for name, row in IMAGE_DEFECTS.items() if name != "no file"})
def test_predict_tells_it_of_a_single_file(command, model_file, own_phantom, tmp_path, spoil, words):
    spoil(own_phantom)
    done = command("predict", model_file(), "-i", own_phantom / IMAGE, "-o", tmp_path / "out")
    told(done, words)
    assert "of 1 studies" not in done.line
    assert not (tmp_path / "out").exists()


def test_predict_tells_an_affine_without_inverse_and_does_the_others(command, model_file, own_phantom, tmp_path):
    image = nib.load(own_phantom / IMAGE)
    flat = image.affine.copy()
    flat[:3, 2] = flat[:3, 0] + flat[:3, 1]
    image.header.set_qform(None, 0)
    image.header.set_sform(flat, 1)
    nib.save(nib.Nifti1Image(image.dataobj, None, image.header), own_phantom / IMAGE)
    done = command("predict", model_file(), "-i", own_phantom, "-o", tmp_path / "out")
    told(done, "images/phantom002.nii.gz: affine ")
    assert "has no inverse: it flattens space; correct the header" in done.line
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == [
        "phantom001.nii.gz",
        "phantom003.nii.gz",
    ]


@pytest.mark.parametrize("make", [True, False])
def test_predict_tells_a_folder_without_studies(command, model_file, tmp_path, make):
    if make:
        (tmp_path / "in").mkdir()
    words = (
        "in holds no .nii or .nii.gz file, and no layout that"
        if make
        else "in is missing; give a NIfTI file, a folder of them"
    )
    told(command("predict", model_file(), "-i", tmp_path / "in", "-o", tmp_path / "out"), words)
    assert not (tmp_path / "out").exists()


def only_the_others_are_scored(out: Path) -> None:
    """Check that the other studies are scored where one is wrong, and that nothing is written where all are."""
    if out.exists():
        summary = json.loads((out / "summary.json").read_text())
        assert list(summary["failed"]) == ["phantom002"]
        assert list(summary["per_case"]) == ["phantom001", "phantom003"]


@defects(LABEL_DEFECTS, DATASET_DEFECTS)
def test_evaluate_tells_a_bad_reference(command, phantom, own_phantom, tmp_path, spoil, words):
    spoil(own_phantom)
    out = tmp_path / "scores"
    told(command("evaluate", "--reference", own_phantom, "--prediction", phantom / "labels", "--out", out), words)
    only_the_others_are_scored(out)


PREDICTION_DEFECTS: dict[str, tuple[Spoil, str]] = {
    "frames": (lambda root: rewrite(root / LABEL, lambda v: v[:3]), "(T, X, Y, Z) is (3, 40, 36, 5), in "),
    "affine": (lambda root: rewrite(root / LABEL, header=moved(5)), "(corners up to 5 mm apart)"),
    "value": (
        lambda root: rewrite(root / LABEL, put(7)),
        "label value 7",
    ),
    "NaN": (lambda root: rewrite(root / LABEL, put(np.nan), dtype=np.float32), "label value nan at frame 2"),
    "truncated": (lambda root: truncate(root / LABEL), "labels/phantom002.nii.gz is truncated"),
    "no file": (lambda root: (root / LABEL).unlink(), "has no prediction for 1 of 3 references: phantom002; add"),
    "empty folder": (lambda root: empty(root / "labels"), "labels holds no .nii.gz or .nii file; give a folder"),
    "no folder": (lambda root: shutil.rmtree(root / "labels"), "labels is missing; give a folder of label maps"),
}


@defects(PREDICTION_DEFECTS)
def test_evaluate_tells_a_bad_prediction(command, phantom, own_phantom, tmp_path, spoil, words):
    spoil(own_phantom)
    out = tmp_path / "scores"
    told(command("evaluate", "--reference", phantom, "--prediction", own_phantom / "labels", "--out", out), words)
    only_the_others_are_scored(out)


@defects(FOLDER_DEFECTS)
def test_evaluate_tells_a_reference_that_is_none(command, phantom, own_phantom, tmp_path, spoil, words):
    spoil(own_phantom)
    done = command("evaluate", "--reference", own_phantom, "--prediction", phantom / "labels", "--out", tmp_path / "s")
    told(done, "give a folder of label maps")
    assert not (tmp_path / "s").exists()


@defects({"wrong key": DATASET_DEFECTS["wrong key"]})
def test_report_tells_it(command, phantom, own_phantom, tmp_path, spoil, words):
    spoil(own_phantom)
    out = tmp_path / "page"
    told(command("report", "--image", own_phantom, "--prediction", phantom / "labels", "--out", out), words)
    assert not (out / "index.html").exists()


@pytest.mark.parametrize(
    "arguments", [["info", ""], ["verify", "--out="], ["phantom", "--out", "", "--subjects", "1", "--frames", "2"]]
)
def test_an_empty_argument_as_of_an_unset_shell_variable_is_refused(command, arguments):
    done = command(*arguments)
    assert done.code == 2
    assert "empty argument" in done.line


@needs_posix("pipes in folders")
def test_a_pipe_is_refused_as_a_config_file_and_named_among_sequences(command, tmp_path, phantom, model_file):
    """Opening a pipe waits until a program writes to it; a pipe that is skipped may be a study that is lost."""
    os.mkfifo(tmp_path / "c.yaml")
    done = command("train", "--dataset", phantom, "--out", tmp_path / "run", "--config", tmp_path / "c.yaml")
    assert (done.code, "is a pipe" in done.line) == (2, True)
    pytest.importorskip("nrrd")
    (tmp_path / "in").mkdir()
    os.mkfifo(tmp_path / "in" / "lost.seq.nrrd")
    done = command(
        "predict",
        model_file(),
        "-i",
        tmp_path / "in",
        "-o",
        tmp_path / "out",
        "--layout",
        "sequence",
        "--device",
        "cpu",
    )
    assert done.code == 2
    assert "lost.seq.nrrd is a pipe" in done.error
