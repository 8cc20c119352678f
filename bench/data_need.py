"""How many clips a second a training step asks for, and how many workers deliver them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch

from bench.data_loaders import Drawn
from bench.data_studies import LABELS, SPACING_MM
from bench.measure import interleaved
from bench.resolved import resolve_for
from unet4d.config import Config, DataConfig, ResolvedConfig, TrainConfig
from unet4d.models.clstm_unet import CLSTMUNet
from unet4d.models.device import find_device, resolve_precision
from unet4d.pipeline.clip_dataset import Batch
from unet4d.training.step import TrainingStep
from unet4d.training.step_memory import count_step_cost

A100_FLOPS = 312e12
"""Floating-point operations a second of an A100 in bf16 without sparsity, by NVIDIA's data sheet: no step is faster than this."""
SHARES = (1.0, 0.5, 0.25, 0.1)


def need_table(drawn: Drawn, per_worker: Mapping[str, float], config: Config | None = None) -> list[dict[str, Any]]:
    """A row per speed of a GPU: seconds a step, clips a second it asks for, and workers that deliver them.

    On an A100 the step's counted work over a share of the data sheet's operations a second: arithmetic, no measurement. Where
    there is a GPU, a row for it, measured.

    Args:
        drawn: patch, frames and batch.
        per_worker: clips a second that one worker delivers here, by loader.
        config: of the network; None: the default one.
    """
    config = _resolved(config or Config(), drawn)
    work = count_step_cost(config, 1, len(LABELS), labelled_frames=1).flops
    steps: dict[str, float | None] = {
        f"an A100 at {share:.0%} of its peak": work / share / A100_FLOPS for share in SHARES
    }
    if torch.cuda.is_available():
        steps[f"{torch.cuda.get_device_name()}, measured"] = step_seconds(config, find_device())
    rows = []
    for name, seconds in steps.items():
        clips = None if seconds is None else drawn.batch_size / seconds
        workers = {f"workers: {loader}": clips and math.ceil(clips / rate) for loader, rate in per_worker.items()}
        row = {"a step on": name, "TFLOP": work / 1e12, "ms / step": seconds and 1e3 * seconds, "clips / s": clips}
        rows.append(row | workers)
    return rows


def step_seconds(config: ResolvedConfig, device: torch.device) -> float | None:
    """Seconds of a training step on random clips with one labelled frame; None where it does not fit into memory."""
    data, batch_size = config.data, config.train.batch_size
    image = torch.randn(batch_size, data.frames, 1, *data.patch_size, device=device)
    label = torch.zeros(batch_size, data.frames, *data.patch_size, dtype=torch.uint8, device=device)
    train = dataclasses.replace(config.train, precision=resolve_precision("auto", device))
    step = TrainingStep(
        CLSTMUNet(config.model, 1, len(LABELS)).to(device), dataclasses.replace(config, train=train), device
    )
    labelled = (torch.arange(data.frames) == 0).expand(batch_size, -1)
    return interleaved({"step": lambda: step(Batch(image, label, labelled))}).seconds("step")


def _resolved(config: Config, drawn: Drawn) -> ResolvedConfig:
    asked = dataclasses.replace(
        config,
        data=DataConfig(patch_size=drawn.patch, frames=drawn.frames),
        train=TrainConfig(batch_size=drawn.batch_size),
        recompute=dataclasses.replace(config.recompute, chunk_frames=0),
    )
    return resolve_for(asked, drawn.patch, SPACING_MM)
