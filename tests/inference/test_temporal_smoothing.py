"""Smoothing over time: a filter of logits, along the cycle by default, and never in open time unless it is asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from unet4d import load_model, read_image
from unet4d.config import InferenceConfig
from unet4d.inference.graph_runner.postprocessing import smooth_over_time as smooth_in_numpy
from unet4d.inference.memory_budget import MemoryBudget
from unet4d.inference.options import InferenceOptions
from unet4d.inference.prepare import prepare_image
from unet4d.inference.segment import segment_study
from unet4d.inference.sliding_window import logit_blocks
from unet4d.inference.temporal_smoothing import smooth_over_time, smoothing_frames, smoothing_weights


def smoothed(logits, width, cyclic):
    result = logits.clone()
    smooth_over_time(result, width, cyclic)
    return result


def by_definition(values, width, cyclic):
    """Smooth (T, ...) by its Fourier transform; an open series there and back, as a cycle."""
    cycle = values if cyclic else np.concatenate([values, values[::-1]])
    gain = [(1 + a) * np.exp(-a) for a in 2 * (np.pi * width * np.fft.fftfreq(len(cycle))) ** 2]
    gain = np.reshape(gain, (-1, *[1] * (values.ndim - 1)))
    return np.fft.ifft(np.fft.fft(cycle, axis=0) * gain, axis=0).real[: len(values)]


@pytest.mark.parametrize("cyclic", [True, False])
@pytest.mark.parametrize("frames", [1, 2, 5, 30])
@pytest.mark.parametrize("width", [0.0, 0.4, 1.5, 4.0])
def test_it_is_the_filter_of_the_docstring(width, frames, cyclic):
    logits = torch.randn(frames, 3, 4, 5, 2)
    wanted = by_definition(logits.double().numpy(), width, cyclic)
    np.testing.assert_allclose(smoothed(logits, width, cyclic).numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize("cyclic", [True, False])
def test_it_is_a_gaussian_filter_less_its_curvature(cyclic):
    """A filter of fourth order is G - (s^2 / 2) G''; here by scipy's filters."""
    values = np.random.default_rng(0).normal(size=40)
    mode = "wrap" if cyclic else "reflect"
    plain, curvature = (ndimage.gaussian_filter1d(values, 2.0, order=n, mode=mode, truncate=6) for n in (0, 2))
    found = smoothed(torch.from_numpy(values).reshape(-1, 1, 1, 1, 1), 2.0, cyclic).flatten()
    np.testing.assert_allclose(found.numpy(), plain - 2.0 * curvature, atol=2e-3)


@pytest.mark.parametrize("cyclic", [True, False])
@pytest.mark.parametrize("width", [0.2, 0.45, 0.64, 1.0, 2.4])
@pytest.mark.parametrize("frames", [2, 3, 4, 5, 6, 8, 30])
def test_nothing_is_enlarged_and_a_constant_stays(frames, width, cyclic):
    """Pins a kernel cut out of the Gaussian of fourth order, which sharpened cycles of less than 8 frames."""
    weights = smoothing_weights(frames, width, cyclic)
    assert torch.linalg.matrix_norm(weights, 2) < 1 + 1e-9
    torch.testing.assert_close(weights.sum(1), torch.ones(frames, dtype=torch.float64))


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
    """The shares that the module names: (1 + a) exp(-a) with a = 2 (pi s n)^2."""
    phase = torch.arange(30) * 2 * torch.pi / 30
    for harmonic, kept in ((1, 0.99), (2, 0.91), (3, 0.69), (5, 0.18)):
        wave = (harmonic * phase).cos().reshape(-1, 1, 1, 1, 1)
        torch.testing.assert_close(smoothed(wave, 2.4, True), kept * wave, atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("value", "cyclic", "frames"), [(None, True, 2.4), (None, False, 0), (2, True, 2), (2, False, 2), (0, True, 0)]
)
def test_what_is_set_counts_else_a_share_of_the_cycle(value, cyclic, frames):
    assert smoothing_frames(InferenceConfig(temporal_smoothing=value), 30, cyclic) == pytest.approx(frames)


@pytest.mark.parametrize(("width", "cyclic"), [(None, True), (None, False), (1.5, True), (1.5, False), (0, True)])
@pytest.mark.parametrize("frames", [1, 5, 20])
def test_the_runner_of_exported_graphs_smooths_alike(frames, width, cyclic):
    logits = torch.randn(frames, 3, 4, 5, 2)
    found = smooth_in_numpy(logits.numpy().copy(), width, cyclic)
    width = smoothing_frames(InferenceConfig(temporal_smoothing=width), frames, cyclic)
    np.testing.assert_allclose(found, smoothed(logits, width, cyclic).numpy(), atol=1e-5)


def test_a_study_is_smoothed_by_its_cycle_or_by_what_is_asked_for(model_file, study, tmp_path):
    """Logarithms of probabilities serve as logits: they differ by a number that is the same for every class of a voxel."""
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


def test_a_frame_that_is_no_number_does_not_spread_to_the_others(model_file, study, tmp_path, monkeypatch):
    """As in the validation of a training that diverges."""
    study(tmp_path / "heart.nii.gz", frames=7)
    models, image = [load_model(model_file())], read_image(tmp_path / "heart.nii.gz")

    def found(width):
        options = InferenceOptions(time="cyclic", temporal_smoothing=width, precision="fp32")
        prepared = prepare_image(models, image, options)
        return segment_study(models, prepared, options, MemoryBudget(None), allow_nan=True).label

    plain = found(0)

    def broken(*given):
        for rows, columns, logits in logit_blocks(*given):
            with torch.inference_mode():
                logits[2] = torch.nan
            yield rows, columns, logits

    monkeypatch.setattr("unet4d.inference.segment.logit_blocks", broken)
    kept = [0, 1, 3, 4, 5, 6]
    np.testing.assert_array_equal(found(1.5)[kept], plain[kept])
