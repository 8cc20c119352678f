"""Intensities: one draw for all frames, noise as its physics has it, and nothing that a channel's kind forbids."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.transforms import AdjustContrast
from torch import Tensor

from unet4d.pipeline.augmentation.intensity import (
    DEGREES,
    ContrastParams,
    IntensityParams,
    NoiseParams,
    add_noise,
    apply_intensity,
    blur,
    change_contrast,
    lower_resolution,
    sample_intensity,
    shade,
)
from unet4d.pipeline.augmentation.presets import INTENSITY_PRESETS

SEEDS = range(40)
KINDS = ("signal", "map", "velocity X", "signal")
EVERYTHING = IntensityParams(
    shading=tuple(np.linspace(-0.5, 0.5, len(DEGREES)).tolist()),
    blur=0.8,
    coarseness=0.6,
    contrasts=(ContrastParams(1.2, 0.3, 0.7), None, None, ContrastParams(0.8, -0.2, 1.5, inverted=True)),
)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def coefficients(**powers: float) -> list[float]:
    """Those of a polynomial such as x=0.3, yy=-0.1."""
    return [powers.get("x" * i + "y" * j + "z" * k, 0.0) for i, j, k in DEGREES]


# the whole


def test_equal_frames_stay_equal_under_all_but_noise_in_every_channel():
    clip = random(4, 1, 12, 10, 6).repeat(1, 3, 1, 1, 1)
    out = apply_intensity(clip.clone(), EVERYTHING, KINDS, True, [1.0] * 4)
    assert torch.allclose(out, out[:, :1], atol=1e-5)
    assert all(not torch.allclose(out[channel], clip[channel], atol=1e-2) for channel in range(4))


def test_a_map_stays_one_image_under_noise_and_the_others_get_noise_of_their_own_in_each_frame():
    clip = random(4, 1, 12, 10, 6).repeat(1, 3, 1, 1, 1)
    out = apply_intensity(clip.clone(), IntensityParams(noise=NoiseParams(0.2, 5)), KINDS, False, [1.0] * 4)
    assert torch.equal(out[1], out[1, :1].expand_as(out[1]))
    noise = out - clip
    assert (noise.flatten(2).std(2) > 0.1).all()
    for channel in (0, 2, 3):
        assert abs(float(torch.corrcoef(noise[channel].flatten(1))[0, 1])) < 0.2
    assert abs(float(torch.corrcoef(noise[[1, 2], 0].flatten(1))[0, 1])) < 0.2


def test_contrast_and_shading_touch_signals_alone():
    clip = random(4, 2, 8, 8, 4)
    only = IntensityParams(shading=EVERYTHING.shading, contrasts=EVERYTHING.contrasts)
    out = apply_intensity(clip.clone(), only, KINDS, True, [1.0] * 4)
    assert torch.equal(out[1:3], clip[1:3])
    assert not torch.allclose(out[[0, 3]], clip[[0, 3]], atol=0.05)


def test_contrasts_are_sampled_for_signals_alone():
    draws = [sample_intensity(np.random.default_rng(seed), INTENSITY_PRESETS["strong"], KINDS) for seed in SEEDS]
    assert all(len(draw.contrasts) == 4 and draw.contrasts[1] is draw.contrasts[2] is None for draw in draws)
    pairs = [(draw.contrasts[0], draw.contrasts[3]) for draw in draws]
    assert sum(a is not None and b is not None and a != b for a, b in pairs) > 10


def test_no_draw_changes_nothing():
    clip = random(4, 2, 8, 8, 4)
    assert torch.equal(apply_intensity(clip.clone(), IntensityParams(), KINDS, True, [1.0] * 4), clip)


def test_noise_and_brightness_go_with_the_unit_of_their_channel():
    """With intensities left as the scanner gave them, in the thousands, the same draw must do the same."""
    clip = random(2, 2, 12, 12, 4)
    draw = IntensityParams(noise=NoiseParams(0.2, 3), contrasts=(ContrastParams(1.1, 0.4), ContrastParams(1.0, -0.4)))
    kinds = ("signal", "signal")
    ours = apply_intensity(clip.clone(), draw, kinds, False, [1.0, 1.0])
    theirs = apply_intensity(clip * 1000, draw, kinds, False, [1000.0, 1000.0])
    assert torch.allclose(theirs / 1000, ours, atol=1e-4)


@pytest.mark.parametrize("value", [0.0, 3.0])
@pytest.mark.parametrize("strength", ["mild", "strong"])
def test_a_constant_image_gives_no_nan(value, strength):
    for seed in SEEDS:
        draw = sample_intensity(np.random.default_rng(seed), INTENSITY_PRESETS[strength], KINDS)
        assert apply_intensity(torch.full((4, 2, 6, 6, 1), value), draw, KINDS, False, [0.0] * 4).isfinite().all()


def test_strong_reaches_further_than_mild():
    clip = random(1, 2, 16, 16, 4)

    def changes(strength: str) -> list[float]:
        draws = (
            sample_intensity(np.random.default_rng(seed), INTENSITY_PRESETS[strength], ("signal",))
            for seed in range(80)
        )
        return [
            float((apply_intensity(clip.clone(), draw, ("signal",), True, [1.0]) - clip).abs().mean()) for draw in draws
        ]

    mild, strong = changes("mild"), changes("strong")
    assert min(mild) == 0
    assert np.mean(strong) > 1.5 * np.mean(mild)


@pytest.mark.parametrize("name", ["shading", "noise", "blur", "coarseness", "contrast", "brightness", "gamma"])
def test_every_range_of_strong_reaches_beyond_milds(name):
    mild, strong = (getattr(INTENSITY_PRESETS[strength], name) for strength in ("mild", "strong"))
    assert strong.probability > mild.probability
    assert strong.low <= mild.low or strong.high > mild.high
    assert strong.high - strong.low >= mild.high - mild.low


NNUNET = {
    "noise": (0.1, 0.0, 0.1),
    "blur": (0.2, 0.5, 1.0),
    "coarseness": (0.25, 0.5, 1.0),
    "contrast": (0.15, 0.75, 1.25),
}
"""Probability and range of nnU-Net v2's default set (Isensee et al. 2021), where ours are of the same kind."""


@pytest.mark.parametrize("name", NNUNET)
def test_strong_reaches_at_least_as_far_as_nnunet(name):
    ours, (probability, low, high) = getattr(INTENSITY_PRESETS["strong"], name), NNUNET[name]
    assert ours.probability >= probability
    assert ours.low <= low
    assert ours.high >= high


# shading


def test_shading_is_smooth_the_same_in_all_frames_and_keeps_the_order_of_tissues():
    image = torch.stack([torch.full((12, 10, 4), value) for value in (-1.0, 0.0, 2.0)])
    for seed in SEEDS:
        drawn = np.random.default_rng(seed).uniform(-0.3, 0.3, len(DEGREES)).tolist()
        out = shade(image, drawn)
        assert torch.equal(out[0], image[0])  # no signal, no shading
        assert torch.allclose((out[2] + 1) / (out[1] + 1), torch.tensor(3.0), atol=1e-4)
        assert (out[1].diff(dim=0).abs() < 0.8).all()


def test_shading_is_the_exponential_of_the_polynomial_worked_out_by_hand():
    image = torch.stack([torch.zeros(3, 3, 1), torch.ones(3, 3, 1)])
    out = shade(image, coefficients(x=0.3, yy=-0.2, xy=0.1, z=5.0))[1, :, :, 0]  # one slice has no z
    expected = [[math.exp(0.3 * x - 0.2 * y * y + 0.1 * x * y) for y in (-1, 0, 1)] for x in (-1, 0, 1)]
    assert torch.allclose(out, torch.tensor(expected), atol=1e-6)


# noise


def test_rician_noise_has_rayleighs_mean_in_the_dark_and_rices_moments_in_the_bright():
    """Gudbjartsson & Patz 1995: without signal mean sigma sqrt(pi/2); E[m^2] = s^2 + 2 sigma^2 everywhere."""
    sigma, low, bright = 0.3, -1.0, 5.0
    image = torch.full((2, 100, 100, 10), low)
    image[1] = low + bright
    dark, light = add_noise(image, sigma, 0, "signal") - low
    assert dark.min() >= 0
    assert float(dark.mean()) == pytest.approx(sigma * math.sqrt(math.pi / 2), rel=0.01)
    assert float((dark**2).mean()) == pytest.approx(2 * sigma**2, rel=0.02)
    assert float((light**2).mean()) == pytest.approx(bright**2 + 2 * sigma**2, rel=0.005)
    assert float(light.std()) == pytest.approx(sigma, rel=0.02)


@pytest.mark.parametrize("kind", ["velocity X", "velocity -Z", "map"])
def test_noise_of_a_velocity_and_a_map_has_no_bias(kind):
    noise = add_noise(torch.zeros(2, 60, 60, 10), 0.3, 0, kind)
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    assert float(noise.std()) == pytest.approx(0.3, rel=0.02)


def test_the_seed_is_the_noise():
    image = random(2, 8, 8, 4)
    assert torch.equal(add_noise(image, 0.2, 7, "signal"), add_noise(image, 0.2, 7, "signal"))
    assert not torch.equal(add_noise(image, 0.2, 7, "signal"), add_noise(image, 0.2, 8, "signal"))


# resolution


@pytest.mark.parametrize("tilt", [False, True])
def test_a_blur_spreads_a_point_into_a_gaussian_of_its_sigma(tilt):
    image = torch.zeros(1, 21, 21, 21)
    image[0, 10, 10, 10] = 1
    out = blur(image, 1.2, tilt)[0]
    assert float(out.sum()) == pytest.approx(1, abs=1e-4)
    places = torch.arange(21.0) - 10
    for axis, sigma in enumerate((1.2, 1.2, 1.2 if tilt else 0.0)):
        spread = (out.sum([other for other in range(3) if other != axis]) * places**2).sum().sqrt()
        assert float(spread) == pytest.approx(math.sqrt(sigma**2 + (1 / 12 if sigma else 0)), rel=0.02)


def test_a_blur_lowers_the_high_frequencies_and_leaves_the_lowest():
    image = random(2, 24, 24, 4)
    before, after = (torch.fft.fft2(one, dim=(1, 2)).abs() for one in (image, blur(image, 1.0, False)))
    high = torch.fft.fftfreq(24).abs() > 0.3
    assert (after[:, high][:, :, high].pow(2).sum() / before[:, high][:, :, high].pow(2).sum()).item() < 0.05
    assert torch.allclose(blur(torch.full((1, 9, 9, 3), 2.0), 1.5, True), torch.tensor(2.0), atol=1e-5)


@pytest.mark.parametrize("tilt", [False, True])
@pytest.mark.parametrize("share", [0.4, 0.5, 0.75])
def test_low_resolution_keeps_mean_and_shape_and_lowers_high_frequencies(share, tilt):
    image = random(2, 40, 36, 20)
    out = lower_resolution(image, share, tilt)
    assert out.shape == image.shape
    assert float(out.mean()) == pytest.approx(float(image.mean()), abs=0.01)
    assert float(out.diff(dim=1).std()) < 0.7 * float(image.diff(dim=1).std())
    assert torch.allclose(lower_resolution(torch.full((1, 9, 9, 3), 2.0), share, tilt), torch.tensor(2.0))


def test_low_resolution_of_whole_blocks_is_their_mean():
    """0 2 | 4 6 at half resolution is 1 | 5, and 1 2 4 5 between their centers."""
    line = torch.tensor([0.0, 2.0, 4.0, 6.0])[None, :, None, None].expand(1, 4, 4, 2)
    assert lower_resolution(line, 0.5, False)[0, :, 0, 0].tolist() == [1.0, 2.0, 4.0, 5.0]


def test_thick_slices_are_neither_blurred_nor_coarsened_into_each_other():
    slices = torch.arange(5.0).expand(1, 12, 12, 5)
    assert torch.allclose(blur(slices, 1.5, False), slices, atol=1e-5)
    assert torch.allclose(lower_resolution(slices, 0.5, False), slices)
    assert not torch.allclose(blur(slices, 1.5, True), slices, atol=0.1)
    assert not torch.allclose(lower_resolution(slices, 0.5, True), slices, atol=0.1)


# contrast


def test_contrast_is_a_factor_and_a_shift_in_deviations():
    image = random(2, 4, 4, 2)
    assert torch.allclose(change_contrast(image, ContrastParams(1.2, -0.3), 10.0), image * 1.2 - 3.0)


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("gamma", [0.6, 1.0, 1.7])
def test_gamma_is_monais(gamma, inverted):
    image = random(3, 8, 8, 4)
    expected = AdjustContrast(gamma, invert_image=inverted, retain_stats=True)(image)
    assert torch.allclose(
        change_contrast(image, ContrastParams(gamma=gamma, inverted=inverted), 1.0), expected, atol=1e-4
    )


def test_gamma_keeps_mean_deviation_and_order_and_bends_the_end_it_should():
    ramp = torch.linspace(-2, 2, 81)[:, None, None, None]
    for inverted in (False, True):
        out = change_contrast(ramp, ContrastParams(gamma=2.0, inverted=inverted), 1.0).flatten()
        assert float(out.mean()) == pytest.approx(0, abs=1e-5)
        assert float(out.std()) == pytest.approx(float(ramp.std()), rel=1e-4)
        assert (out.diff() >= 0).all()
        assert (out.diff()[0] < out.diff()[-1]) != inverted
