"""Tests: a dataset whose other frames get labels and weights; corrections; what was finished is kept; bad input."""

from __future__ import annotations

import csv
import sys

import numpy as np
import pytest

from tests.datasets.propagation.moving import LABELS, PLACES, Nothing, Shift, labels_of, write_moving
from unet4d.datasets.case_labels import read_labelled
from unet4d.datasets.dataset import read_dataset
from unet4d.datasets.propagation import case_files
from unet4d.datasets.propagation.checks import RECORDS, PropagationOptions
from unet4d.datasets.propagation.propagate import PROPAGATION, propagate
from unet4d.datasets.verify.run_checks import verify_dataset
from unet4d.errors import InputError
from unet4d.images.image4d import Image4D, read_label, write_image
from unet4d.system.lock import exclusive_lock


@pytest.fixture
def squares(tmp_path):
    """Return a dataset of two studies, one of them with a single drawn frame."""
    return write_moving(tmp_path / "squares", [{}, {"labelled_frames": [2]}], name="squares", licence="CC0")


def run(root, out, make=Shift, **options):
    propagate(root, out, PropagationOptions(**options), make_registration=make)
    return read_dataset(out)


def never(spacing_mm):
    raise AssertionError("registered again")


def write_frame(path, label):
    """Write the label (X, Y, Z) of a frame as another program would."""
    write_image(path, label, like=Image4D.from_array(np.zeros((1, 1, *label.shape)), np.eye(4)))


def test_every_frame_has_its_true_label_and_only_drawn_ones_count_as_drawn(squares, tmp_path):
    dataset = run(squares, tmp_path / "out", weight=0.5)
    assert (dataset.name, dataset.time, dataset.labels) == ("squares", "cyclic", tuple(LABELS.items()))
    for case, drawn in zip(dataset.training, [(0, 3), (2,)], strict=True):
        label, labelled = read_labelled(case, dataset, case.image())
        assert labelled.all()
        assert np.array_equal(label, labels_of())
        assert case.partial.propagated == tuple(sorted(set(range(len(PLACES))) - set(drawn)))
        assert [case.partial.weight(t) for t in range(len(PLACES))] == [1 if t in drawn else 0.5 for t in range(6)]
    with open(tmp_path / "out" / PROPAGATION.file, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    drawn = [(row["case"], row["frame"]) for row in rows if row["label"] == "drawn"]
    assert drawn == [("square0", "0"), ("square0", "3"), ("square1", "2")]
    assert {row["confidence"] for row in rows if row["label"] == "propagated"} == {"1.0"}
    assert verify_dataset(dataset).errors == 0


def test_a_second_call_registers_nothing_and_other_options_count(squares, tmp_path):
    run(squares, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.nii.gz")}
    run(squares, tmp_path / "out", make=never)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.nii.gz")} == before
    assert run(squares, tmp_path / "out", weight=0.25).training[0].partial.weight(1) == 0.25


def test_a_label_map_that_was_edited_is_drawn_from_then_on(squares, tmp_path):
    out = tmp_path / "out"
    run(squares, out, make=Nothing)  # so that other frames are wrong
    path, truth = out / "labels/square0/frame_004.nii.gz", labels_of()
    write_frame(path, truth[4])
    for _ in range(2):  # it stays a drawn one
        dataset = run(squares, out)
        case = dataset.training[0]
        assert case.partial.propagated == (1, 2, 5)
        assert np.array_equal(read_label(path)[0], truth[4])
    label, _ = read_labelled(case, dataset, case.image())
    assert np.array_equal(label[5], truth[5])  # carried from the corrected one
    path.unlink()
    assert run(squares, out).training[0].partial.propagated == (1, 2, 4, 5)


def test_a_segmentation_that_slicer_saved_beside_is_a_drawn_frame(squares, tmp_path):
    nrrd = pytest.importorskip("nrrd", reason="pynrrd is not installed")
    out, drawn = tmp_path / "out", labels_of()[0]
    run(squares, out)
    header = {
        "space": "left-posterior-superior",
        "space directions": np.diag([-1.0, -1.0, 1.0]),
        "space origin": np.zeros(3),
        "kinds": ["domain"] * 3,
        "Segment0_ID": "Segment_1", "Segment0_Name": "cavity", "Segment0_LabelValue": "1", "Segment0_Layer": "0",
        "Segment1_ID": "Segment_2", "Segment1_Name": "wall", "Segment1_LabelValue": "2", "Segment1_Layer": "0",
    }  # fmt: skip
    values = np.array([0, 2, 1], np.uint8)[drawn]  # Slicer numbers segments by their order
    segmentation = out / "labels/square1/frame_005.seg.nrrd"
    nrrd.write(str(segmentation), values, header)
    dataset = run(squares, out)
    case = dataset.training[1]
    assert case.partial.propagated == (0, 1, 3, 4)
    for _ in range(2):  # it stays a drawn one
        assert np.array_equal(read_labelled(case, dataset, case.image())[0][5], drawn)
        assert run(squares, out).training[1].partial.propagated == (0, 1, 3, 4)
    segmentation.unlink()
    assert run(squares, out).training[1].partial.propagated == (0, 1, 3, 4, 5)


def test_a_stop_while_files_are_written_corrects_nothing(squares, tmp_path, monkeypatch):
    out, write, calls = tmp_path / "out", case_files.write_image, []

    def stop(*given, **named):
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        write(*given, **named)

    run(squares, out, make=Nothing)
    monkeypatch.setattr(case_files, "write_image", stop)
    with pytest.raises(KeyboardInterrupt):
        run(squares, out, weight=0.5)  # some label maps are new, others old
    monkeypatch.setattr(case_files, "write_image", write)
    dataset = run(squares, out)
    assert [case.partial.propagated for case in dataset.training] == [(1, 2, 4, 5), (0, 1, 3, 4, 5)]


def test_frames_of_low_confidence_get_no_label(squares, tmp_path):
    case = run(squares, tmp_path / "out", make=Nothing, min_confidence=0.99).training[0]
    assert case.labelled_frames == (0, 3)
    assert (case.partial.propagated, case.partial.weights) == ((), {})


def test_slices_that_nobody_drew_stay_undrawn(tmp_path):
    root = write_moving(tmp_path / "squares", [{"labelled_slices": {"0": [0, 1]}}, {}])
    dataset = run(root, tmp_path / "out")
    (case, other), ignored = dataset.training, dataset.ignore
    label, _ = read_labelled(case, dataset, case.image())
    assert ignored not in (None, 0, 1, 2)
    assert (label[:2, ..., 2] == ignored).all()  # frame 1 is nearer to frame 0 than to frame 3, which is drawn whole
    assert (label[2:4, ..., 2] != ignored).all()
    assert np.array_equal(label[..., :2], labels_of()[..., :2])
    assert not case.partial.has_slices
    assert (read_labelled(other, dataset, other.image())[0] != ignored).all()


def test_test_studies_are_copied_with_their_labels(tmp_path):
    paths = {"image": "images/square1.nii.gz", "label": "labels/square1.nii.gz"}
    root = write_moving(tmp_path / "squares", [{}, {}], test=[{"case": "new", **paths, "labelled_frames": [0, 3]}])
    (case,) = run(root, tmp_path / "out").test
    assert case.labelled_frames == (0, 3)
    assert case.files[1].read_bytes() == (root / paths["label"]).read_bytes()


def test_a_propagated_dataset_can_be_propagated_again_from_what_was_drawn(squares, tmp_path):
    run(squares, tmp_path / "wrong", make=Nothing)
    dataset = run(tmp_path / "wrong", tmp_path / "right")
    case = dataset.training[0]
    assert case.partial.propagated == (1, 2, 4, 5)
    assert np.array_equal(read_labelled(case, dataset, case.image())[0], labels_of())


def test_a_study_without_a_drawn_frame_fails_alone(tmp_path):
    root = write_moving(tmp_path / "squares", [{}, {"labelled_frames": [1, 2], "propagated_frames": [1, 2]}])
    with pytest.raises(InputError, match=r"1 of 2 studies .*square1: .*no drawn frame"):
        run(root, tmp_path / "out")
    assert [case.name for case in read_dataset(tmp_path / "out").training] == ["square0"]


def test_a_corrected_frame_that_does_not_fit_is_named(squares, tmp_path):
    run(squares, tmp_path / "out")
    for label, message in ((labels_of()[0] + 5, "label value 5"), (labels_of()[0][:-1], "frame_001")):
        write_frame(tmp_path / "out/labels/square0/frame_001.nii.gz", label)
        with pytest.raises(InputError, match=message):
            run(squares, tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": "squares"}, "the dataset itself"),
        ({"out": "full"}, "is not empty"),
        ({"jobs": 0}, "--jobs 0"),
        ({"min_confidence": 1.5}, "--min_confidence 1.5"),
        ({"weight": -1}, "--weight -1"),
    ],
)
def test_bad_arguments_end_in_one_line(squares, tmp_path, options, message):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    given = dict(options)
    out, jobs = tmp_path / given.pop("out", "out"), given.pop("jobs", 1)
    with pytest.raises(InputError, match=message):
        propagate(squares, out, PropagationOptions(**given), jobs, Shift)
    assert not (tmp_path / "out").exists()


def test_the_missing_package_is_named_with_its_extra(squares, tmp_path, monkeypatch, command):
    monkeypatch.setitem(sys.modules, "picsl_greedy", None)
    for words in (("propagate", squares, "--out", tmp_path / "out"), ("verify", squares, "--cross_frames")):
        done = command(*words)
        assert done.code == 2
        assert "unet4d[registration]" in done.error
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_several_processes_give_the_same_labels(squares, tmp_path):
    one = run(squares, tmp_path / "one")
    propagate(squares, tmp_path / "two", PropagationOptions(), 2, Shift)
    two = read_dataset(tmp_path / "two")
    for case in one.training:
        for a, b in zip(case.files, two.case(case.name).files, strict=True):
            assert a.read_bytes() == b.read_bytes()


def test_two_calls_do_not_write_to_one_folder_at_once(squares, tmp_path, monkeypatch):
    monkeypatch.setattr("unet4d.system.lock.LOCK_PATIENCE_S", 0.0)
    out = tmp_path / "out"
    run(squares, out)
    before = (out / "dataset.json").read_bytes()
    with exclusive_lock(out / RECORDS / "lock"), pytest.raises(InputError, match="by another unet4d propagate"):
        run(squares, out, weight=0.25)
    assert (out / "dataset.json").read_bytes() == before
    assert run(squares, out, weight=0.25).training[0].partial.weight(1) == 0.25
