"""DICOM: frame duration and time axis, by what the headers say."""

from __future__ import annotations

import pytest

pytest.importorskip("pydicom", reason="needs the extra dicom")

from pydicom.dataset import Dataset

from tests.datasets.convert import dicom_files as files
from tests.datasets.convert.dicom_files import AFFINE, ARRAY, assert_is, by_instance, by_position, by_trigger, image_of
from unet4d.datasets.convert.layout_options import LayoutOptions
from unet4d.datasets.convert.layouts import open_layout


def with_more(place: files.Place, **more) -> files.Place:
    def placed(ds: Dataset, t: int, z: int) -> None:
        place(ds, t, z)
        ds.update(files.attributes({name: value(t, z) if callable(value) else value for name, value in more.items()}))

    return placed


@pytest.mark.parametrize(
    ("place", "duration_s", "time"),
    [
        pytest.param(
            with_more(by_instance, NominalInterval=900, CardiacNumberOfImages=4), 0.225, None, id="RR / images"
        ),
        pytest.param(
            with_more(by_instance, NominalInterval=900, CardiacNumberOfImages=5), None, None, id="other images"
        ),
        pytest.param(
            with_more(by_trigger, TriggerTime=lambda t, z: round(t * 100 / 3), NominalInterval=None),
            0.033333,
            None,
            id="whole ms",
        ),
        pytest.param(with_more(by_instance, FrameTime="31.5"), 0.0315, None, id="FrameTime"),
        pytest.param(with_more(by_position, TemporalResolution=None), None, None, id="nothing"),
        pytest.param(with_more(by_trigger, NominalInterval=180), 0.04075, "cyclic", id="91 % of the beat"),
        pytest.param(with_more(by_trigger, NominalInterval=250), 0.04075, None, id="65 % of the beat"),
        pytest.param(
            with_more(by_trigger, NominalInterval=None, ImageType=["ORIGINAL", "PRIMARY", "M", "RETRO"]),
            0.04075,
            "cyclic",
            id="retro",
        ),
        pytest.param(with_more(by_trigger, NominalInterval=None), 0.04075, None, id="gated, and no more"),
    ],
)
def test_time_is_reported_by_what_is_there(place, duration_s, time, tmp_path):
    files.save(files.single_frames(ARRAY, AFFINE, place), tmp_path)
    (study,) = open_layout("dicom", tmp_path, LayoutOptions()).studies
    assert (study.image().frame_duration_s, study.time) == (duration_s, time)
    assert_is(study.image())


def test_offsets_of_enhanced_frames_are_seconds(tmp_path):
    ds = files.enhanced(ARRAY, AFFINE, 0.0, TemporalResolution=7000.0)
    for group in ds.PerFrameFunctionalGroupsSequence:
        t = group.FrameContentSequence[0].DimensionIndexValues[2] - 1
        group.TemporalPositionSequence = [files.attributes({"TemporalPositionTimeOffset": 1.5 * t})]
    files.save([ds], tmp_path)
    assert image_of(tmp_path).frame_duration_s == 1.5


def test_what_the_user_says_of_time_comes_where_files_do_not_say(tmp_path):
    files.save(files.single_frames(ARRAY, AFFINE, by_instance), tmp_path)
    (study,) = open_layout("dicom", tmp_path, LayoutOptions(time="open", frame_duration_s=0.05)).studies
    assert (study.image().frame_duration_s, study.time) == (0.05, "open")


def test_acquisition_times_order_frames_that_share_a_second_only_by_their_number(tmp_path):
    place = with_more(by_instance, AcquisitionTime=lambda t, z: f"10150{t // 2}")
    files.save(files.single_frames(ARRAY, AFFINE, place), tmp_path)
    assert_is(image_of(tmp_path))
    assert image_of(tmp_path).frame_duration_s is None
