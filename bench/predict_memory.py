"""The memory of a prediction, as the system saw it, over the number of windows and the size of a study."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.bars import bar
from bench.predict_candidates import Ours, write_model, write_series
from bench.predict_child import Child, Done
from unet4d.config import Config, DataConfig, InferenceConfig, ModelConfig, Size
from unet4d.inference.settings import Settings

Row = dict[str, Any]
SPACING_MM = (1.0, 1.0, 1.0)
MOST_GROWTH = 1.05


@dataclass(frozen=True)
class MemorySizes:
    """Studies that differ in one thing.

    Attributes:
        shape: voxels (X, Y, Z) of the study that is answered with several overlaps,
        overlaps: these, the fewest windows first.
        lengths: voxels along X of studies that grow, the memory staying.
        frames: T.
        patch: voxels (X, Y, Z) of a window.
        channels: of the network.
        classes: K.
        room_bytes: what may be taken beside what a process holds before it reads anything, for studies that grow.
    """

    shape: Size = (96, 96, 24)
    overlaps: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75)
    lengths: tuple[int, ...] = (192, 384, 768)
    frames: int = 16
    patch: Size = (32, 32, 24)
    channels: tuple[int, ...] = (4, 8)
    classes: int = 4
    room_bytes: float = 1.5e8


def memory_table(folder: Path, sizes: MemorySizes, start: str) -> list[Row]:
    """A row a study and overlap, each in a process of its own; the model lies in the folder, studies only while they are used."""
    model = folder / "memory.pt"
    config = Config(
        DataConfig(patch_size=sizes.patch),
        ModelConfig(list(sizes.channels), direction="forward"),
        inference=InferenceConfig(sizes.overlaps[0], chunk_frames=2),
    )
    write_model(model, config, sizes.classes, SPACING_MM, cyclic=False)
    rows = []
    fewest: Done | None = None
    for overlap in sizes.overlaps:
        done = _segmented(folder, model, sizes, sizes.shape, Settings(overlap=overlap), None, start)
        fewest = fewest or done
        rows.append(_row(sizes.shape, overlap, done, done.own_mb / fewest.own_mb if fewest.own_mb else None))
    for x in sizes.lengths:
        shape = (x, *sizes.shape[1:])
        done = _segmented(folder, model, sizes, shape, Settings(scratch_dir=folder), sizes.room_bytes, start)
        rows.append(_row(shape, sizes.overlaps[0], done, None))
    return rows


def memory_bars(rows: Sequence[Row]) -> list[Row]:
    """What the number of windows may add, and what the size of a study may."""
    return [
        bar(
            "memory beside the idle process over that with the fewest windows",
            "<=",
            MOST_GROWTH,
            [row["own / fewest windows'"] for row in rows if row["asked MB"] is None],
        ),
        bar(
            "studies that grow: peak over the memory asked for",
            "<=",
            1,
            [row["peak / asked"] for row in rows if row["asked MB"] is not None],
        ),
    ]


def _segmented(
    folder: Path, model: Path, sizes: MemorySizes, shape: Size, settings: Settings, room: float | None, start: str
) -> Done:
    study = folder / "memory.nii"
    write_series(study, shape, sizes.frames, SPACING_MM)
    with Child(Ours(model, study, folder / "memory", settings, room), multiprocessing.get_context(start)) as child:
        done = child()
    study.unlink()
    return done


def _row(shape: Size, overlap: float, done: Done, growth: float | None) -> Row:
    return {
        "grid": " x ".join(map(str, shape)),
        "overlap": overlap,
        "windows": done.windows,
        "from disk": "yes" if done.on_disk else "no",
        "s": done.seconds,
        "asked MB": done.asked_mb,
        "idle MB": done.idle_mb,
        "peak MB": done.peak_mb,
        "own / fewest windows'": growth,
        "peak / asked": done.peak_over_asked,
        "GPU MB": done.gpu_mb or None,
    }
