"""Components of a class in a frame, counted by faces."""

from __future__ import annotations

import numpy as np

from unet4d.metrics.components import count_components


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
