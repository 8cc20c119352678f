"""DICOM as vendors write it: MOSAIC, private scales, series per time point, stacks of several orientations in one series."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="needs the extra dicom")

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from tests.datasets.convert import dicom_files as files
from tests.datasets.convert.dicom_files import (
    AFFINE,
    ARRAY,
    assert_is,
    by_instance,
    by_trigger,
    image_of,
    series_a_slice,
)
from unet4d.datasets.convert.layout_options import LayoutOptions
from unet4d.datasets.convert.layouts import open_layout
from unet4d.images.image4d import Image4D


def images_of(root: Path) -> dict[str, Image4D]:
    return {study.name: study.image() for study in open_layout("dicom", root, LayoutOptions()).studies}


# MOSAIC ------------------------------------------------------------------------------------------------------------


def csa_header(**tags: tuple[object, ...]) -> bytes:
    """A CSA header in the format SV10 (nibabel.nicom.csareader reads it)."""
    written = b"SV10\x04\x03\x02\x01" + struct.pack("<II", len(tags), 77)
    for name, items in tags.items():
        written += struct.pack("<64si4siii", name.encode(), len(items), b"FD", 0, len(items), 77)
        for item in items:
            text = str(item).encode() + b"\0"
            written += struct.pack("<4i", len(text), len(text), 77, len(text)) + text + b"\0" * (-len(text) % 4)
    return written


def mosaics(array: np.ndarray, affine: np.ndarray, handed: int = 1) -> list[Dataset]:
    """One image per frame, its slices as tiles row by row; `handed` -1: slices run against X cross Y."""
    _, x, y, slices = array.shape
    along = int(np.ceil(np.sqrt(slices)))

    def place(ds: Dataset, t: int, z: int) -> None:
        ds.InstanceNumber, ds.AcquisitionDate, ds.AcquisitionTime = 9 - t, "20240305", f"1015{2 * t:02d}.5"
        tiles = np.zeros((x * along, y * along), dtype=array.dtype)
        for n in range(slices):
            column, row = n % along * x, n // along * y
            tiles[column : column + x, row : row + y] = array[t, :, :, n]
        files.set_pixels(ds, tiles)
        axes, (row_mm, column_mm) = np.array(ds.ImageOrientationPatient, float), map(float, ds.PixelSpacing)
        shift = axes[:3] * column_mm * x * (along - 1) / 2 + axes[3:] * row_mm * y * (along - 1) / 2
        ds.ImagePositionPatient = [f"{value:.6f}" for value in np.array(ds.ImagePositionPatient, float) - shift]
        ds.ImageType, ds.SpacingBetweenSlices = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"], 8
        normal = handed * np.cross(axes[:3], axes[3:])
        block = ds.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
        block.add_new(0x10, "OB", csa_header(NumberOfImagesInMosaic=(slices,), SliceNormalVector=tuple(normal)))

    return files.single_frames(array[..., :1], affine, place)


@pytest.mark.parametrize("slices", [4, 6])
def test_a_mosaic_is_split_into_its_slices(slices, tmp_path):
    array = np.random.default_rng(3).integers(0, 4096, (3, 12, 10, slices), dtype=np.uint16)
    files.save(mosaics(array, AFFINE), tmp_path)
    assert_is(image_of(tmp_path), array)
    assert image_of(tmp_path).frame_duration_s == 2.0


def test_slices_of_a_mosaic_that_run_against_the_normal_lie_where_they_are(tmp_path):
    files.save(mosaics(ARRAY, AFFINE @ np.diag([1, 1, -1, 1.0]), -1), tmp_path)
    image = image_of(tmp_path)  # its slices ascend along X cross Y: the last tile is the first slice
    np.testing.assert_array_equal(image.array[0], ARRAY[..., ::-1].astype(np.float32))
    last = AFFINE @ np.diag([1, 1, -1, 1.0]) @ [0, 0, 3, 1]
    np.testing.assert_allclose(image.affine[:, 3], last, atol=1e-4)


# Scales ------------------------------------------------------------------------------------------------------------


def philips(ds: Dataset, scale: float) -> None:
    ds.private_block(0x2005, "Philips MR Imaging DD 001", create=True).add_new(0x0E, "FL", scale)


@pytest.mark.parametrize(("kind", "is_signal"), [("M_FFE", True), ("M", True), ("P", False), ("T1", False)])
def test_the_signal_of_philips_is_scaled_alike_in_all_images(kind, is_signal, tmp_path):
    """The scale for display differs from image to image; stored = (signal * scale * slope - intercept) / slope."""

    def place(ds: Dataset, t: int, z: int) -> None:
        by_trigger(ds, t, z)
        ds.RescaleSlope, ds.RescaleIntercept, ds.ImageType = 2.0 + t, 5.0, ["ORIGINAL", "PRIMARY", kind, "ND"]
        philips(ds, 0.25 * (1 + z))

    files.save(files.single_frames(ARRAY, AFFINE, place), tmp_path)
    slope = 2.0 + np.arange(4)[:, None, None, None]
    scale = 0.25 * (1 + np.arange(4)) if is_signal else 1 / slope
    wanted = (ARRAY * slope + 5) / (slope * scale)
    (image,) = images_of(tmp_path).values()
    np.testing.assert_allclose(image.array[0], wanted, rtol=1e-6)


def test_the_scale_of_philips_in_the_groups_of_a_frame_is_found(tmp_path):
    ds = files.enhanced(ARRAY, AFFINE, 40.0)
    for group in ds.PerFrameFunctionalGroupsSequence:
        inner = Dataset()
        philips(inner, 0.5)
        group.add_new(0x20050014, "LO", "Philips MR Imaging DD 005")
        group.add_new(0x2005140F, "SQ", [inner])
    files.save([ds], tmp_path)
    assert_is(image_of(tmp_path), 2 * ARRAY)


def test_a_modality_lut_takes_the_place_of_the_slope(tmp_path):
    datasets = files.single_frames(ARRAY // 64, AFFINE, by_trigger, RescaleSlope=3)
    table = np.random.default_rng(8).integers(0, 60000, 64, dtype=np.uint16)
    for ds in datasets:
        lut = files.attributes({"LUTDescriptor": [64, 0, 16], "ModalityLUTType": "US"})
        lut.add_new(0x00283006, "OW", table.tobytes())
        ds.ModalityLUTSequence = [lut]
    files.save(datasets, tmp_path)
    assert_is(image_of(tmp_path), table[ARRAY // 64])


# Series and stacks -------------------------------------------------------------------------------------------------


def a_series_a_time(seconds: float = 3.0, **times: bool):
    def place(ds: Dataset, t: int, z: int) -> None:
        ds.SeriesInstanceUID = generate_uid(entropy_srcs=["time", str(t)])
        ds.SeriesNumber, ds.SeriesDescription = (31, 12, 40, 5)[t], f"dyn {t}"
        ds.InstanceNumber, ds.SeriesDate = z + 1, "20240305"
        ds.SeriesTime = f"1015{round(seconds * t):02d}"
        if times.get("acquired", True):
            ds.AcquisitionDate, ds.AcquisitionTime = "20240305", f"1015{seconds * t + 0.1 * z:06.3f}"

    return place


def test_series_of_one_time_point_each_are_one_study(tmp_path, capfd):
    files.save(files.single_frames(ARRAY, AFFINE, a_series_a_time()), tmp_path)
    image = image_of(tmp_path)
    assert_is(image)
    assert image.frame_duration_s == 3.0
    assert "one a time point, 4 frames" in capfd.readouterr().err


@pytest.mark.parametrize("seconds", [1.0, 3.0])
def test_the_time_of_series_orders_them_where_images_have_none(seconds, tmp_path):
    files.save(files.single_frames(ARRAY, AFFINE, a_series_a_time(seconds, acquired=False)), tmp_path)
    assert_is(image_of(tmp_path))


def test_repeated_scans_and_other_settings_are_no_time_points(tmp_path):
    files.save(files.single_frames(ARRAY[:2], AFFINE, a_series_a_time()), tmp_path / "twice")
    assert [image.frames for image in images_of(tmp_path / "twice").values()] == [1, 1]
    angles = files.single_frames(ARRAY, AFFINE, a_series_a_time())
    for ds in angles:
        ds.FlipAngle = int(ds.SeriesNumber)
    files.save(angles, tmp_path / "angles")
    assert [image.frames for image in images_of(tmp_path / "angles").values()] == [1] * 4


def test_stacks_of_several_orientations_in_a_series_are_studies_each(tmp_path):
    turned = AFFINE.copy()
    turned[:3, :3] = AFFINE[:3, [2, 0, 1]] / np.linalg.norm(AFFINE[:3, [2, 0, 1]], axis=0) * (1.75, 1.25, 8.0)
    single = files.single_frames(ARRAY[..., :1] + 7, turned, by_trigger)
    for ds in single:
        ds.InstanceNumber += 100
        ds.SpacingBetweenSlices = 8
    files.save([*files.single_frames(ARRAY, AFFINE, by_trigger), *single], tmp_path)
    images = images_of(tmp_path)
    assert [name.partition("-magnitude-")[2] for name in images] == ["stack-1-of-2", "stack-2-of-2"]
    first, second = images.values()
    assert_is(first)
    assert_is(second, ARRAY[..., :1] + 7, turned)


def test_a_whole_stack_acquired_twice_is_two_studies(tmp_path):
    again = files.single_frames(ARRAY + 1, AFFINE, series_a_slice)
    for ds in again:
        ds.SeriesNumber += 50
        ds.SeriesInstanceUID = generate_uid(entropy_srcs=[ds.SeriesInstanceUID])
    files.save([*files.single_frames(ARRAY, AFFINE, series_a_slice), *again], tmp_path)
    arrays = [image.array[0] for image in images_of(tmp_path).values()]
    assert sorted(int((array - ARRAY).max()) for array in arrays) == [0, 1]
    assert [array.shape for array in arrays] == [ARRAY.shape] * 2


# Times and b-values ------------------------------------------------------------------------------------------------

EPI = {"ScanningSequence": ["EP", "GR"], "MRAcquisitionType": "2D"}


@pytest.mark.parametrize(
    ("more", "duration_us", "wanted"),
    [
        pytest.param({**EPI, "RepetitionTime": "2500"}, None, 2.5, id="repetition time"),
        pytest.param(
            {**EPI, "RepetitionTime": "2500", "NumberOfTemporalPositions": 10}, 25000016.0, 2.5, id="and GE's"
        ),
        pytest.param(
            {**EPI, "RepetitionTime": "500", "NumberOfTemporalPositions": 10}, 20000000.0, 2.0, id="four shots"
        ),
        pytest.param({**EPI, "MRAcquisitionType": "3D"}, None, None, id="3D"),
        pytest.param({"HeartRate": 60, "CardiacNumberOfImages": 4}, None, 0.25, id="heart rate"),
    ],
)
def test_the_duration_of_a_frame_is_computed_where_the_header_allows_it(more, duration_us, wanted, tmp_path):
    def place(ds: Dataset, t: int, z: int) -> None:
        by_instance(ds, t, z)
        if duration_us:
            ds.private_block(0x0019, "GEMS_ACQU_01", create=True).add_new(0x5A, "FL", duration_us)

    files.save(files.single_frames(ARRAY, AFFINE, place, **more), tmp_path)
    assert image_of(tmp_path).frame_duration_s == wanted


def test_b_values_of_siemens_are_no_time(tmp_path):
    def place(ds: Dataset, t: int, z: int) -> None:
        by_instance(ds, t, z)
        ds.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0C, "IS", 500 * t)

    files.save(files.single_frames(ARRAY, AFFINE, place), tmp_path)
    assert "b-value" in files.refusal(tmp_path)
