"""Checks of the weights in a checkpoint, before memory is taken for the network that it describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from unet4d.config import ResolvedConfig
from unet4d.errors import InputError
from unet4d.models.clstm_unet import CLSTMUNet
from unet4d.system.text import shortened

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def check_weights(weights: Mapping[str, Any], size: int) -> None:
    """Check that the weights are plain dense tensors of finite real numbers, which the file really holds.

    Args:
        weights: tensors by name.
        size: bytes of the file.

    Raises:
        InputError: names the one that is not.
    """
    held = 0
    for name, weight in weights.items():
        dense = isinstance(weight, torch.Tensor) and weight.layout == torch.strided and weight.device.type == "cpu"
        if not dense or weight.dtype not in _DTYPES or weight.is_quantized or not weight.is_contiguous():
            kind = weight.dtype if isinstance(weight, torch.Tensor) else type(weight).__name__
            raise InputError(f"got the weight {shortened(name)} of {kind}, expected a dense tensor of real numbers")
        held += weight.numel() * weight.element_size()
        if held > size:
            raise InputError(f"got weights of {held} bytes and more in a file of {size}, expected all in it")
    broken = next((name for name, weight in weights.items() if not weight.float().isfinite().all()), None)
    if broken is not None:
        raise InputError(f"got NaN or infinity in the weight {shortened(broken)}, expected finite numbers")


def check_shapes(
    config: ResolvedConfig, in_channels: int, out_channels: int, weights: Mapping[str, torch.Tensor]
) -> None:
    """Check that a network of this configuration has these weights, before memory is taken for it.

    Raises:
        InputError: names a weight that is missing, unknown or of another shape.
    """
    with torch.device("meta"):
        wanted = CLSTMUNet(config.model, in_channels, out_channels).state_dict()
    missing, extra = sorted(wanted.keys() - weights.keys()), sorted(weights.keys() - wanted.keys())
    other = [name for name in wanted.keys() & weights.keys() if wanted[name].shape != weights[name].shape]
    for what, names in (("no", missing), ("an unknown", extra), ("another shape of the", sorted(other))):
        if names:
            raise InputError(
                f"got {what} weight {shortened(names[0])}, expected those of its configuration and classes"
            )
