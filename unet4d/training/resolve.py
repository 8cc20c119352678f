"""The resolution of a configuration: what it leaves open is filled in from the studies, the device and the processes."""

from __future__ import annotations

import math
from dataclasses import replace

from unet4d.config import (
    BATCH_SIZE,
    FRAMES,
    MOST_WORKERS,
    Config,
    ModelConfig,
    Precision,
    ResolvedConfig,
    ResolvedDataConfig,
    ResolvedTrainConfig,
    Size,
    triple,
)
from unet4d.datasets.subject_folds import number_of_folds
from unet4d.errors import InputError
from unet4d.models.topology import resolve_model, rounded_up, total_stride
from unet4d.pipeline.fingerprint import Fingerprint
from unet4d.system.distributed import ALONE, ProcessGroup
from unet4d.system.environment import available_cores
from unet4d.system.text import count

LARGEST_PATCH = (128, 128, 32)
INIT_LR_FACTOR = 0.3
"""Learning rate of weights from another training over that of new ones: at 1 they are forgotten, see experiments/README.md."""
FRAMEWISE_FRACTION = 0.5
"""Share of a time budget that is frame-wise by default: such steps are cheaper, and Dice is no lower; see experiments/README.md."""
CPU_PATCH_VOXELS, CPU_EDGE_STEP, CPU_FRAMES, CPU_CHANNELS = 64_000, 8, 4, [16, 32, 64, 128]
"""Sizes for a CPU, on which a step takes about a second: 80 x 80 x 10 or 40 x 40 x 40 voxels; patch edges are multiples of the step
unless the study ends before."""


def fit_cpu(config: Config, seen: Fingerprint) -> tuple[Config, str]:
    """Return the configuration with sizes for a CPU where it leaves patch or frames open, and a line about what was chosen.

    The default channels are replaced only with the patch: whoever sets the patch has set the size of the network, too.
    """
    data, model, chosen = config.data, config.model, []
    if data.patch_size is None:
        patch = _cpu_patch(seen.shape)
        data = replace(data, patch_size=patch)
        chosen.append(f"--data.patch_size '{list(patch)}'")
        lstm = model.lstm_channels
        is_open = model.strides is model.kernel_size is None and len(lstm if isinstance(lstm, list) else []) <= 4
        if is_open and model.channels == ModelConfig().channels:
            model = replace(model, channels=list(CPU_CHANNELS))
            chosen.append(f"--model.channels '{CPU_CHANNELS}'")
    if data.frames is None:
        data = replace(data, frames=CPU_FRAMES)
        chosen.append(f"--data.frames {CPU_FRAMES}")
    line = f"sizes chosen for a CPU: {', '.join(chosen)}; give others to override them" if chosen else ""
    return replace(config, data=data, model=model), line


def _framewise_fraction(config: Config) -> float:
    """Return the share that is frame-wise: by default of a time budget, and none where that would teach less than clips do."""
    train, data = config.train, config.data
    if train.framewise_fraction is not None:
        return train.framewise_fraction
    needs_clips = train.init_from or train.consistency_weight or data.artifacts or data.time_augmentation != "off"
    return FRAMEWISE_FRACTION if train.time_budget and not needs_clips else 0.0


def _cpu_patch(shape: Size) -> Size:
    """Return the patch with the largest edge, the same along each axis that is long enough, within `CPU_PATCH_VOXELS`."""
    most = triple(min(n, large) for n, large in zip(shape, LARGEST_PATCH, strict=True))
    edges = range(max(LARGEST_PATCH), 0, -CPU_EDGE_STEP)
    patches = (triple(min(n, edge) for n in most) for edge in edges)
    return next(patch for patch in patches if math.prod(patch) <= CPU_PATCH_VOXELS)


def resolve(config: Config, seen: Fingerprint, precision: Precision, ranks: ProcessGroup = ALONE) -> ResolvedConfig:
    """Return the configuration with everything filled in that it leaves to the studies, the device and the processes.

    Args:
        config: what it sets is kept; a patch is rounded up to the strides, a clip has at most the frames of the longest study.
        seen: all studies, held-out ones too, so that every fold works on one grid and shares one cache.
        precision: what the configured precision means on the device; see `resolve_precision`.
        ranks: the processes that share each batch and this machine's cores.

    Raises:
        InputError: clips are too short for what they are trained on; prediction would mirror along an axis that training does not.
    """
    given = config.data
    if untrained := set(config.inference.mirror_axes) - set(given.mirrored_axes):
        raise InputError(
            f"got inference.mirror_axes with {sorted(untrained)}, expected axes that training mirrors, {given.mirrored_axes}; "
            f"add {sorted(untrained)} to data.flip_axes, with data.augmentation on, or take it out of inference.mirror_axes"
        )
    patch = given.patch_size or triple(min(n, most) for n, most in zip(seen.shape, LARGEST_PATCH, strict=True))
    model = resolve_model(config.model, seen.spacing, patch)
    workers = (
        min(MOST_WORKERS, max(1, available_cores() // ranks.local_size) - 1)
        if given.num_workers is None
        else given.num_workers
    )
    frames = min(given.frames or FRAMES, seen.frames)  # more would only repeat them
    if config.train.consistency_weight and frames < 3:
        raise InputError(
            f"got train.consistency_weight {config.train.consistency_weight:g} for clips of {count(frames, 'frame')}, expected 3 "
            "frames or more to compare their areas; leave it out, or set a higher data.frames for longer studies"
        )
    data = {
        "folds": max(2, number_of_folds(seen.subjects, given.folds)),
        "in_plane_spacing_mm": seen.plane_spacing_mm,
        "slice_spacing_mm": seen.slice_spacing_mm,
        "patch_size": rounded_up(patch, total_stride(model.strides)),
        "frames": frames,
        "num_workers": workers,
    }
    train = {
        "precision": precision,
        "batch_size": config.train.batch_size or BATCH_SIZE * ranks.size,
        "framewise_fraction": _framewise_fraction(config),
        "init_lr_factor": config.train.init_lr_factor or (INIT_LR_FACTOR if config.train.init_from else 1.0),
    }
    return ResolvedConfig(
        data=ResolvedDataConfig(**{**vars(given), **data}),
        model=model,
        train=ResolvedTrainConfig(**{**vars(config.train), **train}),
        inference=config.inference,
        fold=config.fold,
        seed=config.seed,
        recompute=config.recompute,
    )
