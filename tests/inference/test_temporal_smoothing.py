"""Smoothing over time: a filter of logits, along the cycle by default, and never in open time unless it is asked for."""

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


def smoothed(logits, width, cyclic):
    result = logits.clone()
    smooth_over_time(result, width, cyclic)
    return result


def by_definition(values, width, cyclic):
    """Smooth (T, ...) term by term."""
    last, radius = len(values) - 1, int(4 * width + 0.5)
    if radius == 0:
        return values
    kernel = {d: (1.5 - d**2 / (2 * width**2)) * np.exp(-(d**2) / (2 * width**2)) for d in range(-radius, radius + 1)}
    index = (lambda t: t % len(values)) if cyclic else (lambda t: min(max(t, 0), last))
    sums = [sum(weight * values[index(t + d)] for d, weight in kernel.items()) for t in range(len(values))]
    return np.stack(sums) / sum(kernel.values())


@pytest.mark.parametrize("cyclic", [True, False])
@pytest.mark.parametrize("frames", [1, 2, 5, 30])
@pytest.mark.parametrize("width", [0.1, 0.4, 1.5, 4.0])
def test_it_is_the_kernel_of_the_docstring(width, frames, cyclic):
    logits = torch.randn(frames, 3, 4, 5, 2)
    wanted = by_definition(logits.double().numpy(), width, cyclic)
    np.testing.assert_allclose(smoothed(logits, width, cyclic).numpy(), wanted, atol=1e-5)


def test_the_kernel_is_a_gaussian_less_its_curvature():
    """Of fourth order: G - (s^2 / 2) G'', by scipy's filters."""
    values = np.random.default_rng(0).normal(size=40)
    plain, curvature = (ndimage.gaussian_filter1d(values, 2.0, order=n, mode="wrap", truncate=6) for n in (0, 2))
    np.testing.assert_allclose(by_definition(values, 2.0, True), plain - 2.0 * curvature, atol=2e-3)


def test_a_parabola_stays_as_it_is():
    frames = torch.arange(40.0)
    parabola = (0.1 * (frames - 17) ** 2 - frames).reshape(-1, 1, 1, 1, 1)
    torch.testing.assert_close(smoothed(parabola, 1.5, False)[8:-8], parabola[8:-8], atol=0.01, rtol=0)


def test_a_cycle_may_begin_with_any_frame():
    logits = torch.randn(9, 2, 3, 3, 2)
    torch.testing.assert_close(smoothed(logits.roll(4, 0), 1.3, True), smoothed(logits, 1.3, True).roll(4, 0))


def test_a_part_is_smoothed_as_the_whole():
    logits = torch.randn(7, 2, 6, 5, 3)
    part = logits[:, :, 2:4, 1:4].clone()
    assert torch.equal(smoothed(part, 1.0, True), smoothed(logits, 1.0, True)[:, :, 2:4, 1:4])


def test_what_moves_slowly_is_kept():
    """The shares that the module names: the kernel's Fourier transform, (1 + a) exp(-a) with a = 2 (pi s n)^2."""
    phase = torch.arange(30) * 2 * torch.pi / 30
    for harmonic, kept in ((1, 0.99), (2, 0.91), (3, 0.69), (5, 0.18)):
        wave = (harmonic * phase).cos().reshape(-1, 1, 1, 1, 1)
        torch.testing.assert_close(smoothed(wave, 2.4, True), kept * wave, atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("value", "cyclic", "frames"), [(None, True, 2.4), (None, False, 0), (2, True, 2), (2, False, 2), (0, True, 0)]
)
def test_what_is_set_counts_else_a_share_of_the_cycle(value, cyclic, frames):
    assert smoothing_frames(InferenceConfig(temporal_smoothing=value), 30, cyclic) == pytest.approx(frames)


def test_a_study_is_smoothed_by_its_cycle_or_by_what_is_asked_for(model_file, study, tmp_path):
    """Of the logarithms of probabilities, as of logits: what both lack is the same for every class of a voxel."""
    study(tmp_path / "heart.nii.gz", frames=7)
    models, image = [load_model(model_file())], read_image(tmp_path / "heart.nii.gz")

    def probabilities(time, width):
        options = InferenceOptions(time=time, temporal_smoothing=width, probabilities=True, precision="fp32")
        return segment_study(models, prepare_image(models, image, options), options, MemoryBudget(None)).probabilities

    for time, width, wanted_width in (("cyclic", None, 0.56), ("cyclic", 1.2, 1.2), ("open", 1.2, 1.2)):
        plain = np.log(probabilities(time, 0.0).astype(np.float64))
        wanted = np.exp(by_definition(plain.swapaxes(0, 1), wanted_width, time == "cyclic").swapaxes(0, 1))
        np.testing.assert_allclose(probabilities(time, width), wanted / wanted.sum(0), atol=1e-5)
        assert not np.allclose(wanted / wanted.sum(0), np.exp(plain), atol=1e-3), "smoothing changes something"
    np.testing.assert_array_equal(probabilities("open", None), probabilities("open", 0.0))
