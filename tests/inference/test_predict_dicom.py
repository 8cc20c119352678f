"""`unet4d predict --format dicom-...`: DICOM in, DICOM out, beside NIfTI."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("highdicom", reason="needs the extra dicom")

from pydicom import dcmread

from tests.builders import write_study
from tests.datasets.convert import dicom_files as files
from tests.report.dicom.sources import ARRAY, classic, highdicom_label, result_of
from unet4d.images.image4d import read_image

FORMATS = ("nifti", "dicom-seg", "dicom-seg-frames", "dicom-sr", "dicom-sc")


def test_all_formats_lie_beside_nifti_and_are_skipped_when_they_are_there(command, model_file, tmp_path):
    result_of(tmp_path / "in", classic(files.AFFINE))
    out = tmp_path / "out"
    given = ("predict", model_file(), "-i", tmp_path / "in", "-o", out, "--format")
    assert command(*given, *FORMATS).code == 0
    about = json.loads((out / "prediction.json").read_text())
    [case] = about["cases"]
    label = read_image(out / f"{case}.nii.gz").array[0].astype(np.uint8)
    read = result_of(tmp_path / "in", [], label, labels=about["labels"])
    np.testing.assert_array_equal(highdicom_label(out / f"{case}_seg.dcm", read, range(4)), label)
    frames = [f"{case}_frame{t:03d}.dcm" for t in range(4)]
    expected = [f"{case}_seg.dcm", f"{case}_sr.dcm", *frames, *(f"{case}_{t:03d}.dcm" for t in range(5))]
    assert sorted(path.name for path in out.rglob("*.dcm")) == sorted(expected)
    assert "nothing left to segment" in command(*given, *FORMATS, "--continue").told
    terms = tmp_path / "terms.csv"
    terms.write_text("class,code,scheme,meaning\nleft ventricle,L,99LAB,Left\n")
    assert command(*given, "dicom-seg", "--dicom_terms", terms).code == 0
    assert [path.name for path in out.rglob("*.dcm")] == [f"{case}_seg.dcm"]  # other formats of the case are replaced
    [left] = [one for one in dcmread(out / f"{case}_seg.dcm").SegmentSequence if one.SegmentLabel == "left ventricle"]
    assert left.SegmentedPropertyTypeCodeSequence[0].CodeValue == "L"


@pytest.mark.parametrize(
    ("formats", "words"), [(["dicom-seg"], "no DICOM study"), (["nifti", "dicom-sr"], "dicom-sr, expected dicom-seg")]
)
def test_what_has_no_dicom_to_refer_to_is_refused_before_any_work(command, model_file, tmp_path, formats, words):
    write_study(tmp_path / "in" / "a.nii.gz", np.zeros((2, 8, 8, 3), np.int16))
    done = command("predict", model_file(), "-i", tmp_path / "in", "-o", tmp_path / "out", "--format", *formats)
    assert (done.code, words in done.error) == (2, True)
    assert not (tmp_path / "out").exists()


def test_a_source_without_uids_fails_alone(command, model_file, tmp_path):
    faulty = classic(files.AFFINE, SeriesInstanceUID="1.2.3")
    for one in faulty:
        del one.FrameOfReferenceUID
    files.save(faulty, tmp_path / "in" / "faulty")
    files.save(classic(files.AFFINE), tmp_path / "in" / "good")
    write_study(tmp_path / "nifti.nii.gz", ARRAY.astype(np.int16))
    given = ("-i", tmp_path / "in", tmp_path / "nifti.nii.gz", "-o", tmp_path / "out", "--format", "dicom-seg")
    done = command("predict", model_file(), *given)
    assert (done.code, "no FrameOfReferenceUID" in done.error) == (2, True)
    assert "nifti came as no DICOM" in done.error
    assert len(list((tmp_path / "out").glob("*_seg.dcm"))) == 1
