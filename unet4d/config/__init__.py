"""Every setting: its default, its unit, its check.

In: what a user set, or plain values of YAML and checkpoints. Out: `Config`, in which anything may be unset, and `ResolvedConfig`.
"""

from __future__ import annotations

from unet4d.config.config import Config, ResolvedConfig
from unet4d.config.inference_section import MOST_SMOOTHING, InferenceConfig
from unet4d.config.sections import (
    BATCH_SIZE,
    CHANNELS,
    FOLDS,
    FRAMES,
    MOST,
    MOST_CHANNELS,
    MOST_LEVELS,
    MOST_VOXELS,
    MOST_WORKERS,
    DataConfig,
    ModelConfig,
    Precision,
    RecomputeConfig,
    ResolvedDataConfig,
    ResolvedModelConfig,
    ResolvedTrainConfig,
    Size,
    TrainConfig,
    triple,
)

__all__ = [
    "BATCH_SIZE",
    "CHANNELS",
    "FOLDS",
    "FRAMES",
    "MOST",
    "MOST_CHANNELS",
    "MOST_LEVELS",
    "MOST_SMOOTHING",
    "MOST_VOXELS",
    "MOST_WORKERS",
    "Config",
    "DataConfig",
    "InferenceConfig",
    "ModelConfig",
    "Precision",
    "RecomputeConfig",
    "ResolvedConfig",
    "ResolvedDataConfig",
    "ResolvedModelConfig",
    "ResolvedTrainConfig",
    "Size",
    "TrainConfig",
    "triple",
]
