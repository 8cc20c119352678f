"""Folders of 3D files, one a frame: which files make a study, in which order, with what was drawn on them."""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.errors import error_of
from tests.images.slicer import OBLIQUE, write_segmentation, write_sequence, write_volume
from unet4d.datasets.case_labels import read_labelled
from unet4d.datasets.convert.file_names import natural_key, sort_by_time
from unet4d.datasets.convert.frames import is_frames
from unet4d.datasets.convert.layout_options import LayoutOptions
from unet4d.datasets.convert.layouts import detect_layout, open_layout
from unet4d.datasets.dataset import read_dataset
from unet4d.datasets.study import Source
from unet4d.phantom import make_cine
from unet4d.phantom.cine import CINE_LABELS as LABELS

GRID = (4, 3, 2)
SEGMENTS = [(name, value, 0) for name, value in LABELS.items() if value]


def frames(root: Path, **options) -> Source:
    return open_layout("frames", root, LayoutOptions(**options))


def volume(value: float) -> np.ndarray:
    return np.full(GRID, value, np.float32)


def touched(root: Path, *names: str) -> Path:
    """Volumes at these paths, each of one value: its place in the list."""
    for value, name in enumerate(names):
        if name.endswith(("nrrd", "nhdr")):
            write_volume(root / name, volume(value), encoding="raw")
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(volume(value), OBLIQUE), root / name)
    return root


def values(study) -> list[float]:
    """The value of each frame."""
    return study.image().array[0, :, 0, 0, 0].tolist()


def names_of(source: Source) -> dict[str, list[str]]:
    return {study.name: [path.name for path in study.files] for study in source.studies}


@pytest.fixture(scope="module")
def phantom():
    return make_cine(3, 3, shape=(32, 32, 4))


@pytest.mark.parametrize("crop", [False, True])
def test_a_phantom_saved_from_slicer_comes_back(crop, phantom, tmp_path):
    for t in range(3):
        write_volume(
            tmp_path / f"anna/frame_{t}.nrrd", phantom.image[t].astype(np.int16), phantom.affine, encoding="raw"
        )
        if t != 1:
            path = tmp_path / f"anna/frame_{t}.seg.nrrd"
            write_segmentation(path, phantom.label[t], SEGMENTS, phantom.affine, crop=crop)
    source = frames(tmp_path)
    (study,) = source.studies
    image = study.image()
    assert (study.name, study.subject, source.channel_names) == ("anna", "anna", ("MRI",))
    assert source.labels == LABELS
    np.testing.assert_array_equal(image.array[0], phantom.image)
    np.testing.assert_allclose(image.affine, phantom.affine, rtol=1e-6)
    assert (image.source, image.frame_duration_s) == (tmp_path / "anna/frame_0.nrrd", None)
    label, labelled = study.label(image)
    assert (label.dtype, labelled) == (np.uint8, (0, 2))
    np.testing.assert_array_equal(label[[0, 2]], phantom.label[[0, 2]])
    assert not label[1].any()
    timed = frames(tmp_path, frame_duration_s=0.04, time="cyclic").studies[0]
    assert (timed.image().frame_duration_s, timed.time) == (0.04, "cyclic")


@pytest.mark.parametrize("mark", ["_seg", "_label", "-label"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd"])
def test_label_maps_are_found_beside_their_images(mark, suffix, phantom, tmp_path):
    for t in range(3):
        voxels, label = phantom.image[t].astype(np.float32), phantom.label[t]
        if suffix == ".nrrd":
            write_volume(tmp_path / f"frame_{t}.nrrd", voxels, phantom.affine, encoding="raw")
            write_volume(tmp_path / f"frame_{t}{mark}.nrrd", label, phantom.affine, encoding="raw")
        else:
            nib.save(nib.Nifti1Image(voxels, phantom.affine), tmp_path / f"frame_{t}{suffix}")
            nib.save(nib.Nifti1Image(label, phantom.affine), tmp_path / f"frame_{t}{mark}{suffix}")
    (study,) = frames(tmp_path, labels=LABELS).studies
    image = study.image()
    label, labelled = study.label(image)
    np.testing.assert_array_equal(image.array[0], phantom.image)
    np.testing.assert_array_equal(label, phantom.label)
    assert labelled is None
    assert study.name == study.subject == tmp_path.name


def test_label_maps_need_names_only_where_they_are_read(tmp_path):
    touched(tmp_path, "a/0.nii", "a/0_seg.nii", "a/1.nii", "a/1_seg.nii")
    source = frames(tmp_path)
    assert source.labels == {}
    image = source.studies[0].image()
    said = error_of(source.studies[0].label, image)
    assert "0_seg.nii: got label values [1], expected" in said


def test_frames_come_in_natural_order(tmp_path):
    touched(tmp_path, "a/f1.nrrd", "a/f2.nrrd", "a/f10.nrrd", "a/f9.nrrd", "a/f010.nrrd")
    (study,) = frames(tmp_path).studies
    assert names_of(frames(tmp_path))["a"] == ["f1.nrrd", "f2.nrrd", "f9.nrrd", "f010.nrrd", "f10.nrrd"]
    assert values(study) == [0, 1, 3, 4, 2]


def test_natural_order():
    assert sorted(["1", "\u0663", "a"], key=natural_key) == ["1", "a", "\u0663"]  # a digit, but not of ours
    names = ["b", "a10b2", "A2", "a10b10", "a1", "10", "9", "a"]
    assert sorted(names, key=natural_key) == ["9", "10", "a", "a1", "A2", "a10b2", "a10b10", "b"]


def test_no_study_holds_frames_of_two_folders(tmp_path):
    touched(
        tmp_path, "ben/0.nrrd", "anna/0.nrrd", "anna/1.nrrd", "ben/1.nrrd", "anna10/0.nrrd", "anna9/0.nrrd", "0.nrrd"
    )
    source = frames(tmp_path)
    assert [study.name for study in source.studies] == sorted(
        ["anna", "anna9", "anna10", "ben", tmp_path.name], key=natural_key
    )
    found = {study.name: values(study) for study in source.studies}
    assert found == {"anna": [1, 2], "anna9": [5], "anna10": [4], "ben": [0, 3], tmp_path.name: [6]}
    for study in source.studies:
        assert {path.parent.name for path in study.files} == {study.name}


def test_the_outermost_folder_is_the_subject(tmp_path):
    source = frames(touched(tmp_path, "ben/day1/0.nrrd", "ben/day2/0.nrrd", "carl/0.nrrd"))
    found = [(study.name, study.subject) for study in source.studies]
    assert found == [("ben_day1", "ben"), ("ben_day2", "ben"), ("carl", "carl")]


def test_two_studies_of_one_name_are_refused(tmp_path):
    said = error_of(frames, touched(tmp_path, "a/b/0.nrrd", "a_b/0.nrrd"))
    assert "2 studies would be named a_b" in said


def test_hidden_files_and_other_files_are_passed_by(tmp_path):
    touched(tmp_path, "a/0.nrrd", "a/.hidden.nrrd", ".b/0.nrrd", "a/x.seq.nrrd")
    (tmp_path / "a" / "notes.txt").touch()
    assert names_of(frames(tmp_path)) == {"a": ["0.nrrd"]}


def test_values_are_one_mapping_for_all_studies(tmp_path):
    """By hand: anna's second frame names blood first; the values are those of the first appearance, anna 2 before anna 10."""
    label = np.zeros(GRID, np.uint8)
    label[0, 0, 0], label[1, 0, 0] = 1, 2
    wall, blood = ("wall", 1, 0), ("blood", 2, 0)
    for name, segments in {
        "anna/2": [wall, blood],
        "anna/10": [("mark", 1, 0), blood],
        "ben/1": [("blood", 1, 0), ("wall", 2, 0)],
    }.items():
        write_volume(tmp_path / f"{name}.nrrd", volume(0))
        write_segmentation(tmp_path / f"{name}.seg.nrrd", label, segments)
    source = frames(tmp_path)
    assert source.labels == {"background": 0, "wall": 1, "blood": 2, "mark": 3}
    found = {study.name: study.label(study.image())[0][:, :2, 0, 0].tolist() for study in source.studies}
    assert found == {"anna": [[1, 2], [3, 2]], "ben": [[2, 1]]}
    said = error_of(frames, tmp_path, labels={"wal": 1, "blood": 2})
    assert f"{tmp_path / 'anna/2.seg.nrrd'}: got a segment 'wall' (near: wal)" in said


def test_an_empty_segmentation_labels_its_frame_as_background(tmp_path):
    touched(tmp_path, "a/0.nrrd", "a/1.nrrd")
    write_segmentation(tmp_path / "a/1.seg.nrrd", np.zeros((1, 1, 1)), [("wall", 1, 0)], np.eye(4))
    study = frames(tmp_path).studies[0]
    label, labelled = study.label(study.image())
    assert (label.any(), labelled) == (False, (1,))


def test_a_segmentation_lies_on_the_grid_of_a_nifti_image(tmp_path):
    touched(tmp_path, "a/0.nii.gz")
    label = np.zeros(GRID, np.uint8)
    label[1:3, 2, 1] = 1
    write_segmentation(tmp_path / "a/0.seg.nrrd", label, [("wall", 1, 0)], crop=True)
    study = frames(tmp_path).studies[0]
    np.testing.assert_array_equal(study.label(study.image())[0][0], label)


def test_a_label_without_its_image_is_refused(tmp_path):
    touched(tmp_path, "a/Volume_3.nrrd")
    write_segmentation(tmp_path / "a/Segmentation_3.seg.nrrd", volume(1), [("wall", 1, 0)])
    said = error_of(frames, tmp_path)
    assert f"{tmp_path / 'a/Segmentation_3.seg.nrrd'}: no image of the same name is beside" in said
    assert "give a pattern that finds both" in said
    pattern = r"(?P<subject>[^/]+)/(Volume|Segmentation)_(?P<frame>[0-9]+)"
    study = frames(tmp_path, pattern=pattern).studies[0]
    assert study.label(study.image())[0].all()


@pytest.mark.parametrize("double", ["0.nii", "0.nii.gz"])
def test_two_files_for_one_frame_are_refused(double, tmp_path):
    said = error_of(frames, touched(tmp_path, "a/0.nrrd", f"a/{double}"))
    assert f"{tmp_path / 'a' / double}" in said
    assert f"{tmp_path / 'a/0.nrrd'}" in said
    assert "are of the same frame, expected one" in said


def test_two_labels_for_one_frame_are_refused(tmp_path):
    said = error_of(frames, touched(tmp_path, "0.nii", "0_seg.nii", "0_label.nii"))
    assert "0_label.nii" in said
    assert "0_seg.nii are of the same frame" in said


PATTERN = r"(?P<subject>\w+?)_frame(?P<frame>\d+)"


def test_a_pattern_groups_the_files_of_one_folder(tmp_path):
    touched(tmp_path, "ben_frame1.nrrd", "anna_frame010.nrrd", "anna_frame9.nrrd", "ben_frame2.nrrd", "scout.nrrd")
    touched(tmp_path, "old-anna_frame8.nrrd", "anna_frame8-old.nrrd")  # not as a whole
    write_segmentation(tmp_path / "anna_frame9_seg.seg.nrrd", volume(1), [("wall", 1, 0)])
    source = frames(tmp_path, pattern=PATTERN)
    anna, ben = source.studies
    assert (anna.name, anna.subject, values(anna)) == ("anna", "anna", [2, 1])
    assert (ben.name, ben.subject, values(ben), ben.label) == ("ben", "ben", [0, 3], None)
    assert anna.label(anna.image())[1] == (0,)


def test_a_pattern_sees_the_path_and_no_suffix(tmp_path):
    touched(tmp_path, "3T/anna/img0.nii.gz", "3T/anna/img0_seg.nii.gz", "3T/anna/img1.nii.gz")
    (study,) = frames(tmp_path, pattern=r"(?P<subject>3T/[a-z]+)/img(?P<frame>\d)", labels={"wall": 1}).studies
    assert (study.name, study.subject, len(study.files)) == ("3T_anna", "3T_anna", 3)


def test_missing_frames_are_of_one_study_and_the_others_are_read(tmp_path):
    touched(tmp_path, "a_frame1.nrrd", "a_frame2.nrrd", "a_frame5.nrrd", "b_frame1.nrrd", "b_frame2.nrrd")
    touched(tmp_path, "c_frame0.nrrd", "c_frame5.nrrd", "c_frame10.nrrd")
    a, b, c = frames(tmp_path, pattern=PATTERN).studies
    assert "a has the frames 1 to 5 without 3, 4, expected every frame" in error_of(a.image)
    assert (b.image().frames, values(c)) == (2, [0, 1, 2])


def test_a_damaged_segmentation_is_of_one_study_and_the_others_are_read(tmp_path):
    touched(tmp_path, "a/0.nrrd", "b/0.nrrd")
    for name in "ab":
        write_segmentation(tmp_path / f"{name}/0.seg.nrrd", volume(1), [("wall", 1, 0)])
    path = tmp_path / "a/0.seg.nrrd"
    path.write_bytes(path.read_bytes()[:60])
    a, b = frames(tmp_path).studies
    assert str(path) in error_of(a.label, a.image())
    assert b.label(b.image())[0].all()


def test_decimals_in_names_are_in_the_order_of_their_values(tmp_path):
    touched(tmp_path, "a/t_0.5.nrrd", "a/t_0.25.nrrd", "a/t_1.0.nrrd", "a/t_10.nrrd", "a/t_2.nrrd")
    assert values(frames(tmp_path).studies[0]) == [1, 0, 2, 4, 3]
    assert sort_by_time(["1.2.10", "1.2.9"]) == ["1.2.9", "1.2.10"], "no decimals"
    assert sort_by_time(["t_0.50", "t_0.5", "t_0.25"]) == ["t_0.5", "t_0.25", "t_0.50"], "two are one: natural order"
    assert sort_by_time(["b_0.5", "a_0.25", "a_1"]) == ["a_0.25", "a_1", "b_0.5"], "not behind the same text"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (("a_frame1.nrrd", "a_frame01.nrrd"), "a_frame1.nrrd are of the same frame"),
        (("x.nrrd", "y.nrrd"), "matches none of 2 files, expected a match of whole paths such as x"),
    ],
)
def test_gaps_duplicates_and_nothing_found_are_refused(files, said, tmp_path):
    assert said in error_of(frames, touched(tmp_path, *files), pattern=PATTERN)


def test_a_pattern_that_finds_no_number_is_refused(tmp_path):
    touched(tmp_path, "a_frame1.nrrd")
    said = error_of(frames, tmp_path, pattern=r"(?P<subject>a)_(?P<frame>\w+)")
    assert "finds the subject 'a' and the frame 'frame1', expected a name and a whole number" in said
    said = error_of(frames, tmp_path, pattern=r"(?P<subject>)a_frame(?P<frame>\d+)")
    assert "finds the subject '' and the frame '1'" in said
    assert "lacks subject or frame" in error_of(frames, tmp_path, pattern=r"(?P<subject>.*)")


@pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz"])
def test_frames_on_another_grid_are_refused(suffix, tmp_path):
    touched(tmp_path, f"a/0{suffix}", f"a/1{suffix}", f"b/0{suffix}", f"b/1{suffix}")
    moved = OBLIQUE + np.diag([0.1, 0, 0, 0])
    if suffix == ".nrrd":
        write_volume(tmp_path / "a/1.nrrd", np.zeros((4, 3, 3)))
        write_volume(tmp_path / "b/1.nrrd", volume(0), moved)
    else:
        nib.save(nib.Nifti1Image(np.zeros((4, 3, 3)), OBLIQUE), tmp_path / "a/1.nii.gz")
        nib.save(nib.Nifti1Image(volume(0), moved), tmp_path / "b/1.nii.gz")
    a, b = frames(tmp_path).studies
    said = error_of(a.image)
    assert (
        f"{tmp_path / 'a' / f'1{suffix}'}: (X, Y, Z) is (4, 3, 3), in {tmp_path / 'a' / f'0{suffix}'} (4, 3, 2)" in said
    )
    assert f"{tmp_path / 'b' / f'1{suffix}'}: its affine" in error_of(b.image)


def test_a_file_of_four_dimensions_is_no_frame(tmp_path):
    (tmp_path / "a").mkdir()
    nib.save(nib.Nifti1Image(np.zeros((4, 3, 2, 5)), OBLIQUE), tmp_path / "a/0.nii.gz")
    write_sequence(tmp_path / "b/0.nrrd", np.zeros((5, *GRID)))
    for study, name in zip(frames(tmp_path).studies, ("0.nii.gz", "0.nrrd"), strict=True):
        assert f"{name} has 5 frames, expected 3D files, one per frame" in error_of(study.image)


def test_a_damaged_file_is_refused_when_it_is_read(tmp_path):
    touched(tmp_path, "a/0.nrrd", "a/1.nrrd")
    path = tmp_path / "a/1.nrrd"
    path.write_bytes(path.read_bytes()[:-4])
    assert f"{path} cannot be read as NRRD" in error_of(frames(tmp_path).studies[0].image)


def test_voxels_that_lie_apart_belong_to_the_study(tmp_path):
    touched(tmp_path, "a/0.nhdr", "a/1.nhdr")
    assert names_of(frames(tmp_path)) == {"a": ["0.nhdr", "0.raw", "1.nhdr", "1.raw"]}
    assert values(frames(tmp_path).studies[0]) == [0, 1]


def test_a_folder_without_images_and_a_file_are_refused(tmp_path):
    assert "holds no .nrrd, .nhdr, .nii.gz or .nii file" in error_of(frames, tmp_path)
    touched(tmp_path, "a.nrrd")
    assert "a.nrrd is a file, expected a folder" in error_of(frames, tmp_path / "a.nrrd")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (("frame_1.nrrd", "frame_2.nrrd"), True),
        (("frame_1.nhdr",), True),
        (("anna/frame_1.nrrd", "anna/frame_2.nrrd", "ben/other.nrrd"), True),
        (("anna.nrrd", "ben.nrrd"), False),  # two studies rather than two frames
        (("patient0.nrrd", "patient1.nrrd"), False),  # likewise
        (("anna_2.nrrd", "anna_3.nrrd"), False),
        (("heart0.nrrd", "heart1.nrrd"), False),  # ends in t, which is no word of it
        (("0.nrrd", "1.nrrd"), True),
        (("anna/Volume-3.nrrd",), True),
        (("anna_t0.25.nrrd", "anna_t0.5.nrrd"), True),
        (("1.nii.gz", "2.nii.gz"), False),  # may be studies
        (("1.seq.nrrd",), False),
        (("1.seg.nrrd",), False),
        (("a/b/1.nrrd",), False),  # only a first look
        ((), False),
    ],
)
def test_the_layout_is_reported_from_others(files, expected, tmp_path):
    assert is_frames(touched(tmp_path, *files)) is expected


def test_datasets_dicom_and_sequences_are_not_taken(tmp_path):
    touched(tmp_path, "set/1.nrrd", "dicom/x.txt.nii")
    (tmp_path / "set/dataset.json").write_text("{}")
    (tmp_path / "dicom/IM0001").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "dicom/IM0001.dcm").write_bytes(bytes(128) + b"DICM")
    write_sequence(tmp_path / "four/1.nrrd", np.zeros((2, *GRID)))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/1.nrrd").write_bytes(b"no nrrd")
    for name in ("set", "dicom", "four", "broken", "missing", "set/1.nrrd"):
        assert not is_frames(tmp_path / name), name


def test_the_layout_is_detected_and_without_pynrrd_named(tmp_path, monkeypatch):
    touched(tmp_path, "anna/frame_1.nrrd")
    write_segmentation(tmp_path / "anna/frame_1.seg.nrrd", volume(1), [("wall", 1, 0)])
    monkeypatch.setitem(sys.modules, "nrrd", None)
    assert is_frames(tmp_path)
    assert "pip install pynrrd" in error_of(frames, tmp_path)


def test_the_command_makes_a_dataset_of_it(phantom, tmp_path, command):
    for t in range(3):
        write_volume(tmp_path / f"src/anna/f{t + 9}.nrrd", phantom.image[t].astype(np.int16), phantom.affine)
    write_segmentation(tmp_path / "src/anna/f10.seg.nrrd", phantom.label[1], SEGMENTS, phantom.affine, crop=True)
    assert detect_layout(tmp_path / "src") == "frames"
    done = command("convert", "frames", tmp_path / "src", "--out", tmp_path / "out", "--frame_duration_s", 0.04)
    assert done.code == 0, done.error
    dataset = read_dataset(tmp_path / "out")
    (case,) = dataset.training
    image = case.image()
    label, labelled = read_labelled(case, dataset, image)
    assert (case.subject, dict(dataset.labels), labelled.tolist()) == ("anna", LABELS, [False, True, False])
    np.testing.assert_array_equal(image.array[0], phantom.image)
    np.testing.assert_array_equal(label[1], phantom.label[1])
    np.testing.assert_allclose(image.affine, phantom.affine, rtol=1e-6)
    assert image.frame_duration_s == 0.04


def test_the_command_refuses_in_one_line(tmp_path, command):
    touched(tmp_path, "src/0.nrrd")
    write_segmentation(tmp_path / "src/1.seg.nrrd", volume(1), [("wall", 1, 0)])
    done = command("convert", "frames", tmp_path / "src", "--out", tmp_path / "out")
    assert (done.code, "1.seg.nrrd: no image of the same name" in done.line) == (2, True)
    assert not (tmp_path / "out" / "dataset.json").exists()
