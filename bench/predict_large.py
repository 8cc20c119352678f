"""A study that does not fit into memory, segmented within what is asked; and a smaller one, to show that cutting changes nothing.

The large one takes long and is measured only if asked for: `python -m bench predict_large`.
"""

from __future__ import annotations

import math
import multiprocessing
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from bench.bars import bar
from bench.predict_candidates import Ours, write_model, write_series
from bench.predict_child import Child, Done
from unet4d.config import Config, DataConfig, InferenceConfig, ModelConfig, Size
from unet4d.inference.settings import Settings

Row = dict[str, Any]
BYTES = 2 + 4 + 1 + 2
"""On disk a voxel and frame of such a study: int16, as it is kept normalised, label map, and what else is written meanwhile."""
AMPLE_BYTES, MB = 16e9, 1e6
CUT, WHOLE = "cut", "all at once"


@dataclass(frozen=True)
class Large:
    """A study too large for the memory, and a small network.

    Attributes:
        shape: voxels (X, Y, Z).
        frames: T.
        patch: voxels (X, Y, Z) of a window.
        overlap: of windows.
        chunk_frames: frames computed at once, at most.
        memory_bytes: that its process shall stay within; None: what is set by
        room_bytes: beside what the process holds before it reads anything.
        channels: of the network.
        classes: K.
    """

    shape: Size
    frames: int
    patch: Size
    overlap: float
    chunk_frames: int
    memory_bytes: int | None = None
    room_bytes: float | None = None
    channels: tuple[int, int] = (2, 8)
    classes: int = 3

    @property
    def config(self) -> Config:
        """Of the network: forward in time, a ConvLSTM at the bottleneck, few voxels at all levels but the first."""
        model = ModelConfig(
            list(self.channels), [0, self.channels[1] // 4], [(4, 4, 4)], [(3, 3, 1), (3, 3, 3)], "forward"
        )
        window = InferenceConfig(self.overlap, chunk_frames=self.chunk_frames)
        return Config(DataConfig(patch_size=self.patch), model, inference=window)

    @property
    def voxels(self) -> int:
        """Of all frames."""
        return self.frames * math.prod(self.shape)


FULL = Large((512, 512, 160), 50, (32, 64, 160), 0.0, 4, memory_bytes=6 * 10**9, classes=2)
"""4.2 GB of abdomen with contrast. In float32 it takes 8.4 GB, its logits 17."""
SMALL = Large((160, 160, 40), 24, (32, 32, 24), 0.125, 2, room_bytes=1.9e8)
"""The same in small: 98 MB in float32, its logits 295."""
SPACING_MM = (1.0, 1.0, 1.0)


def run(full: Large = FULL, small: Large = SMALL, start: str = "spawn") -> dict[str, list[Row]]:
    """The large study, and the small one cut and whole."""
    with tempfile.TemporaryDirectory(prefix="unet4d-bench-") as made:
        check_room(Path(made), full)
        rows = small_rows(Path(made), small, start)
        print(f"{full.voxels * 2 / 1e9:.1f} GB of {full.frames} frames: this takes long", flush=True)
        apart = Path(made) / "full"  # for it has other classes
        apart.mkdir()
        done = segmented(apart, {CUT: full}, start)[CUT]
    about = [large_row(full, CUT, done), *rows]
    return {"large": about, "parts": raised_table(done), "bars": large_bars(about)}


def small_rows(folder: Path, small: Large, start: str) -> list[Row]:
    """The small study, cut so that it stays within its memory, and at once; labels compared voxel for voxel."""
    whole = replace(small, memory_bytes=None, room_bytes=AMPLE_BYTES)
    done = segmented(folder, {CUT: small, WHOLE: whole}, start)
    labels = [np.asarray(nib.Nifti1Image.from_filename(written(folder, name)).dataobj) for name in (CUT, WHOLE)]
    differ = int(np.count_nonzero(labels[0] != labels[1]))
    present = len(np.unique(labels[1]))
    return [
        large_row(small, CUT, done[CUT], differ, present),
        large_row(whole, WHOLE, done[WHOLE], None, present),
    ]


def segmented(folder: Path, wanted: dict[str, Large], start: str) -> dict[str, Done]:
    """Segment a study as wanted, each time in a process of its own; label maps are left in the folder, the study is not."""
    any_of = next(iter(wanted.values()))
    study, model, context = folder / "large.nii", folder / "large.pt", multiprocessing.get_context(start)
    write_series(study, any_of.shape, any_of.frames, SPACING_MM)
    write_model(model, any_of.config, any_of.classes, SPACING_MM, cyclic=False)
    found = {}
    for name, large in wanted.items():
        settings = Settings(memory_bytes=large.memory_bytes, scratch_dir=folder)
        with Child(Ours(model, study, written(folder, name).parent, settings, large.room_bytes), context) as child:
            found[name] = child()
    study.unlink()
    return found


def written(folder: Path, name: str) -> Path:
    """Where a label map lies."""
    return folder / name / "large.nii.gz"


def large_row(large: Large, name: str, done: Done, differ: int | None = None, present: int | None = None) -> Row:
    """What one took."""
    return {
        "frames": large.frames,
        "grid": " x ".join(map(str, large.shape)),
        "segmented": name,
        "float32 MB": 4 * large.voxels / MB,
        "logits MB": 4 * large.classes * large.voxels / MB,
        "from disk": "yes" if done.on_disk else "no",
        "windows": done.windows,
        "s": done.seconds,
        "idle MB": done.idle_mb,
        "asked MB": done.asked_mb,
        "peak MB": done.peak_mb,
        "peak / asked": done.peak_over_asked,
        "classes found": present,
        "voxels that differ": differ,
    }


def raised_table(done: Done) -> list[Row]:
    """A row a part: seconds, and how far it raised the memory."""
    return [
        {"part": name, "calls": part.calls, "s": part.seconds, "raised the peak by MB": part.raised_mb}
        for name, part in done.parts.items()
    ]


def large_bars(rows: Sequence[Row]) -> list[Row]:
    """Within its memory, and the same labels."""
    cut = [row for row in rows if row["segmented"] == CUT]
    differ = [row["voxels that differ"] for row in rows if row["voxels that differ"] is not None]
    return [
        bar("large studies: peak over the memory asked for", "<=", 1, [row["peak / asked"] for row in cut]),
        bar("voxels that are labelled otherwise because a study was cut", "<=", 0, differ or [None]),
    ]


def check_room(folder: Path, large: Large) -> None:
    """See that the disk has room; ends here if not."""
    needed, free = BYTES * large.voxels, shutil.disk_usage(folder).free
    if free < needed:
        raise SystemExit(
            f"bench: the large study needs {needed / 1e9:.0f} GB under {folder.parent}, {free / 1e9:.0f} GB are free; set TMPDIR"
        )
