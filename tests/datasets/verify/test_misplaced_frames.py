"""A frame at the wrong place shows where motion is smooth, and nothing shows where it is not."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from tests.acdc import ACDC, needs_acdc
from unet4d.datasets.verify.misplaced_frames import describe_misplaced_frames, thumbnail

T = 24


def beating(frames: int = T, noise: float = 2.0, seed: int = 0) -> np.ndarray:
    """(T, X, Y, Z) float32: a ball that shrinks and grows once, and goes there and back on two sides of an ellipse, in noise."""
    turn = (2 * np.pi * np.arange(frames) / frames)[:, None, None, None]
    x, y, z = np.meshgrid(np.arange(32), np.arange(32), np.arange(4), indexing="ij")
    away = np.sqrt((x - 16 - 4 * np.sin(turn)) ** 2 + (y - 16) ** 2 + 9 * (z - 2) ** 2)
    clean = 100 / (1 + np.exp(away - 7 - 3 * np.cos(turn)))
    return (clean + np.random.default_rng(seed).normal(0, noise, clean.shape)).astype(np.float32)


def said(study: np.ndarray, cyclic: bool = True) -> str:
    return describe_misplaced_frames(np.stack([thumbnail(frame) for frame in study]), range(len(study)), cyclic)


def order(change) -> np.ndarray:
    frames = list(range(T))
    change(frames)
    return beating()[frames]


@pytest.mark.parametrize("cyclic", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_reported_of_a_smooth_motion_in_its_order(cyclic, seed):
    assert said(beating(seed=seed), cyclic) == ""
    assert said(beating(noise=30, seed=seed), cyclic) == ""
    assert said(beating(frames=6, seed=seed), cyclic) == ""


@pytest.mark.parametrize("t", [2, 5, 8, 15, 18])
@pytest.mark.parametrize("cyclic", [True, False])
def test_neighbors_in_each_others_place_are_named(t, cyclic):
    swapped = order(lambda frames: frames.insert(t, frames.pop(t + 1)))
    assert said(swapped, cyclic) == f"frames {t} and {t + 1} seem to have each other's position"


def test_across_the_end_of_a_cycle_too():
    study = beating()
    study[[0, T - 1]] = study[[T - 1, 0]]
    assert said(study) == f"frames {T - 1} and 0 seem to have each other's position"


def test_a_frame_far_from_its_place_is_reported_where_it_belongs():
    moved = order(lambda frames: frames.insert(20, frames.pop(3)))
    assert said(moved) == "frame 20 seems to belong between frames 2 and 3"


@pytest.mark.parametrize(("first", "words"), [(0, "0, 1, 10, 11"), (1, "1, 10, 11, 12")])
def test_frames_whose_numbers_were_sorted_as_text(first, words):
    names = sorted(range(first, first + T), key=str)
    study = beating()[[name - first for name in names]]
    assert said(study) == f"the frames seem to be in the order {words}, ..., as numbers sort as text"


def test_spoiled_frames_say_nothing_of_order():
    """Two frames of noise alone are alike, and nearer to one another than to all others."""
    study = beating()
    study[[4, 6, 15]] = np.random.default_rng(1).normal(0, 30, (3, *study.shape[1:]))
    assert said(study) == ""


@pytest.mark.parametrize("seed", range(5))
def test_where_motion_is_not_followed_nothing_is_reported(seed):
    rng = np.random.default_rng(seed)
    assert said(beating()[rng.permutation(T)], cyclic=False) == ""
    for frames in (5, 12, T):
        assert said(rng.normal(0, 1, (frames, 32, 32, 4)).astype(np.float32)) == ""


PERMUTED = {
    "at random": lambda rng: rng.permutation(T),
    "odd ones behind even ones": lambda rng: np.r_[0:T:2, 1:T:2],
    "the second half in reverse": lambda rng: np.r_[0 : T // 2, T - 1 : T // 2 - 1 : -1],
    "eight in reverse": lambda rng: np.r_[0:6, 13:5:-1, 14:T],
    "two blocks exchanged": lambda rng: np.r_[0:5, 12:18, 5:12, 18:T],
}


@pytest.mark.parametrize("how", PERMUTED)
@pytest.mark.parametrize("seed", range(3))
def test_a_cycle_in_another_order_is_found_and_its_order_shown(how, seed):
    order = PERMUTED[how](np.random.default_rng(seed))
    found = said(beating(seed=seed)[order])
    assert "no order of time" in found
    shown = [int(t) for t in found.split("in the order ")[1].split(", ...")[0].split(", ")]
    steps = np.diff(np.asarray(order)[shown])
    assert set(steps % T) <= {1} or set(steps % T) <= {T - 1}


@pytest.mark.parametrize("order", [np.arange(T)[::-1], np.roll(np.arange(T), 7)], ids=["reversed", "begun later"])
def test_the_reverse_and_another_beginning_are_cycles_too(order):
    assert said(beating()[order]) == ""


def test_several_breaths_in_an_open_series_are_in_order():
    study = np.concatenate([beating(seed=seed) for seed in range(3)])
    assert said(study, cyclic=False) == ""


@needs_acdc
def test_real_cine_studies_are_in_order_and_permuted_ones_are_not():
    files, rng = sorted((ACDC / "images").glob("*.nii*"))[:3], np.random.default_rng(0)
    for file in files:
        study = np.moveaxis(np.asarray(nib.load(file).dataobj, np.float32), -1, 0)
        assert said(study) == said(study[::2]) == ""
        assert "no order" in said(study[rng.permutation(len(study))])


def test_contrast_that_washes_in_and_out_is_in_order():
    t = np.arange(T)[:, None, None, None]
    study = beating(1, noise=0)[0] * (t / 6 * np.exp(1 - t / 6)) + np.random.default_rng(0).normal(0, 1, (T, 32, 32, 4))
    assert said(study.astype(np.float32), cyclic=False) == ""


def test_frames_that_are_all_the_same_are_in_order():
    assert said(np.ones((T, 8, 8, 2), np.float32)) == ""
