"""The segmentation of one study, block by block: each block's logits are resampled to the study's grid, and labels kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from unet4d.config import Precision
from unet4d.errors import InputError, Unet4DError
from unet4d.images.channels import mirror_signs
from unet4d.images.image4d import Image4D
from unet4d.images.resample_back import NativeLabel
from unet4d.images.time_axis import TimeAxis
from unet4d.inference.memory_budget import MemoryBudget
from unet4d.inference.memory_plan import plan_tiling
from unet4d.inference.options import InferenceOptions, Models
from unet4d.inference.prepare import PreprocessedStudy, prepare_image
from unet4d.inference.sliding_window import logit_blocks
from unet4d.inference.temporal_smoothing import smooth_over_time, smoothing_frames
from unet4d.inference.window_predictor import WindowPredictor
from unet4d.inference.windows import Windows
from unet4d.models.checkpoint import TrainedModel
from unet4d.models.conv_check import check_convolutions
from unet4d.models.device import resolve_precision
from unet4d.system.memory import keep_freed_memory, trim_freed_memory
from unet4d.system.progress_bar import ProgressBar
from unet4d.system.signals import check_stop


@dataclass(frozen=True, eq=False)
class SegmentationResult:
    """The label map of a study, and the probabilities if they were asked for.

    Attributes:
        label: (T, X, Y, Z) uint8, label values, on the study's own grid.
        probabilities: (K, T, X, Y, Z) float32 of every class, background first, or of every region; None unless asked for.
    """

    label: np.ndarray
    probabilities: np.ndarray | None = None


def segment(
    model: TrainedModel | Models,
    image: Image4D,
    *,
    time: TimeAxis | None = None,
    precision: Precision = "auto",
    options: InferenceOptions | None = None,
) -> np.ndarray:
    """Segment one study.

    Args:
        model: from `load_model`; computes on the device its network lies on. Several run one after the other, and the mean of their
            probabilities is taken; the mean takes the memory of one more network's logits.
        image: the study; any number of frames.
        time: "cyclic" or "open"; None is what `options` says, else what the model was trained with.
        precision: "bf16", "fp16", "tf32" or "fp32"; "auto" is what `options` says, else chosen for the device.
        options: all options, `time` and `precision` among them.

    Returns:
        Label values (T, X, Y, Z) uint8 on the study's own grid.

    Raises:
        InputError: the study has other channels than the model was trained with, or lacks a velocity that turning it needs; the
            models differ in labels, channels, kinds, time, spacing or normalization; `options` has another time or precision.
        Unet4DError: a network returns infinite numbers or NaN; the memory is too small.
    """
    models = [model] if isinstance(model, TrainedModel) else list(model)
    options = _with_arguments(options or InferenceOptions(), time, precision)
    check_gpu(models, options.precision)
    study = prepare_image(models, image, options)
    return segment_study(models, study, options, MemoryBudget(options.max_memory_bytes)).label


def _with_arguments(options: InferenceOptions, time: TimeAxis | None, precision: Precision) -> InferenceOptions:
    """Return the options with these values where they are unset; raise InputError where they are set to others."""
    for name, value, other in (("time", time, options.time), ("precision", precision, options.precision)):
        if len({value, other} - {None, "auto"}) > 1:
            raise InputError(f"got {name} {value!r} and {other!r} in options, expected one of them; leave one out")
    chosen = options.precision if precision == "auto" else precision
    return replace(options, time=time or options.time, precision=chosen)


def segment_study(
    models: Models,
    study: PreprocessedStudy,
    options: InferenceOptions,
    budget: MemoryBudget,
    *,
    shows_progress: bool = True,
    check: Callable[[], None] = check_stop,
    allow_nan: bool = False,
) -> SegmentationResult:
    """Segment a study that was preprocessed for the same models and options.

    Args:
        models: the networks.
        study: preprocessed.
        options: how to segment.
        budget: main memory.
        shows_progress: show a bar of windows on a terminal.
        check: called after every window; what it raises ends the segmentation.
        allow_nan: take logits that are not numbers for the background, as in a training that diverges.

    Raises:
        InputError, Unet4DError: as `segment`.
        torch.OutOfMemoryError: the GPU cannot hold one frame of one window.
        Stopped: a stop signal came.
    """
    info, grid = study.info, study.grid
    task = models[0].task
    native = NativeLabel(grid, info.frames, task.output_values, options.probabilities, bool(task.regions))
    predictors = [_predictor(model, study, options) for model in models]
    tiling = plan_tiling(models, predictors, info, grid, options.probabilities, budget)
    windows = [Windows(grid.shape, one.roi_size, one.config.overlap) for one in predictors]
    cyclic = study.time == "cyclic"
    width = smoothing_frames(predictors[0].config, info.frames, cyclic)
    total = sum(one.reaching(native.axes[1].needed(*columns)) for columns in tiling.columns for one in windows)
    free_memory = trim_freed_memory if tiling.is_tight else (lambda: None)
    disable = None if shows_progress else True
    progress = ProgressBar(total=total, desc="windows", unit="window", leave=False, delay=10, disable=disable)
    with progress as bar, keep_freed_memory():

        def tick(done: int) -> None:
            bar.update(done)
            free_memory()
            check()

        for predictor in predictors:
            predictor.tick = tick
        for rows, columns, logits in logit_blocks(predictors, study.image, native.axes, tiling, native.of_regions):
            if _is_finite(logits):
                smooth_over_time(logits, width, cyclic)
            elif not allow_nan:
                check_finite(logits, info.source or "the image")
            native.fill(logits, rows, columns)
            del logits
            free_memory()
    return SegmentationResult(native.label, native.probabilities)


def check_gpu(models: Models, precision: Precision) -> None:
    """Raise InputError for a GPU that computes the models' convolutions wrong; each model is checked once."""
    for model in models:
        device, patch = next(model.network.parameters()).device, model.config.data.patch_size
        check_convolutions(model.config.model, model.task.channels, patch, device, resolve_precision(precision, device))


def check_finite(logits: torch.Tensor, study: Path | str) -> None:
    """Raise Unet4DError unless all logits (T, K, x, y, Z) are finite; `study` names the study."""
    if not _is_finite(logits):
        raise Unet4DError(
            f"{study}: got logits that are infinite or not a number, expected finite ones; set precision fp32, or use another "
            "checkpoint"
        )


def _is_finite(logits: torch.Tensor) -> bool:
    """Return whether all logits (T, K, x, y, Z) are numbers, none infinite."""
    return all(bool(frame.sum().isfinite()) for frame in logits)


def _predictor(model: TrainedModel, study: PreprocessedStudy, options: InferenceOptions) -> WindowPredictor:
    """Return the predictor of a network for this study."""
    device = next(model.network.parameters()).device
    return WindowPredictor(
        model.network,
        device,
        model.config.data.patch_size,
        options.window_config(model.config.inference),
        resolve_precision(options.precision, device),
        study.time == "cyclic",
        options.cyclic_shifts,
        mirror_signs(study.kinds),
    )
