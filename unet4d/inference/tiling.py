"""Blocks that a study is cut into, so that logits and label map stay within the main memory, and the GPU's.

columns along Y, where rows of all of them do not fit: each a pass of its own, windows between two computed twice
rows along X: as many as fit; every window of the pass computed once
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from unet4d.errors import Unet4DError
from unet4d.inference.prepare import PreprocessedStudy, label_bytes
from unet4d.inference.settings import Models, Settings
from unet4d.inference.sliding_window import STITCHED_SHARE, WindowPredictor
from unet4d.inference.window_memory import generous_bytes, window_memory
from unet4d.models.checkpoint import TrainedModel
from unet4d.models.clstm_unet import MOST_ELEMENTS
from unet4d.system.gpu_memory import free_bytes, usable_bytes

WINDOW_SHARE = 0.4
"""Share of the memory, once image and label map are taken off, for the computing of a window; logits take the rest."""

AMPLE = 2
"""Memory that is so many times what is needed is not looked after."""

_COPIES, _INDEX_BYTES = 4, 8
"""Of a frame's logits on the way to the native grid: as they come, both neighbours', what lies between; and what finds
the largest."""


@dataclass(frozen=True)
class Tiling:
    """How a study's native grid, in working orientation, is cut into blocks.

    Attributes:
        rows: of a block, along X.
        columns: (first, end) of each pass, along Y.
        is_tight: freed memory must go back to the system window by window, lest what is held grows beyond what may be.
    """

    rows: int
    columns: Sequence[tuple[int, int]]
    is_tight: bool = True


def cut(
    models: Models, prepared: PreprocessedStudy, settings: Settings, answering: Sequence[WindowPredictor]
) -> Tiling:
    """Return blocks as large as the memory allows; where little is left, fewer frames are computed at once, too.

    A GPU's memory is read and shared out before the first window is computed: see `_fit_gpu`.
    """
    sizes = [prepared.grid.native_shape[axis] for axis in prepared.grid.order]
    budget = settings.budget_bytes() - label_bytes(models[0], prepared.like, settings)
    frames, blocks = prepared.like.frames, Blocks.of(models, prepared)
    for one in answering:
        one.fit(frames, math.inf)
    free = [gpu_usable_bytes(one.device) for one in answering]
    on_cpu = [pair for pair, gpu in zip(zip(models, answering, strict=True), free, strict=True) if gpu is None]
    window = max(
        (_fit_window(model, prepared, one, budget) for model, one in on_cpu), default=0
    )  # of whichever computes
    left = budget - window
    if gpus := [gpu for gpu in free if gpu is not None]:
        left = min(left, _fit_gpu(models, prepared, answering, blocks, min(gpus)))
    if (needed := blocks.needed(sizes[0], sizes[1])) <= left:
        return Tiling(sizes[0], [(0, sizes[1])], is_tight=AMPLE * (needed + window) > budget)
    for panels in range(1, sizes[1] + 1):
        columns = -(-sizes[1] // panels)
        if blocks.needed(1, columns) <= left:
            rows = next(r for r in (sizes[0] // n for n in range(1, sizes[0] + 1)) if blocks.needed(r, columns) <= left)
            return Tiling(rows, [(c, min(c + columns, sizes[1])) for c in range(0, sizes[1], columns)])
    short = blocks.needed(1, 1) - left
    raise Unet4DError(
        f"{prepared.like.source or 'the image'} needs {short / 1e9:.2g} GB more of main memory than may be taken; raise "
        "--max_memory, free memory, or take a model with a smaller patch"
    )


def gpu_usable_bytes(device: torch.device) -> float | None:
    """Return what may be taken of a GPU's free memory; None for a CPU."""
    return usable_bytes(free_bytes(device)) if device.type == "cuda" else None


def _fit_gpu(
    models: Models, prepared: PreprocessedStudy, answering: Sequence[WindowPredictor], blocks: Blocks, usable: float
) -> float:
    """Share a GPU's memory out between windows and stitched logits.

    All frames are computed at once where that leaves room for all logits. Else windows take up to half, and rows of logits are
    bounded by the rest. Logits are stitched in main memory only where not one row of them fits.

    Args:
        models: that answer on this GPU.
        prepared: the study.
        answering: how each model answers; windows and frames at once, and the place of stitching, are set.
        blocks: what logits take.
        usable: bytes of the GPU that may be taken.

    Returns:
        The bytes that bound blocks of logits; infinite where they are stitched in main memory.
    """
    columns = prepared.grid.native_shape[prepared.grid.order[1]]
    all_rows = prepared.grid.native_shape[prepared.grid.order[0]]
    share = max((1 - STITCHED_SHARE) * usable, usable - blocks.needed(all_rows, columns))
    needed = max(_fit_gpu_window(model, prepared, one, share) for model, one in zip(models, answering, strict=True))
    left = usable - needed
    fits = blocks.needed(1, columns) <= left
    for one in answering:
        one.stitch_on = one.device if fits else torch.device("cpu")
    return left if fits else math.inf


def _fit_gpu_window(model: TrainedModel, prepared: PreprocessedStudy, one: WindowPredictor, share: float) -> int:
    """Have as many windows and frames computed at once as fit; returns the bytes they take."""
    frames = prepared.like.frames
    memory = window_memory(
        model.config.model,
        prepared.like.channels,
        len(model.task.labels),
        model.config.data.patch_size,
        one.precision,
    )
    averaged = bool(one.mirror_axes) or len(one.shifts) > 1
    indexable = max(1, MOST_ELEMENTS // max(1, memory.frame_elements))
    while one.windows > 1 and one.windows * memory.needed(frames, 1, averaged) > share:
        one.windows //= 2
    fitting = memory.fitting(frames, share / one.windows, averaged)
    one.fit(frames, min(indexable, one.windows * fitting))
    return one.windows * memory.needed(frames, one.chunk_frames or frames, averaged)


def _fit_window(model: TrainedModel, prepared: PreprocessedStudy, one: WindowPredictor, budget: float) -> float:
    """Have as many frames computed at once as fit into a share of the budget; gives the bytes of that."""
    frames, share = prepared.like.frames, WINDOW_SHARE * budget
    network = (model.config.model, prepared.like.channels, len(model.task.labels), model.config.data.patch_size)
    if (generous := generous_bytes(*network, frames * one.windows)) <= share:
        return generous
    memory, averaged = window_memory(*network, one.precision), bool(one.mirror_axes) or len(one.shifts) > 1
    one.chunk_frames = min(one.chunk_frames or frames, memory.fitting(frames, share / one.windows, averaged))
    return one.windows * memory.needed(frames, one.chunk_frames, averaged)


@dataclass(frozen=True)
class Blocks:
    """What blocks of logits take in main memory.

    Attributes:
        unit_bytes: of all frames' logits along Z, on the working grid.
        native_unit_bytes: of one frame's along Z, while it is brought to the native grid and its largest are found.
        carried_rows: working rows that a network carries on from block to block.
        models: how many networks answer.
        scale: working voxels to a native one, along X and Y.
    """

    unit_bytes: int
    native_unit_bytes: int
    carried_rows: int
    models: int
    scale: tuple[float, float]

    @classmethod
    def of(cls, models: Models, prepared: PreprocessedStudy) -> Blocks:
        """Of this study and these networks."""
        grid = prepared.grid
        native = [grid.native_shape[axis] for axis in grid.order]
        classes = len(models[0].task.labels)
        unit = 4 * prepared.like.frames * classes * grid.shape[2]
        native_unit = (_COPIES * 4 * classes + _INDEX_BYTES) * max(native[2], grid.shape[2])
        carried = max(model.config.data.patch_size[0] for model in models)
        return cls(unit, native_unit, carried, len(models), (grid.shape[0] / native[0], grid.shape[1] / native[1]))

    def needed(self, rows: int, columns: int) -> int:
        """Bytes for blocks of so many native rows and columns: sums as far as the windows reach, what each network carries on,
        of several their mean, and one frame on the native grid."""
        x, y = rows * self.scale[0] + 2, columns * self.scale[1] + 2
        held = x + self.carried_rows * (1 + self.models) + (x if self.models > 1 else 0)
        return int(self.unit_bytes * held * y + self.native_unit_bytes * max(rows, x) * max(columns, y))
