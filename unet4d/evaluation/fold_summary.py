"""Summary over folds of a cross-validation: the means of each fold side by side, with mean and deviation over folds."""

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
    """Compute mean, median, deviation and n over folds of each of their quantities.

    Args:
        folds: fold to quantities: "mean_foreground_dice", "dice" by class, and others. Each is a number, None where
            undefined, or a dict of them with the same keys in all folds.
    """
    by_number = {str(k): folds[k] for k in sorted(folds)}
    return {"about": FOLDS_NOTE, "fold": by_number, "over": _describe_each(list(folds.values()))}


def format_folds(summary: Mapping[str, Any]) -> str:
    """Return the result of `summarize_folds` as a table of Dice: one line per fold, one for mean and deviation."""
    classes = list(summary["over"]["dice"])
    widths = [13, *(max(len(name), 13) for name in classes)]
    rows = [("Dice", ["mean", *classes])]
    for name, values in summary["fold"].items():
        dice = [values["mean_foreground_dice"], *values["dice"].values()]
        rows.append((f"fold {name}", [format_number(value, 3) for value in dice]))
    over = [summary["over"]["mean_foreground_dice"], *summary["over"]["dice"].values()]
    rows.append(("all folds", [format_mean_std(one) for one in over]))
    return "\n".join(
        "  ".join([f"{name:<9}", *(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))])
        for name, cells in rows
    )


def format_mean_std(description: Mapping[str, Any]) -> str:
    """Return "mean +- std" of the result of `summary_statistics`."""
    return f"{format_number(description['mean'], 3)} +- {format_number(description['std'], 3)}"


def _describe_each(values: Sequence[Any]) -> Any:
    """Return one description over folds for each quantity."""
    if isinstance(values[0], Mapping):
        return {name: _describe_each([value[name] for value in values]) for name in values[0]}
    return summary_statistics(np.array([np.nan if value is None else value for value in values]))
