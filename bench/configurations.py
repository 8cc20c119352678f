"""Weights, work and memory of every shipped configuration, counted on tensors without content; no timing.

`python -m bench configurations` prints the table of docs/reference/configurations.md, which a test compares.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.networks import SCHEDULES
from bench.resolved import resolve_for
from unet4d.config import Config, RecomputeConfig, ResolvedConfig, Size
from unet4d.models.clstm_unet import CLSTMUNet
from unet4d.models.device import autocast
from unet4d.models.memory_trace import MemoryTrace
from unet4d.training.step_memory import StepCost, count_step_cost

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
PLAIN, LEANEST = SCHEDULES["plain"], SCHEDULES["leanest"]
FEW, MORE = 3, 6
"""Frames of the two clips from which the memory per frame is computed."""


class Shipped(NamedTuple):
    """A configuration and the studies it is for.

    Attributes:
        file: YAML file in experiments/; None for the defaults.
        spacing: (X, Y, Z) in mm.
        patch: voxels (X, Y, Z) where the file names none.
    """

    file: str | None
    spacing: tuple[float, float, float]
    patch: Size = (96, 96, 96)


SHIPPED = {
    "default, isotropic": Shipped(None, (1.0, 1.0, 1.0)),
    "default, thick slices": Shipped(None, (1.4, 1.4, 10.0), (256, 256, 12)),
    "demo": Shipped("demo.yaml", (2.0, 2.0, 8.0)),
    "acdc14": Shipped("acdc14.yaml", (1.56, 1.56, 10.0)),
    "recurrence": Shipped("recurrence.yaml", (2.0, 2.0, 8.0)),
    "accuracy": Shipped("accuracy.yaml", (2.0, 2.0, 8.0)),
    "fine_tuning": Shipped("fine_tuning.yaml", (2.0, 2.0, 8.0)),
    "kill_and_resume": Shipped("kill_and_resume.yaml", (1.56, 1.56, 10.0)),
}


def run() -> dict[str, list[dict[str, Any]]]:
    """Return a row per shipped configuration."""
    return {"configurations": [row(name, shipped) | bytes_of(shipped) for name, shipped in SHIPPED.items()]}


def row(name: str, shipped: Shipped) -> dict[str, str]:
    """Return weights, and the work of a prediction, for one channel and four classes."""
    config = _config(shipped)
    patch = config.data.patch_size or shipped.patch
    voxels = math.prod(patch)
    return {
        "configuration": name,
        "spacing mm": " x ".join(f"{s:g}" for s in shipped.spacing),
        "patch": " x ".join(map(str, patch)),
        "weights": f"{_weights(config):,}",
        "kFLOP / voxel-frame": f"{_flops(config, FEW) / (FEW * voxels) / 1e3:.0f}",
    }


def bytes_of(shipped: Shipped) -> dict[str, str]:
    """Return the memory of a training step: plain, and of the leanest schedule per frame and per voxel."""
    config = _config(shipped)
    voxels = math.prod(config.data.patch_size)
    plain = _step(config, PLAIN, MORE)
    few, more = (_step(config, LEANEST, frames) for frames in (FEW, MORE))
    per_frame = (more.peak_bytes - few.peak_bytes) / (MORE - FEW)
    once = more.peak_bytes - more.fixed_bytes - MORE * per_frame
    return {
        "plain B / voxel-frame": f"{(plain.peak_bytes - plain.fixed_bytes) / (MORE * voxels):.0f}",
        "leanest B / voxel-frame": f"{per_frame / voxels:.0f}",
        "leanest B / voxel": f"{once / voxels:.0f}",
    }


def _config(shipped: Shipped) -> ResolvedConfig:
    values = yaml.safe_load((EXPERIMENTS / shipped.file).read_text()) if shipped.file else {}
    config = Config.from_dict(values)
    train = dataclasses.replace(config.train, batch_size=1)
    return resolve_for(
        dataclasses.replace(config, train=train), config.data.patch_size or shipped.patch, shipped.spacing
    )


def _weights(config: ResolvedConfig) -> int:
    with FakeTensorMode():
        return sum(weight.numel() for weight in CLSTMUNet(config.model, 1, 4).parameters())


def _flops(config: ResolvedConfig, frames: int) -> int:
    with FakeTensorMode(), MemoryTrace() as trace, torch.no_grad(), autocast(torch.device("cpu"), "bf16"):
        CLSTMUNet(config.model, 1, 4)(torch.empty(1, frames, 1, *config.data.patch_size))
    return trace.flops


def _step(config: ResolvedConfig, memory: RecomputeConfig, frames: int) -> StepCost:
    data = dataclasses.replace(config.data, frames=frames)
    return count_step_cost(dataclasses.replace(config, data=data, recompute=memory), 1, 4, frames)
