"""DICOM segmentations: read back by independent programs, and their description of the study, the classes and the algorithm."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("highdicom", reason="needs the extra dicom")

from pydicom import config, dcmread
from pydicom.uid import generate_uid

from tests.datasets.convert import dicom_files as files
from tests.report.dicom.sources import (
    GEOMETRIES,
    LABELS,
    SOURCES,
    classic,
    dciodvfy_errors,
    dcmqi_label,
    highdicom_label,
    result_of,
)
from unet4d.errors import InputError
from unet4d.metrics.regions import Region
from unet4d.report.dicom.result import Algorithm, check_source
from unet4d.report.dicom.segmentation import make_segmentation
from unet4d.report.dicom.write import write_dicom

NOON = datetime(2025, 1, 2, 12)


def check_read_back(tmp_path: Path, source: str, geometry: str, by_dcmqi: bool) -> None:
    result = result_of(tmp_path / "in", SOURCES[source](GEOMETRIES[geometry]))
    frames = range(len(result.label))
    whole, *single = write_dicom(tmp_path / "out", "case", result, ["dicom-seg", "dicom-seg-frames"])
    assert [dciodvfy_errors(file) for file in (whole, *single)] == [[]] * (1 + len(single))
    np.testing.assert_array_equal(highdicom_label(whole, result, frames), result.label)
    for t, file in zip(frames, single, strict=True):
        np.testing.assert_array_equal(highdicom_label(file, result, [t])[0], result.label[t])
        if by_dcmqi:
            read = dcmqi_label(file, tmp_path / f"read{t}", result, result.source.affine)
            np.testing.assert_array_equal(read, result.label[t])


@pytest.mark.parametrize(("source", "geometry"), [("series_a_slice", "oblique"), ("enhanced", "mirrored")])
def test_highdicom_reads_every_voxel_and_dciodvfy_finds_no_error(tmp_path, source, geometry):
    check_read_back(tmp_path, source, geometry, by_dcmqi=False)


@pytest.mark.slow
@pytest.mark.parametrize(("source", "geometry"), list(itertools.product(SOURCES, GEOMETRIES)))
def test_three_programs_read_every_geometry_of_every_source(tmp_path, source, geometry):
    check_read_back(tmp_path, source, geometry, by_dcmqi=True)


def test_regions_are_segments_that_overlap(tmp_path):
    """The union of values 1, 3 and 4 holds that of 3 and 4; each segment is read back as the mask of its region."""
    import highdicom

    regions = {"heart": Region((1, 3, 4), 1), "left heart": Region((3, 4), 3)}
    result = result_of(tmp_path / "in", classic(files.AFFINE), labels=regions)
    [file] = write_dicom(tmp_path / "out", "case", result)
    assert dcmread(file).SegmentsOverlap == "YES"
    instances = [plane.instance for plane in result.planes()]
    found = highdicom.seg.segread(file).get_pixels_by_source_instance(instances, assert_missing_frames_are_empty=True)
    for number, region in enumerate(regions.values()):
        mask = np.isin(result.label, region.values).transpose(0, 3, 2, 1).reshape(found.shape[:-1])
        np.testing.assert_array_equal(found[..., number], mask)
    assert result.volumes_ml["heart"].min() > result.volumes_ml["left heart"].max() / 2
    assert dciodvfy_errors(file) == []


def test_the_frames_of_a_cine_are_told_apart_by_their_temporal_position(tmp_path):
    result = result_of(tmp_path, classic(files.AFFINE))
    made = make_segmentation(result)
    pointers = [item.DimensionIndexPointer for item in made.DimensionIndexSequence]
    assert [hex(pointer) for pointer in pointers] == ["0x62000b", "0x209128", "0x200032"]
    seen = set()
    for group in made.PerFrameFunctionalGroupsSequence:
        [content], [segment] = group.FrameContentSequence, group.SegmentIdentificationSequence
        number, time, position = content.DimensionIndexValues
        assert (number, time) == (segment.ReferencedSegmentNumber, content.TemporalPositionIndex)
        [source] = group.DerivationImageSequence[0].SourceImageSequence
        assert source.ReferencedSOPInstanceUID == result.source.planes[time - 1][position - 1].instance
        seen.add((number, time, position))
    assert len(seen) == made.NumberOfFrames
    assert {time for _, time, _ in seen} == {1, 2, 3, 4}


def test_the_study_keeps_its_identity_and_nothing_is_invented(tmp_path):
    made = make_segmentation(result_of(tmp_path, classic(files.AFFINE)))
    read = dcmread(next(path for path in tmp_path.iterdir()))
    kept = ("PatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID")
    assert [made[word].value for word in kept] == [read[word].value for word in kept]
    assert made.FrameOfReferenceUID == read.FrameOfReferenceUID
    for keyword in ("PatientSex", "AccessionNumber", "ReferringPhysicianName", "ContentCreatorName"):
        assert not made[keyword].value
    assert made.SeriesInstanceUID != read.SeriesInstanceUID
    assert (made.Modality, made.SeriesNumber) == ("SEG", 100 * read.SeriesNumber + 1)
    assert {item.SeriesInstanceUID for item in made.ReferencedSeriesSequence} == {read.SeriesInstanceUID}


def test_segments_have_codes_colors_and_an_algorithm(tmp_path):
    made = make_segmentation(result_of(tmp_path, classic(files.AFFINE)))
    types = [item.SegmentedPropertyTypeCodeSequence[0] for item in made.SegmentSequence]
    assert [item.SegmentLabel for item in made.SegmentSequence] == [name for name in LABELS if LABELS[name]]
    assert [code.CodeMeaning for code in types[:3]] == [
        "Right ventricle",
        "Left Ventricle Myocardium",
        "Left ventricle",
    ]
    assert [code.CodingSchemeDesignator for code in types] == ["SCT", "SCT", "SCT", "99UNET4D"]
    assert types[3].CodeMeaning == "scar"
    assert len({tuple(item.RecommendedDisplayCIELabValue) for item in made.SegmentSequence}) == 4
    [algorithm] = made.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (made.Manufacturer, made.SoftwareVersions)
    assert "1f2e" in algorithm.AlgorithmParameters


def test_same_images_and_model_give_the_same_bytes_and_another_model_other_uids(tmp_path):
    made, uids, wholes = classic(files.AFFINE), [], []
    first, again = (replace(result_of(tmp_path / f"in{at}", made), made_at=NOON) for at in range(2))
    for at, result in enumerate((first, again, replace(first, algorithm=Algorithm({"models": ["other"]})))):
        written = write_dicom(tmp_path / f"out{at}", "case", result, ["dicom-seg", "dicom-seg-frames"])
        wholes.append(written[0].read_bytes())
        read = [dcmread(file) for file in written]
        uids.append([(one.SeriesInstanceUID, one.SOPInstanceUID) for one in read])
        assert len({uid for _, uid in uids[-1]}) == 5
        assert len({series for series, _ in uids[-1]}) == 2
    assert uids[0] == uids[1]
    assert wholes[0] == wholes[1]
    assert not {uid for pair in uids[0] for uid in pair} & {uid for pair in uids[2] for uid in pair}


def test_an_empty_label_map_is_a_valid_object_with_an_empty_frame_per_class(tmp_path):
    result = result_of(tmp_path / "in", classic(files.AFFINE), np.zeros((4, 11, 9, 4), np.uint8))
    written = write_dicom(tmp_path / "out", "case", result, ["dicom-seg", "dicom-seg-frames"])
    for file in written:
        assert dcmread(file).NumberOfFrames == 4  # one of each segment
        assert dciodvfy_errors(file) == []
    assert not highdicom_label(written[0], result, range(4)).any()


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_control_characters_and_impossible_values_of_a_header_stay_out(tmp_path, monkeypatch):
    monkeypatch.setattr(config.settings, "writing_validation_mode", config.IGNORE)
    made = classic(
        files.AFFINE,
        PatientID="12\x1b[31m3",
        StudyDescription="heart\r\nrest",
        StudyID="a\x00b",
        AdditionalPatientHistory="two\nlines",
    )
    for one in made:
        one.PatientName = "M\u00fcller^\u592a\u90ce\x07"
        one.SpecificCharacterSet = "ISO_IR 192"
        one.PatientAge, one.StudyDate, one.PatientSex = "42", "2024-03-05", "female"
    result = result_of(tmp_path / "in", made)
    [file] = write_dicom(tmp_path / "out", "case", replace(result, labels={"background": 0, "left\x1b\\atrium\n": 1}))
    read = dcmread(file)
    assert (read.PatientID, read.StudyDescription, read.StudyID) == ("12 [31m3", "heart rest", "a b")
    assert str(read.PatientName) == "M\u00fcller^\u592a\u90ce"
    assert read.AdditionalPatientHistory == "two\nlines"
    assert ("PatientAge" in read, read.StudyDate, read.PatientSex) == (False, "", "")
    assert read.SegmentSequence[0].SegmentLabel == "left /atrium"
    assert dciodvfy_errors(file) == []


FAULTS = {
    "no SOPInstanceUID": lambda made: (
        delattr(made[3], "SOPInstanceUID"),
        setattr(made[3].file_meta, "MediaStorageSOPInstanceUID", generate_uid()),
    ),
    "one SOPInstanceUID": lambda made: setattr(made[3], "SOPInstanceUID", made[5].SOPInstanceUID),
    "2 values of StudyInstanceUID": lambda made: setattr(made[3], "StudyInstanceUID", generate_uid()),
    "no FrameOfReferenceUID": lambda made: [delattr(one, "FrameOfReferenceUID") for one in made],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_source_that_objects_cannot_refer_to_is_refused(tmp_path, fault):
    made = classic(files.AFFINE)
    FAULTS[fault](made)
    with pytest.raises(InputError, match=fault):
        result_of(tmp_path, made)


def test_a_label_map_of_another_study_and_a_missing_highdicom_are_refused(tmp_path, monkeypatch):
    result = result_of(tmp_path, classic(files.AFFINE))
    with pytest.raises(InputError, match="label map"):
        replace(result, label=result.label[:, ::2])
    with pytest.raises(InputError, match="no class"):
        make_segmentation(replace(result, labels={"background": 0}))
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(InputError, match=r"highdicom; pip install"):
        check_source(result.source)
