"""The ACDC challenge's layout: what is found in it, and what in it contradicts itself."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.datasets.convert.layouts import FRAMES, frame_of, image_of, phantom_study, write, write_patient
from tests.errors import error_of
from unet4d.datasets.convert.acdc import is_acdc
from unet4d.datasets.convert.layout_options import LayoutOptions
from unet4d.datasets.convert.layouts import open_layout
from unet4d.datasets.study import Source, Study
from unet4d.errors import InputError
from unet4d.metrics.vitals import Vitals
from unet4d.phantom.cine import CINE_LABELS as LABELS


def found(root: Path, **options) -> Source:
    return open_layout("acdc", root, LayoutOptions(**options))


def only(root: Path, **options) -> Study:
    [study] = found(root, **options).studies
    return study


def refusal(study: Study) -> str:
    return error_of(study.image)


def test_the_archive_as_it_unpacks(tmp_path):
    write_patient(tmp_path / "training" / "patient002", 2)
    write_patient(tmp_path / "training" / "patient001", 1)
    write_patient(tmp_path / "testing" / "patient101", 3)
    (tmp_path / "MANDATORY_CITATION.md").write_text("cite")
    (tmp_path / "training" / "patient003").mkdir()  # empty
    source = found(tmp_path)
    assert is_acdc(tmp_path)
    assert [(study.name, study.subject, study.is_test, study.time) for study in source.studies] == [
        ("patient001", "patient001", False, "cyclic"),
        ("patient002", "patient002", False, "cyclic"),
        ("patient101", "patient101", True, "cyclic"),
    ]
    assert dict(source.labels) == LABELS
    assert source.channel_names == ("cine MRI",)
    for study, seed in zip(source.studies, (1, 2, 3), strict=True):
        wanted = phantom_study(seed)
        image = study.image()
        np.testing.assert_array_equal(image.array, wanted.image[None])
        np.testing.assert_allclose(image.affine, wanted.affine, atol=1e-4)
        label, frames = study.label(image)
        assert frames == (0, 2)
        np.testing.assert_array_equal(label[[0, 2]], wanted.label[[0, 2]])
        assert not label[[1, 3]].any()
        folder = f"{study.name}/{study.name}"
        assert [str(path).endswith(f"{folder}_4d.nii.gz") for path in study.nifti] == [True]
        assert study.vitals == Vitals(184, 95)
        assert len(study.files) == 5  # the study, two labels, two frames: none of them may be overwritten


@pytest.mark.parametrize("where", ["training", "training/patient001", "."])
def test_a_part_or_one_patient_will_do(where, tmp_path, monkeypatch):
    write_patient(tmp_path / "training" / "patient001", 1)
    root = tmp_path / "training" if where == "training" else tmp_path / "training" / "patient001"
    if where == ".":
        monkeypatch.chdir(root)
        root = Path()
    assert is_acdc(root)
    assert only(root).name == "patient001"
    assert only(root).image().frames == FRAMES


def test_the_part_for_test_alone_is_for_test(tmp_path):
    assert only(write_patient(tmp_path / "testing" / "patient101").parent).is_test


def test_files_that_are_not_compressed_are_found_too(tmp_path):
    study = only(write_patient(tmp_path / "patient001", suffix=".nii").parent)
    assert study.nifti == (tmp_path / "patient001" / "patient001_4d.nii",)
    assert study.label(study.image())[1] == (0, 2)


def test_no_frame_duration_is_made_up_but_the_headers_is_kept(tmp_path):
    write_patient(tmp_path / "a" / "patient001")
    write_patient(tmp_path / "b" / "patient001", frame_duration_s=0.04)
    assert only(tmp_path / "a").image().frame_duration_s is None
    assert only(tmp_path / "a", frame_duration_s=0.03).image().frame_duration_s == 0.03
    assert only(tmp_path / "b", frame_duration_s=0.03).image().frame_duration_s == 0.04


def test_patients_are_in_natural_order(tmp_path):
    for name in ("patient9", "patient10", "patient100"):
        write_patient(tmp_path / name)
    assert [study.name for study in found(tmp_path).studies] == ["patient9", "patient10", "patient100"]


def test_a_patient_whom_is_unlabelled_has_no_label(tmp_path):
    study = only(write_patient(tmp_path / "testing" / "patient101", drawn=()).parent)
    assert study.label is None
    assert study.image().frames == FRAMES  # Info.cfg's ED and ES say nothing then


def test_info_may_be_missing(tmp_path):
    folder = write_patient(tmp_path / "patient001")
    (folder / "Info.cfg").unlink()
    assert only(tmp_path).image().frames == FRAMES


@pytest.mark.parametrize(
    ("info", "known"),
    [("Height: 184\nWeight: x\n", Vitals(184)), ("Height: 1.84\nWeight: 95\n", Vitals(None, 95)), ("", Vitals())],
)
def test_impossible_height_and_weight_are_unknown(info, known, tmp_path):
    assert only(write_patient(tmp_path / "patient001", info=info)).vitals == known


@pytest.mark.parametrize("names", [["patient"], ["subject001"], ["patient001/notes.txt"], []])
def test_another_folder_is_not_this_layout(names, tmp_path):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("") if "." in name else (tmp_path / name).mkdir()
    assert not is_acdc(tmp_path)
    with pytest.raises(
        InputError, match=r"holds no patient's folder, patient001/patient001_4d.nii.gz; give the folder"
    ):
        found(tmp_path)


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ("ED: 1\nES: 4\n", "Info.cfg says ES: 4, and label maps are there for the frames 1, 3 (from 1); correct it"),
        ("ED: 2\nES: 3\n", "Info.cfg says ED: 2, and label maps are there for the frames 1, 3 (from 1); correct it"),
        ("ED: 1\nES: 3\nNbFrame: 30\n", "Info.cfg says NbFrame: 30, "),
    ],
)
def test_info_that_says_otherwise_than_the_files_is_reported(info, words, tmp_path):
    study = only(write_patient(tmp_path / "patient001", info=info).parent)
    assert words in refusal(study)


def test_the_file_of_the_study_is_missing(tmp_path):
    folder = write_patient(tmp_path / "patient001")
    (folder / "patient001_4d.nii.gz").unlink()
    assert "patient001_4d.nii.gz is missing" in refusal(only(tmp_path))


def test_the_same_file_twice_is_reported(tmp_path):
    folder = write_patient(tmp_path / "patient001")
    write_patient(tmp_path / "patient001", 1, suffix=".nii")
    assert "expected one; remove the other" in refusal(only(folder.parent))


@pytest.mark.parametrize("name", ["patient001_frame05_gt", "patient001_frame00_gt", "patient001_frame05"])
def test_a_frame_beyond_the_study_is_reported(name, tmp_path):
    folder = write_patient(tmp_path / "patient001")
    write(folder / f"{name}.nii.gz", phantom_study(0).label[0], frame_of(image_of(0), 0))
    message = refusal(only(tmp_path))
    assert f"{name}.nii.gz is named as frame {int(name[16:18])}, expected 1 to 4," in message


def test_a_frame_that_is_not_the_studys_is_reported(tmp_path):
    """Frame 3 (from 1) of the file names is frame 2 of the study, and not its neighbors."""
    folder = write_patient(tmp_path / "patient001")
    one, frames = frame_of(image_of(0), 0), phantom_study(0).image.astype(np.int16)
    write(folder / "patient001_frame03.nii.gz", frames[2].astype(np.float32) * np.float32(1.00001), one)
    assert only(tmp_path).image().frames == FRAMES  # rounded otherwise
    write(folder / "patient001_frame03.nii.gz", frames[3], one)
    message = refusal(only(tmp_path))
    assert "patient001_frame03.nii.gz is not frame 2 (from 0) of" in message
    assert "patient001_4d.nii.gz, expected equal voxels" in message
    smaller = frame_of(image_of(0), 0)
    smaller = type(smaller).from_array(smaller.array[:, :, 1:], smaller.affine)
    write(folder / "patient001_frame03.nii.gz", frames[2, 1:], smaller)
    assert "is not frame 2" in refusal(only(tmp_path))


def test_a_label_on_another_grid_or_of_unknown_value_is_reported(tmp_path):
    folder = write_patient(tmp_path / "patient001")
    study, path = only(tmp_path), folder / "patient001_frame03_gt.nii.gz"
    label = phantom_study(0).label[2].copy()
    label[0, 0, 0] = 9
    write(path, label, frame_of(image_of(0), 2))
    with pytest.raises(InputError, match=r"patient001_frame03_gt.nii.gz: label value 9 in frame 2"):
        study.label(study.image())
    shifted = nib.load(path).affine
    shifted[0, 3] += 5
    nib.save(nib.Nifti1Image(phantom_study(0).label[2], shifted), path)
    with pytest.raises(InputError, match=r"patient001_frame03_gt.nii.gz: its affine"):
        study.label(study.image())


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"pattern": "(?P<subject>.*)"}, "pattern"),
        ({"labels": {"x": 1}}, "labels"),
        ({"keep_patient_ids": True}, "keep_patient_ids"),
    ],
)
def test_an_option_without_use_is_reported(options, name, tmp_path):
    write_patient(tmp_path / "patient001")
    with pytest.raises(InputError, match=f"{name} for acdc, which has no use for it; leave it out"):
        found(tmp_path, **options)
