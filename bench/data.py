"""Clips a second into the training loop, and the memory they take: our cache against MONAI's, and against reading the files."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.bars import bar
from bench.data_feed import Feed, Memory
from bench.data_loaders import MILD, OURS, STRONG, Drawn, our_config, ours
from bench.data_need import need_table
from bench.data_rivals import CACHE, READING, TUNED, from_files, in_memory
from bench.data_studies import write_studies
from bench.measure import Rounds
from unet4d.config import Config, Size
from unet4d.datasets.dataset import read_dataset
from unet4d.pipeline.cache import cached_studies
from unet4d.pipeline.resources import footprint
from unet4d.system.memory import free_memory_bytes

Row = dict[str, Any]
DISK_BYTES, MEMORY_BYTES = 7, 12
"""A voxel and frame at most takes: compressed and cached on disk; held by CacheDataset, and cached pages of ours, in memory."""


@dataclass(frozen=True)
class Sizes:
    """What is read, and for how long.

    Attributes:
        studies: how many.
        frames: of a study.
        shape: voxels (X, Y, Z) of a study.
        patch: voxels (X, Y, Z) of a clip.
        clip_frames: frames of a clip.
        batch_size: clips of a batch.
        workers: numbers of worker processes.
        rounds: how often each loader has its turn,
        seconds: and for how long.
        config: whose training step is fed.
    """

    studies: int = 40
    frames: int = 30
    shape: Size = (256, 256, 12)
    patch: Size = (128, 128, 12)
    clip_frames: int = 8
    batch_size: int = 2
    workers: tuple[int, ...] = (1, 2, 4)
    rounds: int = 3
    seconds: float = 3.0
    config: Config | None = None


def run(sizes: Sizes | None = None, start: str = "spawn") -> dict[str, list[Row]]:
    """All tables, by name; the last one says which of the bars set for them are met.

    Args:
        sizes: None: those of a cardiac dataset, fewer studies where disk or memory is short.
        start: how processes are started; "spawn", so that none holds anything of another's.
    """
    context = multiprocessing.get_context(start)
    with tempfile.TemporaryDirectory(prefix="unet4d-bench-") as made, contextlib.ExitStack() as open_feeds:
        sizes = fitting(sizes or Sizes(), shutil.disk_usage(made).free, free_memory_bytes())
        drawn = Drawn(Path(made) / "dataset", Path(made) / "cache", sizes.patch, sizes.clip_frames, sizes.batch_size)
        table = _made(drawn, sizes, context)
        feeds: dict[str, Feed] = {}
        for make in (ours, in_memory, from_files):
            feed = Feed(make, drawn, context)
            open_feeds.callback(feed.close)
            feeds |= dict.fromkeys(feed.names, feed)
        rounds = {workers: _timed(feeds, workers, sizes) for workers in sizes.workers}
        memory = {
            (name, workers): feed.memory(name, workers, sizes.seconds / 2)
            for workers in sizes.workers
            for name, feed in feeds.items()
        }
    clips = clips_table(rounds, memory)
    one = rounds[min(sizes.workers, key=lambda workers: abs(workers - 1))]
    per_worker = {name: 1 / (one.seconds(name) or math.inf) for name in (OURS, MILD, STRONG)}
    tables = {"made": table, "clips": clips, "need": need_table(drawn, per_worker, sizes.config)}
    return tables | {"bars": data_bars(clips)}


def fitting(sizes: Sizes, free_disk: float, free_memory: float) -> Sizes:
    """The sizes with as many studies as disk and memory have room for; says so where that is fewer."""
    voxels = math.prod(sizes.shape) * sizes.frames
    most = int(min(free_disk / (DISK_BYTES * voxels), free_memory / (MEMORY_BYTES * voxels)))
    if most >= sizes.studies:
        return sizes
    print(f"{max(1, most)} studies in place of {sizes.studies}: there is room for no more on disk or in memory")
    return dataclasses.replace(sizes, studies=max(1, most))


def _made(drawn: Drawn, sizes: Sizes, context: Any) -> list[Row]:
    """Write the dataset and preprocess it; what that took."""
    drawn.folder.mkdir()
    cores = os.cpu_count() or 1
    writing = _seconds(lambda: write_studies(drawn.folder, sizes.studies, sizes.frames, sizes.shape, cores, context))
    dataset, config = read_dataset(drawn.folder), our_config(drawn, cores)
    told = sum(footprint(case, dataset, config, config.in_plane_spacing_mm).disk_bytes for case in dataset.training)
    building = _seconds(
        lambda: cached_studies(dataset.training, dataset, config, config.in_plane_spacing_mm, drawn.cache)
    )
    again = _seconds(lambda: cached_studies(dataset.training, dataset, config, config.in_plane_spacing_mm, drawn.cache))
    return [
        {
            "studies": sizes.studies,
            "frames": sizes.frames,
            "grid": " x ".join(map(str, sizes.shape)),
            "files GB": _size(drawn.folder) / 1e9,
            "cache told GB": told / 1e9,
            "cache GB": _size(drawn.cache) / 1e9,
            "s to write": writing,
            "s to preprocess": building,
            "s to find them again": again,
        }
    ]


def _timed(feeds: Mapping[str, Feed], workers: int, sizes: Sizes) -> Rounds:
    """Seconds a clip of each loader, in turns."""
    rounds = Rounds({name: [] for name in feeds})
    for _ in range(sizes.rounds):
        for name, feed in feeds.items():
            rounds[name].append(feed.seconds_per_clip(name, workers, sizes.seconds))
    return rounds


def clips_table(rounds: Mapping[int, Rounds], memory: Mapping[tuple[str, int], Memory]) -> list[Row]:
    """A row per number of workers and loader; its speed, over those it is held against, and its memory."""
    rows = []
    for workers, taken in rounds.items():
        for name in taken:
            held, theirs = memory[name, workers], memory[CACHE, workers].own_mb
            rows.append(
                {
                    "workers": workers,
                    "loader": name,
                    "clips / s": 1 / (taken.seconds(name) or math.inf),
                    "times CacheDataset": taken.ratio(CACHE, name),
                    "times the tuned one": taken.ratio(TUNED, name),
                    "times reading": taken.ratio(READING, name),
                    "own MB": held.own_mb,
                    "own / CacheDataset": held.own_mb / theirs if held.own_mb and theirs else None,
                    "mapped files MB": held.mapped_mb,
                }
            )
    return rows


def data_bars(clips: list[Row]) -> list[Row]:
    """What the loader is to reach with any number of workers, augmentation off."""

    def values(key: str) -> list[float | None]:
        return [getattr(row[key], "median", row[key]) for row in clips if row["loader"] == OURS]

    return [
        bar("clips a second over reading the .nii.gz", ">=", 20, values("times reading")),
        bar("clips a second over CacheDataset", ">=", 1, values("times CacheDataset")),
        bar("clips a second over CacheDataset without copies and metadata", ">=", 1, values("times the tuned one")),
        bar("memory of its own over CacheDataset's", "<=", 0.1, values("own / CacheDataset")),
    ]


def _seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
