"""What recurrence costs: a training step and a prediction of the CLSTM-UNet over those of its frame-wise twin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from bench.candidates import CLASSES, Grid
from bench.measure import interleaved
from unet4d.config import ModelConfig
from unet4d.models.clstm_unet import CLSTMUNet
from unet4d.models.device import autocast
from unet4d.models.topology import resolve_model

TWIN, DEFAULT = "frame-wise twin", "every level, bidirectional (the default)"


def recurrence_table(
    channels: Sequence[int], grid: Grid, frames: int, precision: str, device: torch.device, budget_s: float
) -> list[dict[str, Any]]:
    """A row per network: weights, and time over the twin's of a training step, a prediction, a cyclic prediction."""
    options: dict[str, dict[str, Any]] = {
        TWIN: {"lstm_channels": 0},
        "bottleneck only, forward": {
            "lstm_channels": [0] * (len(channels) - 1) + [channels[-1] // 4],
            "direction": "forward",
        },
        "every level, forward": {"direction": "forward"},
        DEFAULT: {},
    }
    networks = {
        name: CLSTMUNet(
            resolve_model(ModelConfig(list(channels), **chosen), grid.spacing_mm, grid.size), 1, CLASSES
        ).to(device)
        for name, chosen in options.items()
    }
    clip = torch.randn(2, frames, 1, *grid.size, device=device)

    def step(network: CLSTMUNet) -> Callable[[], None]:
        def one() -> None:
            network.zero_grad(set_to_none=True)
            with autocast(device, precision):
                logits = network(clip)
            logits.float().square().mean().backward()

        return one

    def prediction(network: CLSTMUNet, cyclic: bool) -> Callable[[], None]:
        def one() -> None:
            with torch.inference_mode(), autocast(device, precision):
                network(clip, cyclic=cyclic)

        return one

    training = interleaved({name: step(network) for name, network in networks.items()}, budget_s=budget_s)
    for network in networks.values():
        network.eval()
    open_time = interleaved({name: prediction(network, False) for name, network in networks.items()}, budget_s=budget_s)
    cyclic = interleaved({name: prediction(network, True) for name, network in networks.items()}, budget_s=budget_s)
    rows = []
    for name, network in networks.items():
        ratio = open_time.ratio(name, TWIN)
        rows.append(
            {
                "network": name,
                "million weights": round(sum(p.numel() for p in network.parameters()) / 1e6, 2),
                "training step / twin": training.ratio(name, TWIN),
                "prediction / twin": ratio,
                "recurrence share of inference time": None if ratio is None else 1 - 1 / ratio.median,
                "cyclic prediction / twin": cyclic.ratio(name, TWIN),
                "precision": precision,
            }
        )
    return rows
