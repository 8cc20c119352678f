"""ConvLSTM3d against a plainly written ConvLSTM: time, and memory kept for the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn

from bench.measure import interleaved
from bench.networks import Grid
from bench.plain import PlainConvLSTM
from unet4d.models.convlstm import ConvLSTM3d
from unet4d.models.device import autocast
from unet4d.models.scan import Keep

PLAIN = "plain autograd"
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
LayerInput = tuple[int, int, int, Grid]
"""Batch B, frames T, channels C = H, grid."""


def layer_table(
    inputs: Sequence[LayerInput], precision: str, device: torch.device, budget_s: float
) -> list[dict[str, Any]]:
    """Return a row per input and layer: the plain one, and ours with each choice of kept tensors."""
    rows = []
    for batch, frames, channels, grid in inputs:
        x = torch.randn(
            batch, frames, channels, *grid.size, device=device, dtype=_DTYPES[precision], requires_grad=True
        )
        layers = _layers(channels, device)
        forward = interleaved(
            {name: _forward(layer, x, precision) for name, layer in layers.items()}, budget_s=budget_s
        )
        both = interleaved({name: _both(layer, x, precision) for name, layer in layers.items()}, budget_s=budget_s)
        saved = {name: saved_bytes(layer, x, precision) for name, layer in layers.items()}
        rows += [
            {
                "B x T x C": f"{batch} x {frames} x {channels}",
                "grid": str(grid),
                "keeps": name,
                "precision": precision,
                "forward / plain": forward.ratio(name, PLAIN),
                "forward and backward / plain": both.ratio(name, PLAIN),
                "kept MB": saved[name] / 1e6,
                "kept / plain": saved[name] / saved[PLAIN],
                "forward and backward s": both.seconds(name),
            }
            for name in layers
        ]
    return rows


def _layers(channels: int, device: torch.device) -> dict[str, nn.Module]:
    ours = {keep: ConvLSTM3d(channels, channels, keep=keep) for keep in get_args(Keep)}
    first = ours[get_args(Keep)[0]]
    for layer in ours.values():
        layer.load_state_dict(first.state_dict())
    plain = PlainConvLSTM(channels, channels).copy_weights(first.cells[0])  # type: ignore[arg-type]
    return {name: layer.to(device) for name, layer in {PLAIN: plain, **ours}.items()}


def _output(layer: nn.Module, x: Tensor, precision: str) -> Tensor:
    with autocast(x.device, precision):
        out = layer(x)
    return out if isinstance(out, Tensor) else out[0]


def _forward(layer: nn.Module, x: Tensor, precision: str) -> Callable[[], None]:
    def run() -> None:
        with torch.no_grad():
            _output(layer, x, precision)

    return run


def _both(layer: nn.Module, x: Tensor, precision: str) -> Callable[[], None]:
    def run() -> None:
        layer.zero_grad(set_to_none=True)
        x.grad = None
        _output(layer, x, precision).float().square().mean().backward()

    return run


def saved_bytes(layer: nn.Module, x: Tensor, precision: str) -> int:
    """Return the bytes kept for the layer's backward pass, each storage once, without weights and copies of them."""
    weights = {tuple(p.shape) for p in layer.parameters()}
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tuple(tensor.shape) not in weights:
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = _output(layer, x, precision)  # kept, so that no address is used twice
    total = sum(storages.values())
    del output
    return total
