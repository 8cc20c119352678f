"""Statistics over subjects: summary, Bland-Altman agreement, bootstrap interval, Wilcoxon test of two methods, Holm correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Values = np.ndarray | Sequence[float]

RESAMPLES, SEED = 2000, 0
FEWEST_SUBJECTS = 3
INTERVALS = (
    f"95 % percentile interval of the mean from {RESAMPLES} bootstrap resamples of subjects (seed {SEED}): a subject is drawn with "
    f"all its cases and frames. Fewer than {FEWEST_SUBJECTS} subjects have none; with fewer than about 20 it is too narrow."
)
FEWEST_DIFFERENCES = 6
"""With 5 the smallest two-sided p is 0.0625."""
_DIGITS = 9  # differences are rounded before they are ranked: equal ones stay equal whatever their last bits


def summary_statistics(values: np.ndarray) -> dict[str, float | int | None]:
    """Return mean, median, standard deviation (n - 1) and n of the defined entries; None where there are too few."""
    defined = np.asarray(values, np.float64)
    defined = defined[np.isfinite(defined)]
    n = len(defined)
    return {
        "mean": float(defined.mean()) if n else None,
        "median": float(np.median(defined)) if n else None,
        "std": float(defined.std(ddof=1)) if n > 1 else None,
        "n": n,
    }


def bland_altman(reference: Values, prediction: Values) -> dict[str, float | int | None]:
    """Compute bias and 95 % limits of agreement of pairs; a pair with an undefined value is left out.

        bias = mean(prediction - reference),  limits = bias -+ 1.96 SD of the differences (n - 1)

    Bland & Altman, "Statistical methods for assessing agreement between two methods of clinical measurement", Lancet 1986.

    Returns:
        `n`, `n_undefined` (pairs with a defined reference alone), `reference` and `prediction` (their means), `bias`, `sd`,
        `lower`, `upper`, `mean_absolute`; None where there are too few.
    """
    a, b = np.asarray(reference, np.float64), np.asarray(prediction, np.float64)
    defined = np.isfinite(a) & np.isfinite(b)
    undefined = int(np.count_nonzero(np.isfinite(a) & ~defined))
    a, b = a[defined], b[defined]
    difference = summary_statistics(b - a)
    bias, sd = difference["mean"], difference["std"]
    return {
        "n": len(a),
        "n_undefined": undefined,
        "reference": summary_statistics(a)["mean"],
        "prediction": summary_statistics(b)["mean"],
        "bias": bias,
        "sd": sd,
        "lower": None if bias is None or sd is None else bias - 1.96 * sd,
        "upper": None if bias is None or sd is None else bias + 1.96 * sd,
        "mean_absolute": summary_statistics(np.abs(b - a))["mean"],
    }


def interval95(values: Values, subjects: Sequence[str]) -> list[float] | None:
    """Compute the 95 % interval of the mean of the defined values by resampling subjects, see `INTERVALS`.

    The mean is that of all values: a subject with twice as many weighs twice as much, in each resample too. Of several columns it
    is the mean of their means; a column without a value is left out.

    Efron & Tibshirani, "An introduction to the bootstrap", 1993, ch. 13; whole subjects because their frames are alike: Davison &
    Hinkley, "Bootstrap methods and their application", 1997, ch. 3.8.

    Args:
        values: (N,) or (N, K), NaN where undefined.
        subjects: (N,), the subject of each value.

    Returns:
        [lower, upper], or None with too few subjects that have a defined value.
    """
    rows = np.asarray(values, np.float64)
    rows = rows if rows.ndim == 2 else rows[:, None]
    defined = np.isfinite(rows).any(axis=1)
    rows = rows[defined]
    names, owner = np.unique(np.asarray(subjects, str)[defined], return_inverse=True)
    if len(names) < FEWEST_SUBJECTS:
        return None
    sums, counts = np.zeros((2, len(names), rows.shape[1]))
    np.add.at(sums, owner, np.where(np.isfinite(rows), rows, 0))
    np.add.at(counts, owner, np.isfinite(rows))
    times = np.random.default_rng(SEED).multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)  # drawn
    total = times @ counts
    means = np.divide(times @ sums, total, out=np.full(total.shape, np.nan), where=total > 0)
    lower, upper = np.percentile(np.nanmean(means, axis=1), [2.5, 97.5])  # no row is empty: every subject has a value
    return [float(lower), float(upper)]


@dataclass(frozen=True)
class SignedRank:
    """Result of a Wilcoxon signed-rank test.

    Attributes:
        n: differences that are not zero.
        p: two-sided, exact; None with fewer than 6 such differences.
        effect: matched-pairs rank-biserial correlation in [-1, 1], positive where the positive differences weigh more; None
            without p: of few differences it is often 1 or -1 by chance.
        note: why there is no p; empty where there is.
    """

    n: int
    p: float | None
    effect: float | None
    note: str


def signed_rank(differences: Values) -> SignedRank:
    """Test whether differences lie around zero.

    Zeros are dropped, equal sizes share their mean rank. With W+ and W- the sums of the ranks of positive and negative ones,

        effect = (W+ - W-) / (W+ + W-),   p = min(1, 2 min(P(W <= W+), P(W >= W+)))

    where every sign is as likely as the other: p is exact, ties included.

    Wilcoxon, "Individual comparisons by ranking methods", Biometrics Bulletin 1945. Effect: Kerby, "The simple difference formula",
    Comprehensive Psychology 2014.
    """
    found = np.round(np.asarray(differences, np.float64), _DIGITS)
    found = found[found != 0]
    n = len(found)
    if not n:
        return SignedRank(0, None, None, "all differences are zero")
    _, inverse, counts = np.unique(np.abs(found), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    positive, total = float(ranks[found > 0].sum()), float(ranks.sum())
    if n < FEWEST_DIFFERENCES:
        return SignedRank(
            n, None, None, f"too few differences that are not zero ({n}; {FEWEST_DIFFERENCES} are needed)"
        )
    return SignedRank(n, _two_sided(ranks, positive), (2 * positive - total) / total, "")


def _two_sided(ranks: np.ndarray, positive: float) -> float:
    """Return the probability of a sum of positive ranks at least as far from the middle as `positive`, with random signs."""
    doubled = np.rint(2 * ranks).astype(int)  # shared ranks may end in a half
    likely = np.zeros(int(doubled.sum()) + 1)  # of each doubled sum
    likely[0] = 1.0
    for rank in doubled:
        likely *= 0.5
        likely[rank:] += likely[:-rank].copy()
    at = round(2 * positive)
    return float(min(1.0, 2 * min(likely[: at + 1].sum(), likely[at:].sum())))


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Return p values corrected for their number, in their order; None stays None and does not count.

    The i-th smallest of m times m - i + 1, made monotone and at most 1. Holm, "A simple sequentially rejective multiple test
    procedure", Scandinavian Journal of Statistics 1979.
    """
    known = sorted((value, i) for i, value in enumerate(p) if value is not None)
    corrected: list[float | None] = [None] * len(p)
    largest = 0.0
    for done, (value, i) in enumerate(known):
        largest = max(largest, min(1.0, value * (len(known) - done)))
        corrected[i] = largest
    return corrected
