"""Models and a study for tests that compare other runtimes with torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.builders import OBLIQUE, build_network, randomize_projections, tiny_config
from unet4d import Image4D
from unet4d.metrics.regions import Region, Regions
from unet4d.models.checkpoint import TrainedModel
from unet4d.models.task import Task

LABELS = {"background": 0, "right ventricle": 1, "myocardium": 2, "left ventricle": 4}
HEART = {"heart": Region((1, 2, 4), 1), "left": Region((4,), 4)}
DEEP = {
    "channels": [3, 4, 6],
    "strides": [(2, 2, 1), (2, 2, 2)],
    "kernel_size": [(3, 3, 1), (3, 3, 3), (3, 3, 3)],
    "lstm_channels": [0, 2, 3],
}


def make_model(
    regions: Regions | None = None, kinds: tuple[str, ...] = (), cyclic: bool = False, **settings: Any
) -> TrainedModel:
    """Return a model with random weights, recurrence included."""
    window = {"in_plane_spacing_mm": 2.0, "slice_spacing_mm": 6.0, "patch_size": (16, 16, 4), "overlap": 0.3}
    config = tiny_config(**(window | settings))
    task = Task(LABELS, tuple(f"channel {n}" for n in range(max(1, len(kinds)))), cyclic, (), kinds, {}, regions or {})
    torch.manual_seed(1)
    network = randomize_projections(build_network(config.model, *task.channels)).eval()
    return TrainedModel(network, config, task, Path("a model"))


def make_image(channels: int = 1, frames: int = 5) -> Image4D:
    """Return a study of noise on oblique voxels, smaller than a window along Z."""
    noise = np.random.default_rng(0).normal(100, 30, (channels, frames, 21, 18, 3))
    return Image4D.from_array(noise, OBLIQUE)
