"""Where to compute and in what precision."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from unet4d.config import Precision
from unet4d.errors import InputError
from unet4d.machine import check_device_name

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def find_device(name: str = "auto") -> torch.device:
    """The device of this name; "auto" is a CUDA GPU if there is one, else the CPU.

    Raises:
        InputError: there is no such device here.
    """
    check_device_name(name)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device {name!r} is not known; wanted auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise InputError(
                f"device {name!r} was asked for and {count} CUDA devices are here; use auto, or check the driver"
            )
        torch.cuda.set_device(device.index or 0)  # so that no other GPU is asked, or touched by pinned memory
    return device


def resolve_precision(precision: Precision, device: torch.device) -> Precision:
    """What "auto" means here: bf16 where the device computes in it, else fp16 on a GPU, else fp32.

    Raises:
        InputError: fp16 on a CPU, where nothing is gained by its small range.
    """
    if precision == "fp16" and device.type == "cpu":
        raise InputError("precision fp16 was asked for on the CPU; wanted bf16 or fp32 there, or auto")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if _has_bf16_units() else "fp32"


def _has_bf16_units() -> bool:
    """Whether the CPU multiplies in bf16 (AMX, or AVX-512 BF16), not merely converts to it."""
    probes = (getattr(torch.cpu, f"_is_{units}_supported", None) for units in ("amx_tile", "avx512_bf16"))
    return any(probe() for probe in probes if probe)


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Mixed precision as named ("bf16", "fp16"), or nothing for "tf32" and "fp32".

    A weight is cast anew wherever it is used. The gradient of one cast and used by every chunk of frames would be added up in half
    precision, chunk by chunk, until it no longer grows.
    """
    if precision not in _DTYPES:
        return contextlib.nullcontext()
    return torch.autocast(device.type, _DTYPES[precision], cache_enabled=False)


def set_tf32(device: torch.device, precision: str) -> None:
    """Let a GPU multiply in TF32 what is left in float32, unless "fp32" is asked for; convolutions would do so unasked.

    Products in half precision are added up in float32, which cuDNN does and cuBLAS else leaves off between parts of a long sum.
    """
    if device.type != "cuda":
        return
    allowed = precision != "fp32"
    cuda: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    # Flags of both kinds, in this order: the old ones at False leave convolutions to what torch.backends.fp32_precision says, and
    # the new ones alone make torch raise where the old ones are read, as torch.compile does.
    cuda.allow_tf32 = cudnn.allow_tf32 = allowed
    for flags in (cuda, cudnn.conv, cudnn.rnn):
        flags.fp32_precision = "tf32" if allowed else "ieee"
    cuda.allow_bf16_reduced_precision_reduction = cuda.allow_fp16_reduced_precision_reduction = False


def tune(device: torch.device, precision: str) -> None:
    """Set what a training on a GPU computes with: `set_tf32`, and cuDNN's fastest algorithms.

    They are found by trying, whenever a shape is new. A training has few: those of a chunk, and as many frames as are decoded.
    """
    set_tf32(device, precision)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
