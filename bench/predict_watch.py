"""Where the time and the memory of a prediction go, part by part, without a change to what is measured."""

from __future__ import annotations

import contextlib
import functools
import importlib
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unet4d.inference.prepare import PreprocessedStudy

NETWORK, REST = "network", "the rest"
PARTS = (
    ("reading", "unet4d.datasets.dataset", "Case", "image"),
    ("preparing", "unet4d.inference.prepare", "prepare"),
    ("counting memory", "unet4d.inference.segment", "cut"),
    ("cutting windows", "unet4d.inference.windows", "Windows", "read"),
    (NETWORK, "unet4d.inference.sliding_window", "WindowPredictor", "logits"),
    ("stitching", "unet4d.inference.sliding_window", "LogitRows", "upto"),
    ("back to the study's grid", "unet4d.images.resample_back", "NativeLabel", "fill"),
    ("the rest of answering", "unet4d.inference.segment", "answer"),
    ("writing", "unet4d.inference.batch.output_folder", "PredictionFolder", "add"),
)
"""Name of each part and where its function is found. What a part calls of another counts for that one alone; a study that is read
frame by frame into a file is read in "preparing"."""
ANSWERING = tuple(name for name, *_ in PARTS if name not in ("reading", "preparing", "writing"))
"""Those between the normalised image and the label map."""


@dataclass
class Part:
    """One part of a prediction, without the parts within.

    Attributes:
        seconds: it took.
        calls: how often it was begun.
        raised_mb: how far it raised the most that the process had held.
    """

    seconds: float = 0.0
    calls: int = 0
    raised_mb: float = 0.0


class Watch:
    """Watches the parts of every prediction made within `on()`; on a GPU each part is waited for.

    Attributes:
        parts: by name.
        on_disk: whether the last study was too large for the memory.
    """

    def __init__(self) -> None:
        self.parts = {name: Part() for name, *_ in PARTS} | {REST: Part()}
        self.on_disk = False
        self._open: list[str] = []
        self._since = self._peak_mb = 0.0

    @property
    def seconds(self) -> float:
        """Of all parts together."""
        return sum(part.seconds for part in self.parts.values())

    @contextlib.contextmanager
    def on(self) -> Iterator[Watch]:
        """Watch what runs within."""
        with contextlib.ExitStack() as undone:
            for name, module, *path in PARTS:
                owner: Any = importlib.import_module(module)
                for step in path[:-1]:
                    owner = getattr(owner, step)
                real = getattr(owner, path[-1])
                for place in [owner] if isinstance(owner, type) else _importers(path[-1], real):
                    setattr(place, path[-1], self._watched(name, real))
                    undone.callback(setattr, place, path[-1], real)
            self._begin(REST)
            yield self
            self._end()

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def run(*given: Any, **named: Any) -> Any:
            self._begin(name)
            try:
                found = real(*given, **named)
                self._look(found)
                return found
            finally:
                self._end()

        return run

    def _look(self, found: Any) -> None:
        if isinstance(found, PreprocessedStudy):
            self.on_disk = found.is_on_disk

    def _begin(self, name: str) -> None:
        self._count()
        self._open.append(name)
        self.parts[name].calls += 1

    def _end(self) -> None:
        self._count()
        self._open.pop()

    def _count(self) -> None:
        """Time and memory since the last change belong to the innermost part that is open."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now, peak = time.perf_counter(), peak_mb()
        if self._open:
            part = self.parts[self._open[-1]]
            part.seconds += now - self._since
            part.raised_mb += peak - self._peak_mb
        self._since, self._peak_mb = now, peak


def _importers(name: str, function: Any) -> list[Any]:
    """The package's modules that call a function by this name."""
    modules = [module for path, module in sys.modules.items() if path.startswith("unet4d")]
    return [module for module in modules if vars(module).get(name) is function]


def peak_mb() -> float:
    """The most that this process has held in main memory so far; 0 where the system does not say (only Linux does)."""
    return _of_status("VmHWM")


def resident_mb() -> float:
    """What this process holds in main memory now."""
    return _of_status("VmRSS")


def _of_status(name: str, status: Path = Path("/proc/self/status")) -> float:
    found = re.search(rf"^{name}:\s+(\d+) kB$", status.read_text(), re.M) if status.exists() else None
    return 1024 * int(found[1]) / 1e6 if found else 0.0
