"""A study segmented block by block: each is brought back to the study's own grid and forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from unet4d.config import Precision
from unet4d.errors import Unet4DError
from unet4d.images.channels import mirror_signs
from unet4d.images.image4d import Image4D
from unet4d.images.resample_back import NativeLabel
from unet4d.images.time_axis import TimeAxis
from unet4d.inference.check import check_models
from unet4d.inference.prepare import PreprocessedStudy, prepare_image
from unet4d.inference.settings import Models, Settings
from unet4d.inference.sliding_window import LogitRows, WindowPredictor
from unet4d.inference.tiling import cut
from unet4d.inference.windows import Windows
from unet4d.models.checkpoint import TrainedModel
from unet4d.models.device import resolve_precision
from unet4d.models.ensemble import mean_logits
from unet4d.system.memory import give_back_freed_memory, keep_freed_memory
from unet4d.system.progress_bar import ProgressBar, print_line
from unet4d.system.signals import check_stop


@dataclass(frozen=True, eq=False)
class SegmentationResult:
    """What was found in a study.

    Attributes:
        label: (T, X, Y, Z) uint8, label values, on the study's own grid.
        probabilities: (K, T, X, Y, Z) float32 of every class, background first; None unless asked for.
    """

    label: np.ndarray
    probabilities: np.ndarray | None = None


def segment(
    model: TrainedModel | Models,
    image: Image4D,
    *,
    time: TimeAxis | None = None,
    precision: Precision = "auto",
    settings: Settings | None = None,
) -> np.ndarray:
    """Segment one study.

    Args:
        model: from `load_model`; computes on the device its network lies on. Of several that segment the same, the mean of their
            probabilities is taken, at the cost of one after the other and, beside one's answer, the memory of one more.
        image: the study; any number of frames.
        time: "cyclic" or "open"; None is what the model was trained with.
        precision: "auto", "bf16", "fp16" or "fp32".
        settings: all else, in place of `time` and `precision`.

    Returns:
        Label values (T, X, Y, Z) uint8 on the study's own grid.

    Raises:
        InputError: the study has other channels than the model was trained with, or not every velocity that turning it needs; the
            models differ in labels, channels, kinds, time, spacing or normalization.
        Unet4DError: a network answers with infinite numbers or NaN; the memory does not do.
    """
    models = [model] if isinstance(model, TrainedModel) else list(model)
    settings = settings or Settings(time=time, precision=precision)
    return answer(models, prepare_image(models, image, settings), settings).label


def answer(
    models: Models,
    prepared: PreprocessedStudy,
    settings: Settings,
    say: Callable[[str], None] | None = None,
    shows_progress: bool = True,
) -> SegmentationResult:
    """Segment a study that was prepared for the same models and settings.

    Args:
        say: where a line for the user goes; None: above the progress bars.
        shows_progress: have a bar of windows on a terminal.

    Raises:
        InputError, Unet4DError: as `segment`.
        torch.OutOfMemoryError: the GPU cannot hold one frame of one window.
        Stopped: a stop signal came; asked after every window.
    """
    like, task = prepared.like, models[0].task
    native = NativeLabel(prepared.grid, like.frames, tuple(task.labels.values()), settings.probabilities)
    answering = [_answering(model, prepared, settings, say or print_line) for model in models]
    windows = [
        (
            model.config.data.patch_size,
            model.config.inference.overlap if settings.overlap is None else settings.overlap,
        )
        for model in models
    ]
    blocks = cut(models, prepared, settings, answering)
    needed = [native.axes[1].needed(*columns) for columns in blocks.columns]
    laid = [Windows(prepared.grid.shape, *one) for one in windows]
    total = sum(one.reaching(columns) for one in laid for columns in needed)
    disable = None if shows_progress else True
    progress = ProgressBar(total=total, desc="windows", unit="window", leave=False, delay=10, disable=disable)
    settle = give_back_freed_memory if blocks.is_tight else (lambda: None)
    with progress as bar, keep_freed_memory():
        for one in answering:
            one.tick = _ticking(bar, settle)
        for columns, reach in zip(blocks.columns, needed, strict=True):
            rows = [
                LogitRows(one, prepared.image, *which, reach) for one, which in zip(answering, windows, strict=True)
            ]
            for first, end, logits in _blocks(rows, native, blocks.rows):
                check_finite(logits, like.source or "the image")
                native.fill(logits, (first, end), columns)
                del logits
                settle()
    return SegmentationResult(native.label, native.probabilities)


def _ticking(bar: ProgressBar, settle: Callable[[], None]) -> Callable[[int], None]:
    """What is done after each window."""

    def tick(windows: int) -> None:
        bar.update(windows)
        settle()
        check_stop()

    return tick


def check_finite(logits: torch.Tensor, what: Path | str) -> None:
    """Raise Unet4DError unless all logits (T, K, x, y, Z) are numbers; `what` names the study."""
    if not all(bool(frame.sum().isfinite()) for frame in logits):
        raise Unet4DError(
            f"the network's answer to {what} is not a number somewhere; wanted finite numbers; set precision fp32, or take "
            "another checkpoint"
        )


def _blocks(rows: Sequence[LogitRows], native: NativeLabel, size: int) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Native rows (first, end) and the logits (T, K, x, y, Z) of the working rows they need, of all networks together."""
    axis = native.axes[0]
    total = len(axis.low)
    for first in range(0, total, size):
        end = min(first + size, total)
        low, high = axis.needed(first, end)
        keep = axis.needed(end, total)[0] if end < total else high
        spare = max(0, low - rows[0].begin)  # the same of all, for they go on together
        logits = mean_logits(one.upto(high, keep)[:, :, spare:] for one in rows)
        yield first, end, logits
        del logits  # or it would be held while the next ones are computed


def _answering(
    model: TrainedModel, prepared: PreprocessedStudy, settings: Settings, say: Callable[[str], None]
) -> WindowPredictor:
    """How a network answers this study."""
    device = next(model.network.parameters()).device
    check_models([model], settings.precision)
    window, cyclic = model.config.inference, prepared.time == "cyclic"
    mirror_axes = window.mirror_axes if settings.mirror_axes is None else settings.mirror_axes
    config = replace(
        window, mirror_axes=list(mirror_axes), sw_batch_size=settings.sw_batch_size or window.sw_batch_size
    )
    precision = resolve_precision(settings.precision, device)
    one = WindowPredictor.of(model.network, config, cyclic=cyclic, device=device, precision=precision)
    one.signs, one.say = mirror_signs(prepared.kinds), say
    frames = prepared.like.frames
    if cyclic and settings.cyclic_shifts > 1:
        count = min(settings.cyclic_shifts, frames)
        one.shifts = [round(frames * n / count) for n in range(count)]
    return one
