"""Two methods on the same subjects: the Wilcoxon signed-rank test, its effect size, and Holm's correction for many tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FEWEST_DIFFERENCES = 6
"""With 5 the smallest two-sided p is 0.0625."""
_DIGITS = 9  # differences are rounded before they are ranked: equal ones stay equal whatever their last bits


@dataclass(frozen=True)
class SignedRank:
    """What the signed ranks of differences come to.

    Attributes:
        n: differences that are not zero.
        p: two-sided, exact; None with fewer than 6 such differences.
        effect: matched-pairs rank-biserial correlation in [-1, 1], positive where the positive differences weigh more; None where
            all are zero.
        note: why there is no p; empty where there is.
    """

    n: int
    p: float | None
    effect: float | None
    note: str


def signed_rank(differences: Sequence[float] | np.ndarray) -> SignedRank:
    """Test whether differences lie about zero.

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
    ranks = _ranks(np.abs(found))
    positive = float(ranks[found > 0].sum())
    effect = (2 * positive - float(ranks.sum())) / float(ranks.sum())
    if n < FEWEST_DIFFERENCES:
        note = f"too few differences that are not zero ({n}; {FEWEST_DIFFERENCES} are needed)"
        return SignedRank(n, None, effect, note)
    return SignedRank(n, _two_sided(ranks, positive), effect, "")


def _ranks(sizes: np.ndarray) -> np.ndarray:
    """Ranks from 1, equal sizes sharing their mean."""
    _, inverse, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def _two_sided(ranks: np.ndarray, positive: float) -> float:
    """How likely a sum of positive ranks as far from the middle as `positive` is, when signs are drawn by a coin."""
    doubled = np.rint(2 * ranks).astype(int)  # shared ranks may end in a half
    likely = np.zeros(int(doubled.sum()) + 1)  # of each doubled sum
    likely[0] = 1.0
    for rank in doubled:
        likely *= 0.5
        likely[rank:] += likely[:-rank].copy()
    at = round(2 * positive)
    return float(min(1.0, 2 * min(likely[: at + 1].sum(), likely[at:].sum())))


def holm(p: Sequence[float | None]) -> list[float | None]:
    """P values corrected for their number, in their order; None stays None and does not count.

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
