"""Voxel counts, Dice, volumes and summary statistics against answers derived by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tests.drawn import draw
from unet4d.metrics.overlap import count_voxels, dice
from unet4d.metrics.statistics import summary_statistics
from unet4d.metrics.volume_curves import extreme_frames, volumes_ml, voxel_volume_ml

REFERENCE = draw("""
    .........
    ..11.22..
    ..11.22..
    .........
""")
PREDICTION = draw("""
    .........
    ...11222.
    ...11....
    .........
""")


def test_counts_and_dice_by_hand():
    counts = count_voxels(REFERENCE, PREDICTION, [1, 2, 3])
    assert counts.tp.tolist() == [[2, 2, 0]]
    assert counts.fp.tolist() == [[2, 1, 0]]
    assert counts.fn.tolist() == [[2, 2, 0]]
    np.testing.assert_allclose(dice(counts)[0, :2], [4 / 8, 4 / 7])


def test_volumes_count_voxels_times_their_size():
    label = np.zeros((2, 3, 3, 3), np.uint8)
    label[0, :2, 0, 0] = 1
    label[1, 0, :, :] = 2
    affine = np.diag([2.0, 5.0, 10.0, 1.0])
    assert voxel_volume_ml(affine) == pytest.approx(0.1)
    assert voxel_volume_ml(affine @ np.diag([-1, 1, 1, 1])) == pytest.approx(0.1)  # mirrored
    np.testing.assert_allclose(volumes_ml(label, [1, 2], 0.1), [[0.2, 0], [0, 0.9]])


def test_summary_statistics_leave_out_undefined_values_and_count_the_others():
    found = summary_statistics(np.array([[0.5, np.nan], [1.0, 0.0]]))
    assert found == {"mean": 0.5, "median": 0.5, "std": pytest.approx(0.5), "n": 3}
    assert summary_statistics(np.array([np.nan])) == {"mean": None, "median": None, "std": None, "n": 0}
    assert summary_statistics(np.array([0.7]))["std"] is None


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"one shape"):
        count_voxels(np.zeros((1, 2, 2, 2)), np.zeros((2, 2, 2, 2)), [1])


def test_extreme_frames_are_those_of_the_class_that_changes_most():
    """Class 0 is larger, class 1 changes more: largest in frame 2, smallest in frame 0; of equals the first."""
    assert extreme_frames(np.array([[90.0, 10.0], [92.0, 30.0], [91.0, 50.0], [90.0, 50.0]])) == [2, 0]
    assert extreme_frames(np.ones((3, 1))) == [0, 0]
    assert extreme_frames(np.empty((3, 0))) == []
    assert extreme_frames(np.empty((0, 2))) == []
