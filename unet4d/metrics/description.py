"""What a set of values comes to, with its n, and how a figure is shown."""

from __future__ import annotations

import numpy as np


def describe(values: np.ndarray) -> dict[str, float | int | None]:
    """Mean, median, standard deviation (n - 1) and n of the defined entries; None where there are too few."""
    defined = np.asarray(values, np.float64)
    defined = defined[np.isfinite(defined)]
    n = len(defined)
    return {
        "mean": float(defined.mean()) if n else None,
        "median": float(np.median(defined)) if n else None,
        "std": float(defined.std(ddof=1)) if n > 1 else None,
        "n": n,
    }


def shown(value: float | None, digits: int) -> str:
    """A figure for a table; a dash where it is undefined."""
    return "-" if value is None else f"{value:.{digits}f}"
