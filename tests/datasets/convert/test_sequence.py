"""3D Slicer sequences: which axis holds frames, what they are labelled with, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.errors import error_of
from tests.images.slicer import OBLIQUE, geometry, write, write_segmentation, write_sequence, write_volume
from unet4d.datasets.case_labels import read_labelled
from unet4d.datasets.convert.layout_options import LayoutOptions
from unet4d.datasets.convert.layouts import detect_layout, open_layout
from unet4d.datasets.convert.sequence import is_sequence
from unet4d.datasets.dataset import read_dataset
from unet4d.datasets.study import Source, Study
from unet4d.phantom import make_cine
from unet4d.phantom.cine import CINE_LABELS as LABELS

GRID = (4, 3, 2)
SERIES = np.arange(5 * 24, dtype=np.int16).reshape(5, *GRID)
WALL = [("wall", 1, 0)]


def sequences(root: Path, **options) -> Source:
    return open_layout("sequence", root, LayoutOptions(**options))


def one(root: Path, **options) -> Study:
    (study,) = sequences(root, **options).studies
    return study


@pytest.fixture(scope="module")
def phantom():
    return make_cine(3, 4, shape=(32, 32, 4))


@pytest.mark.parametrize("list_axis", [0, 3])
def test_a_phantom_saved_from_slicer_comes_back(list_axis, phantom, tmp_path):
    times = [f"{1000 * t * phantom.frame_duration_s!r}" for t in range(4)]
    layout = {"affine": phantom.affine, "list_axis": list_axis, "times": times, "unit": "ms", "encoding": "raw"}
    write_sequence(tmp_path / "anna/cine.seq.nrrd", phantom.image.astype(np.int16), **layout)
    write_sequence(tmp_path / "anna/cine.seg.seq.nrrd", phantom.label, **layout)
    source = sequences(tmp_path, labels=LABELS, time="cyclic")
    (study,) = source.studies
    image = study.image()
    assert (study.name, study.subject, study.time, source.labels) == ("anna_cine", "anna", "cyclic", LABELS)
    assert study.files == (tmp_path / "anna/cine.seq.nrrd", tmp_path / "anna/cine.seg.seq.nrrd")
    assert image.array.shape == (1, 4, 32, 32, 4)
    np.testing.assert_array_equal(image.array[0], phantom.image)
    np.testing.assert_allclose(image.affine, phantom.affine, rtol=1e-6)
    assert image.frame_duration_s == pytest.approx(phantom.frame_duration_s, rel=1e-9)
    assert image.source == tmp_path / "anna/cine.seq.nrrd"
    label, labelled = study.label(image)
    np.testing.assert_array_equal(label, phantom.label)
    assert (label.dtype, labelled) == (np.uint8, None)


@pytest.mark.parametrize("name", ["cine_2", "cine_0002"])
def test_segmentations_of_single_frames_are_numbered_from_0(name, phantom, tmp_path):
    write_sequence(tmp_path / "cine.seq.nrrd", phantom.image.astype(np.int16), phantom.affine)
    segments = [(name, value, 0) for name, value in LABELS.items() if value]
    write_segmentation(tmp_path / f"{name}.seg.nrrd", phantom.label[2], segments, phantom.affine, crop=True)
    source = sequences(tmp_path)
    (study,) = source.studies
    label, labelled = study.label(study.image())
    assert (study.name, study.subject, source.labels, labelled) == ("cine", "cine", LABELS, (2,))
    np.testing.assert_array_equal(label[2], phantom.label[2])
    assert not label[[0, 1, 3]].any()


@pytest.mark.parametrize("mark", [".seg", "_seg", "_label", "-label"])
def test_frames_without_any_label_are_frames_that_is_unlabelled(mark, tmp_path):
    write_sequence(tmp_path / "a.seq.nrrd", SERIES)
    drawn = np.zeros((5, *GRID), np.uint8)
    drawn[1, 0, 0, 0], drawn[4, 3, 2, 1] = 1, 2
    write_sequence(tmp_path / f"a{mark}.seq.nrrd", drawn, list_axis=0, DataNodeClassName="vtkMRMLLabelMapVolumeNode")
    study = one(tmp_path, labels={"wall": 1, "blood": 2})
    label, labelled = study.label(study.image())
    np.testing.assert_array_equal(label, drawn)
    assert labelled == (1, 4)


def test_a_label_map_sequence_must_hold_labels_for_as_many_frames(tmp_path):
    write_sequence(tmp_path / "a.seq.nrrd", SERIES)
    path = write_sequence(tmp_path / "a.seg.seq.nrrd", np.zeros((5, *GRID), np.uint8))
    study = one(tmp_path, labels={"wall": 1})
    assert error_of(study.label, study.image()).startswith(f"{path}: no voxel of any frame has a label")
    write_sequence(path, np.ones((4, *GRID), np.uint8))
    assert f"{path} has 4 frames, {tmp_path / 'a.seq.nrrd'} 5" in error_of(study.label, study.image())


def test_files_are_studies_and_folders_are_subjects(tmp_path):
    for name in ("ben/rest", "ben/stress10", "ben/stress9", "anna", "ben/deep/rest"):
        write_sequence(tmp_path / f"{name}.seq.nrrd", SERIES)
    write_sequence(tmp_path / "carl/cine.nrrd", SERIES)  # without .seq, but with four axes
    write_volume(tmp_path / "carl/scout.nrrd", SERIES[0])
    found = [(study.name, study.subject, study.label) for study in sequences(tmp_path).studies]
    assert found == [
        ("anna", "anna", None),
        ("ben_deep_rest", "ben", None),
        ("ben_rest", "ben", None),
        ("ben_stress9", "ben", None),
        ("ben_stress10", "ben", None),
        ("carl_cine", "carl", None),
    ]


def test_numbered_sequences_are_channels_of_one_study(tmp_path):
    for channel in range(3):
        write_sequence(tmp_path / f"anna/flow_{channel:04d}.seq.nrrd", SERIES + 1000 * channel)
    write_sequence(tmp_path / "anna/flow.seg.seq.nrrd", (SERIES % 2).astype(np.uint8))
    source = sequences(tmp_path, labels={"vessel": 1})
    (study,) = source.studies
    image = study.image()
    assert (study.name, source.channel_names) == ("anna_flow", ("channel 0", "channel 1", "channel 2"))
    assert len(study.files) == 4
    np.testing.assert_array_equal(image.array, [SERIES, SERIES + 1000, SERIES + 2000])
    np.testing.assert_array_equal(study.label(image)[0], SERIES % 2)


def test_channels_get_the_names_and_kinds_that_a_user_gives(tmp_path, command):
    for channel in range(2):
        write_sequence(tmp_path / f"in/flow_{channel:04d}.seq.nrrd", SERIES)
    write_sequence(tmp_path / "in/flow.seg.seq.nrrd", (SERIES % 2).astype(np.uint8))
    said = ["--labels", "{vessel: 1}", "--channels", "{magnitude: signal, through plane: velocity -Z}"]
    assert command("convert", "sequence", tmp_path / "in", "--out", tmp_path / "out", *said).code == 0
    dataset = read_dataset(tmp_path / "out")
    assert dataset.channel_names == ("magnitude", "through plane")
    assert dataset.channel_kinds == ("signal", "velocity -Z")
    ended = command("convert", "sequence", tmp_path / "in", "--out", tmp_path / "no", *said[:3], "{a: signal}")
    assert "channels names 1, " in ended.line
    ended = command("convert", "sequence", tmp_path / "in", "--out", tmp_path / "no", *said[:3], "{a: signal, b: map}")
    assert "expected names with kinds of signal, velocity X" in ended.line


def test_channels_that_do_not_fit_are_refused(tmp_path):
    for channel in (0, 1, 3):
        write_sequence(tmp_path / f"flow_{channel:04d}.seq.nrrd", SERIES)
    assert "flow_0003.seq.nrrd: expected the channels of flow numbered from 0000 on" in error_of(sequences, tmp_path)
    (tmp_path / "flow_0003.seq.nrrd").rename(tmp_path / "cine.seq.nrrd")
    assert "cine has 1 channel(s), flow 2, expected equal numbers" in error_of(sequences, tmp_path)
    (tmp_path / "cine.seq.nrrd").unlink()
    write_sequence(tmp_path / "flow_0001.seq.nrrd", SERIES[:4])
    assert "flow_0001.seq.nrrd: 4 frames" in error_of(one(tmp_path).image)
    shifted = OBLIQUE.copy()
    shifted[0, 3] += 1
    write_sequence(tmp_path / "flow_0001.seq.nrrd", SERIES, shifted)
    assert "bring both to one grid" in error_of(one(tmp_path).image)


def test_a_sequence_alone_is_read_with_its_labels(tmp_path):
    for name in ("a", "b"):
        write_sequence(tmp_path / f"{name}.seq.nhdr", SERIES, encoding="raw", times=[0, 2, 4, 6, 8])
        write_segmentation(tmp_path / f"{name}_1.seg.nrrd", SERIES[0] < 3, WALL)
    study = one(tmp_path / "a.seq.nhdr")
    assert (study.name, sequences(tmp_path / "a.seq.nhdr").name, sequences(tmp_path).name) == ("a", "a", tmp_path.name)
    assert [path.name for path in study.files] == ["a.seq.nhdr", "a.seq.raw", "a_1.seg.nrrd"]
    assert (study.image().frame_duration_s, study.label(study.image())[1]) == (2.0, (1,))


def test_the_duration_that_a_user_gives_stands_in_for_an_unknown_one(tmp_path):
    write_sequence(tmp_path / "a.seq.nrrd", SERIES, times=[0, 1, 2, 30, 31])
    assert one(tmp_path).image().frame_duration_s is None
    assert one(tmp_path, frame_duration_s=0.5).image().frame_duration_s == 0.5


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("b_1.seg.nrrd", "no sequence of this name is beside"),
        ("a_frame1.seg.nrrd", "no sequence of this name is beside"),
        ("b.seg.seq.nrrd", "no sequence of this name is beside"),
        ("a_01.seg.nrrd", "are both for"),
        ("a.seg.seq.nrrd", "are both for"),
    ],
)
def test_labels_that_belong_to_no_frame_or_twice_are_refused(name, said, tmp_path):
    write_sequence(tmp_path / "a.seq.nrrd", SERIES)
    write_segmentation(tmp_path / "a_1.seg.nrrd", SERIES[0], WALL)
    if name.endswith(".seq.nrrd"):
        write_sequence(tmp_path / name, SERIES)
    else:
        write_segmentation(tmp_path / name, SERIES[0], WALL)
    message = error_of(sequences, tmp_path)
    assert said in message
    assert name in message


def test_what_is_wrong_with_one_sequence_stops_no_other(tmp_path):
    for name in "abcd":
        write_sequence(tmp_path / f"{name}.seq.nrrd", SERIES)
        write_segmentation(tmp_path / f"{name}_1.seg.nrrd", SERIES[0], WALL)
    (tmp_path / "a.seq.nrrd").write_bytes((tmp_path / "a.seq.nrrd").read_bytes()[:60])
    (tmp_path / "b_1.seg.nrrd").write_bytes((tmp_path / "b_1.seg.nrrd").read_bytes()[:60])
    (tmp_path / "c_1.seg.nrrd").rename(tmp_path / "c_5.seg.nrrd")
    write_segmentation(tmp_path / "d_1.seg.nrrd", SERIES[0] > 3, WALL)
    a, b, c, d = sequences(tmp_path).studies
    assert "a.seq.nrrd" in error_of(a.image)
    assert "b_1.seg.nrrd" in error_of(b.label, b.image())
    assert "c_5.seg.nrrd: " in error_of(c.label, c.image())
    assert "c.seq.nrrd has the frames 0 to 4, expected one of them" in error_of(c.label, c.image())
    assert d.label(d.image())[1] == (1,)


def test_the_studies_of_two_files_have_two_names(tmp_path):
    write_sequence(tmp_path / "a/b.seq.nrrd", SERIES)
    write_sequence(tmp_path / "a_b.seq.nrrd", SERIES)
    assert "2 studies would be named a_b" in error_of(sequences, tmp_path)


def test_axes_without_frames_are_refused(tmp_path):
    write_volume(tmp_path / "one.seq.nrrd", SERIES[0])
    assert "one.seq.nrrd has no axis of frames, expected one of kind list" in error_of(
        one(tmp_path / "one.seq.nrrd").image
    )
    itk = {"space dimension": 4, "space directions": np.eye(4), "kinds": ["domain"] * 4, "space origin": np.zeros(4)}
    write(tmp_path / "itk.nrrd", SERIES, itk)
    said = error_of(one(tmp_path / "itk.nrrd").image)
    assert "itk.nrrd: got 4 axes 5 x 4 x 3 x 2 of the kinds domain domain domain domain" in said
    assert "left-posterior-superior-time" in said
    gradients = geometry(OBLIQUE, 0) | {"modality": "DWMRI"}
    write(tmp_path / "dwi.nrrd", SERIES, gradients)
    assert "dwi.nrrd holds diffusion gradients" in error_of(one(tmp_path / "dwi.nrrd").image)


def test_a_truncated_sequence_is_refused_when_it_is_read(tmp_path):
    path = write_sequence(tmp_path / "a.seq.nrrd", SERIES)
    path.write_bytes(path.read_bytes()[:-30])
    assert f"{path} cannot be read as NRRD" in error_of(one(tmp_path).image)


def test_a_folder_without_a_sequence_is_refused(tmp_path):
    write_volume(tmp_path / "a.nrrd", SERIES[0])
    assert f"{tmp_path} holds no sequence, expected .seq.nrrd" in error_of(sequences, tmp_path)
    assert "a.nrrd holds no sequence" in error_of(sequences, tmp_path / "a.nrrd")


def test_the_layout_is_reported_from_others(tmp_path):
    write_sequence(tmp_path / "set/a.seq.nrrd", SERIES)
    write_sequence(tmp_path / "bare/a.nrrd", SERIES)
    write_volume(tmp_path / "frames/1.nrrd", SERIES[0])
    write_segmentation(tmp_path / "layers/1.seg.nrrd", SERIES[:2], WALL)
    write_sequence(tmp_path / "dataset/a.seq.nrrd", SERIES)
    (tmp_path / "dataset/dataset.json").write_text("{}")
    (tmp_path / "dicom").mkdir()
    (tmp_path / "dicom/IM0001").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "nifti").mkdir()
    (tmp_path / "nifti/a.nii.gz").touch()
    taken = ("", "set", "set/a.seq.nrrd", "bare", "bare/a.nrrd")
    others = (
        "frames",
        "frames/1.nrrd",
        "layers",
        "layers/1.seg.nrrd",
        "dataset",
        "dicom",
        "nifti",
        "nifti/a.nii.gz",
        "missing",
    )
    assert [name for name in (*taken, *others) if is_sequence(tmp_path / name)] == list(taken)


def test_the_command_makes_a_dataset_of_it(phantom, tmp_path, command):
    write_sequence(tmp_path / "src/anna.seq.nrrd", phantom.image, phantom.affine, times=[0, 40, 80, 120], unit="ms")
    drawn = phantom.label.copy()
    drawn[[1, 3]] = 0
    write_sequence(tmp_path / "src/anna_seg.seq.nrrd", drawn, phantom.affine, list_axis=0)
    assert detect_layout(tmp_path / "src") == "sequence"
    labels = "{right ventricle: 1, myocardium: 2, left ventricle: 3}"
    done = command("convert", "sequence", tmp_path / "src", "--out", tmp_path / "out", "--labels", labels)
    assert done.code == 0, done.error
    dataset = read_dataset(tmp_path / "out")
    (case,) = dataset.training
    image = case.image()
    label, labelled = read_labelled(case, dataset, image)
    assert (case.subject, dict(dataset.labels), labelled.tolist()) == ("anna", LABELS, [True, False, True, False])
    np.testing.assert_array_equal(image.array[0], phantom.image)
    np.testing.assert_array_equal(label, drawn)
    np.testing.assert_allclose(image.affine, phantom.affine, rtol=1e-6)
    assert image.frame_duration_s == 0.04
