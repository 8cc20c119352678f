"""The contrast phantom: uptake is what the models say, time tells the lesion, the T1 map is one image."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest

from data.phantom.abdomen import draw_abdomen, shape_volumes_ml
from data.phantom.dce import DCE_LABELS, make_dce
from data.phantom.uptake import HAEMATOCRIT, Tissue, arterial_mm, concentration_mm, signal
from unet4d.phantom.phantom_study import PhantomStudy

CORTEX, MEDULLA, LESION = 1, 2, 3
SHAPE = (84, 56, 16)
SEEDS = (0, 1, 2)


@cache
def study(seed: int, frames: int = 10) -> PhantomStudy:
    return make_dce(seed, frames, shape=SHAPE)


def contrast_to_noise(one: PhantomStudy, t: int, a: int, b: int) -> float:
    first, second = (one.image[t][one.label[t] == value] for value in (a, b))
    return float(abs(first.mean() - second.mean()) / np.sqrt((first.var() + second.var()) / 2))


def test_the_arterial_curve_is_parkers():
    """Its published curve: a first peak of about 6 mM 10 s after arrival, a second passage, then a slow decay."""
    time_s = np.arange(0, 300, 0.1)
    curve = arterial_mm(time_s)
    assert curve.max() == pytest.approx(6.0, abs=0.3)
    assert time_s[curve.argmax()] == pytest.approx(10.2, abs=0.5)
    assert curve[0] < 0.2
    assert arterial_mm(np.array([-5.0]))[0] == 0
    late = curve[time_s > 120]
    assert np.all(np.diff(late) < 0)
    assert late[-1] / late[0] == pytest.approx(math.exp(-0.1685 * 3), rel=0.01)


def test_uptake_is_tofts_integral():
    tissue = Tissue(1000, 1.0, plasma=0.1, transfer=0.5, washout=0.8, delay_s=5)
    times, arrival = np.array([0.0, 30, 60, 120, 240]), 20.0
    fine = np.arange(0, 240, 0.05)
    plasma = arterial_mm(fine - arrival - 5) / (1 - HAEMATOCRIT)
    wanted = []
    for t in times:
        past = fine <= t
        held = np.sum(plasma[past] * np.exp(-0.8 * (t - fine[past]) / 60)) * 0.05 / 60
        wanted.append(0.1 * np.interp(t, fine, plasma) + 0.5 * held)
    assert np.allclose(concentration_mm(tissue, times, arrival), wanted, rtol=0.03, atol=0.01)
    assert concentration_mm(tissue, times, arrival)[0] == 0


def test_the_signal_is_ernsts_and_grows_with_contrast_agent():
    tissue = Tissue(1000, 2.0)
    ernst = math.degrees(math.acos(math.exp(-4 / 1000)))
    flips = np.linspace(1, 20, 400)
    curve = [float(signal(tissue, np.zeros(1), 4.0, flip)[0]) for flip in flips]
    assert flips[int(np.argmax(curve))] == pytest.approx(ernst, abs=0.1)
    assert max(curve) == pytest.approx(2 * math.tan(math.radians(ernst) / 2), rel=1e-3)
    assert np.all(np.diff(signal(tissue, np.linspace(0, 3, 20), 4.0, 14.0)) > 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_early_frames_hide_the_lesion_in_the_cortex_and_late_ones_the_cortex_in_the_medulla(seed):
    one = study(seed)
    artery = one.labelled_frames[0]
    assert 0 < artery < 4
    early = [contrast_to_noise(one, t, LESION, CORTEX) for t in range(artery + 1)]
    late = [contrast_to_noise(one, t, LESION, CORTEX) for t in range(5, 10)]
    assert max(early) < 1
    assert min(late) > 1.25
    assert contrast_to_noise(one, artery, CORTEX, MEDULLA) > 1.2
    assert max(contrast_to_noise(one, t, CORTEX, MEDULLA) for t in range(6, 10)) < 0.5


@pytest.mark.parametrize("seed", SEEDS)
def test_the_mean_signal_follows_the_true_concentration(seed):
    """By class: concentration and signal rise and fall together, and nothing happens before the bolus arrives."""
    one = study(seed)
    time_s = np.arange(10) * one.frame_duration_s
    before = time_s < one.truth["bolus_arrival_s"]
    for value, name in ((CORTEX, "renal cortex"), (MEDULLA, "renal medulla"), (LESION, "lesion")):
        true = np.array(one.truth["concentration_mm"][name])
        seen = np.array([one.image[t][one.label[t] == value].mean() for t in range(10)])
        assert not true[before].any()
        assert np.ptp(seen[before]) < 0.1 * np.ptp(seen)
        assert np.corrcoef(true, seen)[0, 1] > 0.9


def test_the_t1_map_is_one_image_in_milliseconds_where_nothing_is_breathed():
    one = study(0)
    t1_ms = one.channels[1]
    assert t1_ms.shape == SHAPE
    assert 1000 < np.median(t1_ms[(one.label == CORTEX).all(0)]) < 1320
    assert np.median(t1_ms[(one.label == MEDULLA).all(0)]) > 1250
    assert np.array_equal(t1_ms, np.rint(t1_ms))


def test_breathing_moves_the_organs_by_what_the_truth_says():
    one = study(1)
    spacing = np.linalg.norm(one.affine[:3, :3], axis=0)
    centers = np.array([np.argwhere(one.label[t] == LESION).mean(0) * spacing for t in range(10)])
    moved = np.array(one.truth["breath_mm"])
    assert np.ptp(moved[:, 1]) > 4
    assert np.allclose(centers - centers.mean(0), moved - moved.mean(0), atol=0.8)


def test_the_t1_map_lies_where_the_organs_are_before_breathing_moves_them():
    """Each frame's kidneys fit the map best when they are put back by what was breathed: then the least fat is in them."""
    one = study(1)
    step_mm = np.linalg.norm(one.affine[:3, 1])
    fat = one.channels[1] < 800
    apart = []
    for t, (_, breath, _) in enumerate(one.truth["breath_mm"]):
        back = [np.count_nonzero(fat & np.roll(one.label[t] > 0, steps, axis=1)) for steps in range(-3, 4)]
        apart.append((int(np.argmin(back)) - 3) * step_mm + breath)
    assert abs(np.mean(apart)) < 1
    assert np.abs(apart).max() < step_mm


@pytest.mark.parametrize("seed", SEEDS)
def test_volumes_are_the_labels_own_and_near_the_shapes(seed):
    one = study(seed)
    voxel_ml = abs(np.linalg.det(one.affine[:3, :3])) / 1000
    counts = np.stack([np.count_nonzero(one.label == value, axis=(1, 2, 3)) for value in range(4)], axis=1)
    assert np.allclose(one.volumes_ml, counts * voxel_ml, rtol=1e-3)
    radius = one.truth["lesion_radius_mm"]
    assert np.allclose(one.shape_volumes_ml[:, LESION], 4 / 3 * math.pi * radius**3 / 1000, rtol=1e-3)
    kidneys, shape = one.volumes_ml[:, 1:].sum(1), one.shape_volumes_ml[:, 1:].sum(1)
    assert np.allclose(kidneys, shape, rtol=0.02)
    assert np.allclose(one.volumes_ml[:, LESION], one.shape_volumes_ml[:, LESION], rtol=0.1)
    assert 90 < kidneys[0] < 400


def test_the_shapes_volumes_do_not_depend_on_the_step():
    abdomen = draw_abdomen(np.random.default_rng(7))
    coarse, fine = shape_volumes_ml(abdomen), shape_volumes_ml(abdomen, 0.8)
    assert np.allclose(coarse[1:], fine[1:], rtol=0.01)
    whole = sum(4 / 3 * math.pi * kidney.axes.prod() / 1000 for kidney in abdomen.kidneys)
    assert 0.6 * whole < coarse[1:].sum() < whole + coarse[LESION]


def test_the_same_seed_gives_the_same_arrays_and_another_seed_does_not():
    one, again, other = (make_dce(seed, 2, shape=(24, 20, 6)) for seed in (3, 3, 4))
    for a, b, c in zip(one.channels, again.channels, other.channels, strict=True):
        assert np.array_equal(a, b)
        assert not np.array_equal(a, c)
        assert np.abs(a).max() <= np.iinfo(np.int16).max
    assert np.array_equal(one.label, again.label)


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_short_studies_work(frames):
    one = make_dce(5, frames, shape=(24, 20, 6))
    assert one.label.shape == (frames, 24, 20, 6)
    assert set(np.unique(one.label)) <= set(DCE_LABELS.values())
    assert {0, CORTEX} <= set(np.unique(one.label))
    assert one.labelled_frames[1] == frames - 1
