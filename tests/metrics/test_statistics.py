"""Agreement, intervals and paired tests against hand-drawn answers, enumeration and scipy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from unet4d.metrics.statistics import bland_altman, holm, interval95, signed_rank


def test_bland_altman_by_hand():
    """Differences 1, 3, -1: bias 1, SD 2. A pair with an undefined prediction is counted, one without reference is no pair."""
    found = bland_altman([10, 20, 30, 40, np.nan], [11, 23, 29, np.nan, 5])
    assert found == {
        "n": 3, "n_undefined": 1, "reference": 20, "prediction": 21, "bias": 1, "sd": 2,
        "lower": pytest.approx(1 - 3.92), "upper": pytest.approx(1 + 3.92), "mean_absolute": pytest.approx(5 / 3),
    }  # fmt: skip
    one = bland_altman([1.0], [3.0])
    assert (one["bias"], one["sd"], one["lower"], one["upper"]) == (2, None, None, None)
    assert bland_altman([], [])["bias"] is None


def test_limits_hold_95_percent_of_normal_differences():
    rng = np.random.default_rng(0)
    reference = rng.normal(100, 20, 20000)
    error = rng.normal(3, 4, 20000)
    found = bland_altman(reference, reference + error)
    assert np.mean((error > found["lower"]) & (error < found["upper"])) == pytest.approx(0.95, abs=0.01)


def test_an_interval_needs_three_subjects():
    assert interval95([1.0, 2.0, 3.0, 4.0], ["a", "a", "b", "b"]) is None
    assert interval95([1.0, 2.0, np.nan], ["a", "b", "c"]) is None
    assert interval95([], []) is None
    assert interval95([2.0, 2.0, 2.0], ["a", "b", "c"]) == [2, 2]


def test_subjects_are_drawn_and_not_their_frames():
    """Ten copies of each value add no information: the interval stays that of the subjects."""
    values = np.random.default_rng(1).normal(0, 1, 12)
    names = [f"s{i}" for i in range(12)]
    once = interval95(values, names)
    assert interval95(np.repeat(values, 10), np.repeat(names, 10)) == pytest.approx(once)
    assert once[0] < values.mean() < once[1]
    as_if_apart = interval95(np.repeat(values, 10), [str(i) for i in range(120)])
    assert np.ptp(as_if_apart) < np.ptp(once) / 2


def test_the_interval_is_that_of_all_resamples_of_three():
    """All 27 equally likely resamples of 0, 1 and 8 in two, one and one values; percentiles of their means."""
    sums, counts = np.array([0.0, 1.0, 8.0]), np.array([2, 1, 1])
    means = [sums[list(drawn)].sum() / counts[list(drawn)].sum() for drawn in itertools.product(range(3), repeat=3)]
    found = interval95([0.0, 0.0, 1.0, 8.0], ["a", "a", "b", "c"])
    assert found == pytest.approx(np.percentile(means, [2.5, 97.5], method="inverted_cdf").tolist())


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    names = [str(i) for i in range(40)]
    covered = [low < 5 < high for low, high in (interval95(rng.normal(5, 2, 40), names) for _ in range(200))]
    assert 0.88 < np.mean(covered) < 0.99


def test_of_several_classes_the_interval_is_of_the_mean_of_their_means():
    names = ["a", "b", "c", "d"]
    values = np.array([[0.9, 0.5], [0.8, np.nan], [0.7, 0.3], [0.9, 0.4]])
    assert interval95(np.full((4, 2), [0.8, 0.4]), names) == pytest.approx([0.6, 0.6])
    low, high = interval95(values, names)
    assert low < (0.825 + 0.4) / 2 < high
    assert interval95(values[:, :1], names) == interval95(values[:, 0], names)


@pytest.mark.parametrize("n", [6, 9, 14, 30])
def test_wilcoxon_equals_scipy(n: int):
    for seed in range(3):
        differences = np.random.default_rng(seed).normal(0.3, 1, n)
        assert signed_rank(differences).p == pytest.approx(stats.wilcoxon(differences, method="exact").pvalue)


def test_wilcoxon_with_ties_and_zeros_equals_all_signs():
    differences = np.array([1, 1, 2, -1, 3, 3, -2, 0, 0], float)
    ranks = stats.rankdata(np.abs(differences[:7]))
    at = ranks[differences[:7] > 0].sum()
    sums = np.array(
        [sum(r for r, up in zip(ranks, signs, strict=True) if up) for signs in itertools.product([0, 1], repeat=7)]
    )
    wanted = 2 * min(np.mean(sums >= at - 1e-9), np.mean(sums <= at + 1e-9))
    found = signed_rank(differences)
    assert (found.n, found.p) == (7, pytest.approx(wanted))
    assert found.effect == pytest.approx((at - (28 - at)) / 28)


def test_effect_and_p_of_clear_cases():
    """All six up: 1 and 2 / 2^6. Rank 1 of 6 down: (20 - 1) / 21, and two of the 64 are as far out on each side."""
    assert (signed_rank([1, 2, 3, 4, 5, 6]).effect, signed_rank([1, 2, 3, 4, 5, 6]).p) == (1, pytest.approx(2 / 64))
    assert signed_rank([-1, -2, -3, -4, -5, -6]).effect == -1
    found = signed_rank([-1, 2, 3, 4, 5, 6])
    assert (found.effect, found.p) == (pytest.approx(19 / 21), pytest.approx(4 / 64))
    assert signed_rank([1, -1, 2, -2, 3, -3]).p == 1


def test_no_test_where_none_can_tell():
    few = signed_rank([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (few.p, few.effect) == (None, None)
    assert "too few" in few.note
    same = signed_rank([0.0, 0.1 + 0.2 - 0.3])  # 5.6e-17
    assert (same.n, same.p, same.effect, same.note) == (0, None, None, "all differences are zero")
    assert signed_rank([]).p is None


def test_holm_by_hand():
    """0.01 * 4, 0.02 * 3, 0.03 * 2 = 0.06 as before, 0.9; what has no p does not count."""
    assert holm([0.03, None, 0.01, 0.9, 0.02]) == pytest.approx([0.06, None, 0.04, 0.9, 0.06], nan_ok=True)
    assert holm([0.5, 0.6]) == [1, 1]
    assert holm([]) == []
