"""Clips per second of our loader, over MONAI's CacheDataset and over reading the files each time."""

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
from bench.child import Child
from bench.data_loaders import CACHE, LOADERS, OURS, READING, TUNED, Clips, Loading, our_config
from bench.data_studies import write_studies
from bench.measure import Rounds
from unet4d.config import Size
from unet4d.datasets.dataset import read_dataset
from unet4d.pipeline.cache import cached_studies
from unet4d.pipeline.resources import footprint
from unet4d.system.memory import free_memory_bytes

Row = dict[str, Any]
DISK_BYTES, MEMORY_BYTES = 7, 12
"""Most bytes per voxel and frame: compressed and cached on disk; in memory by CacheDataset, and cached pages of ours."""


@dataclass(frozen=True)
class Sizes:
    """The studies, the clips and how long they are loaded.

    Attributes:
        studies: how many.
        frames: of a study.
        shape: voxels (X, Y, Z) of a study.
        patch: voxels (X, Y, Z) of a clip.
        clip_frames: frames of a clip.
        batch_size: clips of a batch.
        workers: numbers of worker processes.
        rounds: how often each loader has its turn.
        seconds: of a turn.
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


def run(sizes: Sizes | None = None, start: str = "spawn") -> dict[str, list[Row]]:
    """Return all tables by name, the bars last.

    Args:
        sizes: None: those of a cardiac dataset, fewer studies where disk or memory is short.
        start: how processes are started; "spawn", so that none holds memory of another.
    """
    context = multiprocessing.get_context(start)
    with tempfile.TemporaryDirectory(prefix="unet4d-bench-") as folder, contextlib.ExitStack() as open_processes:
        sizes = fit_sizes(sizes or Sizes(), shutil.disk_usage(folder).free, free_memory_bytes())
        clips = Clips(Path(folder, "dataset"), Path(folder, "cache"), sizes.patch, sizes.clip_frames, sizes.batch_size)
        dataset_row = prepare_dataset(clips, sizes, context)
        processes: dict[str, Child] = {}
        for make, names in LOADERS.items():
            processes |= dict.fromkeys(names, open_processes.enter_context(Child(Loading(make, clips), context)))
        rounds = {workers: _time_loaders(processes, workers, sizes) for workers in sizes.workers}
    table = clips_table(rounds)
    return {"dataset": [dataset_row], "clips": table, "bars": data_bars(table)}


def fit_sizes(sizes: Sizes, free_disk: float, free_memory: float) -> Sizes:
    """Return the sizes with as many studies as disk and memory have room for; print it where that is fewer."""
    voxels = math.prod(sizes.shape) * sizes.frames
    most = int(min(free_disk / (DISK_BYTES * voxels), free_memory / (MEMORY_BYTES * voxels)))
    if most >= sizes.studies:
        return sizes
    print(f"{max(1, most)} studies in place of {sizes.studies}: there is room for no more on disk or in memory")
    return dataclasses.replace(sizes, studies=max(1, most))


def prepare_dataset(clips: Clips, sizes: Sizes, context: Any) -> Row:
    """Write the dataset and preprocess it; return a row of what that took."""
    clips.folder.mkdir()
    cores = os.cpu_count() or 1
    writing = _seconds(lambda: write_studies(clips.folder, sizes.studies, sizes.frames, sizes.shape, cores, context))
    dataset, config = read_dataset(clips.folder), our_config(clips, cores)
    plane = config.in_plane_spacing_mm
    estimate = sum(footprint(case, dataset, (plane, None)).disk_bytes for case in dataset.training)

    def preprocess() -> None:
        cached_studies(dataset.training, dataset, config, plane, clips.cache)

    building, again = _seconds(preprocess), _seconds(preprocess)
    return {
        "studies": sizes.studies,
        "frames": sizes.frames,
        "grid": " x ".join(map(str, sizes.shape)),
        "files GB": _size(clips.folder) / 1e9,
        "cache estimated GB": estimate / 1e9,
        "cache GB": _size(clips.cache) / 1e9,
        "s to write": writing,
        "s to preprocess": building,
        "s to find them again": again,
    }


def _time_loaders(processes: Mapping[str, Child], workers: int, sizes: Sizes) -> Rounds:
    """Return the seconds per clip of each loader, measured in turns."""
    rounds = Rounds({name: [] for name in processes})
    for _ in range(sizes.rounds):
        for name, process in processes.items():
            rounds[name].append(process(name, workers, sizes.seconds))
    return rounds


def clips_table(rounds: Mapping[int, Rounds]) -> list[Row]:
    """Return a row per number of workers and loader: its speed, and over those of the others."""
    return [
        {
            "workers": workers,
            "loader": name,
            "clips / s": 1 / (taken.seconds(name) or math.inf),
            "times CacheDataset": taken.ratio(CACHE, name),
            "times the tuned one": taken.ratio(TUNED, name),
            "times reading": taken.ratio(READING, name),
        }
        for workers, taken in rounds.items()
        for name in taken
    ]


def data_bars(clips: list[Row]) -> list[Row]:
    """Return the bars of the loader, for any number of workers, augmentation off."""

    def values(key: str) -> list[float | None]:
        return [getattr(row[key], "median", row[key]) for row in clips if row["loader"] == OURS]

    return [
        bar("clips a second over reading the .nii.gz", ">=", 20, values("times reading")),
        bar("clips a second over CacheDataset", ">=", 1, values("times CacheDataset")),
        bar("clips a second over CacheDataset without copies and metadata", ">=", 1, values("times the tuned one")),
    ]


def _seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
