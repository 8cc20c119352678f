"""Smoothing over time: a Gaussian filter of logits, along the cycle by default, and never in open time unless it is asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from unet4d import load_model, read_image
from unet4d.config import InferenceConfig
from unet4d.inference.memory_budget import MemoryBudget
from unet4d.inference.options import InferenceOptions
from unet4d.inference.prepare import prepare_image
from unet4d.inference.segment import segment_study
from unet4d.inference.temporal_smoothing import smooth_over_time, smoothing_frames


def smoothed(logits, sigma, cyclic):
    result = logits.clone()
    smooth_over_time(result, sigma, cyclic)
    return result


@pytest.mark.parametrize("cyclic", [True, False])
@pytest.mark.parametrize("frames", [1, 2, 5, 30])
@pytest.mark.parametrize("sigma", [0.1, 0.4, 1.5, 4.0])
def test_it_is_the_gaussian_filter_of_scipy(sigma, frames, cyclic):
    logits = torch.randn(frames, 3, 4, 5, 2)
    mode = "wrap" if cyclic else "nearest"
    wanted = ndimage.gaussian_filter1d(logits.double().numpy(), sigma, axis=0, mode=mode, truncate=3)
    np.testing.assert_allclose(smoothed(logits, sigma, cyclic).numpy(), wanted, atol=1e-5)


def test_a_cycle_may_begin_with_any_frame():
    logits = torch.randn(9, 2, 3, 3, 2)
    torch.testing.assert_close(smoothed(logits.roll(4, 0), 1.3, True), smoothed(logits, 1.3, True).roll(4, 0))


def test_a_part_is_smoothed_as_the_whole():
    logits = torch.randn(7, 2, 6, 5, 3)
    part = logits[:, :, 2:4, 1:4].clone()
    assert torch.equal(smoothed(part, 1.0, True), smoothed(logits, 1.0, True)[:, :, 2:4, 1:4])


def test_a_motion_as_slow_as_the_cycle_keeps_95_percent():
    """The shares that the module names: the Fourier transform of the Gaussian, at 1, 2 and 3 beats a cycle."""
    beats = torch.arange(30) * 2 * torch.pi / 30
    for harmonic, kept in ((1, 0.95), (2, 0.82), (3, 0.64)):
        wave = (harmonic * beats).cos().reshape(-1, 1, 1, 1, 1)
        torch.testing.assert_close(smoothed(wave, 1.5, True), kept * wave, atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("value", "cyclic", "frames"), [(None, True, 1.5), (None, False, 0), (2, True, 2), (2, False, 2), (0, True, 0)]
)
def test_what_is_set_counts_else_a_twentieth_of_the_cycle(value, cyclic, frames):
    assert smoothing_frames(InferenceConfig(temporal_smoothing=value), 30, cyclic) == pytest.approx(frames)


def test_a_study_is_smoothed_by_its_cycle_or_by_what_is_asked_for(model_file, study, tmp_path):
    """Of the logarithms of probabilities, as of logits: what both lack is the same for every class of a voxel."""
    study(tmp_path / "heart.nii.gz", frames=7)
    models, image = [load_model(model_file())], read_image(tmp_path / "heart.nii.gz")

    def probabilities(time, sigma):
        options = InferenceOptions(time=time, temporal_smoothing=sigma, probabilities=True, precision="fp32")
        return segment_study(models, prepare_image(models, image, options), options, MemoryBudget(None)).probabilities

    for time, sigma, wanted_sigma, mode in (
        ("cyclic", None, 0.35, "wrap"),
        ("cyclic", 1.2, 1.2, "wrap"),
        ("open", 1.2, 1.2, "nearest"),
    ):
        plain = np.log(probabilities(time, 0.0).astype(np.float64))
        wanted = np.exp(ndimage.gaussian_filter1d(plain, wanted_sigma, axis=1, mode=mode, truncate=3))
        np.testing.assert_allclose(probabilities(time, sigma), wanted / wanted.sum(0), atol=1e-5)
        assert not np.allclose(wanted / wanted.sum(0), np.exp(plain), atol=1e-3), "smoothing changes something"
    np.testing.assert_array_equal(probabilities("open", None), probabilities("open", 0.0))
