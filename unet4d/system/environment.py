"""The versions of all that computes, and the hardware, for the records of runs and of predictions."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import os
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unet4d.errors import InputError
from unet4d.system.byte_sizes import GB
from unet4d.system.nvidia import NEEDED_DRIVER, driver_version, gpu_models, is_too_old
from unet4d.system.operating_system import PROC, usable_cores

if TYPE_CHECKING:
    import torch


def _installed_version() -> str:
    """Return the version that is installed, else that of the checkout around this package."""
    try:
        return importlib.metadata.version("unet4d")
    except importlib.metadata.PackageNotFoundError:
        import tomllib

        pyproject = Path(__file__).parents[2] / "pyproject.toml"
        return tomllib.loads(pyproject.read_text("utf-8"))["project"]["version"] if pyproject.is_file() else "unknown"


VERSION = _installed_version()

_APPLE = {"mps": "Apple GPU (MPS)"}
"""Device type to name: torch does not tell the model."""


def check_device_name(name: str) -> None:
    """Raise InputError unless a device has a possible name; the machine itself is not looked at, which needs torch."""
    if not re.fullmatch(r"auto|(cpu|cuda)(:\d+)?|mps", name):
        raise InputError(f"device {name!r} is not known, expected auto, cpu, cuda, cuda:N or mps")


def available_cores() -> int:
    """Return the cores this process may use, where the system reports them (Linux does), else all."""
    return usable_cores()


def installed() -> dict[str, str]:
    """Return the versions of Python, this package and what it computes with, by name, without importing them."""
    found = {"unet4d": VERSION, "python": platform.python_version()}
    for name in ("torch", "monai", "numpy", "scipy", "nibabel", "pynrrd", "pydicom"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found | _gpu_libraries()


def _gpu_libraries() -> dict[str, str]:
    """Return the versions of CUDA and cuDNN that torch brings, of the driver, and the GPUs of this machine."""
    cuda, driver = _cuda_of_torch(), driver_version()
    cudnn = [one.version for one in importlib.metadata.distributions() if one.name.startswith("nvidia-cudnn-cu")]
    if cuda and driver and is_too_old(cuda):
        driver += f", too old for CUDA {cuda}, which needs {NEEDED_DRIVER.get(int(cuda.split('.')[0]), 'a newer one')}"
    return {
        "CUDA": cuda or "none",
        "cuDNN": cudnn[0] if cudnn else "unknown" if cuda else "none",
        "driver": driver or "none",
        "GPU": "; ".join(gpu_models()) or "none",
    }


def _cuda_of_torch() -> str | None:
    """Return the version of CUDA that torch is built for, read from its files; None where it is built without."""
    spec = importlib.util.find_spec("torch")
    for folder in (spec and spec.submodule_search_locations) or ():
        with contextlib.suppress(OSError):
            found = re.search(
                r"^cuda\b[^=\n]*= *'([^']+)'", (Path(folder) / "version.py").read_text("utf-8"), re.MULTILINE
            )
            return found[1] if found else None
    return None


def versions() -> dict[str, Any]:
    """Return the versions of what computes; None for CUDA and cuDNN where torch is built without, and for no NVIDIA driver."""
    import torch

    return {
        "unet4d": VERSION,
        "torch": torch.__version__,
        "monai": importlib.metadata.version("monai"),
        "numpy": importlib.metadata.version("numpy"),
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        "cudnn": _cudnn_version(),
        "driver": driver_version(),
    }


def _cudnn_version() -> int | None:
    """Return cuDNN's number; None where torch is built without, or refuses the one that is there, as for a GPU too old for it."""
    import torch

    with contextlib.suppress(RuntimeError):
        return torch.backends.cudnn.version()
    return None


def cudnn_words(version: int | None) -> str | None:
    """Return cuDNN's number as its releases are named, 91002 as "9.10.2"."""
    return None if version is None else f"{version // 10000}.{version // 100 % 100}.{version % 100}"


def gpu_words(device: torch.device) -> str:
    """Return the GPU and the libraries that compute on it, with their versions, in one line."""
    import torch

    known = versions()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _APPLE.get(device.type, "CPU")
    return f"{name}, torch {known['torch']}, CUDA {known['cuda']}, cuDNN {cudnn_words(known['cudnn'])}, driver {known['driver']}"


def hardware(device: torch.device) -> dict[str, Any]:
    """Return the GPU, if the device is one, and the processor."""
    import torch

    gpu = None
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        gpu = {"name": found.name, "memory_gb": round(found.total_memory / GB, 1)}
    elif device.type in _APPLE:
        gpu = {"name": _APPLE[device.type], "memory_gb": round(torch.mps.recommended_max_memory() / GB, 1)}
    return {"gpu": gpu, "cpu": _processor(), "cores": os.cpu_count()}


@functools.cache
def _processor() -> str:
    """Return the processor's name, that of Linux, else that of Python."""
    try:
        lines = (PROC / "cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
