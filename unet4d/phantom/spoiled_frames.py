"""Spoiled frames: dropout, ghosting or a burst of noise, which hide the heart's borders in one frame."""

from __future__ import annotations

import numpy as np

from unet4d.phantom.phantom_study import Array
from unet4d.phantom.thorax import grain

SPOILING = ("dropout", "ghosting", "noise")
"""Ways in which an ambiguous frame hides the heart, in the order in which they are assigned."""


def spoil(image: Array, kind: str, rng: np.random.Generator, heart: Array, blood: float, noise: float) -> Array:
    """Return one frame `(X, Y, Z)` in which the heart's borders can no longer be seen.

    Args:
        image: the intact frame.
        kind: one of `SPOILING`. "dropout": the signal over the heart is gone but for noise; "ghosting": every line of
            k-space was read at another position of the body; "noise": coarse noise drowns the heart.
        heart: a smooth mask `(X, Y, Z)`, 1 on the heart and its border, 0 far from it.
        blood: signal of blood; noise: standard deviation of the noise, in the image's unit.
    """
    if kind == "dropout":
        empty = noise * np.hypot(rng.standard_normal(image.shape), rng.standard_normal(image.shape))
        return (image * (1 - heart) + empty * heart).astype(np.float32)
    if kind == "ghosting":
        return _scramble(image, rng)
    burst = 0.5 * grain(rng, image.shape, (3.0, 3.0, 0.3)) + 0.5 * grain(rng, image.shape, (1.0, 1.0, 0.0))
    drowned = 0.06 * image + blood * (0.55 + 0.35 * burst + 0.1 * rng.standard_normal(image.shape))
    return np.abs(drowned).astype(np.float32)


def _scramble(image: Array, rng: np.random.Generator) -> Array:
    """Read every k-space line (Y is phase-encoded) from another position of the body and with another phase."""
    x, y, z = image.shape
    space = np.fft.fft2(image, axes=(0, 1))
    shift = np.clip(rng.normal(0, 0.2, (2, 1, y, z)), -0.45, 0.45) * np.array([x, y])[:, None, None, None]
    phase = rng.uniform(0, 2 * np.pi, (1, y, z))
    across, along = np.fft.fftfreq(x)[:, None, None], np.fft.fftfreq(y)[None, :, None]
    space = space * np.exp(-2j * np.pi * (across * shift[0] + along * shift[1]) + 1j * phase)
    return np.abs(np.fft.ifft2(space, axes=(0, 1))).astype(np.float32)
