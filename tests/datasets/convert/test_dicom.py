"""DICOM to 4D studies: every layout gives back what it was written from, where the standard puts it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="needs the extra dicom")

from pydicom.dataset import Dataset  # noqa: E402
from pydicom.pixels import get_decoder  # noqa: E402
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless  # noqa: E402

from tests.datasets.convert import dicom_files as files  # noqa: E402
from tests.datasets.convert.dicom_files import (  # noqa: E402
    AFFINE,
    ARRAY,
    TRIGGER_MS,
    assert_is,
    by_acquisition,
    by_content_time,
    by_instance,
    by_position,
    by_trigger,
    image_of,
    refusal,
    series_a_slice,
)
from unet4d.datasets.convert import dicom  # noqa: E402
from unet4d.datasets.convert.layout_options import LayoutOptions  # noqa: E402
from unet4d.datasets.convert.layouts import detect_layout, open_layout  # noqa: E402
from unet4d.errors import InputError  # noqa: E402


@pytest.mark.parametrize(
    ("place", "duration_s", "time"),
    [
        pytest.param(by_trigger, 0.04075, "cyclic", id="trigger time"),
        pytest.param(series_a_slice, 0.04075, "cyclic", id="a series a slice"),
        pytest.param(by_position, 2.5, None, id="temporal position"),
        pytest.param(by_content_time, None, None, id="content time"),
        pytest.param(by_acquisition, 2.0, None, id="acquisition time"),
        pytest.param(by_instance, None, None, id="instance number"),
    ],
)
def test_a_layout_gives_back_the_phantom(place, duration_s, time, tmp_path):
    files.save(files.single_frames(ARRAY, AFFINE, place), tmp_path / "a" / "b")
    (study,) = open_layout("dicom", tmp_path, LayoutOptions()).studies
    image = study.image()
    assert_is(image)
    assert image.frame_duration_s == (duration_s and pytest.approx(duration_s, abs=1e-6))
    assert (study.time, len(study.files)) == (time, 16)


@pytest.mark.parametrize("trigger_ms", [40.0, None])
def test_an_enhanced_file_is_sorted_by_its_dimension_indices(trigger_ms, tmp_path):
    ds = files.enhanced(ARRAY, AFFINE, trigger_ms or 0.0, CardiacSynchronizationTechnique="RETROSPECTIVE")
    (file,) = files.save([ds], tmp_path)
    (study,) = open_layout("dicom", file, LayoutOptions()).studies
    assert_is(study.image())
    assert study.image().frame_duration_s == (0.04 if trigger_ms else None)
    assert study.time == ("cyclic" if trigger_ms else None)


def test_a_converted_enhanced_file_says_of_each_frame_what_the_single_file_said(tmp_path):
    ds = files.enhanced(ARRAY, AFFINE, 40.0)
    del ds.DimensionIndexSequence
    for group in ds.PerFrameFunctionalGroupsSequence:
        said = Dataset()
        said.TriggerTime = group.CardiacSynchronizationSequence[0].NominalCardiacTriggerDelayTime
        group.UnassignedPerFrameConvertedAttributesSequence = [said]
        del group.CardiacSynchronizationSequence
    (file,) = files.save([ds], tmp_path)
    assert_is(image_of(file))
    assert image_of(file).frame_duration_s == 0.04


def test_enhanced_files_one_a_slice_are_one_study(tmp_path):
    halves = []
    for z in range(4):
        affine = AFFINE.copy()
        affine[:, 3] = AFFINE @ [0, 0, z, 1]
        halves.append(files.enhanced(ARRAY[..., z : z + 1], affine, 40.0, seed=z))
    files.save(halves, tmp_path)
    assert_is(image_of(tmp_path))


def test_each_plane_is_rescaled_by_its_own_slope(tmp_path):
    array = ARRAY.astype(np.int16) - 2048
    slope, intercept = (1.0, 0.5, 2.0, 3.25), (0.0, -100.0, 7.5, 20.0)

    def place(ds: Dataset, t: int, z: int) -> None:
        by_trigger(ds, t, z)
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = slope[z], intercept[z] + t, "US"

    files.save(files.single_frames(array, AFFINE, place), tmp_path / "single")
    frames = np.arange(4)[:, None, None, None]
    wanted = array * np.array(slope) + np.array(intercept) + frames
    np.testing.assert_array_equal(image_of(tmp_path / "single").array[0], wanted.astype(np.float32))

    ds = files.enhanced(array, AFFINE, 40.0)
    for group in ds.PerFrameFunctionalGroupsSequence:
        _, z, t = group.FrameContentSequence[0].DimensionIndexValues
        rescale = group.PixelValueTransformationSequence[0]
        rescale.RescaleSlope, rescale.RescaleIntercept = slope[z - 1], intercept[z - 1] + t - 1
    files.save([ds], tmp_path / "enhanced")
    np.testing.assert_array_equal(image_of(tmp_path / "enhanced").array[0], wanted.astype(np.float32))


@pytest.mark.parametrize("handed", [1, -1])
def test_a_voxel_lies_where_the_standard_puts_its_pixel(handed, tmp_path):
    """The oracle is the equation of PS3.3 C.7.6.2.1-1, on the attributes of each file."""
    written = files.single_frames(ARRAY, AFFINE @ np.diag([1.0, 1.0, handed, 1.0]), by_trigger)
    image = image_of(files.save(written, tmp_path)[0].parent)
    at = np.random.default_rng(2).integers(0, ARRAY.shape[1:3], (5, 2))  # columns, rows
    seen = set()
    for ds in written:
        (sx, sy, sz), (xx, xy, xz, yx, yy, yz) = ds.ImagePositionPatient, ds.ImageOrientationPatient
        row_mm, column_mm = ds.PixelSpacing  # between rows, between columns
        matrix = [
            [xx * column_mm, yx * row_mm, 0, sx],
            [xy * column_mm, yy * row_mm, 0, sy],
            [xz * column_mm, yz * row_mm, 0, sz],
        ]
        for column, row in at:
            left, back, up = np.array(matrix, dtype=float) @ [column, row, 0, 1]
            voxel = np.linalg.solve(image.affine, [-left, -back, up, 1])[:3]
            x, y, z = np.rint(voxel).astype(int)
            assert np.abs(voxel - (x, y, z)).max() < 1e-4
            t = round(ds.TriggerTime / TRIGGER_MS)
            assert image.array[0, t, x, y, z] == ds.pixel_array[row, column]
            seen.add((t, z))
    assert len(seen) == 16


@pytest.mark.parametrize("syntax", ["RLE", "Deflated", "JPEGLosslessProcess14_1", "JPEG2000Lossless", "JPEGLSLossless"])
def test_compressed_pixels_are_decoded(syntax, tmp_path):
    datasets = files.single_frames(ARRAY, AFFINE, by_trigger)
    if syntax == "RLE":
        for ds in datasets:
            ds.compress(RLELossless)
    if syntax == "Deflated":
        for ds in datasets:
            ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    saved = files.save(datasets, tmp_path)
    if syntax.startswith("JPEG"):
        for file in saved:
            files.transcode(file, syntax)
    assert pydicom.dcmread(saved[0]).file_meta.TransferSyntaxUID != ExplicitVRLittleEndian
    assert_is(image_of(tmp_path))


def test_a_missing_decoder_is_named_with_what_to_install(tmp_path, monkeypatch):
    datasets = files.single_frames(ARRAY, AFFINE, by_trigger)
    for ds in datasets:
        ds.compress(RLELossless)
    files.save(datasets, tmp_path)
    monkeypatch.setattr(get_decoder(RLELossless), "_available", {})
    said = refusal(tmp_path)
    assert "RLE Lossless" in said
    assert "pip install python-gdcm" in said


def test_without_pydicom_it_says_what_to_install(tmp_path, monkeypatch):
    files.save(files.single_frames(ARRAY, AFFINE, by_trigger), tmp_path)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert detect_layout(tmp_path) == "dicom"
    with pytest.raises(InputError, match="pip install pydicom python-gdcm"):
        open_layout("dicom", tmp_path, LayoutOptions())


def test_a_single_slice_is_as_thick_as_it_says(tmp_path):
    datasets = files.single_frames(ARRAY[..., :1], AFFINE, by_trigger)
    files.save(datasets, tmp_path / "thickness")
    assert image_of(tmp_path / "thickness").spacing == pytest.approx((1.75, 1.25, 3.0))
    for ds in datasets:
        ds.SpacingBetweenSlices = 8
    files.save(datasets, tmp_path / "spacing")
    assert_is(image_of(tmp_path / "spacing"), ARRAY[..., :1])
    for ds in datasets:
        ds.SpacingBetweenSlices = ds.SliceThickness = None
    files.save(datasets, tmp_path / "neither")
    assert "SliceThickness" in refusal(tmp_path / "neither")


def without_preamble(file: Path, *, implicit: bool, little: bool) -> None:
    dataset = pydicom.dcmread(file)
    list(dataset.iterall())  # values are decoded as they are asked for
    dataset.preamble = None
    del dataset.file_meta
    if not little:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    dataset.set_original_encoding(implicit, little, None)
    dataset.save_as(file, implicit_vr=implicit, little_endian=little, enforce_file_format=False)
    assert not dicom.is_dicom_source(file)


@pytest.mark.parametrize(("implicit", "little"), [(True, True), (False, True), (False, False)])
def test_an_image_without_a_preamble_is_read_beside_others_and_nothing_else_is(implicit, little, tmp_path):
    """At the edge of a stack its absence would show nowhere."""
    saved = files.save(files.single_frames(ARRAY, AFFINE, by_trigger), tmp_path)
    for file in saved[3::4]:
        without_preamble(file, implicit=implicit, little=little)
    (tmp_path / "README").write_text("which patient is where")
    (tmp_path / "begins.bin").write_bytes(b"\x08\x00" + bytes(range(200)))
    assert_is(image_of(tmp_path))


def test_monochrome1_is_taken_as_stored(tmp_path):
    files.save(files.single_frames(ARRAY, AFFINE, by_trigger, PhotometricInterpretation="MONOCHROME1"), tmp_path)
    assert_is(image_of(tmp_path))


def test_dicom_is_known_by_its_preamble_at_any_depth(tmp_path):
    saved = files.save(files.single_frames(ARRAY, AFFINE, by_trigger), tmp_path / "dicom" / "a" / "b")
    (tmp_path / "dicom" / "README.txt").write_text("which patient is where")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "short.dcm").write_bytes(b"DICM")
    assert [dicom.is_dicom_source(path) for path in (saved[0], tmp_path / "dicom", tmp_path / "other", tmp_path / "none")] == [
        True, True, False, False
    ]  # fmt: skip
