"""Timing side by side: the candidates take turns, so that a slow minute of the machine hits all of them alike."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from unet4d.model.device import find_device


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    device = find_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def ratios(candidates: dict[str, Callable[[], Any]], baseline: str, rounds: int = 5) -> dict[str, float]:
    """Each candidate's time over the baseline's of the same round: the median of the rounds, after one to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(rounds + 1):
        for name, run in candidates.items():
            elapsed = _seconds(run)
            if turn:
                seconds[name].append(elapsed)
    base = seconds[baseline]
    return {name: statistics.median(s / b for s, b in zip(times, base, strict=True)) for name, times in seconds.items()}


def _seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _processor() -> str:
    """The processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
