"""Components of a class in a frame, counted by faces."""

from __future__ import annotations

import numpy as np
import pytest

from unet4d.metrics.components import contact_share, count_components


def test_components_by_hand():
    """Class 1: a block of 4 and a voxel that touches it by an edge alone; class 3: nowhere in frame 0, one voxel in frame 1."""
    label = np.zeros((2, 6, 6, 2), np.uint8)
    label[0, :2, :2, 0] = 1
    label[0, 2, 2, 0] = 1
    label[1, 5, 5, 1] = 3
    numbers, shares = count_components(label, [1, 3])
    assert numbers.tolist() == [[2, 0], [0, 1]]
    assert shares.tolist() == [[0.8, 0], [0, 1]]


def test_a_checkerboard_falls_apart():
    board = (np.indices((6, 6, 2)).sum(axis=0) % 2).astype(np.uint8)[None]
    assert count_components(board, [1])[0].tolist() == [[36]]


def test_no_class_has_no_components():
    numbers, shares = count_components(np.zeros((2, 3, 3, 1), np.uint8), [])
    assert numbers.shape == shares.shape == (2, 0)


def test_the_share_of_a_surface_that_touches_another_class_by_hand():
    """A voxel of 1 in the corner of a grid has three faces inside it: two to 2, and one to the background."""
    label = np.zeros((1, 3, 3, 2), np.uint8)
    label[0, 0, 0, 0], label[0, 1, 0, 0], label[0, 0, 1, 0] = 1, 2, 2
    assert contact_share(label == 1, label == 2) == pytest.approx(2 / 3)
    assert contact_share(label == 2, label == 1) == pytest.approx(2 / 8)
    assert contact_share(label == 3, label == 1) == 0
