"""Changes of intensity, one draw for all frames of a clip: two equal frames stay equal under all but noise.

signal      shading, Rician noise, resolution, contrast, brightness, gamma
velocity    Gaussian noise, resolution: a velocity has a unit and a sign, which a contrast would falsify
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
from unet4d.pipeline.augmentation.presets import IntensityStrength

DEGREES = tuple((i, j, k) for i in range(3) for j in range(3) for k in range(3) if 0 < i + j + k < 3)
"""The powers of x, y, z in a polynomial of degree 2 without its constant."""
EPSILON = 1e-7
"""Least range divided by."""


@dataclass(frozen=True)
class Contrast:
    """What one signal channel goes through: `factor * value + shift`, then gamma."""

    factor: float = 1.0
    shift: float = 0.0
    gamma: float = 1.0
    inverted: bool = False


@dataclass(frozen=True)
class Noise:
    """Its standard deviation, and the seed it is made from."""

    level: float
    seed: int


@dataclass(frozen=True)
class Intensity:
    """What the intensities of a clip go through; the default changes nothing.

    Resolution, shading and the level of noise belong to the scan, so all channels share them; each signal has its own contrast.

    Attributes:
        shading: coefficients of `DEGREES`.
        noise: level and seed.
        blur: sigma in voxels.
        coarseness: resolution that is left, as a share.
        contrasts: one a channel; None for what is no signal, and where none was drawn.
    """

    shading: tuple[float, ...] | None = None
    noise: Noise | None = None
    blur: float | None = None
    coarseness: float | None = None
    contrasts: tuple[Contrast | None, ...] = ()


def draw_intensity(rng: np.random.Generator, strength: IntensityStrength, kinds: Sequence[str]) -> Intensity:
    """What the intensities of a clip with channels of these kinds go through."""
    shaded = strength.shading.drawn(rng) is not None
    noise = strength.noise.drawn(rng)
    return Intensity(
        shading=tuple(strength.shading.value(rng) for _ in DEGREES) if shaded else None,
        noise=None if noise is None else Noise(noise, int(rng.integers(2**31))),
        blur=strength.blur.drawn(rng),
        coarseness=strength.coarseness.drawn(rng),
        contrasts=tuple(_draw_contrast(rng, strength) if kind == SIGNAL else None for kind in kinds),
    )


def _draw_contrast(rng: np.random.Generator, strength: IntensityStrength) -> Contrast | None:
    factor, shift, gamma = (chance.drawn(rng) for chance in (strength.contrast, strength.brightness, strength.gamma))
    if factor is None and shift is None and gamma is None:
        return None
    inverted = gamma is not None and rng.random() < strength.inverted
    return Contrast(
        1.0 if factor is None else factor, 0.0 if shift is None else shift, 1.0 if gamma is None else gamma, inverted
    )


def altered(
    image: Tensor, intensity: Intensity, kinds: Sequence[str], tilt: bool, deviations: Sequence[float]
) -> Tensor:
    """The intensities of a clip (C, T, X, Y, Z) changed, each channel as its kind allows; channels are overwritten.

    A map is one image: what its first frame becomes, all become.

    Args:
        image: the clip.
        intensity: what was drawn.
        kinds: the channels' kinds.
        tilt: whether resolution is lost across slices too: not across thick ones.
        deviations: standard deviation of each channel in the study, or in the clip where nothing was normalised: the unit of noise
            and shift.
    """
    for channel, kind in enumerate(kinds):
        before = values = image[channel, :1] if kind == MAP else image[channel]
        if kind == SIGNAL and intensity.shading is not None:
            values = shaded(values, intensity.shading)
        if intensity.noise is not None:
            level, seed = intensity.noise.level * deviations[channel], intensity.noise.seed + channel
            values = noisy(values, level, seed, kind)
        if intensity.blur is not None:
            values = blurred(values, intensity.blur, tilt)
        if intensity.coarseness is not None:
            values = coarsened(values, intensity.coarseness, tilt)
        contrast = intensity.contrasts[channel] if intensity.contrasts else None
        if contrast is not None:
            values = contrasted(values, contrast, deviations[channel])
        if values is not before:
            image[channel] = values
    return image


def shaded(values: Tensor, coefficients: Sequence[float]) -> Tensor:
    """A receiver coil's shading: a smooth factor over space, one for all frames, applied to the signal above its minimum.

    The logarithm of the factor is a polynomial of degree 2 (Van Leemput et al. 1999), so that either side may be the brighter one.
    MONAI's RandBiasField multiplies normalised values: what is below the mean would darken where the coil is close.

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


def noisy(values: Tensor, level: float, seed: int, kind: str) -> Tensor:
    """Noise of standard deviation `level` on a channel (T, X, Y, Z), as its kind has it.

    A signal is a magnitude, so noise is Rician (Gudbjartsson & Patz 1995), with the least value there for no signal. It lifts the
    dark and is nearly Gaussian in the bright:

        |s + n1 + i n2|,   n1, n2 normal

    A velocity comes from a phase, whose noise is nearly Gaussian, and so is a map's.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(values.shape, generator=generator, dtype=values.dtype).mul_(level)
    if kind != SIGNAL:
        return noise + values
    low = values.amin()
    real = noise.add_(values).sub_(low)
    imaginary = torch.randn(values.shape, generator=generator, dtype=values.dtype).mul_(level)
    return torch.hypot(real, imaginary).add_(low)


def blurred(values: Tensor, sigma: float, tilt: bool) -> Tensor:
    """A Gaussian of `sigma` voxels over each frame of (T, X, Y, Z), across slices only with `tilt`; edges are held."""
    kernel = gaussian_1d(torch.tensor(sigma), normalize=True)
    kernels = [kernel, kernel, kernel if tilt else torch.ones(1)]
    return separable_filtering(values[:, None], kernels, mode="replicate")[:, 0]


def coarsened(values: Tensor, share: float, tilt: bool) -> Tensor:
    """Each frame of (T, X, Y, Z) measured with a `share` of its voxels an axis, and interpolated; across slices only with `tilt`.

    A coarse voxel is the mean of what it covers. MONAI's RandSimulateLowResolution coarsens every axis alike, which would merge
    thick slices.
    """
    full = values.shape[1:]
    size = [max(1, round(n * share)) if axis < 2 or tilt else n for axis, n in enumerate(full)]
    coarse = interpolate(values[:, None], size, mode="area")
    return interpolate(coarse, full, mode="trilinear")[:, 0]


def contrasted(values: Tensor, contrast: Contrast, deviation: float) -> Tensor:
    """A signal channel (T, X, Y, Z) in another contrast: factor and shift, then gamma between its least and its largest value.

    Gamma keeps mean and deviation; inverted, it bends the negative image, as nnU-Net does (Isensee et al. 2021).
    """
    changed = values * contrast.factor + contrast.shift * deviation
    if contrast.gamma == 1:
        return changed
    low, high, mean, spread = changed.amin(), changed.amax(), changed.mean(), changed.std(correction=0)
    share = (high - changed if contrast.inverted else changed - low).div_((high - low).clamp_(min=EPSILON))
    bent = share.pow_(contrast.gamma)
    bent.sub_(bent.mean()).mul_(spread / bent.std(correction=0).clamp_(min=EPSILON))
    return (bent.neg_() if contrast.inverted else bent).add_(mean)
