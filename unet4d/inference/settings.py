"""How studies are segmented, and how much main memory that may take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unet4d.config import MOST, Precision
from unet4d.errors import InputError
from unet4d.images.time_axis import TimeAxis, check_time_axis
from unet4d.models.checkpoint import TrainedModel
from unet4d.system.memory import free_memory_bytes, resident_bytes
from unet4d.system.text import short_repr

Models = Sequence[TrainedModel]
USABLE = 0.8
"""Share of the memory that is free, or was given, that is counted on."""


@dataclass(frozen=True)
class Settings:
    """How studies are segmented; None is what the model was trained with.

    Attributes:
        time: "cyclic" or "open"; None is what the study says, else what the model was trained with.
        overlap: share of a window its neighbour covers.
        sw_batch_size: windows computed at once.
        mirror_axes: axes (0 = X, 1 = Y, 2 = Z) to mirror along, too; twice the work for each.
        cyclic_shifts: of a cyclic study, the answers from this many first frames, evenly spread, are averaged; that many times the
            work.
        memory_bytes: main memory the process stays within; None: what is free.
        precision: "auto", "bf16", "fp16", "tf32" or "fp32".
        probabilities: give each class's probability, too.
        scratch_dir: where a study is kept that does not fit into memory; None: the system's folder for temporary files.
    """

    time: TimeAxis | None = None
    overlap: float | None = None
    sw_batch_size: int | None = None
    mirror_axes: tuple[int, ...] | None = None
    cyclic_shifts: int = 1
    memory_bytes: int | None = None
    precision: Precision = "auto"
    probabilities: bool = False
    scratch_dir: Path | None = None

    def __post_init__(self) -> None:
        """Raises InputError for what is no setting."""
        if self.time is not None:
            check_time_axis(self.time, "time", "give one of them, or none")
        if self.cyclic_shifts < 1:
            raise InputError(f"cyclic_shifts is {self.cyclic_shifts}; wanted 1 or more")
        if self.overlap is not None and not 0 <= self.overlap < 1:
            raise InputError(f"overlap is {self.overlap}; wanted a share from 0 to below 1")
        if self.sw_batch_size is not None and self.sw_batch_size < 1:
            raise InputError(f"sw_batch_size is {self.sw_batch_size}; wanted 1 or more")
        for name, value in (("cyclic_shifts", self.cyclic_shifts), ("sw_batch_size", self.sw_batch_size or 1)):
            if value > MOST:
                raise InputError(f"{name} is {short_repr(value)}, expected at most {MOST}; give a smaller number")
        if not set(self.mirror_axes or ()) <= {0, 1, 2}:
            raise InputError(f"mirror_axes is {list(self.mirror_axes or ())}; wanted axes among 0, 1 and 2")

    def budget_bytes(self) -> float:
        """Bytes of main memory that may be taken from now on."""
        if self.memory_bytes is None:
            return USABLE * free_memory_bytes()
        return USABLE * self.memory_bytes - resident_bytes()
