"""`unet4d predict -i` and `unet4d report --image` on what lies in another layout than ours, without a conversion before."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.datasets.convert import dicom_files
from tests.datasets.convert.layouts import (
    SHAPE,
    image_of,
    phantom_study,
    write,
    write_nnunet_4d,
    write_nnunet_frames,
    write_patient,
)
from tests.images import slicer
from unet4d import load_model, segment
from unet4d.images.image4d import read_image
from unet4d.report.pictures.contour_sheet import draw_contour_sheet
from unet4d.system.csv_file import read_table

PATTERN = r"(?P<subject>.+)_frame(?P<frame>\d+)"


def maps_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.nii.gz"))


def check_label_map(model: Path, path: Path, seed: int, time: str) -> None:
    """The map is on the study's grid, and what `segment` gives for the study made in memory."""
    image = image_of(seed)
    label = read_image(path)
    np.testing.assert_array_equal(label.affine, image.affine)
    assert label.array.shape == image.array.shape
    wanted = segment(load_model(model), image, time=time, precision="fp32")
    np.testing.assert_array_equal(label.array[0], wanted)


def test_acdc_as_it_unpacks(command, model_file, tmp_path):
    write_patient(tmp_path / "acdc" / "training" / "patient001", 0)
    write_patient(tmp_path / "acdc" / "testing" / "patient101", 1)
    model, out = model_file(), tmp_path / "out"
    done = command("predict", model, "-i", tmp_path / "acdc", "-o", out, "--precision", "fp32")
    taken = f"{tmp_path / 'acdc'}: taken as acdc, 2 studies of 10 files; --layout names another layout\n"
    assert (done.code, done.error) == (0, taken)
    assert maps_in(out) == ["patient101.nii.gz"]
    check_label_map(model, out / "patient101.nii.gz", 1, "cyclic")
    done = command("predict", model, "-i", tmp_path / "acdc", "-o", out, "--cases", "patient001", "--time", "open")
    assert done.code == 0
    cases = json.loads((out / "prediction.json").read_text())["cases"]
    assert {name: case["time"] for name, case in cases.items()} == {"patient001": "open", "patient101": "cyclic"}
    assert cases["patient001"]["image"].endswith("patient001_4d.nii.gz")


def test_nnunet_as_it_lies(command, model_file, tmp_path):
    write_nnunet_4d(tmp_path / "nnunet")
    model, out = model_file(), tmp_path / "out"
    done = command("predict", model, "-i", tmp_path / "nnunet", "-o", out, "--precision", "fp32")
    assert (done.code, "taken as nnunet, 3 studies" in done.error) == (0, True)
    assert maps_in(out) == ["carl.nii.gz"]
    check_label_map(model, out / "carl.nii.gz", 2, "open")
    assert nib.load(out / "carl.nii.gz").header.get_zooms()[3] == np.float32(0.05)


def test_frames_are_joined_by_a_pattern(command, model_file, tmp_path):
    write_nnunet_frames(tmp_path / "nnunet")
    model, out = model_file(direction="bidirectional"), tmp_path / "out"
    given = ["predict", model, "-i", tmp_path / "nnunet", "-o", out, "--precision", "fp32"]
    done = command(*given, "--pattern", PATTERN, "--layout", "nnunet", "--time", "cyclic")
    assert (done.code, done.error) == (0, "")
    assert maps_in(out) == ["anna.nii.gz", "ben.nii.gz"]
    check_label_map(model, out / "anna.nii.gz", 0, "cyclic")
    check_label_map(model, out / "ben.nii.gz", 1, "cyclic")


def sequence(folder: Path) -> str:
    study = phantom_study(0)
    slicer.write_sequence(folder / "anna.seq.nrrd", study.image.astype(np.int16), study.affine)
    return "anna"


def frames(folder: Path) -> str:
    study = phantom_study(0)
    for t, frame in enumerate(study.image):
        slicer.write_volume(folder / "anna" / f"frame_{t}.nrrd", frame.astype(np.int16), study.affine)
    return "anna"


def dicom(folder: Path) -> str:
    study = phantom_study(0)
    planes = dicom_files.single_frames(
        study.image.astype(np.uint16), study.affine, lambda dataset, t, z: setattr(dataset, "TriggerTime", 40 * t)
    )
    dicom_files.save(planes, folder / "Mustermann")
    return "series-"


@pytest.mark.parametrize("layout", [sequence, frames, dicom])
def test_what_slicer_and_scanners_leave(layout, command, model_file, tmp_path):
    """Segmented as it lies, it is segmented as it would be from memory; no patient's name or id is written."""
    name = layout(tmp_path / "in")
    model, out = model_file(), tmp_path / "out"
    done = command("predict", model, "-i", tmp_path / "in", "-o", out, "--precision", "fp32", "--time", "open")
    assert done.code == 0, done.error
    assert f"taken as {layout.__name__}, 1 study" in done.error
    (file,) = maps_in(out)
    assert file.startswith(name)
    label, image = read_image(out / file), image_of(0)
    voxels = label.array[0]
    there = (
        np.linalg.inv(image.affine) @ label.affine
    )  # voxel to voxel: the slices of DICOM come sorted along their normal
    if there[2, 2] < 0:
        voxels, there = voxels[..., ::-1], there @ [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, SHAPE[2] - 1], [0, 0, 0, 1]]
    np.testing.assert_allclose(there, np.eye(4), atol=1e-4)
    wanted = segment(load_model(model), image, time="open", precision="fp32")
    assert np.mean(voxels == wanted) > 0.999  # the last digit of an affine may move a voxel between two classes
    check_nobody_is_named(out)
    if layout is dicom:  # nor where it fails
        path = sorted((tmp_path / "in" / "Mustermann").iterdir())[3]
        path.write_bytes(path.read_bytes()[:-30])
        done = command("predict", model, "-i", tmp_path / "in", "-o", out)
        assert (done.code, "Mustermann" in done.error) == (2, True)
        check_nobody_is_named(out)


def test_a_key_file_says_which_study_a_case_is_and_lies_outside_of_what_is_shared(command, model_file, tmp_path):
    dicom(tmp_path / "in")
    given, key = ("predict", model_file(), "-i", tmp_path / "in", "-o", tmp_path / "out"), tmp_path / "keys" / "key.csv"
    assert command(*given, "--key_file", key).code == 0
    check_nobody_is_named(tmp_path / "out")
    [row] = read_table(key, ("case", "patient", "study_uid", "series_uid"), "")
    assert f"{row['case']}.nii.gz" in maps_in(tmp_path / "out")
    expected = (dicom_files.PATIENT, dicom_files.STUDY, dicom_files.SERIES)
    assert (row["patient"], row["study_uid"], row["series_uid"]) == expected
    assert key.stat().st_mode & 0o777 == 0o600
    for folder in ("in", "out"):
        done = command(*given, "--key_file", tmp_path / folder / "key.csv")
        assert (done.code, "is inside" in done.error) == (2, True)


def check_nobody_is_named(out: Path) -> None:
    """No patient's name or id stands in anything that was written."""
    for path in out.rglob("*"):
        named = [
            word
            for word in ("Mustermann", dicom_files.PATIENT)
            if path.is_file() and word.encode() in path.read_bytes()
        ]
        assert named == [], path


def test_a_study_that_contradicts_itself_is_told_and_the_others_done(command, model_file, tmp_path):
    for seed in range(2):
        write_patient(tmp_path / "acdc" / f"patient{seed:03d}", seed)
    (tmp_path / "acdc" / "patient000" / "Info.cfg").write_text("NbFrame: 9")
    done = command("predict", model_file(), "-i", tmp_path / "acdc", "-o", tmp_path / "out")
    assert done.code == 2
    assert "1 of 2 studies could not be segmented" in done.error
    assert "patient000/Info.cfg says NbFrame: 9" in done.error
    assert maps_in(tmp_path / "out") == ["patient001.nii.gz"]


def test_a_label_map_replaces_no_file_of_the_source(command, model_file, tmp_path):
    """predicted into imagesTs, CASE.nii.gz is new; into labelsTs it would be the reference."""
    root = write_nnunet_4d(tmp_path / "nnunet")
    write(root / "labelsTs" / "carl.nii.gz", phantom_study(2).label, image_of(2))
    before = (root / "labelsTs" / "carl.nii.gz").read_bytes()
    done = command("predict", model_file(), "-i", root, "-o", root / "labelsTs")
    assert done.code == 2
    assert "carl.nii.gz is an input, and its label map would replace it; choose another -o" in done.error
    assert (root / "labelsTs" / "carl.nii.gz").read_bytes() == before


def test_wrong_use_is_refused(command, model_file, tmp_path):
    write_patient(tmp_path / "acdc" / "patient001")
    given = ["predict", model_file(), "-i", tmp_path / "acdc", "-o", tmp_path / "out"]
    for options, words in (
        (["--layout", "nnunet"], "acdc/dataset.json is missing"),
        (["--layout", "acds"], "--layout is acds"),
        (["--pattern", PATTERN], "pattern"),
        (["--keep_patient_ids"], "keep_patient_ids"),
    ):
        done = command(*given, *options)
        assert done.code == 2
        assert words in done.line
    two = ["predict", model_file(channel_names=("magnitude", "velocity")), *given[2:]]
    assert "acdc has the channels cine MRI, expected magnitude, velocity" in command(*two).error


def test_bare_files_are_of_the_models_kinds(command, model_file, study, tmp_path, monkeypatch):
    """A map beside a series is a 3D file, where a signal has as many frames as the first channel."""
    study(tmp_path / "in" / "a_0000.nii.gz", frames=3)
    study(tmp_path / "in" / "a_0001.nii.gz", frames=1)
    model = load_model(model_file(channel_names=("series", "T1 map")))
    given = ["predict", model.path, "-i", tmp_path / "in", "-o", tmp_path / "out"]
    for kinds, code in ((("signal", "signal"), 2), (("signal", "map"), 0)):
        of_kinds = replace(model, task=replace(model.task, channel_kinds=kinds))
        monkeypatch.setattr("unet4d.inference.predict.load_models", lambda paths, device, made=of_kinds: [made])
        assert command(*given).code == code


def test_the_report_finds_them_too(command, tmp_path, monkeypatch):
    drawn = []

    def sheet(*given, reference, **options):
        drawn.append(reference)
        return draw_contour_sheet(*given, reference=reference, **options)

    monkeypatch.setattr("unet4d.report.report.draw_contour_sheet", sheet)
    write_patient(tmp_path / "acdc" / "training" / "patient001", 0)
    write(tmp_path / "predicted" / "patient001.nii.gz", phantom_study(0).label, image_of(0))
    done = command(
        "report", "--image", tmp_path / "acdc", "--prediction", tmp_path / "predicted", "--out", tmp_path / "page"
    )
    assert (done.code, "taken as acdc, 1 study" in done.error) == (0, True)
    text = (tmp_path / "page" / "index.html").read_text()
    assert "4D segmentation: ACDC" in text
    assert "left ventricle" in text
    assert [frame.any() for frame in drawn[0]] == [True, False, True, False]  # those that are labelled
    np.testing.assert_array_equal(drawn[0][2], phantom_study(0).label[2])
    assert f"{SHAPE[0]} x {SHAPE[1]} x {SHAPE[2]} voxels" in text


def test_the_report_follows_a_prediction_of_another_layout(command, tmp_path):
    """Pins a report that could not find the studies which --layout and --pattern had named."""
    write_nnunet_frames(tmp_path / "nnunet")
    write(tmp_path / "predicted" / "anna.nii.gz", phantom_study(0).label, image_of(0))
    given = [
        "report",
        "--image",
        tmp_path / "nnunet",
        "--prediction",
        tmp_path / "predicted",
        "--out",
        tmp_path / "page",
    ]
    assert "has no study for anna" in command(*given).error
    done = command(*given, "--layout", "nnunet", "--pattern", PATTERN)
    assert (done.code, done.error) == (0, "")
    assert "keep_patient_ids for nnunet" in command(*given, "--layout", "nnunet", "--keep_patient_ids").line
