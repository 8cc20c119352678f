"""DICOM series that cannot be a 4D study: each is refused by what is wrong with it."""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="needs the extra dicom")

from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.uid import DeflatedExplicitVRLittleEndian, generate_uid

from tests.datasets.convert import dicom_files as files
from tests.datasets.convert.dicom_files import (
    AFFINE,
    ARRAY,
    assert_is,
    by_instance,
    by_trigger,
    image_of,
    refusal,
    refusals,
)
from unet4d.datasets.convert.layout_options import LayoutOptions
from unet4d.datasets.convert.layouts import open_layout

Spoil = Callable[[list[Dataset]], object]


def drop(t: int, z: int) -> Spoil:
    return lambda datasets: datasets.pop(t * 4 + z)


def change(t: int, z: int, **values) -> Spoil:
    def spoil(datasets: list[Dataset]) -> None:
        for keyword, value in values.items():
            setattr(datasets[t * 4 + z], keyword, value)

    return spoil


def turn(datasets: list[Dataset]) -> None:
    datasets[5].ImageOrientationPatient = [1, 0, 0, 0, 1, 0]


def crop(datasets: list[Dataset]) -> None:
    files.set_pixels(datasets[5], ARRAY[0, :, :9, 0])


def drop_slice(datasets: list[Dataset]) -> None:
    del datasets[1::4]


def double(datasets: list[Dataset]) -> None:
    copy = datasets[6].copy()
    copy.SOPInstanceUID, copy.InstanceNumber = generate_uid(), 99
    datasets.append(copy)


def shift(z: int, along_mm: float, aside_mm: float) -> Spoil:
    def spoil(datasets: list[Dataset]) -> None:
        for ds in datasets[z::4]:
            axes = np.array(ds.ImageOrientationPatient, dtype=float)
            moved = np.cross(axes[:3], axes[3:]) * along_mm + axes[:3] * aside_mm
            ds.ImagePositionPatient = [round(float(x), 6) for x in ds.ImagePositionPatient + moved]

    return spoil


@pytest.mark.parametrize(
    ("spoil", "wanted"),
    [
        pytest.param(drop(2, 1), ("gap: slice 1 has 3 frames, most have 4; missing is frame 2",), id="gap"),
        pytest.param(drop(0, 3), ("gap: slice 3 has 3 frames, most have 4; missing is frame 0",), id="gap at an end"),
        pytest.param(double, ("duplicate: slice 2 has the trigger time 39 twice, in ",), id="duplicate"),
        pytest.param(
            turn, ("mixed orientation (ImageOrientationPatient)", "1, 0, 0, 0, 1, 0 in 1 (first "), id="orientation"
        ),
        pytest.param(
            change(1, 1, PixelSpacing=[1.25, 1.5]), ("mixed pixel spacing: 1.75, 1.25 mm in 15 planes",), id="spacing"
        ),
        pytest.param(crop, ("mixed matrix (columns x rows): 12 x 10 in 15 planes, 12 x 9 in 1 (first ",), id="matrix"),
        pytest.param(drop_slice, ("uneven slice spacing: slices lie at 0, 16, 24 mm",), id="missing slice"),
        pytest.param(shift(2, 0.5, 0), ("uneven slice spacing: slices lie at 0, 8, 16.5, 24 mm",), id="uneven"),
        pytest.param(shift(2, 0, 0.5), ("slices are shifted in their plane by up to 0.5 mm",), id="shifted"),
        pytest.param(change(1, 2, PixelSpacing=[0, 1]), ("its PixelSpacing is (0.0, 1.0)",), id="no size"),
        pytest.param(
            change(1, 2, ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), ("is not two unit vectors",), id="no plane"
        ),
        pytest.param(change(1, 2, PixelSpacing=None), ("it has no PixelSpacing",), id="no spacing"),
        pytest.param(change(1, 2, Rows=None), ("its Rows is ()",), id="no rows"),
        pytest.param(
            change(1, 2, PhotometricInterpretation="RGB", SamplesPerPixel=3),
            ("its PhotometricInterpretation is RGB, expected MONOCHROME2",),
            id="colour",
        ),
    ],
)
def test_a_fault_is_refused_by_its_name(spoil, wanted, tmp_path):
    datasets = files.single_frames(ARRAY, AFFINE, by_trigger)
    spoil(datasets)
    files.save(datasets, tmp_path)
    said = refusal(tmp_path)
    assert said.startswith(f"{tmp_path}: series 7 (cine sax): ")
    assert [text for text in wanted if text not in said] == []


def test_all_that_is_wrong_is_listed_at_once(tmp_path):
    datasets = files.single_frames(ARRAY, AFFINE, by_trigger)
    shift(3, 1.0, 0.75)(datasets)
    double(datasets)
    drop(2, 1)(datasets)
    files.save(datasets, tmp_path)
    said = refusal(tmp_path)
    assert [said.count(fault) for fault in ("gap: ", "duplicate: ", "too many frames: ", "uneven", "shifted")] == [
        1
    ] * 5


def test_the_missing_slice_is_named_by_its_place(tmp_path):
    array = np.concatenate([ARRAY, ARRAY[..., :2]], axis=-1)
    datasets = files.single_frames(array, AFFINE, by_instance)
    files.save([ds for i, ds in enumerate(datasets) if i % 6 != 3], tmp_path)
    assert "missing are slices at 24 mm" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("keep", "wanted"),
    [
        pytest.param(-50, "its pixel data is cut off or damaged", id="in the pixels"),
        pytest.param(900, "it has no pixel data; it was cut off", id="in the header"),
        pytest.param(500, "it has no pixel data; it was cut off", id="before the series is known"),
        pytest.param(140, "no class of object; it was cut off", id="at the start"),
    ],
)
def test_a_file_that_was_cut_off_is_named(keep, wanted, tmp_path):
    saved = files.save(files.single_frames(ARRAY, AFFINE, by_trigger), tmp_path)
    saved[5].write_bytes(saved[5].read_bytes()[:keep])
    said = refusal(tmp_path)
    assert wanted in said
    assert str(saved[5]) in said


def test_a_file_that_cannot_be_opened_refuses_the_stack_it_may_belong_to(tmp_path):
    """Links to nothing, as data kept outside a repository leaves them: an edge slice of them would show nowhere."""
    for file in files.save(files.single_frames(ARRAY, AFFINE, by_trigger), tmp_path)[3::4]:
        file.unlink()
        file.symlink_to(tmp_path / "gone")
    said = refusal(tmp_path)
    assert f"4 images in {tmp_path} (first " in said
    assert said.count("it cannot be opened (No such file or directory)") == 1


def test_a_folder_that_cannot_be_listed_is_reported(tmp_path, monkeypatch, capfd):
    saved = files.save(files.single_frames(ARRAY, AFFINE, by_trigger), tmp_path / "open")
    (tmp_path / "closed").mkdir()
    listed = os.scandir

    def scandir(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert_is(image_of(saved[0].parent.parent))
    assert f"ignored: {tmp_path / 'closed'}: it cannot be opened" in capfd.readouterr().err


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.9])
def test_a_deflated_file_that_was_cut_off_is_named(cut, tmp_path):
    datasets = files.single_frames(ARRAY, AFFINE, by_trigger)
    for ds in datasets:
        ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    saved = files.save(datasets, tmp_path)
    whole = saved[5].read_bytes()
    saved[5].write_bytes(whole[: int(len(whole) * cut)])
    assert str(saved[5]) in refusal(tmp_path)


def test_a_deflated_file_that_inflates_to_more_than_memory_holds_is_named(tmp_path, monkeypatch):
    datasets = files.single_frames(ARRAY, AFFINE, by_trigger)
    datasets[5].file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    saved = files.save(datasets, tmp_path)
    assert_is(image_of(tmp_path))
    monkeypatch.setattr("unet4d.images.dicom.file_search.free_memory_bytes", lambda: 4 * 500)
    said = refusal(tmp_path)
    assert "more than memory holds" in said
    assert str(saved[5]) in said


@pytest.mark.parametrize(
    ("module", "name"), [("unet4d.images.dicom.file_search", "read_planes"), ("pydicom.pixels", "iter_pixels")]
)
@pytest.mark.parametrize("error", [struct.error, zlib.error, BytesLengthException, RecursionError])
def test_whatever_a_damaged_file_raises_is_a_refusal(module, name, error, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise error("unpack requires a buffer of 4 bytes")

    saved = files.save(files.single_frames(ARRAY, AFFINE, by_trigger), tmp_path)
    monkeypatch.setattr(f"{module}.{name}", fail)
    said = refusal(tmp_path)
    assert "unpack requires a buffer of 4 bytes" in said
    assert any(file.name in said for file in saved)


def test_an_absurd_size_is_refused_by_name_and_takes_no_memory(tmp_path):
    datasets = files.single_frames(ARRAY, AFFINE, by_trigger)
    for ds in datasets:
        ds.Rows = ds.Columns = 65535
    files.save(datasets, tmp_path)
    assert "its pixel data is cut off or damaged" in refusal(tmp_path)


def test_more_than_memory_holds_is_refused_by_its_size(tmp_path, monkeypatch):
    files.save(files.single_frames(ARRAY, AFFINE, by_trigger), tmp_path)
    for name in ("free_memory_bytes", "total_memory_bytes"):
        monkeypatch.setattr(f"unet4d.system.memory.{name}", lambda: 12 * ARRAY.size - 1)
    assert "of main memory" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        pytest.param(
            {"DiffusionBValue": (None, 400.0, 800.0, 800.0)},
            "the b-value (DiffusionBValue) varies at one place (0, 400, 800 s/mm2)",
            id="diffusion",
        ),
        pytest.param(
            {"InversionTime": ("100", "180", "1100", "1180")},
            "the inversion time (InversionTime) varies at one place (100, 180, 1100, 1180 ms)",
            id="inversion",
        ),
    ],
)
def test_what_varies_beside_time_is_named(values, wanted, tmp_path):
    def place(ds: Dataset, t: int, z: int) -> None:
        by_instance(ds, t, z)
        ds.update(files.attributes({name: each[t] for name, each in values.items() if each[t] is not None}))

    files.save(files.single_frames(ARRAY, AFFINE, place), tmp_path)
    assert wanted in refusal(tmp_path)


@pytest.mark.parametrize(
    ("sequence", "keyword", "values", "wanted"),
    [
        ("MRDiffusionSequence", "DiffusionBValue", (0.0, 400.0, 800.0, 1200.0), "0, 400, 800, 1200 s/mm2"),
        ("MRModifierSequence", "InversionTimes", (100.0, 180.0, 1100.0, 1180.0), "100, 180, 1100, 1180 ms"),
    ],
)
def test_what_varies_beside_time_is_named_of_an_enhanced_file(sequence, keyword, values, wanted, tmp_path):
    ds = files.enhanced(ARRAY, AFFINE, 40.0)
    for group in ds.PerFrameFunctionalGroupsSequence:
        t = group.FrameContentSequence[0].DimensionIndexValues[2] - 1
        setattr(group, sequence, [files.attributes({keyword: values[t]})])
    files.save([ds], tmp_path)
    assert f"varies at one place ({wanted})" in refusal(tmp_path)


def test_what_varies_from_slice_to_slice_is_no_fault(tmp_path):
    def place(ds: Dataset, t: int, z: int) -> None:
        by_trigger(ds, t, z)
        ds.InversionTime, ds.EchoTime, ds.DiffusionBValue = 100 * z, 1.5 + z, 10.0 * z

    files.save(files.single_frames(ARRAY, AFFINE, place), tmp_path)
    assert_is(image_of(tmp_path))


def test_a_slice_of_two_frames_among_slices_of_one_is_named(tmp_path):
    datasets = files.single_frames(ARRAY, AFFINE, by_trigger)
    files.save(datasets[:5], tmp_path)
    assert "too many frames: slice 0 has 2 frames, most have 1" in refusal(tmp_path)


@pytest.mark.parametrize("error", [ZeroDivisionError, ValueError, TypeError, np.linalg.LinAlgError])
def test_whatever_damaged_numbers_lead_to_is_a_refusal(error, tmp_path, monkeypatch):
    files.save(files.single_frames(ARRAY, AFFINE, by_trigger), tmp_path)
    monkeypatch.setattr("unet4d.datasets.convert.dicom.stack_planes", Mock(side_effect=error("odd\nnumbers")))
    assert "its header is damaged (odd numbers)" in refusal(tmp_path)


def test_images_without_pixel_data_are_refused(tmp_path):
    datasets = files.single_frames(ARRAY, AFFINE, by_trigger)
    for ds in datasets:
        del ds.PixelData
    files.save(datasets, tmp_path)
    assert re.search(r"16 images in .* it has no pixel data", refusal(tmp_path))


MOSAIC = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]


def in_private_elements(dataset: Dataset) -> None:
    """As the XA line of scanners has it: the standard elements say nothing."""
    dataset.private_block(0x0021, "SIEMENS MR SDI 02", create=True).add_new(0x75, "CS", ["M", "ND", "MOSAIC"])


def with_the_number_of_tiles(dataset: Dataset) -> None:
    dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", 24)


@pytest.mark.parametrize("say", [in_private_elements, with_the_number_of_tiles])
def test_a_mosaic_that_only_private_elements_name_is_refused(say, tmp_path):
    datasets = files.single_frames(ARRAY[..., :1], AFFINE, by_trigger)
    for ds in datasets:
        say(ds)
    files.save(datasets, tmp_path)
    assert "Siemens MOSAIC" in refusal(tmp_path)


def test_other_private_elements_of_the_same_number_name_no_mosaic(tmp_path):
    datasets = files.single_frames(ARRAY, AFFINE, by_trigger)
    for ds in datasets:
        ds.private_block(0x0019, "GEMS_ACQU_01", create=True).add_new(0x0A, "US", 24)
        ds.private_block(0x0021, "SIEMENS MR SDI 02", create=True).add_new(0x75, "CS", ["M", "ND"])
    files.save(datasets, tmp_path)
    assert_is(image_of(tmp_path))


def test_a_mosaic_that_only_private_elements_of_a_frame_name_is_refused(tmp_path):
    ds = files.enhanced(ARRAY, AFFINE, 40.0)
    for group in ds.PerFrameFunctionalGroupsSequence:
        inner = Dataset()
        in_private_elements(inner)
        group.private_block(0x0021, "SIEMENS MR SDI 02", create=True).add_new(0xFE, "SQ", [inner])
    files.save([ds], tmp_path)
    assert "Siemens MOSAIC" in refusal(tmp_path)


@pytest.mark.parametrize(
    "kinds", [MOSAIC, ["ORIGINAL", "PRIMARY", "FMRI", "NONE", "MOSAIC", "NORM"], ["DERIVED", "MOSAIC"]]
)
def test_a_mosaic_is_refused_by_name_and_other_series_are_read(kinds, tmp_path):
    """All slices of a frame are tiles of one image; each file would be one slice."""
    files.save(files.single_frames(ARRAY[..., :1], AFFINE, by_trigger, ImageType=kinds), tmp_path)
    said = refusal(tmp_path)
    assert "Siemens MOSAIC" in said
    assert "dcm2niix" in said
    assert said.count("MOSAIC") == 1
    other = files.single_frames(ARRAY, AFFINE, by_trigger, SeriesInstanceUID=generate_uid())
    files.save(other, tmp_path / "other")
    source = open_layout("dicom", tmp_path, LayoutOptions())
    assert len(refusals(source)) == 1
    assert len(source.studies) == 2


@pytest.mark.parametrize("shared", [False, True])
def test_a_mosaic_of_an_enhanced_file_is_refused_by_name(shared, tmp_path):
    ds = files.enhanced(ARRAY, AFFINE, 40.0)
    groups = ds.SharedFunctionalGroupsSequence if shared else ds.PerFrameFunctionalGroupsSequence
    for group in groups:
        group.MRImageFrameTypeSequence = [files.attributes({"FrameType": MOSAIC})]
    files.save([ds], tmp_path)
    assert "Siemens MOSAIC" in refusal(tmp_path)


def test_frames_that_nothing_orders_are_refused(tmp_path):
    def place(ds: Dataset, t: int, z: int) -> None:
        del ds.InstanceNumber

    files.save(files.single_frames(ARRAY, AFFINE, place), tmp_path)
    assert "no time orders the frames of a slice" in refusal(tmp_path)


@pytest.mark.parametrize("uid", [None, "1.2.3"])
def test_two_patients_whose_series_share_a_uid_or_have_none_are_never_one_study(uid, tmp_path):
    first = files.single_frames(ARRAY, AFFINE, by_trigger, PatientID="a", StudyInstanceUID="1.2.1")
    second = files.single_frames(ARRAY, AFFINE, by_trigger, PatientID="b", StudyInstanceUID="1.2.2")
    for ds in second:
        ds.TriggerTime = float(ds.TriggerTime) + 20  # between the frames of the other
    for ds in (*first, *second):
        ds.SeriesInstanceUID = uid
    files.save([*first, *second], tmp_path)
    if uid:
        assert "images of 2 patients have one SeriesInstanceUID" in refusal(tmp_path)
    else:
        studies = open_layout("dicom", tmp_path, LayoutOptions()).studies
        assert [study.image().frames for study in studies] == [4, 4]
