"""What recurrence costs: a training step and a prediction of the CLSTM-UNet over those of its frame-wise twin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from bench.measure import ratios
from unet4d.model.clstm_unet import CLSTMUNet
from unet4d.model.device import autocast, find_device, resolve_precision
from unet4d.model.topology import strides_and_kernels

CHANNELS = (16, 32, 64, 128)
GRID, SPACING_MM, FRAMES = (64, 64, 8), (1.5, 1.5, 10.0), 6
TWIN = "frame-wise twin"
NETWORKS: dict[str, dict[str, Any]] = {
    TWIN: {"lstm_channels": 0},
    "bottleneck only, forward": {"lstm_channels": [0, 0, 0, 32], "direction": "forward"},
    "every level, forward": {"direction": "forward"},
    "every level, bidirectional": {"direction": "bidirectional"},
}


def run() -> list[dict[str, Any]]:
    """A row per network: weights, and time over the twin's of a training step, a prediction, a cyclic prediction."""
    device = find_device()
    precision = resolve_precision("auto", device)
    strides, kernels = strides_and_kernels(SPACING_MM, GRID, len(CHANNELS))
    torch.manual_seed(0)
    networks = {
        name: CLSTMUNet(1, 4, CHANNELS, strides, kernels, **options).to(device) for name, options in NETWORKS.items()
    }
    clip = torch.randn(2, FRAMES, 1, *GRID, device=device)

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

    training = ratios({name: step(network) for name, network in networks.items()}, TWIN)
    open_time = ratios({name: prediction(network, False) for name, network in networks.items()}, TWIN)
    cyclic = ratios({name: prediction(network, True) for name, network in networks.items()}, TWIN)
    return [
        {
            "network": name,
            "million weights": round(sum(p.numel() for p in network.parameters()) / 1e6, 2),
            "training step / twin": round(training[name], 2),
            "prediction / twin": round(open_time[name], 2),
            "cyclic prediction / twin": round(cyclic[name], 2),
            "precision": precision,
        }
        for name, network in networks.items()
    ]
