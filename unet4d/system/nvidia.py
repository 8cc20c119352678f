"""NVIDIA's driver and GPUs as the system shows them, without torch: what torch says nothing about where it cannot use them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from collections.abc import Mapping
from pathlib import Path

from unet4d.system.operating_system import DEVICES, PROC

DRIVER_FILE = PROC / "driver/nvidia/version"
DEVICE_FOLDER = DEVICES
WSL_DEVICE = "dxg"
"""Under WSL the one device file of all GPUs, of whichever vendor."""
NEEDED_DRIVER = {11: 450, 12: 525, 13: 580}
"""The oldest driver that runs programs built for a major version of CUDA."""


def driver_version() -> str | None:
    """Return the version of the loaded driver, such as "580.65.06"; None where there is none or the system does not say."""
    with contextlib.suppress(OSError):
        found = re.search(r"\s(\d{3,}(?:\.\d+)+)\s", DRIVER_FILE.read_text(encoding="utf-8", errors="replace"))
        return found[1] if found else None
    return None


def gpu_models() -> list[str]:
    """Return the model of each GPU of this machine, such as "NVIDIA A30", given to this process or not."""
    models = []
    for path in sorted(DRIVER_FILE.parent.glob("gpus/*/information")):
        with contextlib.suppress(OSError):
            found = re.search(r"^Model:\s*(.+)$", path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
            models += [found[1].strip()] if found else []
    return models


def given_gpus() -> list[str]:
    """Return the device files of GPUs that this process may open, such as "/dev/nvidia0".

    A container or a batch job sees the driver of its machine also where it is given no GPU; these files it cannot open then.
    """
    return [str(path) for path in sorted(DEVICE_FOLDER.glob("nvidia[0-9]*")) if _opens(path)]


def is_wsl() -> bool:
    """Return whether GPUs are reached through WSL, which shows neither NVIDIA's driver nor its device files."""
    return (DEVICE_FOLDER / WSL_DEVICE).exists() and not DRIVER_FILE.exists()


def are_hidden(environment: Mapping[str, str]) -> bool:
    """Return whether the user hides all GPUs by CUDA_VISIBLE_DEVICES."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    return visible is not None and visible.strip() in ("", "-1", "NoDevFiles")


def is_too_old(cuda: str) -> bool:
    """Return whether the driver is known to be too old for programs built for this version of CUDA, such as "13.0"."""
    major, driver = int(cuda.split(".")[0]), driver_version()
    if driver is not None and major in NEEDED_DRIVER:
        return int(driver.split(".")[0]) < NEEDED_DRIVER[major]
    known = _newest_cuda()
    return known is not None and known < major


def _opens(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_RDWR))
    except OSError:
        return False
    return True


def _newest_cuda() -> int | None:
    """Return the newest major version of CUDA that the driver's library runs; None where it is not here (also under WSL it is)."""
    version = ctypes.c_int()
    try:
        failed = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return None if failed or not version.value else version.value // 1000
