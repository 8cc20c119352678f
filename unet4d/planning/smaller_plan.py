"""What to do where even the leanest way to cut a training step ran out of memory: the next smaller plan, as settings."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
from collections.abc import Callable, Sequence
from typing import Any

from unet4d.config import BATCH_SIZE, FRAMES, Config, triple
from unet4d.pipeline.fingerprint import Fingerprint
from unet4d.planning.candidates import Counts, candidates, voxels
from unet4d.system.gpu_memory import GB
from unet4d.training.resolve import resolved_model


def smaller_settings(
    config: Config,
    spacing: Sequence[float],
    in_channels: int,
    out_channels: int,
    labelled: Callable[[int], int],
    budget_bytes: int,
    processes: int = 1,
) -> list[str]:
    """The settings of the next choice that needs less than this one and is counted to fit, for the command line.

    It is of the kind that `unet4d plan` chooses from, with the patch, the clip and the batch of the configuration for the whole.
    The network stays the same, so that its weights can be begun with.

    Args:
        config: resolved.
        spacing: (X, Y, Z) in mm that strides and kernels follow from, the fingerprint's.
        in_channels: channels C of a frame.
        out_channels: classes K.
        labelled: the most frames of a clip of so many that are labelled.
        budget_bytes: what there is for a training step of one process.
        processes: how many share each batch.

    Returns:
        Those that differ, such as ["--data.patch_size '[96,96,12]'", "--train.batch_size 1"]; empty where nothing smaller fits.
    """
    batch_size = math.ceil((config.train.batch_size or BATCH_SIZE) / processes)
    counts = Counts(in_channels, out_channels, labelled, budget_bytes)
    with counts.bar:
        smaller = next((one for one in _smaller(config, batch_size) if counts.fastest(one) is not None), None)
    if smaller is None:
        return []
    given = {
        "data.patch_size": (config.data.patch_size, smaller.data.patch_size),
        "data.frames": (config.data.frames, smaller.data.frames),
        "train.batch_size": (batch_size, smaller.train.batch_size),
        "train.accumulate": (config.train.accumulate, smaller.train.accumulate),
    }
    settings: dict[str, Any] = {name: after for name, (before, after) in given.items() if after != before}
    if "train.batch_size" in settings:
        settings["train.batch_size"] *= processes
    left_open = dataclasses.replace(config.model, strides=None, kernel_size=None)
    its_own = resolved_model(left_open, spacing, smaller.data.patch_size or ())
    if "data.patch_size" in settings and its_own != config.model:
        settings |= {"model.strides": config.model.strides, "model.kernel_size": config.model.kernel_size}
    return [f"--{name} {shlex.quote(json.dumps(value, separators=(',', ':')))}" for name, value in settings.items()]


def out_of_memory_words(
    planned_bytes: int | None, measured_bytes: int, free_bytes: int, settings: Sequence[str], reason: str = ""
) -> str:
    """What to tell the user: what was planned, what was measured, what to do.

    Args:
        planned_bytes: what the step was expected to take at its peak; None if nothing was planned.
        measured_bytes: what it had taken when it ran out.
        free_bytes: what was free for it.
        settings: as `smaller_settings` gives them.
        reason: what the library said that ran out.
    """
    planned = "" if planned_bytes is None else f"planned {planned_bytes / GB:.2f} GB, "
    said = (
        f"a training step ran out of GPU memory: {planned}measured {measured_bytes / GB:.2f} GB, "
        f"{free_bytes / GB:.2f} GB were free for it" + (f" ({reason})" if reason else "")
    )
    if settings:
        return f"{said}; begin anew with the same command, a new --out and the next smaller plan: {' '.join(settings)}"
    return f"{said}; no smaller patch, clip or batch fits: free the GPU, or begin anew with smaller --model.channels"


def _smaller(config: Config, batch_size: int) -> list[Config]:
    """The choices that need less, what sees most first; each with no more of anything than the configuration of this batch.

    First comes one clip at a time, with as many batches accumulated that a step sees the same.
    """
    data, patch = config.data, triple(config.data.patch_size or ())
    left_open = dataclasses.replace(
        config,
        data=dataclasses.replace(data, patch_size=None, frames=None),
        # A step that runs out of memory is cut in a leaner way than was asked for; so may these be.
        memory=dataclasses.replace(config.memory, chunk_frames=None),
    )
    plane = data.plane_spacing_mm or 1.0  # it says nothing here: strides and kernels are set
    whole = Fingerprint(plane, (plane, plane, plane), (patch,), (data.frames or FRAMES,))
    found, size = [], batch_size
    while size:
        steps = dataclasses.replace(config.train, batch_size=size)
        found += candidates(dataclasses.replace(left_open, train=steps), whole)
        size //= 2
    less = [one for one in found if _step_voxels(one) < batch_size * voxels(config)]
    less.sort(key=lambda one: (-voxels(one), -_step_voxels(one)))
    if batch_size > 1:
        steps = dataclasses.replace(config.train, batch_size=1, accumulate=batch_size * config.train.accumulate)
        less.insert(0, dataclasses.replace(left_open, data=data, train=steps))
    return less


def _step_voxels(config: Config) -> int:
    """Voxels of a step's clips, in all frames."""
    return voxels(config) * (config.train.batch_size or BATCH_SIZE)
