"""The memory budget of a prediction: the bytes that `--max_memory` leaves, and the shares into which a memory is split.

What follows from them is decided in memory_plan.py, but for studies beside the one that is computed, see batch/.
"""

from __future__ import annotations

import math

import torch

from unet4d.system.gpu_memory import free_bytes, usable_bytes
from unet4d.system.memory import free_memory_bytes, resident_bytes

PLANNED_SHARE = 0.8
"""Share of the memory that is free, or given, that is planned with."""
BESIDE_SHARE = 0.1
"""Share that a study may take that is read ahead or written behind the one that is computed."""
WINDOW_SHARE = 0.4
"""Share of what image and label map leave, for computing a window on the CPU; blocks of logits take the rest."""
STITCHED_SHARE = 0.5
"""Share of a GPU's free memory for stitched logits; windows are computed in the rest."""
AMPLE = 2
"""Multiple of the needed memory from which on freed memory is kept for the next window."""


class MemoryBudget:
    """Main memory that a prediction may take, made once from a number of bytes, and how it is spent.

    | what                             | at most                           | what happens where that is too little         |
    |----------------------------------|-----------------------------------|-----------------------------------------------|
    | all of the process               | `PLANNED_SHARE` of the limit, or  | the study fails before any window is computed |
    |                                  | of what is free per local process | (`plan_tiling`)                               |
    | a study read ahead               | `BESIDE_SHARE`                    | it is read when the one before is done        |
    | a label map written behind       | `BESIDE_SHARE`                    | the next study waits                          |
    | label map, probabilities         | what they need                    | they never get smaller                        |
    | image on the working grid        | what label map, least window and  | it lies in a file in scratch_dir              |
    |                                  | one row of logits leave           | (`study_fits`)                                |
    | a window, computed on the CPU    | `WINDOW_SHARE` of what is left    | fewer frames at once                          |
    | logits stitched in main memory   | the rest                          | blocks of fewer rows, then of fewer columns   |
    | a GPU's windows                  | 1 - `STITCHED_SHARE` of it, or    | fewer windows, then fewer frames at once      |
    |                                  | what all logits leave             |                                               |
    | logits stitched on a GPU         | the rest of it                    | fewer rows; then stitched in main memory      |

    Args:
        limit_bytes: main memory the process stays within; None: what is free whenever it is asked.
    """

    def __init__(self, limit_bytes: int | None = None):
        self.limit_bytes = limit_bytes

    @classmethod
    def of_process(cls, limit_bytes: int | None, processes: int) -> MemoryBudget:
        """Return the budget of one of several processes on a machine, each of which would else count on all that is free."""
        free = free_memory_bytes()
        if processes > 1 and limit_bytes is None and not math.isinf(free):
            limit_bytes = int(free / processes) + resident_bytes()
        return cls(limit_bytes)

    def left_bytes(self) -> float:
        """Return what may be taken from now on, beside what the process has."""
        if self.limit_bytes is None:
            return PLANNED_SHARE * free_memory_bytes()
        return PLANNED_SHARE * self.limit_bytes - resident_bytes()

    def has_room_beside(self, size: float) -> bool:
        """Return whether a study of this many bytes may lie in memory beside the one that is computed."""
        return size <= BESIDE_SHARE * (self.limit_bytes or free_memory_bytes())


def gpu_usable_bytes(device: torch.device) -> float | None:
    """Return what may be taken of a GPU's free memory; None for a CPU."""
    return usable_bytes(free_bytes(device)) if device.type == "cuda" else None


def gpu_stitching_bytes(device: torch.device) -> float | None:
    """Return the share of a GPU's free memory that stitched logits may take; None for a CPU."""
    return STITCHED_SHARE * free_bytes(device) if device.type == "cuda" else None
