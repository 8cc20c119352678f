"""What folds came to: their means side by side, and mean and deviation over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unet4d.metrics.statistics import summary_statistics
from unet4d.system.text import format_number

FOLDS_NOTE = (
    "A fold's values are the means over its own held-out cases. Mean, median and std (over n - 1) over folds take each fold's "
    "value once, whatever its number of cases; a fold in which it is undefined is left out, and n is the number of folds in it."
)


def summarize_folds(folds: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Mean, median, deviation and n over folds of every quantity of theirs.

    Args:
        folds: fold to quantities: "mean_foreground_dice" and "dice" by class, others beside them; numbers, None where
            undefined, or dicts of them, alike in all folds.
    """
    return {
        "about": FOLDS_NOTE,
        "fold": {str(k): folds[k] for k in sorted(folds)},
        "over": _spread(list(folds.values())),
    }


def format_folds(found: Mapping[str, Any]) -> str:
    """What `summarize_folds` gave, for a terminal: Dice, a line a fold and one for mean and deviation."""
    classes = list(found["over"]["dice"])
    widths = [max(len(name), 13) for name in classes]
    head = "  ".join(f"{name:>{width}}" for name, width in zip(classes, widths, strict=True))
    lines = [f"{'Dice':<9}  {'mean':>13}  {head}"]
    for name, values in found["fold"].items():
        row = [values["mean_foreground_dice"], *values["dice"].values()]
        lines.append(_row(f"fold {name}", [format_number(value, 3) for value in row], widths))
    over = [found["over"]["mean_foreground_dice"], *found["over"]["dice"].values()]
    lines.append(_row("all folds", [format_mean_std(one) for one in over], widths))
    return "\n".join(lines)


def format_mean_std(described: Mapping[str, Any]) -> str:
    """One description of `summarize_folds`, for a terminal."""
    return f"{format_number(described['mean'], 3)} +- {format_number(described['std'], 3)}"


def _row(name: str, cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join([f"{name:<9}", *(f"{cell:>{width}}" for cell, width in zip(cells, (13, *widths), strict=True))])


def _spread(values: Sequence[Any]) -> Any:
    """The same quantities of every fold as one description each."""
    if isinstance(values[0], Mapping):
        return {name: _spread([value[name] for value in values]) for name in values[0]}
    return summary_statistics(np.array([np.nan if value is None else value for value in values]))
