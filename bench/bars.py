"""Targets of the benchmark's figures, and whether they are met."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from bench.recurrence import DEFAULT

Row = dict[str, Any]


def core_bars(tables: dict[str, list[Row]]) -> list[Row]:
    """Return a row per target; a figure that could not be measured does not meet it."""
    times, memory = tables["time"], tables["memory"]
    first, large = memory[0]["grid"], [row for row in times if row["grid"] == times[-1]["grid"]]
    leanest = [row for row in _of(memory, "leanest") if row["grid"] == first]
    published = [row for row in _of(memory, "published") if (row["grid"], row["precision"]) == (first, "fp32")]
    frames = [
        ours["frames in 40 GB"] / max(1, theirs["frames in 40 GB"])
        for ours, theirs in zip(leanest, published, strict=True)
    ]
    share = _values(_of(tables["recurrence"], DEFAULT), "recurrence share of inference time")
    return [
        bar("recurrence share of the default network's inference time", "<=", 0.25, share),
        bar("leanest: B per voxel and frame", "<=", 100, _values(leanest, "B per voxel and frame")),
        bar("leanest: B per voxel", "<=", 1000, _values(leanest, "B per voxel")),
        bar("leanest: frames over the published network's in fp32, 40 GB", ">=", 50, frames),
        bar("leanest: training over plain, largest patch", "<=", 2, _values(_of(large, "leanest"), "training / plain")),
        bar("plain: times as fast as published, training", ">=", 4, _speeds(times, "plain", "training")),
        bar(
            "leanest: times as fast as published, training, largest patch",
            ">=",
            2,
            _speeds(large, "leanest", "training"),
        ),
        bar("plain: times as fast as published, prediction", ">=", 5, _speeds(times, "plain", "prediction")),
    ]


def bar(name: str, sign: str, wanted: float, values: Sequence[float | None]) -> Row:
    """Return the row of a target, which the worst of the values must meet."""
    holds: Callable[[float, float], bool] = {"<=": operator.le, ">=": operator.ge}[sign]
    known = [value for value in values if value is not None]
    worst = None if not known else max(known) if sign == "<=" else min(known)
    met = worst is not None and holds(worst, wanted)
    return {
        "bar": name,
        "wanted": f"{sign} {wanted:g}",
        "measured": worst,
        "of": f"{len(known)}/{len(values)}",
        "met": "yes" if met else "no",
    }


def _of(rows: list[Row], network: str) -> list[Row]:
    return [row for row in rows if row["network"] == network]


def _values(rows: list[Row], key: str) -> list[float | None]:
    """Return the figures of a column, of a spread its median."""
    return [getattr(row[key], "median", row[key]) for row in rows]


def _speeds(rows: list[Row], network: str, what: str) -> list[float | None]:
    """Return how many times as fast as the published network in the same precision."""
    ratios = _values(_of(rows, network), f"{what} / published")
    return [None if ratio is None else 1 / ratio for ratio in ratios]
