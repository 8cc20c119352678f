"""Changes of intensity with one set of parameters for all frames of a clip: two equal frames stay equal under all but noise.

signal      shading, Rician noise, resolution, contrast, brightness, gamma
velocity    Gaussian noise, resolution: it has a unit and a sign, which a contrast would falsify
map         Gaussian noise, the same in all frames, resolution: it has a unit, and is one image
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.networks.layers import gaussian_1d, separable_filtering
from torch import Tensor
from torch.nn.functional import interpolate

from unet4d.images.channels import MAP, SIGNAL
from unet4d.pipeline.augmentation.presets import IntensityPreset

DEGREES = tuple((i, j, k) for i in range(3) for j in range(3) for k in range(3) if 0 < i + j + k < 3)
"""The powers of x, y, z in a polynomial of degree 2 without its constant."""
EPSILON = 1e-7
"""Smallest range divided by."""


@dataclass(frozen=True)
class ContrastParams:
    """The contrast of one signal channel: `factor * value + shift`, then gamma."""

    factor: float = 1.0
    shift: float = 0.0
    gamma: float = 1.0
    inverted: bool = False


@dataclass(frozen=True)
class NoiseParams:
    """The standard deviation of noise, and the seed of its random numbers."""

    level: float
    seed: int


@dataclass(frozen=True)
class IntensityParams:
    """The changes of intensity of a clip; the default changes nothing.

    All channels share resolution, shading and the level of noise, which belong to the scan; each signal has its own contrast.
    """

    shading: tuple[float, ...] | None = None  # coefficients of `DEGREES`
    noise: NoiseParams | None = None
    blur: float | None = None  # sigma in voxels
    coarseness: float | None = None  # remaining resolution, a fraction
    contrasts: tuple[ContrastParams | None, ...] = ()  # per channel; None: unchanged, or no signal


def sample_intensity(rng: np.random.Generator, preset: IntensityPreset, kinds: Sequence[str]) -> IntensityParams:
    """Return random changes of intensity for a clip with channels of these kinds."""
    is_shaded = preset.shading.sample(rng) is not None
    noise = preset.noise.sample(rng)
    return IntensityParams(
        shading=tuple(preset.shading.sample_value(rng) for _ in DEGREES) if is_shaded else None,
        noise=None if noise is None else NoiseParams(noise, int(rng.integers(2**31))),
        blur=preset.blur.sample(rng),
        coarseness=preset.coarseness.sample(rng),
        contrasts=tuple(_sample_contrast(rng, preset) if kind == SIGNAL else None for kind in kinds),
    )


def _sample_contrast(rng: np.random.Generator, preset: IntensityPreset) -> ContrastParams | None:
    changes = {"factor": preset.contrast, "shift": preset.brightness, "gamma": preset.gamma}
    values = {name: value for name, change in changes.items() if (value := change.sample(rng)) is not None}
    if not values:
        return None
    return ContrastParams(**values, inverted="gamma" in values and rng.random() < preset.inverted)


def apply_intensity(
    image: Tensor, params: IntensityParams, kinds: Sequence[str], tilt: bool, deviations: Sequence[float]
) -> Tensor:
    """Change the intensities of a clip (C, T, X, Y, Z) in place, each channel as its kind allows.

    A map is one image: all its frames become what its first frame becomes.

    Args:
        image: the clip.
        params: the changes.
        kinds: the channels' kinds.
        tilt: whether resolution is lost across slices too: not across thick ones.
        deviations: standard deviation of each channel, the unit of noise and shift.
    """
    for channel, kind in enumerate(kinds):
        before = values = image[channel, :1] if kind == MAP else image[channel]
        if kind == SIGNAL and params.shading is not None:
            values = shade(values, params.shading)
        if params.noise is not None:
            values = add_noise(values, params.noise.level * deviations[channel], params.noise.seed + channel, kind)
        if params.blur is not None:
            values = blur(values, params.blur, tilt)
        if params.coarseness is not None:
            values = lower_resolution(values, params.coarseness, tilt)
        contrast = params.contrasts[channel] if params.contrasts else None
        if contrast is not None:
            values = change_contrast(values, contrast, deviations[channel])
        if values is not before:
            image[channel] = values
    return image


def shade(values: Tensor, coefficients: Sequence[float]) -> Tensor:
    """Return a channel with a receiver coil's shading: a smooth factor over space on the signal above its minimum.

    The logarithm of the factor is a polynomial of degree 2 (Van Leemput et al. 1999), so that either side may be brighter.
    MONAI's RandBiasField multiplies normalized values: what is below the mean would darken where the coil is close.

    Args:
        values: (T, X, Y, Z).
        coefficients: those of `DEGREES`, over coordinates from -1 to 1.
    """
    cube = np.zeros((3, 3, 3))
    for (i, j, k), coefficient in zip(DEGREES, coefficients, strict=True):
        cube[i, j, k] = coefficient
    x, y, z = (np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in values.shape[1:])
    factor = np.exp(np.polynomial.polynomial.polygrid3d(x, y, z, cube))
    low = values.amin()
    return (values - low).mul_(torch.as_tensor(factor, dtype=values.dtype)).add_(low)


def add_noise(values: Tensor, level: float, seed: int, kind: str) -> Tensor:
    """Return a channel (T, X, Y, Z) with noise of standard deviation `level`, as its kind has it.

    A signal is a magnitude, so noise is Rician (Gudbjartsson & Patz 1995), with the least value there for no signal. It lifts the
    dark and is nearly Gaussian in the bright:

        |s + n1 + i n2|,   n1, n2 normal

    Noise of a phase, and so of a velocity, is nearly Gaussian, and so is a map's.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(values.shape, generator=generator, dtype=values.dtype).mul_(level)
    if kind != SIGNAL:
        return noise + values
    low = values.amin()
    real = noise.add_(values).sub_(low)
    imaginary = torch.randn(values.shape, generator=generator, dtype=values.dtype).mul_(level)
    return torch.hypot(real, imaginary).add_(low)


def blur(values: Tensor, sigma: float, tilt: bool) -> Tensor:
    """Blur each frame of (T, X, Y, Z) by a Gaussian of `sigma` voxels, across slices only with `tilt`; edges are replicated."""
    kernel = gaussian_1d(torch.tensor(sigma), normalize=True)
    kernels = [kernel, kernel, kernel if tilt else torch.ones(1)]
    return separable_filtering(values[:, None], kernels, mode="replicate")[:, 0]


def lower_resolution(values: Tensor, fraction: float, tilt: bool) -> Tensor:
    """Measure each frame of (T, X, Y, Z) with a fraction of its voxels per axis, and interpolate; across slices only with `tilt`.

    A coarse voxel is the mean of what it covers. MONAI's RandSimulateLowResolution coarsens every axis alike, which would merge
    thick slices.
    """
    full = values.shape[1:]
    size = [max(1, round(n * fraction)) if axis < 2 or tilt else n for axis, n in enumerate(full)]
    coarse = interpolate(values[:, None], size, mode="area")
    return interpolate(coarse, full, mode="trilinear")[:, 0]


def change_contrast(values: Tensor, contrast: ContrastParams, deviation: float) -> Tensor:
    """Return a signal channel (T, X, Y, Z) with factor and shift, then gamma between its smallest and its largest value.

    Gamma keeps mean and deviation; inverted, it bends the negative image, as nnU-Net does (Isensee et al. 2021).
    """
    changed = values * contrast.factor + contrast.shift * deviation
    if contrast.gamma == 1:
        return changed
    low, high, mean, spread = changed.amin(), changed.amax(), changed.mean(), changed.std(correction=0)
    scaled = (high - changed if contrast.inverted else changed - low).div_((high - low).clamp_(min=EPSILON))
    bent = scaled.pow_(contrast.gamma)
    bent.sub_(bent.mean()).mul_(spread / bent.std(correction=0).clamp_(min=EPSILON))
    return (bent.neg_() if contrast.inverted else bent).add_(mean)
