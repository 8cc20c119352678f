"""Normalization: over the study and per channel, never frame by frame."""

from __future__ import annotations

import numpy as np
import pytest

from unet4d.pipeline import normalization
from unet4d.pipeline.normalization import normalize


def test_a_study_comes_to_mean_0_and_deviation_1_per_channel():
    image = np.random.default_rng(0).normal([[[[[3.0]]]], [[[[-50.0]]]]], [[[[[2.0]]]], [[[[30.0]]]]], (2, 3, 8, 9, 4))
    out = normalize(image.astype(np.float32), "zscore")
    assert out.dtype == np.float32
    assert np.allclose(out.mean((1, 2, 3, 4)), 0, atol=1e-5)
    assert np.allclose(out.std((1, 2, 3, 4)), 1, atol=1e-5)


def test_contrast_uptake_survives():
    frame = np.random.default_rng(1).random((8, 8, 4)).astype(np.float32)
    uptake = np.array([1.0, 4.0, 3.0, 2.0], np.float32)
    means = normalize((frame * uptake[:, None, None, None])[None], "zscore")[0].mean((1, 2, 3))
    assert means.argsort().tolist() == uptake.argsort().tolist()
    steps = (means - means[0]) / (means[3] - means[0])  # doubled is one step
    assert np.allclose(steps, uptake - 1, atol=0.1)


def test_a_channel_does_not_depend_on_the_others():
    image = np.random.default_rng(2).random((3, 2, 6, 5, 4), dtype=np.float32)
    alone = [normalize(image[[c]], "zscore")[0] for c in range(3)]
    assert np.array_equal(normalize(image, "zscore"), np.stack(alone))


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e7])
def test_a_constant_channel_becomes_0(value):
    image = np.stack([np.full((2, 5, 5, 3), value), np.random.default_rng(3).random((2, 5, 5, 3))]).astype(np.float32)
    out = normalize(image, "zscore")
    assert not out[0].any()
    assert out[1].std() == pytest.approx(1, abs=1e-5)


def test_outliers_are_clipped_to_the_percentiles():
    image = np.linspace(0, 1, 2000, dtype=np.float32).reshape(1, 2, 10, 10, 10).copy()
    image[0, 0, 0, 0, 0], image[0, 1, -1, -1, -1] = -1e6, 1e6
    out = normalize(image, "zscore")
    assert out.max() == pytest.approx(0.495 * np.sqrt(12) / 0.99, rel=0.02)  # of evenly spread values
    assert out.min() == pytest.approx(-out.max(), rel=0.02)


def test_the_percentiles_of_a_large_study_are_taken_from_all_its_slices(monkeypatch):
    monkeypatch.setattr(normalization, "SAMPLE_VOXELS", 1000)  # every 8th voxel, were it not for the 8 slices
    image = np.random.default_rng(4).random((1, 2, 20, 25, 8), dtype=np.float32)
    image[..., 1:] += 100
    out = normalize(image, "zscore")
    assert (out[..., 1:] - out[..., :1]).min() > 2


def test_none_leaves_the_intensities():
    image = np.random.default_rng(5).random((1, 2, 3, 3, 3), dtype=np.float32)
    assert np.array_equal(normalize(image, "none"), image)


FLOW = ("signal", "velocity X", "velocity Y", "velocity Z")


def flow() -> np.ndarray:
    """A magnitude and a velocity in mm/s that is 0 in half of the voxels, fastest along Z."""
    rng = np.random.default_rng(6)
    image = rng.normal(0, [[[[[1.0]]]], [[[[100.0]]]], [[[[200.0]]]], [[[[900.0]]]]], (4, 3, 6, 5, 4)).astype(
        np.float32
    )
    image[1:, :, :3] = 0
    image[0] += 50
    return image


def test_velocities_share_one_scale_and_rest_stays_0():
    image = flow()
    out = normalize(image, "zscore", FLOW)
    ratio = out[1:, :, 3:] / image[1:, :, 3:]
    assert np.allclose(ratio, ratio[0, 0, 0, 0, 0], rtol=1e-5)
    assert not out[1:, :, :3].any()
    assert np.square(out[1:, :, 3:]).sum(0).mean() == pytest.approx(1, rel=1e-4)  # the mean square speed of what moves
    assert np.array_equal(out[0], normalize(image[:1], "zscore")[0])


def test_a_velocity_is_scaled_by_what_moves_however_much_lies_still():
    image = flow()
    masked = np.concatenate([image, np.zeros_like(image)], axis=2)
    assert np.allclose(normalize(masked, "zscore", FLOW)[1:, :, :6], normalize(image, "zscore", FLOW)[1:])


@pytest.mark.parametrize("channel", [1, 2, 3])
def test_normalization_commutes_with_negating_a_component(channel):
    image = flow()
    negated = image.copy()
    negated[channel] *= -1
    after = normalize(image, "zscore", FLOW)
    after[channel] *= -1
    assert np.array_equal(normalize(negated, "zscore", FLOW), after)


def test_a_single_component_and_a_velocity_of_nothing():
    image = flow()[[0, 3]]
    out = normalize(image, "zscore", ("signal", "velocity -Z"))
    assert np.square(out[1, :, 3:]).mean() == pytest.approx(1, rel=1e-4)
    image[1] = 0
    assert not normalize(image, "zscore", ("signal", "velocity -Z"))[1].any()


def test_a_map_stays_constant_over_frames():
    rng = np.random.default_rng(7)
    t1_ms = rng.uniform(300, 2000, (6, 5, 4)).astype(np.float32)
    image = np.stack([rng.random((3, 6, 5, 4), dtype=np.float32), np.stack([t1_ms] * 3)])
    out = normalize(image, "zscore", ("signal", "map"))
    assert np.array_equal(out[1, 0], out[1, 1])
    assert np.array_equal(out[1, 0], out[1, 2])
    assert np.allclose([out[1].mean(), out[1].std()], [0, 1], atol=1e-5)


def test_the_image_that_came_is_left_alone():
    image = flow()
    before = image.copy()
    normalize(image, "zscore", FLOW)
    assert np.array_equal(image, before)
