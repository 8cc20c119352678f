"""Tests of the answer that `predict` gives to the DICOM files of a series, and of what is removed from texts."""

from __future__ import annotations

import pydicom
import pytest

from tests.datasets.convert.dicom_files import AFFINE, ARRAY, by_trigger, save, single_frames
from unet4d.errors import InputError
from unet4d.inference.orthanc.answer import RESULT_FORMATS, identifiers, predict_answer, redact, result_uids


@pytest.fixture
def source(tmp_path):
    save(single_frames(ARRAY, AFFINE, by_trigger), tmp_path / "source")
    return tmp_path / "source"


@pytest.mark.slow
def test_a_series_gives_a_segmentation_a_report_and_pictures_of_its_study_with_the_same_uids_again(
    source, tmp_path, model_file
):
    pytest.importorskip("highdicom")
    found = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        files = predict_answer(None, "cpu")(source, tmp_path / name, [model_file()])
        found.append(result_uids(files, next(source.iterdir())))
    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    assert [header.Modality for header in headers].count("SEG") == 1
    assert {"SEG", "SR"} < {header.Modality for header in headers}
    assert len(headers) > len(RESULT_FORMATS)  # a picture per frame
    assert found[0] == found[1]


def test_a_model_for_other_channels_is_one_line(source, tmp_path, model_file):
    (tmp_path / "out").mkdir()
    model = model_file(channel_names=("water", "fat"))
    with pytest.raises(InputError, match="channel"):
        predict_answer(None, "cpu")(source, tmp_path / "out", [model])


def test_no_result_is_an_error(source):
    with pytest.raises(InputError, match="--format"):
        result_uids([], next(source.iterdir()))


def test_identifiers_are_removed_with_their_parts_and_short_ones_stay():
    values = identifiers(
        [{"PatientName": "Mustermann^Erika^von", "PatientID": "17", "Rows": "4096", "StudyDescription": "heart 17"}]
    )
    assert redact("Erika Mustermann (17), heart 17, 4096", values) == "[removed] [removed] (17), [removed], 4096"


def test_identifiers_are_removed_as_messages_write_them():
    tags = {"SeriesDescription": "Mustermann  cine\x07\nsax", "PatientName": "Yamada^Tarou=山田太郎^殿=x"}
    values = identifiers([tags])
    for text in (tags["SeriesDescription"], "Mustermann cine\x07 sax", r"Mustermann cine\x07 sax", "Tarou", "山田太郎"):
        assert redact(text, values) == "[removed]"
