"""Devices and precisions: which are available, and how torch is set to them."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

import torch

from unet4d.config import Precision
from unet4d.errors import InputError
from unet4d.system import nvidia
from unet4d.system.cuda_allocator import give_up_expandable_segments, use_expandable_segments
from unet4d.system.distributed import is_first_process
from unet4d.system.environment import check_device_name
from unet4d.system.memory_errors import is_out_of_gpu_memory

logger = logging.getLogger(__name__)

MPS_FALLBACK = "PYTORCH_ENABLE_MPS_FALLBACK"
"""Environment variable that torch reads as it is loaded: operations that Apple's GPU lacks run on the CPU."""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def find_device(name: str = "auto") -> torch.device:
    """Return the device of this name; "auto" is a CUDA GPU if there is one, else the CPU.

    Apple's GPU ("mps") is used only where it is asked for: no test of this package has run on one.

    Raises:
        InputError: the device is missing or unusable, or "auto" would leave a GPU unused because its driver does not fit torch.
    """
    use_expandable_segments()
    check_device_name(name)
    if name == "auto":
        return _usable(torch.device("cuda")) if torch.cuda.is_available() else _cpu_without_gpu()
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"got device {name!r}, expected auto, cpu, cuda, cuda:N or mps") from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            if not count and (reason := why_gpu_is_unusable()):
                raise InputError(f"got device {name!r}; {reason}, or use --device cpu")
            raise InputError(f"got device {name!r}, and {count} CUDA devices are here; use auto, or check the driver")
        torch.cuda.set_device(device.index or 0)  # so that no other GPU is asked, or touched by pinned memory
        _usable(device)
    if device.type == "mps":
        _report_apple_gpu(torch.backends.mps.is_available())
    return device


def _report_apple_gpu(is_here: bool) -> None:
    """Log how Apple's GPU is used. Raises InputError where torch cannot use one."""
    if not is_here:
        raise InputError("got device 'mps', and torch finds no GPU of Apple here; use --device cpu")
    if is_first_process():
        on = os.environ.get(MPS_FALLBACK) == "1"
        fallback = f"{MPS_FALLBACK}=1 runs on the CPU" if on else f"set {MPS_FALLBACK}=1 to run on the CPU"
        logger.warning(
            "computing on Apple's GPU in float32, on which this package was never tested: compare one study with --device cpu; "
            f"{fallback} what torch has no operation for there"
        )


def _usable(device: torch.device) -> torch.device:
    """Return a GPU after a first kernel has run on it; raise InputError where it cannot be used.

    Where the driver refuses expandable segments, as it may on virtual GPUs and under WSL, the allocator works without them.
    """
    try:
        torch.ones(1, device=device)
        return device
    except RuntimeError as error:
        if is_out_of_gpu_memory(error):
            return device  # refused where memory is counted
        reason = str(error).splitlines()[0]
    if "CUDA driver error" in reason and give_up_expandable_segments():
        return _usable(device)
    raise InputError(
        f"the GPU ({device}, NVIDIA driver {nvidia.driver_version() or 'of unknown version'}) cannot be used with torch "
        f"{torch.__version__} and CUDA {torch.version.cuda} ({reason}); see with nvidia-smi who uses it, take --device cuda:N of "
        "another one, the image or torch for another CUDA (README, Docker), or --device cpu"
    )


def _cpu_without_gpu() -> torch.device:
    """Return the CPU, and report a GPU that this process was not given, that this torch was not built for, or that is Apple's.

    Raises:
        InputError: torch was built for CUDA and cannot use the GPU that is here; on the CPU the run would take weeks.
    """
    if nvidia.are_hidden(os.environ):
        return torch.device("cpu")
    if reason := why_gpu_is_unusable():
        raise InputError(f"{reason}, or insist on the CPU with --device cpu")
    driver, gpus = nvidia.driver_version(), nvidia.given_gpus()
    unused = None
    if torch.version.cuda is None and torch.version.hip is None and (gpus or driver):
        unused = f"an NVIDIA GPU is here and torch {torch.__version__} is built without CUDA; install a torch for CUDA to use it"
    elif driver and not gpus:
        unused = (
            f"an NVIDIA driver ({driver}) is here and no GPU is given to this process; give one (docker run --gpus all, "
            "or --gres=gpu:1 under Slurm) to use it"
        )
    elif torch.backends.mps.is_available():
        unused = "a GPU of Apple is here; --device mps uses it, on which this package was never tested"
    if unused and is_first_process():
        logger.warning(f"computing on the CPU: {unused}")
    return torch.device("cpu")


def why_gpu_is_unusable() -> str | None:
    """Return why torch, built for CUDA, cannot use the GPU that is here, and what to do; None where none is."""
    cuda, gpus = torch.version.cuda, nvidia.given_gpus()
    if cuda is None:
        return None
    driver = nvidia.driver_version() or "of unknown version"
    needed = nvidia.NEEDED_DRIVER.get(int(cuda.split(".")[0]))
    if (gpus or nvidia.is_wsl()) and nvidia.is_too_old(cuda):
        return (
            f"the GPU here has NVIDIA driver {driver}, and torch {torch.__version__} with CUDA {cuda} needs driver "
            f"{needed or 'of a newer version'}{' or newer' * bool(needed)}; update the driver, take the image or torch for an "
            "older CUDA (README, Docker)"
        )
    if gpus:
        return (
            f"a GPU is here ({gpus[0]}, NVIDIA driver {driver}) and torch {torch.__version__} with CUDA {cuda} cannot use it; "
            f"see what nvidia-smi says{_visible_words()}, and restart the container or the machine"
        )
    return None


def _visible_words() -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if visible is None else f" and that CUDA_VISIBLE_DEVICES, now {visible!r}, names a GPU of this machine"


def resolve_precision(precision: Precision, device: torch.device) -> Precision:
    """Return the precision; for "auto" bf16 where the device computes in it, else fp16 on a GPU of NVIDIA, else fp32.

    Raises:
        InputError: fp16 on a CPU, where it gains nothing; bf16 or fp16 on Apple's GPU, of which torch has not all convolutions.
    """
    if device.type == "mps":
        if precision in DTYPES:
            raise InputError(f"got precision {precision} on Apple's GPU, expected fp32 or auto")
        return "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise InputError("got precision fp16 on the CPU, expected bf16 or fp32, or auto")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if _has_bf16_units() else "fp32"


def _has_bf16_units() -> bool:
    """Return whether the CPU multiplies in bf16 (AMX, or AVX-512 BF16), not merely converts to it."""
    probes = (getattr(torch.cpu, f"_is_{units}_supported", None) for units in ("amx_tile", "avx512_bf16"))
    return any(probe() for probe in probes if probe)


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on a device. On CUDA nothing waits for the copy; elsewhere its source could be freed before."""
    return tensor.to(device, non_blocking=device.type == "cuda")


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Return a context of mixed precision ("bf16", "fp16"), or of nothing for "tf32" and "fp32".

    A weight is cast wherever it is used. The gradient of a cast shared by all chunks of frames would be added up in half precision
    until it no longer grows.
    """
    if precision not in DTYPES:
        return contextlib.nullcontext()
    return torch.autocast(device.type, DTYPES[precision], cache_enabled=False)


def set_tf32(device: torch.device, precision: str) -> None:
    """Set whether a GPU multiplies float32 in TF32: in every precision but "fp32".

    Products in half precision are added up in float32; cuBLAS else rounds between the parts of a long sum.
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


@contextlib.contextmanager
def repeated_shapes(device: torch.device) -> Iterator[None]:
    """Let cuDNN try its algorithms once for every new shape of a convolution, and use the fastest from then on.

    It pays where shapes repeat, as in training steps. In validation and prediction every number of frames is a new shape.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
