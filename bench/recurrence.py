"""The cost of recurrence: a training step and a prediction of the CLSTM-UNet over those of its frame-wise baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from bench.measure import interleaved
from bench.networks import CLASSES, Grid
from unet4d.config import ModelConfig
from unet4d.models.clstm_unet import CLSTMUNet
from unet4d.models.device import autocast
from unet4d.models.topology import resolve_model

FRAMEWISE, DEFAULT = "frame-wise baseline", "all but full resolution, bidirectional (the default)"


def recurrence_table(
    channels: Sequence[int], grid: Grid, frames: int, precision: str, device: torch.device, budget_s: float
) -> list[dict[str, Any]]:
    """Return a row per network: weights, and times over the baseline's of a training step, a prediction, a cyclic one."""
    bottleneck = [0] * (len(channels) - 1) + [channels[-1] // 4]
    options: dict[str, dict[str, Any]] = {
        FRAMEWISE: {"lstm_channels": 0},
        "bottleneck only, forward": {"lstm_channels": bottleneck, "direction": "forward"},
        "every level, forward": {"lstm_channels": [], "direction": "forward"},
        "every level, bidirectional": {"lstm_channels": []},
        DEFAULT: {},
    }
    networks = {}
    for name, chosen in options.items():
        model = resolve_model(ModelConfig(list(channels), **chosen), grid.spacing_mm, grid.size)
        networks[name] = CLSTMUNet(model, 1, CLASSES).to(device)
    clip = torch.randn(2, frames, 1, *grid.size, device=device)

    def step(network: CLSTMUNet) -> None:
        network.zero_grad(set_to_none=True)
        with autocast(device, precision):
            logits = network(clip)
        logits.float().square().mean().backward()

    def predict(network: CLSTMUNet, cyclic: bool) -> None:
        with torch.inference_mode(), autocast(device, precision):
            network(clip, cyclic=cyclic)

    training = interleaved({name: lambda n=n: step(n) for name, n in networks.items()}, budget_s=budget_s)
    for network in networks.values():
        network.eval()
    opened, cyclic = (
        interleaved({name: lambda n=n, c=c: predict(n, c) for name, n in networks.items()}, budget_s=budget_s)
        for c in (False, True)
    )
    rows = []
    for name, network in networks.items():
        ratio = opened.ratio(name, FRAMEWISE)
        rows.append(
            {
                "network": name,
                "million weights": round(sum(p.numel() for p in network.parameters()) / 1e6, 2),
                "training step / frame-wise": training.ratio(name, FRAMEWISE),
                "prediction / frame-wise": ratio,
                "recurrence share of inference time": None if ratio is None else 1 - 1 / ratio.median,
                "cyclic prediction / frame-wise": cyclic.ratio(name, FRAMEWISE),
                "precision": precision,
            }
        )
    return rows
