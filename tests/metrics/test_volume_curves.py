"""Volume curves against answers read off by hand and properties; names of classes."""

from __future__ import annotations

import numpy as np
import pytest

from unet4d.metrics.volume_curves import closure, curve_measures, roughness

CURVE = np.array([100.0, 80.0, 50.0, 40.0, 70.0, 90.0])  # ED 0, ES 3; rises after ES: 30, 20, 10 to the next ED


def test_measures_by_hand():
    found = curve_measures(CURVE, 0.1, cyclic=True)
    assert (found.ed_frame, found.es_frame, found.edv_ml, found.esv_ml, found.sv_ml) == (0, 3, 100, 40, 60)
    assert found.ef_percent == pytest.approx(60)
    assert found.peak_filling_ml_per_s == pytest.approx(300)
    assert found.time_to_peak_filling_s == pytest.approx(0.05)


def test_a_cyclic_curve_fills_across_its_seam_and_an_open_one_does_not():
    late = np.array([70.0, 100.0, 90.0, 60.0, 50.0, 40.0])  # ES is the last frame; it fills by 30 and 30 to frame 1
    assert curve_measures(late, 0.1, cyclic=True).peak_filling_ml_per_s == pytest.approx(300)
    assert curve_measures(late, 0.1, cyclic=False).peak_filling_ml_per_s is None
    assert curve_measures([50.0, 30.0, 45.0, 80.0], 0.5, cyclic=False).peak_filling_ml_per_s == pytest.approx(70)
    assert curve_measures([50.0, 30.0, 45.0, 80.0], 0.5, cyclic=False).time_to_peak_filling_s == pytest.approx(0.75)


@pytest.mark.parametrize("shift", range(6))
def test_cyclic_measures_do_not_depend_on_where_the_cycle_was_cut(shift: int):
    whole, cut = (curve_measures(curve, 0.04, cyclic=True) for curve in (CURVE, np.roll(CURVE, shift)))
    assert cut.es_frame == (whole.es_frame + shift) % 6
    for name in ("edv_ml", "esv_ml", "ef_percent", "peak_filling_ml_per_s", "time_to_peak_filling_s"):
        assert getattr(cut, name) == pytest.approx(getattr(whole, name))
    assert roughness(np.roll(CURVE, shift), cyclic=True) == pytest.approx(roughness(CURVE, cyclic=True))


def test_unknown_measures_are_none():
    assert curve_measures(CURVE, None, cyclic=True).peak_filling_ml_per_s is None
    assert curve_measures([5.0, 3.0], 0.1, cyclic=True).peak_filling_ml_per_s is None
    assert curve_measures([0.0, 0.0, 0.0], 0.1, cyclic=True).ef_percent is None
    one = curve_measures([5.0], 0.1, cyclic=True)
    assert (one.ed_frame, one.es_frame, one.ef_percent, one.peak_filling_ml_per_s) == (0, 0, 0, None)
    flat = curve_measures([5.0, 5.0, 5.0], 0.1, cyclic=True)
    assert (flat.ef_percent, flat.peak_filling_ml_per_s, flat.time_to_peak_filling_s) == (0, None, None)


def test_unlabelled_frames_are_no_extremes_and_give_no_rate():
    found = curve_measures([np.nan, 80.0, np.nan, 40.0, np.nan], 0.1, cyclic=True)
    assert (found.ed_frame, found.es_frame, found.ef_percent, found.peak_filling_ml_per_s) == (1, 3, 50, None)
    assert roughness([1.0, np.nan, 3.0], cyclic=True) is None
    assert closure([1.0, np.nan, 3.0]) is None
    for wrong in ([np.nan, np.nan], [], [[1.0]]):
        with pytest.raises(ValueError, match="expected"):
            curve_measures(wrong, 0.1, cyclic=True)


def test_roughness_by_hand():
    """Second differences of 9 12 9 12: open -6, 6; cyclic all 6; the mean is 10.5. A straight line has none."""
    assert roughness([9.0, 12.0, 9.0, 12.0], cyclic=False) == pytest.approx(6 / 10.5)
    assert roughness([9.0, 12.0, 9.0, 12.0], cyclic=True) == pytest.approx(6 / 10.5)
    assert roughness([10.0, 12.0, 14.0, 16.0], cyclic=False) == 0
    assert roughness([10.0, 12.0, 14.0, 16.0], cyclic=True) == pytest.approx(np.sqrt((8**2 + 8**2) / 4) / 13)
    assert roughness([0.0, 0.0, 0.0], cyclic=True) is None
    assert roughness([1.0, 2.0], cyclic=True) is None


def test_roughness_of_a_pure_wave_is_known_and_scale_does_not_matter():
    """V = 100 + 30 cos(2 pi t / T): each second difference is 2 (cos(2 pi / T) - 1) times the wave. Its RMS is 30 / sqrt 2."""
    wave = 100 + 30 * np.cos(2 * np.pi * np.arange(25) / 25)
    assert roughness(wave, cyclic=True) == pytest.approx(2 * (1 - np.cos(2 * np.pi / 25)) * 30 / 2**0.5 / 100)
    assert roughness(7 * wave, cyclic=True) == pytest.approx(roughness(wave, cyclic=True))
    assert roughness(wave[::-1], cyclic=True) == pytest.approx(roughness(wave, cyclic=True))
    jitter = wave + np.random.default_rng(0).normal(0, 3, 25)
    assert roughness(jitter, cyclic=True) > 3 * roughness(wave, cyclic=True)


def test_closure_by_hand():
    """A ramp of steps 1 over 4 ends 4 from its beginning: (4 - 1) / 4. A jump from the first frame, too, is no closed loop."""
    assert closure([0.0, 1.0, 2.0, 3.0, 4.0]) == pytest.approx(3 / 4)
    cold_start = [50.0, 100.0, 100.0, 100.0, 100.0]  # steps 50 0 0 0 inside, 50 across the seam
    assert closure(cold_start) == pytest.approx((50 - 12.5) / 50)
    assert closure([5.0, 5.0, 5.0]) == 0
    assert closure([0.0, 0.0, 0.0]) is None
    assert closure([1.0, 2.0]) is None


@pytest.mark.parametrize("shift", range(25))
def test_a_loop_closes_wherever_it_was_cut(shift: int):
    wave = 100 + 30 * np.cos(2 * np.pi * (np.arange(25) + shift) / 25)
    assert closure(wave) < 0.06
    drifting = wave + np.linspace(0, 40, 25)
    assert closure(drifting) > 0.3
