"""A simulated cine MR scanner: contrast, partial volume, coil shading, motion ghosts and noise."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from scipy.ndimage import gaussian_filter

from unet4d.phantom.cover import Cover
from unet4d.phantom.phantom_study import Array
from unet4d.phantom.thorax import grain

OPPOSITION = 0.9
"""Share by which fat opposes water within a voxel: 1 would cancel equal parts altogether."""


class Scanner(SimpleNamespace):
    """Appearance of one study, by name (`draw_scanner`). Signals relative to the blood of the left ventricle."""


def draw_scanner(rng: np.random.Generator) -> Scanner:
    """Draw contrast and image quality; blood is 2.3 to 3.8 times as bright as muscle, as in clinical cine MRI."""
    return Scanner(
        myocardium=1 / rng.uniform(2.3, 3.8),
        rv_blood=rng.uniform(0.78, 1.0),
        flow=rng.uniform(0.03, 0.09),  # how much the blood's signal varies with its motion
        texture=rng.uniform(0.03, 0.07),
        noise=rng.uniform(0.015, 0.05),  # standard deviation of each of the two channels of the signal
        ghost=rng.uniform(0.0, 0.06),
        blur_mm=rng.uniform(0.75, 1.1),
        bias=rng.uniform(0.1, 0.45),
        gain=rng.uniform(150, 420),
    )


def paint_heart(
    scanner: Scanner, heart: Cover, water: Array, fat: Array, fat_signal: float
) -> tuple[Array, Array, Array]:
    """Lay the heart over the thorax and average through the slice: water, fat and blood, each `(X, Y, Z)`."""
    muscle = scanner.myocardium

    def over(cover: Array, new_water: Array | float, new_fat: float) -> None:
        nonlocal water, fat
        water = water + cover * (new_water - water)
        fat = fat + cover * (new_fat - fat)

    rv_signal = scanner.rv_blood * (1 - heart.rv_muscle) + muscle * heart.rv_muscle
    lv_signal = 1 - heart.lv_muscle + muscle * heart.lv_muscle
    over(heart.pericardium, 0.12, 0.0)
    over(heart.fat, 0.05, 0.9 * fat_signal)
    over(heart.rv_wall, muscle, 0.0)
    over(heart.rv_inside, rv_signal, 0.0)
    over(heart.atrium_wall, muscle, 0.0)
    over(heart.atrium, 0.92, 0.0)
    over(heart.myocardium, muscle, 0.0)
    over(heart.lv, lv_signal, 0.0)
    blood = heart.rv_inside + heart.atrium + heart.lv
    return water.mean(-1), fat.mean(-1), np.minimum(blood, 1).mean(-1)


def magnitude(
    scanner: Scanner, rng: np.random.Generator, water: Array, fat: Array, blood: Array, speed: Array, pixel_mm: float
) -> Array:
    """Compute the image `(T, X, Y, Z)`, blood near 1, from water, fat and blood of the same shape.

    `speed (T,)`, 0 to 1, is that of the blood, which mottles where it moves fast.
    """
    frames, *plane = water.shape
    fine, coarse = 1.2 / pixel_mm, 4.0 / pixel_mm
    texture = 1 + scanner.texture * (
        0.5 * grain(rng, tuple(plane), (fine, fine, 0.4)) + grain(rng, tuple(plane), (coarse, coarse, 0.7))
    )
    large = grain(rng, tuple(plane), (coarse, coarse, 0.6))
    small = grain(rng, tuple(plane), (1.5 * fine, 1.5 * fine, 0.4))
    turn = 2 * np.pi * np.arange(frames, dtype=np.float32)[:, None, None, None] / frames
    eddies = np.cos(turn) * large + np.sin(turn) * small
    amount = (scanner.flow * (0.35 + 0.65 * speed)).astype(np.float32)[:, None, None, None]
    water = water * texture * (1 + amount * blood * (eddies - 0.5))
    sigma = (0, scanner.blur_mm / pixel_mm, scanner.blur_mm / pixel_mm, 0)
    water, fat = gaussian_filter(water, sigma), gaussian_filter(fat * texture, sigma)
    return np.sqrt(np.maximum(water**2 + fat**2 - 2 * OPPOSITION * water * fat, 0)).astype(np.float32)


def acquire(scanner: Scanner, rng: np.random.Generator, signal: Array, coil: Array) -> Array:
    """Add motion ghosts along the phase-encoding axis Y, the coil's shading `(X, Y, Z)` and Rician noise."""
    moving = signal - signal.mean(0, keepdims=True)
    ghosts = np.roll(moving, signal.shape[2] // 2, axis=2) - 0.5 * np.roll(moving, signal.shape[2] // 4, axis=2)
    seen = (signal + np.float32(scanner.ghost) * ghosts) * coil
    real = seen + scanner.noise * _channel(rng, signal.shape)
    return np.hypot(real, scanner.noise * _channel(rng, signal.shape)).astype(np.float32)


def coil_shading(scanner: Scanner, rng: np.random.Generator, towards_chest: Array) -> Array:
    """Return a smooth sensitivity `(X, Y, Z)`, mean 1, stronger towards the chest; `towards_chest` runs from -1 to 1."""
    plane = towards_chest.shape
    slow = grain(rng, plane, (plane[0] / 4, plane[1] / 4, 1.5))
    shading = np.exp(scanner.bias * (0.6 * towards_chest + 0.15 * slow)).astype(np.float32)
    return shading / shading.mean()


def _channel(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Return white noise of standard deviation 1, made a little smooth in-plane as by the scanner's interpolation."""
    noise = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), (0, 0.5, 0.5, 0), mode="wrap")
    return noise / noise.std()
