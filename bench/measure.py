"""Timing in turns, so that a slow minute of the machine slows all candidates alike."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch

from unet4d.models.device import find_device
from unet4d.system.memory_errors import is_out_of_gpu_memory


class Spread(NamedTuple):
    """A median and its quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


def spread(values: Sequence[float]) -> Spread:
    """Return median and quartiles of one value or more."""
    low, median, high = statistics.quantiles(values, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return Spread(median, low, high)


class Rounds(dict[str, list[float]]):
    """The seconds of each candidate, round by round, without candidates that did not fit into memory."""

    def seconds(self, name: str) -> float | None:
        """Return the median."""
        return statistics.median(self[name]) if name in self else None

    def ratio(self, name: str, baseline: str) -> Spread | None:
        """Return a candidate's time over the baseline's of the same round."""
        if name not in self or baseline not in self:
            return None
        return spread([mine / base for mine, base in zip(self[name], self[baseline], strict=True)])


def interleaved(
    candidates: Mapping[str, Callable[[], Any]], rounds: int = 7, budget_s: float = 60.0, fewest: int = 3
) -> Rounds:
    """Time the candidates in turns, after one round to warm up.

    Args:
        candidates: functions to time, by name.
        rounds: at most.
        budget_s: seconds after which no further round is begun, once `fewest` are done.
        fewest: rounds at least.
    """
    fitting = {name: run for name, run in candidates.items() if _fits(run)}
    taken = Rounds({name: [] for name in fitting})
    began = time.perf_counter()
    for turn in range(rounds):
        if turn >= fewest and time.perf_counter() - began > budget_s:
            break
        for name, run in fitting.items():
            taken[name].append(_seconds(run))
    return taken


def _fits(run: Callable[[], Any]) -> bool:
    try:
        run()
    except RuntimeError as error:
        if not is_out_of_gpu_memory(error):
            raise
        torch.cuda.empty_cache()
        return False
    return True


def _seconds(run: Callable[[], Any]) -> float:
    if not torch.cuda.is_available():
        began = time.perf_counter()
        run()
        return time.perf_counter() - began
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    first.record()
    run()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) / 1000


def machine() -> dict[str, Any]:
    """Describe the machine."""
    device = find_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def _processor() -> str:
    """Return the processor's name where the system reports it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
