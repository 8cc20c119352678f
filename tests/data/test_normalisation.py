"""Normalisation: over the study and per channel, never frame by frame."""

from __future__ import annotations

import numpy as np
import pytest

from unet4d.data import normalisation
from unet4d.data.normalisation import normalised


def test_a_study_comes_to_mean_0_and_deviation_1_per_channel():
    image = np.random.default_rng(0).normal([[[[[3.0]]]], [[[[-50.0]]]]], [[[[[2.0]]]], [[[[30.0]]]]], (2, 3, 8, 9, 4))
    out = normalised(image.astype(np.float32), "zscore")
    assert out.dtype == np.float32
    assert np.allclose(out.mean((1, 2, 3, 4)), 0, atol=1e-5)
    assert np.allclose(out.std((1, 2, 3, 4)), 1, atol=1e-5)


def test_contrast_uptake_survives():
    frame = np.random.default_rng(1).random((8, 8, 4)).astype(np.float32)
    uptake = np.array([1.0, 4.0, 3.0, 2.0], np.float32)
    means = normalised((frame * uptake[:, None, None, None])[None], "zscore")[0].mean((1, 2, 3))
    assert means.argsort().tolist() == uptake.argsort().tolist()
    steps = (means - means[0]) / (means[3] - means[0])  # doubled is one step
    assert np.allclose(steps, uptake - 1, atol=0.1)


def test_a_channel_does_not_depend_on_the_others():
    image = np.random.default_rng(2).random((3, 2, 6, 5, 4), dtype=np.float32)
    alone = [normalised(image[[c]], "zscore")[0] for c in range(3)]
    assert np.array_equal(normalised(image, "zscore"), np.stack(alone))


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e7])
def test_a_constant_channel_becomes_0(value):
    image = np.stack([np.full((2, 5, 5, 3), value), np.random.default_rng(3).random((2, 5, 5, 3))]).astype(np.float32)
    out = normalised(image, "zscore")
    assert not out[0].any()
    assert out[1].std() == pytest.approx(1, abs=1e-5)


def test_outliers_are_clipped_to_the_percentiles():
    image = np.linspace(0, 1, 2000, dtype=np.float32).reshape(1, 2, 10, 10, 10).copy()
    image[0, 0, 0, 0, 0], image[0, 1, -1, -1, -1] = -1e6, 1e6
    out = normalised(image, "zscore")
    assert out.max() == pytest.approx(0.495 * np.sqrt(12) / 0.99, rel=0.02)  # of evenly spread values
    assert out.min() == pytest.approx(-out.max(), rel=0.02)


def test_the_percentiles_of_a_large_study_are_taken_from_all_its_slices(monkeypatch):
    monkeypatch.setattr(normalisation, "SAMPLE", 1000)  # every 8th voxel, were it not for the 8 slices
    image = np.random.default_rng(4).random((1, 2, 20, 25, 8), dtype=np.float32)
    image[..., 1:] += 100
    out = normalised(image, "zscore")
    assert (out[..., 1:] - out[..., :1]).min() > 2


def test_none_leaves_the_intensities():
    image = np.random.default_rng(5).random((1, 2, 3, 3, 3), dtype=np.float32)
    assert np.array_equal(normalised(image, "none"), image)
