"""How far values agree with their reference, and how sure a mean is: Bland-Altman limits, and a bootstrap over subjects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Values = np.ndarray | Sequence[float]

RESAMPLES, SEED = 2000, 0
FEWEST_SUBJECTS = 3
INTERVALS = (
    f"95 % percentile interval of the mean from {RESAMPLES} bootstrap resamples of subjects (seed {SEED}): a subject is drawn with "
    f"all its cases and frames. Fewer than {FEWEST_SUBJECTS} subjects have none; with fewer than about 20 it is too narrow."
)


def bland_altman(reference: Values, prediction: Values) -> dict[str, float | int | None]:
    """Bias and 95 % limits of agreement of pairs; a pair with an undefined value is left out.

        bias = mean(prediction - reference),  limits = bias -+ 1.96 SD of the differences (n - 1)

    Bland & Altman, "Statistical methods for assessing agreement between two methods of clinical measurement", Lancet 1986.

    Returns:
        `n`, `n_undefined` (pairs whose reference alone is defined), `reference` and `prediction` (their means), `bias`, `sd`,
        `lower`, `upper`, `mean_absolute`; None where there are too few.
    """
    a, b = np.asarray(reference, np.float64), np.asarray(prediction, np.float64)
    kept = np.isfinite(a) & np.isfinite(b)
    undefined = int(np.count_nonzero(np.isfinite(a) & ~kept))
    a, b = a[kept], b[kept]
    n, difference = len(a), b - a
    bias = float(difference.mean()) if n else None
    sd = float(difference.std(ddof=1)) if n > 1 else None
    return {
        "n": n,
        "n_undefined": undefined,
        "reference": float(a.mean()) if n else None,
        "prediction": float(b.mean()) if n else None,
        "bias": bias,
        "sd": sd,
        "lower": None if bias is None or sd is None else bias - 1.96 * sd,
        "upper": None if bias is None or sd is None else bias + 1.96 * sd,
        "mean_absolute": float(np.abs(difference).mean()) if n else None,
    }


def interval95(values: Values, subjects: Sequence[str]) -> list[float] | None:
    """95 % interval of the mean of the defined values, by resampling subjects, see `INTERVALS`.

    The mean is that of all values: a subject with twice as many weighs twice as much, in each resample too. Of several columns it
    is the mean of their means, a column without a value left out.

    Efron & Tibshirani, "An introduction to the bootstrap", 1993, ch. 13; whole subjects because their frames are alike: Davison &
    Hinkley, "Bootstrap methods and their application", 1997, ch. 3.8.

    Args:
        values: (N,) or (N, K), NaN where undefined.
        subjects: (N,), whose each value is.

    Returns:
        [lower, upper], or None with too few subjects that have a defined value.
    """
    found = np.asarray(values, np.float64)
    found = found if found.ndim == 2 else found[:, None]
    kept = np.isfinite(found).any(axis=1)
    found = found[kept]
    names, whose = np.unique(np.asarray(subjects, str)[kept], return_inverse=True)
    if len(names) < FEWEST_SUBJECTS:
        return None
    sums, counts = np.zeros((2, len(names), found.shape[1]))
    np.add.at(sums, whose, np.where(np.isfinite(found), found, 0))
    np.add.at(counts, whose, np.isfinite(found))
    times = np.random.default_rng(SEED).multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)  # drawn
    total = times @ counts
    means = np.divide(times @ sums, total, out=np.full(total.shape, np.nan), where=total > 0)
    lower, upper = np.percentile(np.nanmean(means, axis=1), [2.5, 97.5])  # no row is empty: every subject has a value
    return [float(lower), float(upper)]
