"""Body surface area and heart rate, against values worked out by hand."""

from __future__ import annotations

import pytest

from unet4d.metrics.vitals import Vitals, is_vital


def test_body_surface_area_by_hand():
    """Mosteller: the root of 180 * 80 / 3600 is 2; of 50 * 3.5 / 3600, a newborn, 0.22."""
    assert Vitals(180, 80).bsa_m2 == 2
    assert Vitals(50, 3.5).bsa_m2 == pytest.approx(0.2205, abs=1e-4)
    assert Vitals(180).bsa_m2 is None
    assert Vitals(weight_kg=80).bsa_m2 is None


def test_a_cycle_is_one_beat():
    """25 frames of 40 ms are a second."""
    assert Vitals().heart_rate(25, 0.04, cyclic=True) == pytest.approx(60)
    assert Vitals(heart_rate_bpm=72).heart_rate(25, 0.04, cyclic=True) == 72
    assert Vitals(heart_rate_bpm=72).heart_rate(1, None, cyclic=False) == 72
    assert Vitals().heart_rate(25, 0.04, cyclic=False) is None
    assert Vitals().heart_rate(25, None, cyclic=True) is None
    assert Vitals().heart_rate(1, 1.0, cyclic=True) is None
    assert Vitals().heart_rate(30, 1.0, cyclic=True) is None, "a header's time step of 1 is no frame duration"


def test_a_heart_rate_far_from_that_of_the_cycle():
    """The cycle of 25 frames of 40 ms beats 60 times per minute."""
    is_unlike = [Vitals(heart_rate_bpm=rate).is_unlike_cycle(25, 0.04, True) for rate in (30, 41, 60, 89, 120)]
    assert is_unlike == [True, False, False, False, True]
    assert not Vitals(heart_rate_bpm=30).is_unlike_cycle(25, 0.04, cyclic=False)
    assert not Vitals(heart_rate_bpm=30).is_unlike_cycle(25, None, cyclic=True)
    assert not Vitals().is_unlike_cycle(25, 0.04, cyclic=True)


def test_possible_values():
    assert is_vital("height_cm", 180)
    assert not any(is_vital("height_cm", value) for value in (1.8, 18000, "180", True, None, float("nan")))
    assert Vitals(180).known() == {"height_cm": 180}
