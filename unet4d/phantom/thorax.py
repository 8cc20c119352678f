"""The surroundings of the heart in a short-axis picture: chest wall, lungs, diaphragm, liver, stomach, aorta.

Each place gets two magnetizations, water and fat, as `(X, Y, Z, S)` arrays with blood at 1: in balanced SSFP the two
precess in opposite directions, and voxels that hold both turn dark (the "India ink" line around every organ).
Relative brightness follows T2/T1: Scheffler & Lehnhardt, "Principles and applications of balanced SSFP techniques",
Eur Radiol 13:2409, 2003.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
from scipy.ndimage import gaussian_filter

from unet4d.phantom.phantom_study import Array

Field = Callable[[float, float], Array]
"""Noise of a width in mm, and its width through the slices."""
Step = Callable[[Array], Array]
"""A smooth step from 0 to 1 at distance 0."""


class Thorax(SimpleNamespace):
    """Positions (mm from the axis of the left ventricle), angles in the image (x to y) and brightness."""


def draw_thorax(
    rng: np.random.Generator, chest_angle: float, reach_mm: float, radius_mm: float, muscle: float
) -> Thorax:
    """Draw surroundings for a heart that reaches `reach_mm` towards the chest wall and `radius_mm` elsewhere."""
    scale = radius_mm / 34.0
    return Thorax(
        chest_angle=chest_angle,
        chest_mm=reach_mm + rng.uniform(4, 14) * scale,  # axis to the inner chest wall, at the base
        chest_rise_mm=rng.uniform(16, 40) * scale,  # how much nearer the wall is at the apex
        chest_curve_mm=rng.uniform(110, 240),
        muscle_mm=rng.uniform(7, 13),
        skin_fat_mm=rng.uniform(12, 40),
        rib_phase=rng.uniform(0, 1),
        belly_angle=np.deg2rad(rng.normal(92, 9)),
        belly_mm=radius_mm + rng.uniform(5, 14) * scale,
        belly_rise_mm=rng.uniform(10, 28) * scale,
        dome_mm=rng.uniform(90, 260) * rng.choice([1.0, 1.0, -2.0]),
        split_mm=rng.uniform(0, 30) * scale,  # where the liver ends and the stomach begins
        aorta_angle=np.deg2rad(rng.uniform(22, 62)),
        aorta_mm=radius_mm + rng.uniform(16, 24) * scale,
        aorta_radius_mm=rng.uniform(9, 13) * scale,
        liver=rng.uniform(0.28, 0.46),
        muscle=muscle * rng.uniform(0.75, 1.0),
        fat=rng.uniform(0.85, 1.25),
        stomach=rng.uniform(0.3, 0.9),
        lung=rng.uniform(0.04, 0.09),
        pad_mm=rng.uniform(4, 16) * scale,  # fat in the corner between heart, chest wall and diaphragm
    )


def grain(rng: np.random.Generator, shape: tuple[int, ...], sigma: tuple[float, ...]) -> Array:
    """Return a smooth random field, mean 0 and standard deviation 1; `sigma` in voxels per axis."""
    field = gaussian_filter(rng.standard_normal(shape).astype(np.float32), sigma, mode="wrap")
    return (field - field.mean()) / (field.std() + np.float32(1e-6))


def render_thorax(
    thorax: Thorax, rng: np.random.Generator, x: Array, y: Array, z: Array, pixel_mm: float
) -> tuple[Array, Array]:
    """Return water and fat, each `(X, Y, Z, S)`, at points x, y (mm from the heart's axis) and z (0 at the base, 1 at the apex)."""
    plane = x.shape[:3]

    def field(sigma_mm: float, through: float) -> Array:
        in_plane = sigma_mm / pixel_mm
        return grain(rng, plane, (in_plane, in_plane, through))[..., None]

    def step(distance: Array) -> Array:
        return np.clip(distance / np.float32(pixel_mm) + 0.5, 0, 1)

    water, fat = _lungs(thorax, field, z)
    wavy = 1.5 * field(9.0, 1.0)

    d, side = _frame(thorax.belly_angle, x, y)
    depth = d - (thorax.belly_mm - thorax.belly_rise_mm * z) - side**2 / (2 * thorax.dome_mm) + wavy
    stomach = step(side * np.sign(np.sin(thorax.belly_angle)) * -1 - thorax.split_mm + 22 * z - 8 + 4 * field(8.0, 1.0))
    liver_water = thorax.liver * (1 + 0.07 * field(1.5, 0.4)) + 0.5 * np.clip(field(1.6, 0.8) - 2.2, 0, 0.8)
    belly_water, belly_fat = _stomach(thorax, field)
    inner = step(depth - 2.0)
    water, fat = _over(water, fat, step(depth), 0.8 * thorax.muscle, 0.0)
    water, fat = _over(water, fat, inner * (1 - stomach), liver_water, 0.0)
    water, fat = _over(water, fat, inner * stomach, belly_water, belly_fat)

    water, fat = _aorta(thorax, step, x, y, z, water, fat)
    return _chest(thorax, step, field, x, y, z, water, fat)


def _frame(angle: float, x: Array, y: Array) -> tuple[Array, Array]:
    """Return the distance along the direction `angle` and across it."""
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return c * x + s * y, -s * x + c * y


def _over(
    water: Array, fat: Array, cover: Array, new_water: Array | float, new_fat: Array | float
) -> tuple[Array, Array]:
    """Paint a tissue over what is there."""
    return water + cover * (new_water - water), fat + cover * (new_fat - fat)


def _lungs(thorax: Thorax, field: Field, z: Array) -> tuple[Array, Array]:
    """Return dark lungs, with vessels across the picture as bright dots and a few larger ones along it."""
    dots = np.clip(field(1.3, 0.7) - 1.9, 0, 1) * 0.8 + np.clip(field(2.6, 1.0) - 1.9, 0, 1) * 0.9
    air = thorax.lung * (1 + 0.35 * field(1.5, 0.3) + 0.3 * field(10.0, 1.0))
    water = np.broadcast_to(np.maximum(air, 0.01) + dots, z.shape).astype(np.float32)
    return water, np.zeros_like(water)


def _stomach(thorax: Thorax, field: Field) -> tuple[Array, Array]:
    """Return stomach and bowel: folds, patches of content, fat between."""
    patches = field(7.0, 0.8)
    content = np.where(patches > 0.1, thorax.stomach, 0.32) * (1 + 0.22 * field(1.8, 0.4))
    fatty = np.clip(1.5 * (field(6.0, 0.8) - 0.4), 0, 1)
    return np.maximum(content * (1 - fatty), 0.02), fatty * thorax.fat * (1 + 0.08 * field(2.0, 0.4))


def _aorta(thorax: Thorax, step: Step, x: Array, y: Array, z: Array, water: Array, fat: Array) -> tuple[Array, Array]:
    """Paint the descending aorta, as bright as the ventricles, moving away from the heart towards the apex."""
    away = thorax.aorta_mm + 14 * z
    cx, cy = away * np.float32(np.cos(thorax.aorta_angle)), away * np.float32(np.sin(thorax.aorta_angle))
    rho = np.hypot(x - cx, (y - cy) * 0.9)
    present = step(6 * (0.85 - z))
    water, fat = _over(water, fat, present * step(thorax.aorta_radius_mm + 4.0 - rho), 0.05, 0.5 * thorax.fat)
    water, fat = _over(water, fat, present * step(thorax.aorta_radius_mm + 1.5 - rho), thorax.muscle, 0.0)
    return _over(water, fat, present * step(thorax.aorta_radius_mm - rho), 0.95, 0.0)


def _chest(
    thorax: Thorax, step: Step, field: Field, x: Array, y: Array, z: Array, water: Array, fat: Array
) -> tuple[Array, Array]:
    """Paint fat pad, muscle with ribs, subcutaneous fat, skin, and the air outside."""
    d, side = _frame(thorax.chest_angle, x, y)
    wall = d - (thorax.chest_mm - thorax.chest_rise_mm * z) + side**2 / (2 * thorax.chest_curve_mm) + field(8.0, 1.0)
    marbling = 1 + 0.05 * field(5.0, 0.8) - 0.45 * np.clip(field(2.5, 1.2) - 1.7, 0, 1)
    belly, _ = _frame(thorax.belly_angle, x, y)
    corner = step(np.minimum(wall + thorax.pad_mm, belly - 0.5 * thorax.belly_mm + thorax.pad_mm) + 3 * field(7.0, 0.8))
    water, fat = _over(water, fat, corner * step(8 * z - 1), 0.04, thorax.fat * marbling)
    water, fat = _over(water, fat, step(wall), thorax.muscle * (1 + 0.1 * field(1.8, 0.4)), 0.0)
    along = np.mod(side / 26.0 + thorax.rib_phase + 0.9 * z, 1.0) * 26.0 - 13.0
    rib = np.hypot(along / 1.6, wall - 0.5 * thorax.muscle_mm)
    water, fat = _over(water, fat, step(0.40 * thorax.muscle_mm - rib), 0.03, 0.0)
    water, fat = _over(water, fat, step(0.40 * thorax.muscle_mm - 1.6 - rib), 0.2, 0.35 * thorax.fat)
    outer = wall - thorax.muscle_mm
    water, fat = _over(water, fat, step(outer), 0.04, thorax.fat * marbling)
    water, fat = _over(water, fat, step(outer - thorax.skin_fat_mm), 0.3, 0.0)
    return _over(water, fat, step(outer - thorax.skin_fat_mm - 2.5), 0.0, 0.0)
