"""Check of a checkpoint's weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from unet4d.errors import InputError
from unet4d.system.text import shortened

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def check_weights(weights: Mapping[str, Any], size: int) -> None:
    """Check that the weights are plain dense tensors of finite real numbers, and no larger than the file.

    Args:
        weights: tensors by name.
        size: bytes of the file.

    Raises:
        InputError: names the one that is not.
    """
    total = 0
    for name, weight in weights.items():
        dense = isinstance(weight, torch.Tensor) and weight.layout == torch.strided and weight.device.type == "cpu"
        if not dense or weight.dtype not in _DTYPES or weight.is_quantized or not weight.is_contiguous():
            kind = weight.dtype if isinstance(weight, torch.Tensor) else type(weight).__name__
            raise InputError(f"got the weight {shortened(name)} of {kind}, expected a dense tensor of real numbers")
        total += weight.numel() * weight.element_size()
        if total > size:
            raise InputError(f"got weights of {total} bytes and more in a file of {size}, expected all in it")
    broken = next((name for name, weight in weights.items() if not weight.float().isfinite().all()), None)
    if broken is not None:
        raise InputError(f"got NaN or infinity in the weight {shortened(broken)}, expected finite numbers")
