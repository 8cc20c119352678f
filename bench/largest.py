"""How many frames of a patch fit into a GPU's memory in one training step, by counting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.candidates import Candidate, Grid, counted_bytes
from bench.network import line

GB = 1e9


def largest_table(
    candidates: Sequence[Candidate],
    grids: Sequence[Grid],
    sizes_gb: Sequence[float],
    frames: tuple[int, int],
    most: int,
) -> list[dict[str, Any]]:
    """A row per grid, memory and candidate.

    Args:
        candidates: as `candidates` gives them.
        grids: patches.
        sizes_gb: memory there is, in 1e9 bytes.
        frames: clips the line through counted memory is drawn through.
        most: longest clip that is counted; a larger number of frames is read off the line, and the line checked there.
    """
    rows = []
    for grid in grids:
        for size in sizes_gb:
            for c in candidates:
                count, counted, off = largest(c, grid, size * GB, frames, most)
                rows.append(
                    {
                        "grid": str(grid),
                        "GB": size,
                        "network": c.name,
                        "precision": c.precision,
                        "frames": count,
                        "counted at frames": counted,
                        "the line is off there by %": off,
                    }
                )
    return rows


def largest(
    candidate: Candidate, grid: Grid, limit_bytes: float, frames: tuple[int, int], most: int
) -> tuple[int, int, float]:
    """The most frames that fit, the clip at which memory was counted, and by how many percent the line was off there.

    Up to `most` frames the answer is counted: it fits and one more does not. Beyond, it is the line's.
    """
    slope, offset = line(candidate, grid, frames)
    guess = max(0, int((limit_bytes - offset) / slope))
    at = max(1, min(guess, most))
    if guess <= most:
        while counted_bytes(candidate, grid, at) > limit_bytes:
            at -= 1
            if at == 0:
                return 0, 1, 0.0
        while at < most and counted_bytes(candidate, grid, at + 1) <= limit_bytes:
            at += 1
        guess = at
    real = counted_bytes(candidate, grid, at)
    return guess, at, 100 * (offset + slope * at - real) / real
