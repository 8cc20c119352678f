"""The phantom's heart on a grid: the fractions of each sub-voxel that blood, muscle and fat fill at one moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet4d.phantom.heart import Beat, Heart, crescent, profile, ring
from unet4d.phantom.phantom_study import Array


@dataclass(frozen=True)
class Cover:
    """The fraction of each sub-voxel that a tissue fills, arrays `(X, Y, Z, S)`; S samples through a slice.

    `lv`, `myocardium` and `rv` do not overlap. The others are for the picture only: `lv_muscle` (papillary muscles and
    trabeculae, inside `lv`), `rv_muscle` (inside `rv`), the atria above the base plane, the thin walls, the fat.
    """

    lv: Array
    myocardium: Array
    rv: Array
    lv_muscle: Array
    rv_muscle: Array
    rv_inside: Array
    rv_wall: Array
    atrium: Array
    atrium_wall: Array
    fat: Array
    pericardium: Array


def cover(heart: Heart, shape: Beat, points: tuple[Array, Array, Array], pixel_mm: float, step_mm: float) -> Cover:
    """Fill the sub-voxels at `points` (x, y, z in heart coordinates, mm; each `(X, Y, Z, S)`) with the heart.

    A border that crosses a sub-voxel fills it in part: in-plane over `pixel_mm`, through-plane over `step_mm`.
    """
    x = points[0] - np.float32(heart.sway_mm[0] * shape.contraction)
    y = points[1] - np.float32(heart.sway_mm[1] * shape.contraction)
    z = points[2]
    rho = np.hypot(x, y)
    theta = np.arctan2(y, x)

    def inside(radius: Array) -> Array:
        return np.clip((radius - rho) / np.float32(pixel_mm) + 0.5, 0, 1) * (radius > 0)

    section = ring(heart, theta)
    endo = shape.endo_radius_mm * profile(heart, z, shape.base_mm, shape.endo_length_mm)
    endo = endo * (section + np.float32(heart.eccentricity) * np.cos(theta - np.float32(heart.eccentric_angle)))
    epi_profile = profile(heart, z, shape.base_mm, shape.epi_length_mm)
    epi = np.float32(shape.epi_radius_mm) * epi_profile * section
    bump, across = crescent(heart, shape, theta, z)
    height = np.float32(shape.rv_height_mm) * bump

    below = np.clip((z - shape.base_mm) / step_mm + 0.5, 0, 1).astype(np.float32)
    rv_below = np.clip((z - shape.rv_base_mm) / step_mm + 0.5, 0, 1).astype(np.float32)
    height = height * (0.7 + 0.3 * np.clip(1 + (z - shape.rv_base_mm) / np.float32(12.0), 0, 1))
    in_endo, in_epi = inside(endo), inside(epi)
    rv_inside = np.clip(inside(epi + height) - in_epi, 0, 1) * (height > 0)
    atrium_radius = np.float32(heart.atrium) * epi
    outer = np.minimum(epi, np.maximum(epi * below, atrium_radius + np.float32(2.0)))
    walls = outer + np.where(height > 0, epi - outer + height + np.float32(heart.rv_wall_mm), 0)
    groove = np.exp(-(((np.abs(across) - 1) / 0.22) ** 2)) * (1.2 - 0.6 * np.clip(z / heart.length_mm, 0, 1))
    fat = np.float32(heart.fat_mm) * (0.35 + 0.65 * np.clip(1.3 - np.abs(across), 0, 1) + groove) * (epi > 0)
    return Cover(
        lv=in_endo * below,
        myocardium=(in_epi - in_endo) * below,
        rv=rv_inside * rv_below,
        lv_muscle=_within(in_endo * below > 0, _lv_muscle, heart, shape, x, y, z, theta, endo, pixel_mm),
        rv_muscle=_within(rv_inside > 0, _rv_muscle, heart, theta, z, (rho - epi) / np.maximum(height, 1)),
        rv_inside=rv_inside,
        rv_wall=np.clip(inside(walls) - in_epi, 0, 1) * (height > 0),
        atrium=inside(atrium_radius) * (1 - below),
        atrium_wall=inside(atrium_radius + np.float32(2.0)) * (1 - below),
        fat=inside(walls + fat),
        pericardium=inside(walls + fat + np.float32(1.2)),
    )


def _lv_muscle(
    heart: Heart, shape: Beat, x: Array, y: Array, z: Array, theta: Array, endo: Array, pixel_mm: float
) -> Array:
    """Return two papillary muscles opposite the septum, and trabeculae along the wall, denser towards the apex."""
    down = (z - np.float32(shape.base_mm)) / np.float32(shape.endo_length_mm)
    turned = np.float32(heart.twist * shape.contraction) * (down - 0.3)
    rho, muscle = np.hypot(x, y), np.zeros_like(x)
    thickness = heart.papillary_mm * (1 + 0.15 * shape.contraction)
    along = np.sqrt(np.clip(1 - ((down - 0.52) / 0.27) ** 2, 0, None))
    for side in (0.75, -0.8):
        angle = heart.rv_angle + np.pi + side + turned
        c, s = np.cos(angle), np.sin(angle)
        away = np.hypot((c * x + s * y - 0.72 * endo) / 1.5, c * y - s * x)
        muscle = np.maximum(muscle, np.clip((thickness * along - away) / pixel_mm + 0.5, 0, 1) * (along > 0))
    a, b, c, d = heart.trabecula_phase
    turn = theta - turned
    ridges = np.cos(11 * turn + 5 * down + a) + np.cos(17 * turn - 9 * down + b) + np.cos(6 * turn + 14 * down + c)
    depth = (0.12 + 0.2 * np.clip(down, 0, 1)) * (1 - 0.5 * np.cos(theta - heart.rv_angle + 0.3 * np.cos(d)))
    reach = 1 - depth * heart.trabeculation * np.clip(0.35 + 0.45 * ridges, 0, 1)
    rim = np.clip((rho - reach * endo) / pixel_mm + 0.5, 0, 1)
    return np.maximum(muscle, 0.75 * rim).astype(np.float32)


def _rv_muscle(heart: Heart, theta: Array, z: Array, outwards: Array) -> Array:
    """Return the trabeculae of the right ventricle: streaks near its free wall, more of them towards the apex."""
    down = np.clip(z / np.float32(heart.length_mm), 0, 1)
    a, b, c, d = heart.trabecula_phase
    streaks = np.cos(15 * theta + 6 * outwards + b) + np.cos(9 * theta - 11 * down + d)
    streaks = streaks + np.cos(8 * outwards + 7 * theta + a) + np.cos(21 * theta + 16 * down + c)
    near_wall = np.clip(1.6 * outwards - 1.0 + 1.1 * down, 0, 1)
    return (heart.trabeculation * 0.8 * near_wall * np.clip(0.55 * streaks - 0.15, 0, 1)).astype(np.float32)


def _within(mask: NDArray[np.bool_], fill: Callable[..., Array], *arguments: Any) -> Array:
    """Compute `fill` inside the mask, 0 elsewhere: arrays among its arguments are indexed by the mask."""
    out = np.zeros(mask.shape, dtype=np.float32)
    out[mask] = fill(*(value[mask] if isinstance(value, np.ndarray) else value for value in arguments))
    return out
