"""The sample of foreground voxels: every class of every frame, spread evenly where there are many."""

from __future__ import annotations

import numpy as np

from unet4d.pipeline import foreground
from unet4d.pipeline.foreground import foreground_voxels


def test_every_voxel_of_small_classes_is_there_in_order():
    label = np.zeros((2, 2, 1, 3), np.uint8)
    label[0, 1, 0, 2], label[0, 0, 0, 1], label[1, 1, 0, 0] = 1, 2, 1
    assert foreground_voxels(label).tolist() == [[0, 1, 1, 0, 2], [0, 2, 0, 0, 1], [1, 1, 1, 0, 0]]
    assert foreground_voxels(label).dtype == np.int32


def test_a_label_without_foreground_gives_an_empty_table():
    assert foreground_voxels(np.zeros((2, 3, 3, 3), np.uint8)).shape == (0, 5)


def test_a_large_class_is_represented_by_voxels_spread_evenly(monkeypatch):
    monkeypatch.setattr(foreground, "FOREGROUND_VOXELS", 5)
    label = np.ones((1, 20, 1, 2), np.uint8)
    label[0, 3, 0, 0] = 0
    rows = foreground_voxels(label)
    assert len(rows) == 5
    assert rows[[0, -1], 2].tolist() == [0, 19]
    assert all(label[0, x, y, z] == 1 for x, y, z in rows[:, 2:])
