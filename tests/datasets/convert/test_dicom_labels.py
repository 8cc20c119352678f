"""Labels of DICOM studies: what was drawn in a viewer becomes the label of exactly the frames and slices that it refers to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="needs the extra dicom")

from pydicom.dataset import Dataset  # noqa: E402
from pydicom.uid import generate_uid  # noqa: E402

from tests.datasets.convert import dicom_files as files  # noqa: E402
from tests.datasets.convert.dicom_drawings import segmentation, structure_set  # noqa: E402
from tests.datasets.convert.dicom_files import AFFINE, ARRAY, by_trigger  # noqa: E402
from unet4d.datasets.convert.convert import convert  # noqa: E402
from unet4d.datasets.convert.layout_options import LayoutOptions  # noqa: E402
from unet4d.datasets.convert.layouts import open_layout  # noqa: E402
from unet4d.errors import InputError  # noqa: E402
from unet4d.images.image4d import read_image, read_label  # noqa: E402

FRAMES, X, Y, SLICES = ARRAY.shape
TRUTH = np.zeros(ARRAY.shape, dtype=np.uint8)  # frames 1 and 3, slices 1 and 2
TRUTH[1, 2:7, 3:6, 1:3], TRUTH[1, 8:11, 1:4, 2] = 1, 2
TRUTH[3, 4:6, 2:9, 1] = 1


def images(**more: object) -> list[Dataset]:
    return files.single_frames(ARRAY, AFFINE, by_trigger, **more)


def masks(of: list[Dataset], truth: np.ndarray = TRUTH, values: tuple[int, ...] = (1, 2)) -> list[tuple]:
    """The parts of a drawing that shows a label map: each class on each slice of the drawn frames where it is."""
    return [
        (number, truth[t, :, :, z] == value, of[t * SLICES + z], None)
        for number, value in enumerate(values, 1)
        for t in range(FRAMES)
        for z in range(SLICES)
        if (truth[t, :, :, z] == value).any()
    ]


def box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def label_of(root: Path, **options) -> tuple[np.ndarray, tuple[int, ...] | None, dict[str, int]]:
    source = open_layout("dicom", root, LayoutOptions(**options))
    (study,) = source.studies
    label, frames = study.label(study.image())
    return label, frames, dict(source.labels)


def fault_of(root: Path, **options) -> str:
    with pytest.raises(InputError) as caught:
        label_of(root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_segmentation_is_the_label_of_the_frames_that_it_refers_to(tmp_path):
    of = images()
    drawn = segmentation(["left ventricle", "RV"], masks(of))
    files.save([*of, drawn], tmp_path)
    label, frames, classes = label_of(tmp_path)
    np.testing.assert_array_equal(label, TRUTH)
    assert (frames, classes) == ((1, 3), {"background": 0, "left ventricle": 1, "RV": 2})


def test_an_odd_number_of_pixels_is_unpacked(tmp_path):
    array = ARRAY[:, :11, :9]
    of = files.single_frames(array, AFFINE, by_trigger)
    truth = TRUTH[:, :11, :9]
    files.save([*of, segmentation(["a", "b"], masks(of, truth))], tmp_path)
    np.testing.assert_array_equal(label_of(tmp_path)[0], truth)


def test_an_empty_frame_of_a_segmentation_counts_as_drawn(tmp_path):
    of = images()
    parts = [*masks(of), (1, np.zeros((X, Y), dtype=bool), of[2 * SLICES], None)]
    files.save([*of, segmentation(["a", "b"], parts)], tmp_path)
    assert label_of(tmp_path)[1] == (1, 2, 3)


@pytest.mark.parametrize("shape", ["cropped", "mirrored"])
def test_a_segmentation_on_a_part_of_the_grid_or_mirrored_lies_where_it_says(shape, tmp_path):
    of = images()
    drawn = segmentation(["a", "b"], masks(of))
    cut = np.s_[2:11, 1:9] if shape == "cropped" else np.s_[::-1, :]
    first = (2, 1) if shape == "cropped" else (X - 1, 0)
    parts = [(number, mask[cut], image, frame) for number, mask, image, frame in masks(of)]
    drawn = segmentation(["a", "b"], parts)
    for group in drawn.PerFrameFunctionalGroupsSequence:
        axes = np.array(group.PlaneOrientationSequence[0].ImageOrientationPatient, float)
        row_mm, column_mm = map(float, group.PixelMeasuresSequence[0].PixelSpacing)
        position = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        position = position + first[0] * column_mm * axes[:3] + first[1] * row_mm * axes[3:]
        group.PlanePositionSequence[0].ImagePositionPatient = [f"{value:.6f}" for value in position]
        if shape == "mirrored":
            group.PlaneOrientationSequence[0].ImageOrientationPatient = [f"{x:.9f}" for x in (*-axes[:3], *axes[3:])]
    files.save([*of, drawn], tmp_path)
    np.testing.assert_array_equal(label_of(tmp_path)[0], TRUTH)


def test_an_enhanced_file_is_referred_to_by_frame_numbers(tmp_path):
    ds = files.enhanced(ARRAY, AFFINE, 40.0)
    number = {}
    for at, group in enumerate(ds.PerFrameFunctionalGroupsSequence, 1):
        _, z, t = group.FrameContentSequence[0].DimensionIndexValues
        number[t - 1, z - 1] = at
    parts = [
        (value, TRUTH[t, :, :, z] == value, ds, number[t, z])
        for t in (1, 3)
        for z in range(SLICES)
        for value in (1, 2)
        if (TRUTH[t, :, :, z] == value).any()
    ]
    files.save([ds, segmentation(["a", "b"], parts)], tmp_path)
    label, frames, _ = label_of(tmp_path)
    np.testing.assert_array_equal(label, TRUTH)
    assert frames == (1, 3)


@pytest.mark.parametrize("told", ["nothing", "time"])
def test_a_reference_to_a_whole_cine_is_placed_by_time_or_refused(told, tmp_path):
    ds = files.enhanced(ARRAY, AFFINE, 40.0)
    at = {
        tuple(one.FrameContentSequence[0].DimensionIndexValues[2:0:-1]): one
        for one in ds.PerFrameFunctionalGroupsSequence
    }
    places = [(t, z, v) for t in (1, 3) for z in range(SLICES) for v in (1, 2) if (TRUTH[t, :, :, z] == v).any()]
    drawn = segmentation(["a", "b"], [(v, TRUTH[t, :, :, z] == v, ds, None) for t, z, v in places])
    drawn.SharedFunctionalGroupsSequence = ds.SharedFunctionalGroupsSequence
    for group, (t, z, _) in zip(drawn.PerFrameFunctionalGroupsSequence, places, strict=True):
        group.PlanePositionSequence = at[t + 1, z + 1].PlanePositionSequence
        if told == "time":
            group.FrameContentSequence = [files.attributes({"TemporalPositionIndex": t + 1})]
    files.save([ds, drawn], tmp_path)
    if told == "nothing":
        assert "refers to 4 images at its place, expected one" in fault_of(tmp_path)
        return
    label, frames, _ = label_of(tmp_path)
    np.testing.assert_array_equal(label, TRUTH)
    assert frames == (1, 3)


def test_a_label_map_segmentation_holds_all_classes_in_a_frame(tmp_path):
    of = images()
    drawn = segmentation(["a", "b"], masks(of))
    at = [(t, z) for t in (1, 3) for z in range(SLICES)]
    drawn = segmentation(["a", "b"], [(1, TRUTH[t, :, :, z] > 0, of[t * SLICES + z], None) for t, z in at])
    drawn.SOPClassUID = drawn.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.7"
    drawn.SegmentationType, drawn.BitsAllocated, drawn.BitsStored, drawn.HighBit = "LABELMAP", 8, 8, 7
    drawn.PixelData = b"".join(TRUTH[t, :, :, z].T.tobytes() for t, z in at)
    for group in drawn.PerFrameFunctionalGroupsSequence:
        del group.SegmentIdentificationSequence
    files.save([*of, drawn], tmp_path)
    label, frames, classes = label_of(tmp_path)
    np.testing.assert_array_equal(label, TRUTH)
    assert (frames, classes) == ((1, 3), {"background": 0, "a": 1, "b": 2})


def test_contours_fill_the_pixels_whose_centers_they_hold_with_holes(tmp_path):
    of = images()
    outer, inner = box(1.5, 1.5, 8.5, 7.5), box(3.5, 3.5, 5.5, 5.5)
    at = 2 * SLICES + 3  # frame 2, slice 3
    files.save([*of, structure_set(["myocardium"], [(1, outer, of[at], None), (1, inner, of[at], None)])], tmp_path)
    label, frames, classes = label_of(tmp_path)
    wanted = np.zeros_like(label)
    wanted[2, 2:9, 2:8, 3], wanted[2, 4:6, 4:6, 3] = 1, 0
    np.testing.assert_array_equal(label, wanted)
    assert (frames, classes) == ((2,), {"background": 0, "myocardium": 1})


def test_two_drawings_of_a_study_are_merged_and_twice_the_same_is_once(tmp_path):
    of = images()
    one = segmentation(["a"], masks(of, values=(1,)))
    other = segmentation(["b"], [(1, *part[1:]) for part in masks(of) if part[0] == 2], SeriesNumber=100)
    files.save([*of, one, one, other], tmp_path)
    np.testing.assert_array_equal(label_of(tmp_path)[0], TRUTH)


def test_the_users_table_and_labels_name_classes(tmp_path):
    of = images()
    parts = [*masks(of), (3, np.ones((X, Y), dtype=bool), of[0], None)]
    files.save([*of, segmentation(["LV endo", "RV ", "scratch"], parts)], tmp_path)
    table = {"lv endo": "left ventricle", "scratch": ""}
    label, _, classes = label_of(tmp_path, segments=table, labels={"rv": 7, "left ventricle": 3})
    np.testing.assert_array_equal(label, np.array([0, 3, 7], dtype=np.uint8)[TRUTH])
    assert classes == {"background": 0, "left ventricle": 3, "rv": 7}
    assert "got a segment 'scratch', expected one of" in fault_of(tmp_path, labels={"LV endo": 1, "RV": 2})
    for wrong, said in (({"LVendo2": "a"}, "no drawing here has"), ({"scratch": "c"}, "name it in labels")):
        with pytest.raises(InputError, match=said):
            open_layout("dicom", tmp_path, LayoutOptions(segments=wrong, labels={"rv": 1}))


def test_a_code_names_a_class_where_the_label_does_not(tmp_path):
    of = images()
    drawn = segmentation(["Segment_1", "Segment_2"], masks(of))
    for item, meaning in zip(drawn.SegmentSequence, ("Left ventricle", "Right ventricle"), strict=True):
        item.SegmentedPropertyTypeCodeSequence = [files.attributes({"CodeMeaning": meaning})]
    files.save([*of, drawn], tmp_path)
    label = label_of(tmp_path, labels={"left ventricle": 1, "right ventricle": 2})[0]
    np.testing.assert_array_equal(label, TRUTH)


def test_a_dataset_is_written_with_the_drawn_frames(tmp_path):
    of = images()
    other = files.single_frames(ARRAY, AFFINE, by_trigger, PatientID="another", StudyInstanceUID=generate_uid())
    for ds in other:
        ds.SeriesInstanceUID = generate_uid(entropy_srcs=["other"])
    files.save([*of, *other, segmentation(["a", "b"], masks(of))], tmp_path / "scans")
    path = convert("dicom", tmp_path / "scans", tmp_path / "out")
    content = json.loads(path.read_text())
    (entry,) = content["training"]
    assert (entry["labelled_frames"], content["labels"]) == ([1, 3], {"background": 0, "a": 1, "b": 2})
    assert len(content["test"]) == 1
    written = read_label(path.parent / entry["label"], like=read_image(path.parent / entry["image"]))
    np.testing.assert_array_equal(written, TRUTH)


@pytest.mark.parametrize(("source", "kind"), [("series_a_slice", "dicom-seg"), ("enhanced", "dicom-seg-frames")])
def test_a_segmentation_that_predict_wrote_is_read_back(source, kind, tmp_path, capfd):
    pytest.importorskip("highdicom", reason="needs the extra dicom")
    from tests.report.dicom.sources import GEOMETRIES, LABELS, SOURCES, result_of
    from unet4d.report.dicom.write import write_dicom

    result = result_of(tmp_path / "in", SOURCES[source](GEOMETRIES["mirrored"]))
    write_dicom(tmp_path / "out", "case", result, [kind])
    label, frames, _ = label_of(tmp_path, labels=LABELS)
    np.testing.assert_array_equal(label, result.label)
    assert frames is None
    assert "without a person" in capfd.readouterr().err


def remove_references(drawn: Dataset) -> None:
    for group in drawn.PerFrameFunctionalGroupsSequence:
        del group.DerivationImageSequence


def test_without_references_the_place_and_the_temporal_position_decide(tmp_path):
    of = images()
    parts = masks(of)
    drawn = segmentation(["a", "b"], parts)
    remove_references(drawn)
    files.save([*of, drawn], tmp_path / "ambiguous")
    assert "4 images lie at its place" in fault_of(tmp_path / "ambiguous")
    for group, (_, _, image, _) in zip(drawn.PerFrameFunctionalGroupsSequence, parts, strict=True):
        group.FrameContentSequence = [files.attributes({"TemporalPositionIndex": of.index(image) // SLICES + 1})]
    files.save([*of, drawn], tmp_path / "numbered")
    np.testing.assert_array_equal(label_of(tmp_path / "numbered")[0], TRUTH)
    still = of[SLICES : 2 * SLICES]
    drawn = segmentation(["a", "b"], [part for part in parts if part[2] in still])
    remove_references(drawn)
    files.save([*still, drawn], tmp_path / "still")
    np.testing.assert_array_equal(label_of(tmp_path / "still")[0], TRUTH[1:2])


def elsewhere(drawn: Dataset, of: list[Dataset]) -> None:
    for group in drawn.PerFrameFunctionalGroupsSequence:
        group.PlanePositionSequence[0].ImagePositionPatient = of[0].ImagePositionPatient


def coarse(drawn: Dataset, of: list[Dataset]) -> None:
    for group in drawn.PerFrameFunctionalGroupsSequence:
        group.PixelMeasuresSequence[0].PixelSpacing = [2.5, 3.5]


def fractional(drawn: Dataset, of: list[Dataset]) -> None:
    drawn.SegmentationType = "FRACTIONAL"


@pytest.mark.parametrize(
    ("spoil", "wanted"),
    [(elsewhere, "off the image that it refers to"), (coarse, "lies on other pixels than its image")],
)
def test_a_segmentation_that_does_not_lie_on_its_images_is_refused(spoil, wanted, tmp_path):
    of = images()
    drawn = segmentation(["a", "b"], masks(of))
    spoil(drawn, of)
    (file,) = files.save([drawn], tmp_path / "drawn")
    files.save(of, tmp_path)
    said = fault_of(tmp_path)
    assert wanted in said
    assert str(file) in said


def test_overlapping_segments_and_two_opinions_are_refused_and_others_go_on(tmp_path):
    of = images()
    larger = TRUTH[1, :, :, 2] > 0
    files.save([*of, segmentation(["a", "b"], [*masks(of), (2, larger, of[SLICES + 2], None)])], tmp_path / "overlap")
    assert "b overlaps a in frame 1, slice 2" in fault_of(tmp_path / "overlap")
    opinion = segmentation(["a"], [(1, larger, of[SLICES + 1], None)])
    files.save([*of, opinion, segmentation(["a", "b"], masks(of))], tmp_path / "opinions")
    assert "draw a differently in frame 1, slice 1" in fault_of(tmp_path / "opinions")
    good = files.single_frames(ARRAY, AFFINE, by_trigger, PatientID="b", StudyInstanceUID=generate_uid())
    uid = generate_uid()
    for ds in good:
        ds.SeriesInstanceUID = uid
    files.save([*good, segmentation(["a", "b"], masks(good))], tmp_path / "overlap" / "good")
    with pytest.raises(InputError, match=r"1 of 2 studies were left out, the other 1 .*overlaps"):
        convert("dicom", tmp_path / "overlap", tmp_path / "out")
    assert len(json.loads((tmp_path / "out" / "dataset.json").read_text())["training"]) == 1


def test_drawings_of_other_images_are_reported_and_the_study_stays_unlabelled(tmp_path, capfd):
    of, elsewhere = images(), images(StudyInstanceUID=generate_uid())
    drawn = segmentation(["a", "b"], masks(elsewhere))
    contours = structure_set(["a"], [(1, box(1, 1, 5, 5), elsewhere[3], None)])
    files.save([*of, drawn, contours], tmp_path)
    source = open_layout("dicom", tmp_path, LayoutOptions())
    assert source.studies[0].label is None
    assert not source.labels
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("ignored")]
    assert len(lines) == 2
    assert "Segmentation" in lines[0] + lines[1]
    assert all("is of an image of a study here" in line for line in lines)


def test_parts_of_other_images_points_and_programs_are_reported(tmp_path, capfd):
    of, elsewhere = images(), images(StudyInstanceUID=generate_uid())
    contours = structure_set(["a"], [(1, box(1, 1, 5, 5), of[3], None), (1, box(1, 1, 5, 5), elsewhere[3], None)])
    point = files.attributes({"ContourGeometricType": "POINT", "ContourData": ["1", "2", "3"]})
    contours.ROIContourSequence[0].ContourSequence.append(point)
    program = segmentation(["b"], [(1, TRUTH[1, :, :, 2] == 2, of[SLICES], None)])
    program.SegmentSequence[0].SegmentAlgorithmType, program.SegmentSequence[0].SegmentAlgorithmName = (
        "AUTOMATIC",
        "robot",
    )
    files.save([*of, contours, program], tmp_path)
    assert label_of(tmp_path)[1] == (0, 1)
    told = capfd.readouterr().err
    assert [
        text for text in ("1 of 2 contours of", "1 contour of", "drawn by robot without a person") if text not in told
    ] == []


def test_damaged_drawings_are_reported_in_one_line_each_and_the_images_are_read(tmp_path, capfd):
    of = images()
    whole = [segmentation(["a", "b"], masks(of)), structure_set(["a"], [(1, box(1, 1, 5, 5), of[3], None)])]
    files.save(of, tmp_path)
    fraction, countless, nameless, odd = (segmentation(["a", "b"], masks(of)) for _ in range(4))
    fractional(fraction, of)
    countless.NumberOfFrames = 77
    del nameless.SegmentSequence
    odd.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence[0].ReferencedSegmentNumber = 9
    infinite = structure_set(["a"], [(1, box(1, 1, 5, 5), of[3], None)])
    infinite.ROIContourSequence[0].ContourSequence[0].ContourData = ["1", "2"]
    files.save([fraction, countless, nameless, odd, infinite], tmp_path / "odd")
    for n, file in enumerate(files.save(whole, tmp_path / "cut")):
        file.write_bytes(file.read_bytes()[: (900, -40)[n]])
    source = open_layout("dicom", tmp_path, LayoutOptions())
    files.assert_is(source.studies[0].image())
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("ignored")]
    assert len(lines) == 7, lines
    assert all("that cannot be used" in line for line in lines)
    assert source.studies[0].label is None


def test_a_segmentation_with_its_pixels_cut_off_refuses_its_study(tmp_path):
    of = images()
    files.save(of, tmp_path)
    (file,) = files.save([segmentation(["a", "b"], masks(of))], tmp_path / "drawn")
    file.write_bytes(file.read_bytes()[:-8])
    assert f"{file}: its pixel data is cut off or damaged" in fault_of(tmp_path)


def test_control_characters_in_names_become_spaces(tmp_path):
    of = images()
    drawn = segmentation(["left\x1b[31m \x07ventricle", "\x00\x1f"], masks(of))
    files.save([*of, drawn], tmp_path)
    classes = label_of(tmp_path)[2]
    assert list(classes) == ["background", "left [31m ventricle", "unnamed"]
