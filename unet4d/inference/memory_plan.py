"""The memory plan of a study: whether it is read whole, its tiling into blocks, and how much is computed at once and where.

Here `--max_memory` takes effect: `study_fits` and `plan_tiling` decide, within the bytes that a `MemoryBudget` leaves.
A tiling has

columns along Y, where rows of all of them do not fit: each a pass of its own, windows between two computed twice
rows along X: as many as fit; every window of the pass computed once
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from unet4d.config import ResolvedModelConfig
from unet4d.errors import Unet4DError
from unet4d.images.grid import WorkingGrid
from unet4d.images.image4d import ImageInfo
from unet4d.inference.memory_budget import (
    AMPLE,
    STITCHED_SHARE,
    WINDOW_SHARE,
    MemoryBudget,
    gpu_stitching_bytes,
    gpu_usable_bytes,
)
from unet4d.inference.options import InferenceOptions, Models
from unet4d.inference.temporal_smoothing import SMOOTHED_ROWS
from unet4d.inference.window_memory import generous_bytes, window_memory
from unet4d.inference.window_predictor import CPU, WindowPredictor
from unet4d.models.checkpoint import TrainedModel
from unet4d.models.clstm_unet import MOST_ELEMENTS
from unet4d.models.device import resolve_precision
from unet4d.system.byte_sizes import describe_bytes

_COPIES, _INDEX_BYTES = 4, 8
"""Copies of a frame's logits on the way to the native grid (as computed, both neighbors', between), and what the argmax takes."""


@dataclass(frozen=True)
class Tiling:
    """Blocks of a study's native grid, in working orientation.

    Attributes:
        rows: of a block, along X.
        columns: (first, end) of each pass, along Y.
        is_tight: freed memory must return to the system window by window, because what is kept would exceed the budget.
    """

    rows: int
    columns: Sequence[tuple[int, int]]
    is_tight: bool = True


def label_bytes(info: ImageInfo, classes: int, probabilities: bool) -> int:
    """Return the bytes of a label map, and of the probabilities, if they are wanted."""
    return info.frames * math.prod(info.grid) * (1 + (4 * classes if probabilities else 0))


def study_fits(
    models: Models, info: ImageInfo, grid: WorkingGrid, options: InferenceOptions, budget: MemoryBudget
) -> bool:
    """Return whether a study may be read whole: there is room for it as read and resampled, and later for the rest.

    The rest is its label map, a row of logits, and a window computed one frame at a time.
    """
    frames, task = info.channels * info.frames, models[0].task
    native, working = (4 * frames * math.prod(size) for size in (info.grid, grid.shape))
    reading = native + working + (native if grid.shape != tuple(info.grid[axis] for axis in grid.order) else 0)
    left = budget.left_bytes()
    beside = left - working - label_bytes(info, task.channels[1], options.probabilities) - working // info.channels
    return reading <= left and all(_least_window_fits(model, info, options, beside) for model in models)


def _least_window_fits(model: TrainedModel, info: ImageInfo, options: InferenceOptions, left: float) -> bool:
    """Return whether a window fits beside a study, one frame at a time if need be; on a GPU it takes no main memory."""
    device = next(model.network.parameters()).device
    if left <= 0 or device.type != "cpu":
        return left > 0
    windows, network = options.window_config(model.config.inference).sw_batch_size, _window_of(model, info)
    if generous_bytes(*network, info.frames * windows) <= left:
        return True
    memory = window_memory(*network, resolve_precision(options.precision, device))
    return windows * memory.needed(info.frames, 1) <= left


def _window_of(model: TrainedModel, info: ImageInfo) -> tuple[ResolvedModelConfig, int, int, Sequence[int]]:
    """Return the network's config, channels C, classes K and window size (X, Y, Z): what the memory of a window depends on."""
    return model.config.model, info.channels, model.task.channels[1], model.config.data.patch_size


def plan_tiling(
    models: Models,
    predictors: Sequence[WindowPredictor],
    info: ImageInfo,
    grid: WorkingGrid,
    probabilities: bool,
    budget: MemoryBudget,
) -> Tiling:
    """Return blocks as large as the memory allows; where little is left, fewer frames are computed at once, too.

    A GPU's memory is read and split before the first window is computed: see `_fit_gpu`.

    Args:
        models: the networks.
        predictors: of each model; windows and frames at once, and the device for stitching, are set.
        info, grid: of the study.
        probabilities: each class's probability lies beside the label map.
        budget: main memory.

    Raises:
        Unet4DError: not even blocks of one row and column fit.
    """
    sizes, frames = [grid.native_shape[axis] for axis in grid.order], info.frames
    left = budget.left_bytes() - label_bytes(info, models[0].task.channels[1], probabilities)
    total, blocks = left, Blocks.of(models, info, grid)
    for predictor in predictors:
        predictor.limit_frames(frames)
    usable = [gpu_usable_bytes(predictor.device) for predictor in predictors]
    on_cpu = [pair for pair, gpu in zip(zip(models, predictors, strict=True), usable, strict=True) if gpu is None]
    window = max((_fit_window(model, info, one, WINDOW_SHARE * total) for model, one in on_cpu), default=0)
    left -= window
    if gpus := [gpu for gpu in usable if gpu is not None]:
        left = min(left, _fit_gpu(models, info, predictors, blocks, sizes, min(gpus)))
    if (needed := blocks.needed(sizes[0], sizes[1])) <= left:
        return Tiling(sizes[0], [(0, sizes[1])], is_tight=AMPLE * (needed + window) > total)
    for panels in range(1, sizes[1] + 1):
        columns = -(-sizes[1] // panels)
        if blocks.needed(1, columns) <= left:
            rows = next(r for r in (sizes[0] // n for n in range(1, sizes[0] + 1)) if blocks.needed(r, columns) <= left)
            return Tiling(rows, [(c, min(c + columns, sizes[1])) for c in range(0, sizes[1], columns)])
    short = blocks.needed(1, 1) - left
    raise Unet4DError(
        f"{info.source or 'the image'} needs {describe_bytes(short)} more of main memory than may be taken; raise --max_memory, "
        "free memory, or use a model with a smaller patch"
    )


def _fit_window(model: TrainedModel, info: ImageInfo, predictor: WindowPredictor, share: float) -> float:
    """Have as many frames computed at once on the CPU as fit into a share of the budget; return the bytes they take."""
    network, frames = _window_of(model, info), info.frames
    if (generous := generous_bytes(*network, frames * predictor.windows_at_once)) <= share:
        return generous
    memory, averages = window_memory(*network, predictor.precision), predictor.averages(frames)
    at_once = memory.fitting(frames, share / predictor.windows_at_once, averages)
    predictor.frames_at_once = min(predictor.frames_at_once or frames, at_once)
    return predictor.windows_at_once * memory.needed(frames, predictor.frames_at_once, averages)


def _fit_gpu(
    models: Models,
    info: ImageInfo,
    predictors: Sequence[WindowPredictor],
    blocks: Blocks,
    sizes: Sequence[int],
    usable: float,
) -> float:
    """Split a GPU's usable bytes between windows and stitched logits; return what bounds the logits.

    All frames are computed at once where that leaves room for all logits. Else windows take up to half, and rows of logits are
    bounded by the rest. Logits are stitched in main memory, and not bounded here, only where not one row of them fits.
    """
    share = max((1 - STITCHED_SHARE) * usable, usable - blocks.needed(sizes[0], sizes[1]))
    needed = max(_fit_gpu_window(model, info, one, share) for model, one in zip(models, predictors, strict=True))
    left = usable - needed
    fits = blocks.needed(1, sizes[1]) <= left
    for predictor in predictors:
        predictor.stitch_on = predictor.device if fits else CPU
    return left if fits else math.inf


def plan_frame(predictor: WindowPredictor, grid: WorkingGrid) -> None:
    """Have the logits of single frames of this working grid stitched on a GPU only where they take less than their share of it."""
    if (usable := gpu_stitching_bytes(predictor.device)) is not None:
        fits = 4 * predictor.network.out_channels * math.prod(grid.shape) < usable
        predictor.stitch_on = predictor.device if fits else CPU


def _fit_gpu_window(model: TrainedModel, info: ImageInfo, predictor: WindowPredictor, share: float) -> int:
    """Have as many windows and frames computed at once as fit; return the bytes they take."""
    memory, frames = window_memory(*_window_of(model, info), predictor.precision), info.frames
    averages = predictor.averages(frames)
    indexable = max(1, MOST_ELEMENTS // max(1, memory.frame_elements))
    while predictor.windows_at_once > 1 and predictor.windows_at_once * memory.needed(frames, 1, averages) > share:
        predictor.windows_at_once //= 2
    fitting = memory.fitting(frames, share / predictor.windows_at_once, averages)
    predictor.limit_frames(frames, min(indexable, predictor.windows_at_once * fitting))
    return predictor.windows_at_once * memory.needed(frames, predictor.frames_at_once or frames, averages)


@dataclass(frozen=True)
class Blocks:
    """The memory of blocks of logits.

    Attributes:
        unit_bytes: of all frames' logits along Z, on the working grid.
        native_unit_bytes: of one frame's along Z, while it is resampled to the native grid and its argmax is taken.
        carried_rows: working rows that a network carries from block to block.
        models: number of networks.
        scale: working voxels per native one, along X and Y.
    """

    unit_bytes: int
    native_unit_bytes: int
    carried_rows: int
    models: int
    scale: tuple[float, float]

    @classmethod
    def of(cls, models: Models, info: ImageInfo, grid: WorkingGrid) -> Blocks:
        """Return the blocks of this study and these networks."""
        native, classes = [grid.native_shape[axis] for axis in grid.order], models[0].task.channels[1]
        unit = 4 * info.frames * classes * grid.shape[2]
        native_unit = (_COPIES * 4 * classes + _INDEX_BYTES) * max(native[2], grid.shape[2])
        carried = max(model.config.data.patch_size[0] for model in models)
        return cls(unit, native_unit, carried, len(models), (grid.shape[0] / native[0], grid.shape[1] / native[1]))

    def needed(self, rows: int, columns: int) -> int:
        """Return the bytes for blocks of this many native rows and columns.

        They are sums as far as the windows reach, what each network carries on, the mean of several, copies of a row while it is
        smoothed over time, and one native frame.
        """
        x, y = rows * self.scale[0] + 2, columns * self.scale[1] + 2
        working_rows = x + SMOOTHED_ROWS + self.carried_rows * (1 + self.models) + (x if self.models > 1 else 0)
        return int(self.unit_bytes * working_rows * y + self.native_unit_bytes * max(rows, x) * max(columns, y))
