"""What computes here: the versions of what takes part, and the hardware; for the records of runs and of predictions."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import unet4d
from unet4d.errors import InputError

if TYPE_CHECKING:
    import torch


def check_device_name(name: str) -> None:
    """See that a device has a name that can be, without asking the machine, which needs torch.

    Raises:
        InputError: it has not.
    """
    if not re.fullmatch(r"auto|(cpu|cuda)(:\d+)?", name):
        raise InputError(f"device {name!r} is not known; wanted auto, cpu, cuda or cuda:N")


def installed() -> dict[str, str]:
    """Return the versions of Python, this package and what it computes with, by name, without importing them."""
    found = {"unet4d": unet4d.__version__, "python": platform.python_version()}
    for name in ("torch", "monai", "numpy", "scipy", "nibabel", "pynrrd", "pydicom"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def versions() -> dict[str, Any]:
    """Of what computes; null for CUDA and cuDNN where torch is built without."""
    import torch

    return {
        "unet4d": unet4d.__version__,
        "torch": torch.__version__,
        "monai": importlib.metadata.version("monai"),
        "numpy": importlib.metadata.version("numpy"),
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def hardware(device: torch.device) -> dict[str, Any]:
    """The GPU, if that is where it computes, and the processor."""
    import torch

    gpu = None
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        gpu = {"name": found.name, "memory_gb": round(found.total_memory / 10**9, 1)}
    return {"gpu": gpu, "cpu": _processor(), "cores": os.cpu_count()}


@functools.cache
def _processor() -> str:
    """The processor's name, as Linux knows it, else as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
