"""Tests: drawings that contradict one another are reported, and true ones are not."""

from __future__ import annotations

import numpy as np
import pytest

from tests.builders import edit_dataset
from tests.datasets.propagation.moving import Shift, image_of, labels_of, write_moving
from unet4d.datasets.dataset import read_dataset
from unet4d.datasets.propagation.cross_frames import (
    Comparison,
    check_cross_frames,
    compare_drawn,
    contradictions,
    neighbors,
)
from unet4d.images.image4d import read_image, write_image


@pytest.mark.parametrize(
    ("drawn", "cyclic", "pairs"),
    [
        ([0, 3], True, [(0, 3)]),
        ([0, 8], True, [(8, 0)]),  # of 10 frames: two steps round the cycle
        ([0, 3, 5], True, [(0, 3), (3, 5), (5, 0)]),
        ([0, 3, 5], False, [(0, 3), (3, 5)]),
        ([4], True, []),
    ],
)
def test_each_drawn_frame_is_compared_with_the_next(drawn, cyclic, pairs):
    assert neighbors(drawn, 10, cyclic) == pairs


def test_a_moved_label_fits_once_it_is_carried():
    truth = labels_of()
    (found,) = compare_drawn(image_of(truth), {0: truth[0], 3: truth[3]}, True, Shift(), (1.0, 1.0, 1.0))
    assert found.carried == {1: 1.0, 2: 1.0}
    assert found.unmoved[2] < 0.5
    assert contradictions(found) == []


def test_a_class_that_moving_takes_apart_is_a_contradiction():
    assert contradictions(Comparison(0, 3, {1: 0.9, 2: 0.6}, {1: 0.8, 2: 0.9})) == [2]
    assert contradictions(Comparison(0, 3, {1: 0.85, 2: 0.0}, {1: 0.86})) == [2]


def test_verify_lists_the_study_whose_frames_were_exchanged(tmp_path, command, monkeypatch):
    root = write_moving(tmp_path / "squares", [{}, {}, {"labelled_frames": [1]}])
    path = root / "labels/square1.nii.gz"
    label = read_image(path).array[0].astype(np.uint8)
    label[[0, 3]] = label[[3, 0]]
    write_image(path, label, like=read_image(path))
    (issue,) = check_cross_frames(read_dataset(root), Shift)
    assert (issue.kind, issue.case, issue.severity) == ("frames-contradict", "square1", "warning")
    assert all(name in issue.message for name in ("frames 0 and 3", "cavity"))
    monkeypatch.setattr("unet4d.datasets.verify.verify.check_cross_frames", lambda dataset: [issue])
    monkeypatch.setattr("unet4d.datasets.verify.checks.import_greedy", lambda: None)
    done = command("verify", root, "--cross_frames")
    assert done.code == 0
    assert "warning frames-contradict" in done.told


def test_voxels_that_nobody_drew_and_propagated_frames_contradict_nothing(tmp_path):
    root = write_moving(tmp_path / "squares", [{"labelled_slices": {"3": [0, 2]}}])
    assert check_cross_frames(read_dataset(root), Shift) == []
    with edit_dataset(root) as about:
        about["training"][0] |= {"labelled_frames": [0, 1, 3], "propagated_frames": [1]}  # frame 1 is empty in the file
        del about["training"][0]["labelled_slices"]
    assert check_cross_frames(read_dataset(root), Shift) == []
