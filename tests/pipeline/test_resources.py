"""Resources of preprocessing: bytes of hand-made grids, and threads that fit."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from unet4d.errors import Unet4DError
from unet4d.pipeline.resources import Footprint, check_disk_room, count_threads, footprint

GB = 10**9


def of(dataset, *spacing_mm: float) -> Footprint:
    return footprint(dataset.training[0], dataset, spacing_mm)


def test_bytes_on_disk_are_those_of_image_and_labelled_frames(write_case):
    dataset = write_case(np.zeros((2, 3, 40, 20, 10)), np.zeros((3, 40, 20, 10), np.uint8), labelled_frames=[1])
    image, label, foreground = 4 * 2 * 3 * 8000, 8000, 20 * 0.05 * 8000
    assert of(dataset).disk_bytes == image + label + foreground
    finer = of(dataset, 0.5, 4.0)  # 80 x 40 x 20
    assert finer.disk_bytes == 8 * of(dataset).disk_bytes
    assert finer.memory_bytes > of(dataset).memory_bytes


def test_a_large_class_takes_no_more_than_what_is_kept_of_it(write_case, monkeypatch):
    monkeypatch.setattr("unet4d.pipeline.resources.FOREGROUND_VOXELS", 5)
    dataset = write_case(np.zeros((1, 1, 40, 20, 10)), np.zeros((1, 40, 20, 10), np.uint8))
    assert of(dataset).disk_bytes == 4 * 8000 + 8000 + 20 * 5


def test_channels_along_the_fourth_axis_are_not_frames(write_case):
    dataset = write_case(np.zeros((1, 3, 4, 4, 4)), np.zeros((3, 4, 4, 4), np.uint8))
    case = replace(dataset.training[0], channels_last=True, channels=3)
    assert footprint(case, dataset, (None, None)).disk_bytes == 4 * 3 * 64 + 64 + int(20 * 0.05 * 64)


@pytest.mark.parametrize(
    ("wanted", "needed", "free", "threads"),
    [
        (8, [1, 1, 1], 100, 3),  # no more than there are studies
        (2, [1] * 9, 100, 2),
        (8, [4] * 9, 20, 4),  # four fifths of 20 are used
        (8, [1, 1, 12, 1, 4], 20, 2),  # the largest could meet
        (8, [40, 1], 20, 1),  # one must do
        (8, [4] * 9, math.inf, 8),
        (0, [1], 100, 1),
    ],
)
def test_as_many_threads_as_fit_the_memory_with_the_largest_studies(wanted, needed, free, threads):
    studies = [Footprint(0, size * GB) for size in needed]
    assert count_threads(wanted, studies, free * GB) == threads


def test_the_size_of_the_entries_is_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=120 * GB))
    check_disk_room([Footprint(GB, 0), Footprint(int(2.4 * GB), 0)], tmp_path / "a" / "b")
    assert capsys.readouterr().out == f"preprocessing 2 studies into {tmp_path}/a/b: 3.4 GB, 120 GB free\n"
    with pytest.raises(Unet4DError, match=r"needs 121 GB for 1 study to preprocess, and 120 GB are free"):
        check_disk_room([Footprint(121 * GB, 0)], tmp_path)
