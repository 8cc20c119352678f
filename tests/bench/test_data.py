"""The benchmark of loading data at toy sizes, and the arithmetic of what is read off it."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from bench import data, data_process
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
)
from bench.data_process import LoaderProcess, Memory, seconds_per_clip
from bench.data_studies import write_studies
from bench.measure import Rounds
from unet4d.datasets.dataset import read_dataset

FORK = multiprocessing.get_context("fork")
TOY = data.Sizes(2, 6, (24, 20, 4), (8, 8, 4), 3, 2, workers=(0, 2), rounds=1, seconds=0.0)
NAMES = [OURS, MILD, STRONG, CACHE, TUNED, READING]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Clips:
    """Two studies of 6 frames of 24 x 20 x 4."""
    root = tmp_path_factory.mktemp("bench")
    (root / "dataset").mkdir()
    write_studies(root / "dataset", 2, 6, (24, 20, 4), 1, FORK)
    return Clips(root / "dataset", root / "cache", (8, 8, 4), 3, 2)


def test_every_table_is_filled_printed_and_written(capsys):
    assert "data" in PARTS
    tables = data.run(TOY, "fork")
    assert {name: len(rows) for name, rows in tables.items()} == {
        "dataset": 1,
        "clips": 2 * len(NAMES),
        "bars": 4,
    }
    assert [row["loader"] for row in tables["clips"]] == 2 * NAMES
    for table in tables.values():
        print_table(table)
        assert len({tuple(row) for row in table}) == 1
    assert OURS in capsys.readouterr().out
    json.dumps(tables, allow_nan=False)
    (row,) = tables["dataset"]
    assert row["cache estimated GB"] == pytest.approx(row["cache GB"], rel=0.2)  # headers and the memo weigh, so small
    if os.path.exists("/proc/self/smaps_rollup"):
        assert all(row["own MB"] > 1 for row in tables["clips"])


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
    monkeypatch.setattr(data_process, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def batches():
        now[0] += 100  # starting up is not counted
        for _ in range(100):
            yield [0, 0]
            now[0] += 1

    assert seconds_per_clip(batches(), 3, 0.0) == 1 / 2
    assert now == [105]


READY, LOOKED = FORK.Event(), FORK.Event()
"""Two batches lie ready; what is held was looked at since."""


class Shared(torch.utils.data.Dataset):
    """Samples of 10 MB."""

    def __len__(self):
        return 100

    def __getitem__(self, i):
        return i, torch.ones(10_000_000, dtype=torch.uint8)


def handed_over(samples):
    """A batch in shared memory; the third one is there when the first is held and the second waits."""
    [(number, _)] = samples
    batch = default_collate([sample for _, sample in samples])
    if number == 2:
        READY.set()
    return batch


def ballast(drawn):
    """A loader that holds 100 MB of its own, and one with two batches of 10 MB ready in its worker."""
    ones = np.ones(100_000_000, np.uint8)

    def endless(workers):
        while True:
            yield ones[:1]

    def shared(workers):
        for batch in torch.utils.data.DataLoader(Shared(), 1, num_workers=1, collate_fn=handed_over):
            assert LOOKED.wait(60)
            yield batch

    return {"own": endless, "shared": shared}


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="the system does not report memory")
def test_memory_is_that_of_the_process_of_those_below_it_and_of_the_batches_between_them(drawn, monkeypatch):
    usual = data_process.memory_mb

    def watched(pid):
        is_ready = READY.is_set()
        found = usual(pid)
        if is_ready:
            LOOKED.set()
        return found

    monkeypatch.setattr(data_process, "memory_mb", watched)
    process = LoaderProcess(ballast, drawn, FORK)
    try:
        own = process.memory("own", 0, 0.0)
        assert own.own_mb > 100
        shared = process.memory("shared", 1, 0.0)
        assert shared.own_mb - own.own_mb > 20
        assert process.process.pid in data_process._tree(os.getpid())
        assert data_process._tree(process.process.pid) == [process.process.pid]
    finally:
        process.close()


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="the system does not report memory")
def test_memory_that_is_shared_is_counted_once(monkeypatch):
    before = data_process._shared(Path("/proc/self"))
    batch = torch.ones(40_000_000, dtype=torch.uint8).share_memory_()
    file, size = batch.untyped_storage()._share_fd_cpu_()
    code = f"import mmap; held = mmap.mmap({file}, {size}); print(sum(held[::4096]), flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], pass_fds=[file], **pipes) as other:
        try:
            assert int(other.stdout.readline()) > 0
            added = data_process._shared(Path("/proc/self")).items() - before.items()
            assert sum(size for _, size in added) == pytest.approx(40e6, rel=0.01)
            assert added <= data_process._shared(Path(f"/proc/{other.pid}")).items()
            monkeypatch.setattr(data_process, "_tree", lambda pid: [pid])
            alone, _ = data_process.memory_mb(other.pid)
            monkeypatch.setattr(data_process, "_tree", lambda pid: [pid, pid])
            assert 40 < alone < 80
            assert data_process.memory_mb(other.pid)[0] - alone < 40
        finally:
            other.kill()
    assert batch[0] == 1


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="the system does not report parents")
def test_a_tree_has_the_children_of_children():
    words = ["sh", "-c", "sleep 600 & echo $!; wait"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True) as outer:
        try:
            inner = int(outer.stdout.readline())
            assert {os.getpid(), outer.pid, inner} <= set(data_process._tree(os.getpid()))
            assert data_process._tree(outer.pid) == [outer.pid, inner]
        finally:
            os.killpg(outer.pid, signal.SIGKILL)


def test_fewer_studies_are_made_where_room_is_short(capsys):
    voxels = 6 * 24 * 20 * 4
    assert data.fit_sizes(TOY, 10**9, 10**9) == TOY
    assert capsys.readouterr().out == ""
    assert data.fit_sizes(TOY, 1.5 * data.DISK_BYTES * voxels, 10**9).studies == 1
    assert data.fit_sizes(TOY, 10**9, 0).studies == 1
    assert "1 studies in place of 2" in capsys.readouterr().out


def rows_of(workers: int, ours: float, theirs: float, tuned: float, reading: float, held: float) -> list[dict]:
    seconds = {OURS: ours, MILD: 1.0, STRONG: 1.0, CACHE: theirs, TUNED: tuned, READING: reading}
    memory = {(name, workers): Memory(held if name == OURS else 1000.0, None) for name in seconds}
    return data.clips_table({workers: Rounds({name: [s, s] for name, s in seconds.items()})}, memory)


def test_a_bar_is_compared_with_the_worst_number_of_workers():
    rows = rows_of(1, 0.1, 0.2, 0.15, 3.0, 50.0) + rows_of(4, 0.1, 0.12, 0.09, 1.9, 120.0)
    bars = data.data_bars(rows)
    assert [row["measured"] for row in bars] == pytest.approx([19, 1.2, 0.9, 0.12])
    assert [row["met"] for row in bars] == ["no", "yes", "no", "no"]
    assert rows[0]["clips / s"] == pytest.approx(10)


def test_unknown_memory_is_not_met():
    rows = rows_of(1, 0.1, 0.2, 0.15, 3.0, 50.0)
    for row in rows:
        row["own / CacheDataset"] = None
    assert data.data_bars(rows)[-1]["met"] == "no"
