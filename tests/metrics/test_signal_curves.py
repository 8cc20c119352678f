"""Signal of a class, and measures of its uptake: hand-made curves with known arrival, peak and slopes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet4d.metrics.regions import Region
from unet4d.metrics.signal_curves import Uptake, class_signals, enhancement_percent, measure_uptake

CURVE = np.array([100.0, 104, 98, 102, 150, 250, 300, 280, 260])
"""Contrast agent arrives after frame 3; the baseline is 101, the peak in frame 6."""


def test_mean_and_median_of_each_class_and_channel():
    label = np.array([[[1], [1], [1], [2], [0]]])
    frame = np.array([[[[1.0], [2], [9], [5], [7]]], [[[10.0], [20], [90], [50], [70]]]])
    mean, median = class_signals(frame, label, [1, 2, Region((1, 2), 1), 3])
    assert mean[:, :3].tolist() == [[4, 5, 4.25], [40, 50, 42.5]]
    assert median[:, :3].tolist() == [[2, 5, 3.5], [20, 50, 35]]
    assert np.isnan(mean[:, 3]).all()
    assert np.isnan(median[:, 3]).all()


def test_uptake_of_a_curve_drawn_by_hand():
    found = measure_uptake(CURVE, 2.0)
    assert (found.arrival_frame, found.baseline, found.peak_frame) == (3, 101, 6)
    assert found.peak_enhancement_percent == pytest.approx(100 * (300 - 101) / 101)
    assert found.time_to_peak_s == 6
    assert found.wash_in_percent_per_s == pytest.approx(found.peak_enhancement_percent / 6)
    assert found.wash_out_percent_per_s == pytest.approx(100 * (260 - 300) / 101 / 4)
    assert enhancement_percent(CURVE, found.baseline)[6] == found.peak_enhancement_percent


def test_given_baseline_frames_win_and_a_late_peak_has_no_wash_out():
    found = measure_uptake(CURVE[:7], 2.0, baseline_frames=2)
    assert (found.arrival_frame, found.baseline, found.peak_frame) == (1, 102, 6)
    assert (found.time_to_peak_s, found.wash_out_percent_per_s) == (10, None)


@given(st.floats(0.01, 1e4), st.integers(0, 4))
def test_scale_does_not_matter_and_a_longer_wait_moves_the_arrival(scale, wait):
    curve = np.concatenate([np.full(wait, 98.0), CURVE])
    found, plain = measure_uptake(scale * curve, 2.0), measure_uptake(curve, 2.0)
    assert found.arrival_frame == plain.arrival_frame == 3 + wait
    assert found.peak_enhancement_percent == pytest.approx(plain.peak_enhancement_percent)
    assert found.time_to_peak_s == plain.time_to_peak_s == 6


def test_frames_without_the_class_count_for_nothing():
    curve = CURVE.copy()
    curve[[1, 8]] = np.nan
    found = measure_uptake(curve, 2.0)
    assert (found.arrival_frame, found.baseline, found.peak_frame) == (3, 100, 6)
    assert found.wash_out_percent_per_s == pytest.approx(100 * (280 - 300) / 100 / 2)


def test_what_has_no_uptake_says_so():
    assert measure_uptake(np.full(3, np.nan), 1.0) == Uptake()
    assert measure_uptake(np.array([3.0, 2.0, 1.0]), 1.0) == Uptake(peak_frame=0)
    assert measure_uptake(CURVE, 1.0, baseline_frames=9) == Uptake()
    assert measure_uptake(CURVE, None).time_to_peak_s is None
    assert measure_uptake(np.array([0.0, 0.0, 5.0]), 1.0).peak_enhancement_percent is None
