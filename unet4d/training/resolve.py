"""What a configuration leaves open, filled in from the studies and the device."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence

import torch

from unet4d.config import BATCH_SIZE, FOLDS, FRAMES, Config, ModelConfig
from unet4d.datasets.dataset import Case
from unet4d.datasets.verify.study_facts import StudyProperties
from unet4d.models.device import resolve_precision
from unet4d.models.topology import rounded_up, strides_and_kernels, total_stride
from unet4d.pipeline.fingerprint import fingerprint
from unet4d.system.distributed import ALONE, ProcessGroup

LARGEST_PATCH = (128, 128, 32)


def resolved(
    config: Config,
    cases: Sequence[Case],
    device: torch.device,
    known: Mapping[str, StudyProperties] | None = None,
    ranks: ProcessGroup = ALONE,
) -> Config:
    """Fill in what the configuration leaves to the studies and the device.

    All studies are looked at, held out ones too, so that every fold works on one grid and shares one cache. Of those that are not
    `known` the headers are read.
    """
    seen = fingerprint(cases, config.data, known)
    patch = config.data.patch_size or tuple(min(n, most) for n, most in zip(seen.shape, LARGEST_PATCH, strict=True))
    model = resolved_model(config.model, seen.spacing, patch)
    workers = config.data.num_workers
    data = dataclasses.replace(
        config.data,
        folds=config.data.folds or max(2, min(FOLDS, len({case.subject for case in cases}))),
        in_plane_spacing_mm=seen.plane_spacing_mm,
        patch_size=rounded_up(patch, total_stride(model.strides)),  # type: ignore[arg-type]
        frames=min(config.data.frames or FRAMES, seen.frames),  # more would only repeat them
        num_workers=min(8, max(1, _cores() // ranks.local_size) - 1) if workers is None else workers,
    )
    steps = dataclasses.replace(
        config.train,
        precision=resolve_precision(config.train.precision, device),
        batch_size=config.train.batch_size or BATCH_SIZE * ranks.size,
    )
    return dataclasses.replace(config, data=data, model=model, train=steps)


def resolved_model(model: ModelConfig, spacing: Sequence[float], patch: Sequence[int]) -> ModelConfig:
    """Fill in strides and kernels from the voxel, and the ConvLSTMs' channels level by level.

    Args:
        model: what it sets is kept.
        spacing: (X, Y, Z) in mm.
        patch: voxels (X, Y, Z), before they are rounded up to the strides.
    """
    strides, kernels = strides_and_kernels(spacing, patch, len(model.channels))
    return dataclasses.replace(
        model,
        strides=model.strides or strides,
        kernel_size=model.kernel_size or kernels,
        lstm_channels=model.lstm_channels_per_level(),
    )


def _cores() -> int:
    """Cores this process may use, where the system tells (Linux does), else all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
