"""What the figures are to reach, and whether they do."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from bench.layer import PLAIN
from bench.recurrence import DEFAULT

Row = dict[str, Any]


def bars(tables: dict[str, list[Row]]) -> list[Row]:
    """A row per bar, in the order they were set; what could not be measured is not met."""
    network, memory, largest = tables["network"], tables["memory"], tables["largest"]
    layers = [row for row in tables["layer"] if row["keeps"] != PLAIN and row["kept / plain"] <= 1]
    leanest = _of(memory, "leanest")
    large = [row for row in network if row["grid"] == network[-1]["grid"]]
    return [
        bar(
            "recurrence share of the default network's inference time",
            "<=",
            0.25,
            _values(_of(tables["recurrence"], DEFAULT), "recurrence share of inference time"),
        ),
        bar(
            "ConvLSTM3d over plain, forward and backward, where it keeps no more",
            "<=",
            1.0,
            _values(layers, "forward and backward / plain"),
        ),
        bar("leanest: B per voxel and frame", "<=", 100, _values(leanest, "B per voxel and frame")),
        bar("leanest: B per voxel", "<=", 1000, _values(leanest, "B per voxel")),
        bar("leanest: frames over the published network's in fp32, 40 GB", ">=", 50, _frames(largest)),
        bar(
            "leanest: training time over plain, on the largest patch",
            "<=",
            2,
            _values(_of(large, "leanest"), "training / plain"),
        ),
        bar("plain: times as fast as published, training", ">=", 4, _speeds(network, "plain", "training")),
        bar(
            "leanest: times as fast as published, training, on the largest patch",
            ">=",
            2,
            _speeds(large, "leanest", "training"),
        ),
        bar("plain: times as fast as published, prediction", ">=", 5, _speeds(network, "plain", "prediction")),
    ]


def bar(name: str, sign: str, wanted: float, values: Sequence[float | None]) -> Row:
    """The worst of the values must reach what is wanted."""
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
    """The figures of a column, of a spread its median."""
    return [value.median if hasattr(value, "median") else value for value in (row[key] for row in rows)]


def _speeds(rows: list[Row], network: str, what: str) -> list[float | None]:
    """How many times as fast as the published network in the same precision."""
    ratios = _values(_of(rows, network), f"{what} / published")
    return [None if ratio is None else 1 / ratio for ratio in ratios]


def _frames(rows: list[Row]) -> list[float | None]:
    """Frames of the leanest step over those of the published network in float32, on the first grid with 40 GB."""
    here = [row for row in rows if row["grid"] == rows[0]["grid"] and row["GB"] == 40]
    leanest = _of(here, "leanest")
    published = [row for row in _of(here, "published") if row["precision"] == "fp32"]
    return [mine["frames"] / max(1, base["frames"]) for mine, base in zip(leanest, published, strict=True)]
