"""The files of `unet4d predict`: formats, probabilities, measures, and post-processing on the way."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.predictions import json_of, rows_of
from unet4d.images.nrrd import read_nrrd_image
from unet4d.images.segmentations import read_segmentation
from unet4d.inference.options import InferenceOptions
from unet4d.inference.postprocessing_steps import Step, write_steps
from unet4d.inference.predict import predict
from unet4d.metrics.volume_curves import curve_measures

# What comes out --------------------------------------------------------------------------------------------------


def test_every_format_holds_the_same_label_map(command, model_file, study, tmp_path):
    pytest.importorskip("nrrd")
    study(tmp_path / "heart.nii.gz")
    out = tmp_path / "out"
    done = command(
        "predict", model_file(), "-i", tmp_path / "heart.nii.gz", "-o", out, "--format", "nifti", "seq.nrrd", "seg.nrrd"
    )
    assert done.code == 0
    names = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    assert names == [
        "heart.nii.gz", "heart.seq.nrrd", "heart_seg", "labels.ctbl", "labels.txt", "measures.csv", "prediction.json",
        "volumes.csv",
    ]  # fmt: skip
    whole = nib.load(out / "heart.nii.gz")
    label = np.moveaxis(np.asarray(whole.dataobj), -1, 0)
    sequence = read_nrrd_image(out / "heart.seq.nrrd")
    np.testing.assert_array_equal(sequence.array[0], label)
    np.testing.assert_array_equal(sequence.affine, whole.affine)
    assert sequence.frame_duration_s == pytest.approx(0.0425)
    labels = {"background": 0, "right ventricle": 1, "myocardium": 2, "left ventricle": 3}
    for t in range(3):
        frame = read_segmentation(out / "heart_seg" / f"heart_frame{t:03d}.seg.nrrd", labels, sequence)
        np.testing.assert_array_equal(frame, label[t])
    assert [line.split(maxsplit=7)[-1] for line in (out / "labels.txt").read_text().splitlines()[-3:]] == [
        '"right ventricle"', '"myocardium"', '"left ventricle"',
    ]  # fmt: skip


def test_probabilities_are_one_file_a_class_whose_largest_is_the_label(command, model_file, study, tmp_path):
    study(tmp_path / "heart.nii.gz")
    done = command("predict", model_file(), "-i", tmp_path / "heart.nii.gz", "-o", tmp_path / "out", "--probabilities")
    assert (done.code, done.line) == (0, "heart: probabilities of 4 classes take up to 64.8 kB on disk")
    files = sorted((tmp_path / "out" / "heart_probabilities").iterdir())
    assert [path.name for path in files] == [
        "0_background.nii.gz", "1_right-ventricle.nii.gz", "2_myocardium.nii.gz", "3_left-ventricle.nii.gz",
    ]  # fmt: skip
    label = nib.load(tmp_path / "out" / "heart.nii.gz")
    shares = [nib.load(path) for path in files]
    assert {image.get_data_dtype() for image in shares} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(shares[2].affine, label.affine)
    values = np.stack([np.asarray(image.dataobj) for image in shares])
    np.testing.assert_allclose(values.sum(0), 1, atol=1e-5)
    np.testing.assert_array_equal(values.argmax(0), np.asarray(label.dataobj))


def test_probabilities_that_the_disk_cannot_hold_are_told_before_they_are_computed(
    command, model_file, study, tmp_path, monkeypatch
):
    study(tmp_path / "heart.nii.gz")
    usage = type("Usage", (), {"free": 10**4})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    monkeypatch.setattr("unet4d.inference.batch.output_folder._LEAST_SPACE_BYTES", 0)
    monkeypatch.setattr("unet4d.inference.batch.run.segment_study", None)
    done = command("predict", model_file(), "-i", tmp_path / "heart.nii.gz", "-o", tmp_path / "out", "--probabilities")
    assert done.code == 1
    assert "needs 64.8 kB for probabilities, and 10 kB are free" in done.error


def test_the_measures_are_those_of_the_curves(model_file, phantom, tmp_path):
    predict(model_file(), [phantom], tmp_path / "out", InferenceOptions(precision="fp32"), cases=["phantom001"])
    curve = [float(row["volume_ml"]) for row in rows_of(tmp_path / "out") if row["class"] == "left ventricle"]
    wanted = curve_measures(curve, None, cyclic=True)
    [row] = csv.DictReader((tmp_path / "out" / "measures.csv").open())
    assert (row["lv_ed_frame"], row["lv_es_frame"]) == (str(wanted.ed_frame), str(wanted.es_frame))
    assert float(row["lv_ef_percent"]) == pytest.approx(wanted.ef_percent, abs=1e-5)


# Post-processing -------------------------------------------------------------------------------------------------


@pytest.fixture
def tuned(model_file, tmp_path) -> Path:
    """Return the folder of a run with a recorded step that keeps the largest component of one class."""
    run = tmp_path / "run"
    run.mkdir()
    model_file().rename(run / "checkpoint_best.pt")
    write_steps(run, [Step("largest_component", "left ventricle")], [run / "checkpoint_best.pt"], {})
    return run


def test_recorded_steps_are_applied_reported_and_recorded(command, tuned, study, tmp_path):
    from scipy import ndimage

    study(tmp_path / "heart.nii.gz")
    words = ["predict", tuned, "-i", tmp_path / "heart.nii.gz", "-o", tmp_path / "out"]
    plain = command(*words, "--postprocess", "off")
    assert "post-processing" not in plain.told

    def parts() -> int:
        label = np.asarray(nib.load(tmp_path / "out" / "heart.nii.gz").dataobj)
        return max(ndimage.label(label[..., t] == 3, np.ones((3, 3, 3)))[1] for t in range(3))

    assert parts() > 1
    done = command(*words, "--continue")  # other steps, so it is made again
    assert f"{tuned / 'postprocessing.json'}: largest_component of left ventricle" in done.told.splitlines()[0]
    assert parts() == 1
    entry = json_of(tmp_path / "out" / "prediction.json")["cases"]["heart"]
    assert entry["postprocessing"] == [{"operation": "largest_component", "class": "left ventricle"}]
    left = np.asarray(nib.load(tmp_path / "out" / "heart.nii.gz").dataobj) == 3
    affine = nib.load(tmp_path / "out" / "heart.nii.gz").affine
    volumes = [float(row["volume_ml"]) for row in rows_of(tmp_path / "out") if row["value"] == "3"]
    assert volumes == pytest.approx(left.sum((0, 1, 2)) * abs(np.linalg.det(affine[:3, :3])) / 1000, abs=1e-5)


def test_what_was_recorded_for_another_checkpoint_is_skipped_and_reported(command, tuned, model_file, study, tmp_path):
    study(tmp_path / "heart.nii.gz", shape=(12, 10, 4))
    words = ["-i", tmp_path / "heart.nii.gz", "-o", tmp_path / "out"]
    other = model_file(lstm_channels=0).rename(tuned / "checkpoint_last.pt")
    done = command("predict", other, *words)
    assert done.code == 0
    assert f"{tuned / 'postprocessing.json'} was chosen for other checkpoints" in done.told
    assert json_of(tmp_path / "out" / "prediction.json")["cases"]["heart"]["postprocessing"] == []
    assert "largest_component" in command("predict", tuned / "checkpoint_best.pt", *words).told
