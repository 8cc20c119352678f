"""Our network against the published one: time and memory of a training step and of a prediction, per voxel and frame."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from bench.candidates import Candidate, Grid, counted_bytes, measured_bytes, weights
from bench.measure import Rounds, interleaved

ADAM_BYTES = 16
"""Bytes of a weight, its gradient and AdamW's two moments."""


def key(candidate: Candidate) -> str:
    """A candidate's name with its precision."""
    return f"{candidate.name}, {candidate.precision}"


def network_table(
    candidates: Sequence[Candidate],
    clips: Sequence[tuple[int, Grid]],
    counted: Grid,
    device: torch.device,
    budget_s: float,
) -> list[dict[str, Any]]:
    """A row per number of frames and candidate; ratios are over the published network in our precision and over our plain step.

    Args:
        candidates: published networks, the last in our precision, and ours, the first with the plain step.
        clips: frames and grid of those that are timed.
        counted: grid of the clips whose memory is taken.
        device: where to time.
        budget_s: seconds for each comparison.
    """
    baseline = key(next(c for c in candidates[::-1] if c.memory is None))
    ours = next(key(c) for c in candidates if c.memory is not None)
    predicting = _predicting(candidates)
    rows = []
    for count, timed in clips:
        training = _timed({key(c): c.training(timed, device) for c in candidates}, count, budget_s)
        prediction = _timed({key(c): c.prediction(timed, device) for c in predicting}, count, budget_s)
        for c in candidates:
            sizes = {
                f"{how} B{where}": None if taken is None else taken / counted.voxels / count
                for how, train, shown in (("training", True, candidates), ("prediction", False, predicting))
                for where, taken in (
                    ("", counted_bytes(c, counted, count, train) if c in shown else None),
                    (" on the GPU", measured_bytes(c, counted, count, train) if c in shown else None),
                )
            }
            rows.append(
                {
                    "grid": str(timed),
                    "frames": count,
                    "network": c.name,
                    "precision": c.precision,
                    "training us": _microseconds(training, c, timed, count),
                    "training / published": training.ratio(key(c), baseline),
                    "training / plain": training.ratio(key(c), ours),
                    "prediction us": _microseconds(prediction, c, timed, count),
                    "prediction / published": prediction.ratio(key(c), baseline),
                    **sizes,
                }
            )
    return rows


def _predicting(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that predict in a way of their own: ways to train one network predict alike."""
    first = next(c for c in candidates if c.memory is not None)
    return [c for c in candidates if c.memory is None or c is first]


def _timed(runs: dict[str, Callable[[int], None]], frames: int, budget_s: float) -> Rounds:
    once = {name: functools.partial(run, frames) for name, run in runs.items()}
    return interleaved(once, budget_s=budget_s, fewest=2)


def _microseconds(rounds: Rounds, candidate: Candidate, grid: Grid, frames: int) -> float | None:
    seconds = rounds.seconds(key(candidate))
    return None if seconds is None else 1e6 * seconds / grid.voxels / frames


def line(candidate: Candidate, grid: Grid, frames: tuple[int, int]) -> tuple[float, float]:
    """Counted bytes of a training step per frame and with no frame, from two clips."""
    few, many = (counted_bytes(candidate, grid, count) for count in frames)
    slope = (many - few) / (frames[1] - frames[0])
    return slope, many - slope * frames[1]


def memory_table(candidates: Sequence[Candidate], grid: Grid, frames: tuple[int, int]) -> list[dict[str, Any]]:
    """A row per candidate: counted memory of a training step, split into shares of weights, voxels, and voxels times frames."""
    rows = []
    for c in candidates:
        slope, offset = line(c, grid, frames)
        fixed = ADAM_BYTES * weights(c, grid)
        rows.append(
            {
                "network": c.name,
                "precision": c.precision,
                "grid": str(grid),
                "million weights": weights(c, grid) / 1e6,
                "weights and optimiser MB": fixed / 1e6,
                "B per voxel": (offset - fixed) / grid.voxels,
                "B per voxel and frame": slope / grid.voxels,
            }
        )
    return rows
