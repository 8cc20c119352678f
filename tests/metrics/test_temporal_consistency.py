"""Frame-to-frame overlap and single-frame components, on label maps small enough to draw."""

from __future__ import annotations

import numpy as np
import pytest

from tests.drawn import draw
from unet4d.inference.postprocessing_steps import Step, apply_steps
from unet4d.metrics.temporal_consistency import flicker, frame_to_frame_dice


def film(*frames: str) -> np.ndarray:
    """Return (T, X, Y, 1) from one drawing per frame."""
    return np.concatenate([draw(frame) for frame in frames])


def test_frame_to_frame_dice_by_hand():
    found = frame_to_frame_dice(film("11.. 22..", "111. ....", "11.. 22.."), [1, 2, 3], cyclic=False)
    assert found[:, 0].tolist() == pytest.approx([4 / 5, 4 / 5])
    assert found[:, 1].tolist() == [0, 0]
    assert np.isnan(found[:, 2]).all()
    around = frame_to_frame_dice(film("11.. 22..", "111. ....", "11.. 22.."), [1], cyclic=True)
    assert around[:, 0].tolist() == pytest.approx([4 / 5, 4 / 5, 1])


@pytest.mark.parametrize(
    ("frames", "cyclic", "pairs"), [(1, False, 0), (1, True, 0), (2, False, 1), (2, True, 1), (5, True, 5)]
)
def test_two_frames_are_one_pair(frames: int, cyclic: bool, pairs: int):
    assert len(frame_to_frame_dice(np.ones((frames, 2, 2, 1), np.uint8), [1], cyclic)) == pairs


def test_flicker_by_hand():
    """In frame 1 a speck of one voxel, and two that touch by a corner: one component of three voxels. Class 2 stays."""
    label = film("11.... 2.....", "11...1 2..11.", "11.... 2.....")
    components, voxels = flicker(label, [1, 2], cyclic=False)
    assert components[:, 0].tolist() == [0, 1, 0]
    assert voxels[:, 0].tolist() == [0, 3, 0]
    assert not components[:, 1].any()


def test_components_apart_are_counted_apart():
    components, voxels = flicker(film("......", "1.1.11", "......"), [1], cyclic=False)
    assert (components[1, 0], voxels[1, 0]) == (3, 4)


def test_a_neighbor_of_another_class_does_not_keep_a_component_alive():
    components, _ = flicker(film("22", "11", "22"), [1, 2], cyclic=False)
    assert components.tolist() == [[0, 1], [1, 0], [0, 1]]


def test_a_move_by_a_voxel_is_no_flicker_and_a_gap_is():
    components, _ = flicker(film("1....", ".1...", "..1.."), [1], cyclic=False)
    assert components[:, 0].tolist() == [0, 0, 0]
    components, voxels = flicker(film("1....", "..1..", "....1"), [1], cyclic=False)
    assert components[:, 0].tolist() == voxels[:, 0].tolist() == [1, 1, 1]


@pytest.mark.parametrize("cyclic", [False, True])
def test_post_processing_removes_exactly_the_flickering_components(cyclic: bool):
    label = np.random.default_rng(1).choice(3, (5, 9, 8, 4), p=[0.95, 0.03, 0.02]).astype(np.uint8)
    for value, name in ((1, "muscle"), (2, "cavity")):
        step = Step("remove_single_frame_components", name)
        cleaned = apply_steps(label, [step], {"background": 0, "muscle": 1, "cavity": 2}, cyclic)
        components, voxels = flicker(label, [value], cyclic)
        assert components.sum() > 2
        gone = ((label == value) & (cleaned != value)).sum(axis=(1, 2, 3))
        assert gone.tolist() == voxels[:, 0].tolist()
        assert not flicker(cleaned, [value], cyclic)[0].any()


def test_a_cyclic_study_wraps_and_an_open_one_has_one_neighbor_at_its_ends():
    label = film("1.", "..", "..", "1.")
    assert flicker(label, [1], cyclic=True)[0].sum() == 0
    assert flicker(label, [1], cyclic=False)[0][:, 0].tolist() == [1, 0, 0, 1]


def test_one_frame_has_no_flicker():
    for cyclic in (True, False):
        components, voxels = flicker(film("1."), [1], cyclic)
        assert not components.any()
        assert not voxels.any()


@pytest.mark.parametrize("shift", [1, 2, 4])
def test_cyclic_flicker_does_not_depend_on_where_the_cycle_was_cut(shift: int):
    label = (np.random.default_rng(0).random((6, 9, 8, 3)) > 0.96).astype(np.uint8)
    components, voxels = flicker(label, [1], cyclic=True)
    assert components.sum() > 5
    for found, moved in zip((components, voxels), flicker(np.roll(label, shift, 0), [1], cyclic=True), strict=True):
        np.testing.assert_array_equal(np.roll(found, shift, 0), moved)
