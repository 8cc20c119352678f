"""The benchmark of loading data at toy sizes, and the arithmetic of what is read off it."""

from __future__ import annotations

import json
import multiprocessing
from multiprocessing import forkserver
from types import SimpleNamespace

import monai
import numpy as np
import pytest
import torch

from bench import data, data_loaders
from bench.__main__ import PARTS, print_table
from bench.data_loaders import (
    CACHE,
    MILD,
    OURS,
    READING,
    STRONG,
    TUNED,
    Clips,
    RandFramesd,
    from_files,
    in_memory,
    ours,
    seconds_per_clip,
)
from bench.data_studies import write_studies
from bench.measure import Rounds
from unet4d.datasets.dataset import read_dataset

FORK = multiprocessing.get_context("fork")
TOY = data.Sizes(2, 6, (24, 20, 4), (8, 8, 4), 3, 2, workers=(0, 2), rounds=1, seconds=0.0)
NAMES = [OURS, MILD, STRONG, CACHE, TUNED, READING]


@pytest.fixture(autouse=True)
def meta_tensors_afterwards():
    """One way to load switches them off, for all that comes later in the process."""
    yield
    monai.data.set_track_meta(True)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Clips:
    """Two studies of 6 frames of 24 x 20 x 4."""
    root = tmp_path_factory.mktemp("bench")
    (root / "dataset").mkdir()
    write_studies(root / "dataset", 2, 6, (24, 20, 4), 1, FORK)
    return Clips(root / "dataset", root / "cache", (8, 8, 4), 3, 2)


def test_every_table_is_filled_printed_and_written(capsys, monkeypatch):
    # A forked process takes this one's fork server, which Python 3.14 starts workers from, for its own, and waits for it.
    monkeypatch.setattr(forkserver._forkserver, "_forkserver_pid", None)
    assert "data" in PARTS
    tables = data.run(TOY, "fork")
    assert {name: len(rows) for name, rows in tables.items()} == {
        "dataset": 1,
        "clips": 2 * len(NAMES),
        "bars": 3,
    }
    assert [row["loader"] for row in tables["clips"]] == 2 * NAMES
    for table in tables.values():
        print_table(table)
        assert len({tuple(row) for row in table}) == 1
    assert OURS in capsys.readouterr().out
    json.dumps(tables, allow_nan=False)
    (row,) = tables["dataset"]
    assert row["cache estimated GB"] == pytest.approx(row["cache GB"], rel=0.2)  # headers and the memo weigh, so small


def test_the_dataset_is_one_with_a_beating_structure(drawn):
    dataset = read_dataset(drawn.folder)
    first, second = (case.image().array for case in dataset.training)
    assert first.shape == (1, 6, 24, 20, 4)
    assert not np.array_equal(first, second)
    assert dataset.training[0].labelled_frames == (0, 2)
    assert dataset.cyclic


@pytest.mark.parametrize("make", [ours, in_memory, from_files])
def test_all_loaders_give_the_same_number_of_voxels_normalized(drawn, make):
    for name, loader in make(drawn).items():
        image = next(loader(0))
        assert image.numel() == 2 * 3 * 8 * 8 * 4, name
        assert len(image) == 2
        assert image.dtype == torch.float32
        assert -8 < image.min() < image.max() < 8
    torch.set_num_threads(1)


def test_clips_of_the_others_begin_anywhere_in_the_loop_and_go_round():
    take = RandFramesd(("image", "label"), 4)
    take.set_random_state(0)
    loop = torch.arange(6).reshape(6, 1, 1, 1)
    taken = [take({"image": loop, "label": 10 * loop}) for _ in range(40)]
    assert {int(one["image"][0]) for one in taken} == set(range(6))
    for one in taken:
        assert torch.equal(one["image"].flatten().diff().remainder(6), torch.ones(3, dtype=torch.int64))
        assert torch.equal(one["label"], 10 * one["image"])


def test_the_clock_runs_from_the_first_batch_of_every_worker_to_as_many_of_each(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(data_loaders, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def batches():
        now[0] += 100  # starting up is not counted
        for _ in range(100):
            yield [0, 0]
            now[0] += 1

    assert seconds_per_clip(batches(), 3, 0.0) == 1 / 2
    assert now == [105]


def test_fewer_studies_are_made_where_room_is_short(capsys):
    voxels = 6 * 24 * 20 * 4
    assert data.fit_sizes(TOY, 10**9, 10**9) == TOY
    assert capsys.readouterr().out == ""
    assert data.fit_sizes(TOY, 1.5 * data.DISK_BYTES * voxels, 10**9).studies == 1
    assert data.fit_sizes(TOY, 10**9, 0).studies == 1
    assert "1 studies in place of 2" in capsys.readouterr().out


def rows_of(workers: int, ours: float, theirs: float, tuned: float, reading: float) -> list[dict]:
    seconds = {OURS: ours, MILD: 1.0, STRONG: 1.0, CACHE: theirs, TUNED: tuned, READING: reading}
    return data.clips_table({workers: Rounds({name: [s, s] for name, s in seconds.items()})})


def test_a_bar_is_compared_with_the_worst_number_of_workers():
    rows = rows_of(1, 0.1, 0.2, 0.15, 3.0) + rows_of(4, 0.1, 0.12, 0.09, 1.9)
    bars = data.data_bars(rows)
    assert [row["measured"] for row in bars] == pytest.approx([19, 1.2, 0.9])
    assert [row["met"] for row in bars] == ["no", "yes", "no"]
    assert rows[0]["clips / s"] == pytest.approx(10)
