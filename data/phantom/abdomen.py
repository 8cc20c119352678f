"""Kidneys with a lesion in one of them, and the organs around them, as geometry.

Places in mm: x towards the left, y towards the feet, z towards the back, 0 between the kidneys. A kidney is an ellipsoid with a
dent towards the spine; along each of its rays lie, from the center out,

    sinus (fat) | pyramids of medulla, columns of cortex between them | cortex | the surface
    0          SINUS                                                PYRAMID    1
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unet4d.phantom.phantom_study import Array

TISSUES = (
    *("air", "renal cortex", "renal medulla", "lesion", "fat", "muscle", "bone", "liver", "spleen", "blood"),
    *("bowel", "sinus"),
)
"""A tissue's number is its place; the labels are those of the first four."""
NUMBER = {name: number for number, name in enumerate(TISSUES)}
SINUS, PYRAMID = 0.42, 0.76


@dataclass(frozen=True)
class Kidney:
    """One kidney. Lengths in mm, angles in radians."""

    center: NDArray[np.float64]  # (3,)
    axes: NDArray[np.float64]  # (3,), half of its width, length and depth
    lean: float  # of its upper end towards the spine
    side: int  # 1: the left one, with its dent towards falling x
    pyramids: int
    phase: float


@dataclass(frozen=True)
class Abdomen:
    """One subject's anatomy with nothing breathed in."""

    kidneys: tuple[Kidney, Kidney]
    lesion_center: NDArray[np.float64]  # (3,)
    lesion_mm: float  # its radius
    body: NDArray[np.float64]  # (2,), half of the trunk's width and depth
    skin_mm: float
    bowel: NDArray[np.float64]  # (N, 4), places and radii of its loops


def draw_abdomen(rng: np.random.Generator) -> Abdomen:
    """Draw a subject with a lesion at the outer surface of one kidney, half of it or more within."""
    kidneys = []
    for side in (-1, 1):
        center = np.array([side * rng.uniform(54, 62), rng.normal(6 if side < 0 else -4, 5), rng.normal(8, 3)])
        axes = np.array([rng.uniform(25, 30), rng.uniform(48, 58), rng.uniform(22, 27)])
        kidneys.append(
            Kidney(center, axes, rng.uniform(0.1, 0.3), side, int(rng.integers(6, 9)), rng.uniform(0, 2 * np.pi))
        )
    host, radius = kidneys[int(rng.integers(2))], rng.uniform(10, 17)
    angle = rng.uniform(-0.9, 0.9)
    outwards = np.array([host.side * np.cos(angle), np.sin(angle), rng.normal(0, 0.2)])
    place = host.center + _leant(outwards * host.axes * rng.uniform(0.72, 0.9), -host.lean * host.side)
    loops = np.stack([*rng.uniform([-110, -30, -50], [110, 100, -18], (14, 3)).T, rng.uniform(9, 16, 14)], axis=1)
    body = np.array([rng.uniform(148, 168), rng.uniform(96, 112)])
    return Abdomen((kidneys[0], kidneys[1]), place, radius, body, rng.uniform(8, 26), loops)


def still_tissues(abdomen: Abdomen, points: Array) -> NDArray[np.uint8]:
    """Return tissue numbers (...) at points (3, ...) without what breathing moves; for simplicity the bowel stays."""
    x, y, z = points
    out = np.full(x.shape, NUMBER["air"], np.uint8)
    depth = 1 - np.hypot(x / abdomen.body[0], (z + 12) / abdomen.body[1])
    inner = depth - abdomen.skin_mm / abdomen.body[0]
    out[depth > 0] = NUMBER["fat"]
    out[inner > 0] = NUMBER["muscle"]
    out[inner > 0.09] = NUMBER["fat"]
    for place in abdomen.bowel:
        out[_inside(points, place[:3], place[3:].repeat(3)) & (inner > 0.09)] = NUMBER["bowel"]
    for side in (-1, 1):  # beside the spine and along it
        out[((side * x - 40) / 26) ** 2 + ((z - 52) / 24) ** 2 < 1] = NUMBER["muscle"]
        out[(((side * x - 26 - 0.15 * (y + 60)) / 15) ** 2 + ((z - 26) / 15) ** 2 < 1) & (y > -60)] = NUMBER["muscle"]
    spine = np.hypot(x, z - 46) < 24
    out[spine] = np.where(np.mod(y[spine], 34) < 27, NUMBER["bone"], NUMBER["muscle"])
    out[np.hypot(x - 8, z - 12) < 9.5] = NUMBER["blood"]  # the aorta
    out[((x + 15) / 11) ** 2 + ((z - 10) / 9) ** 2 < 1] = NUMBER["blood"]  # the vena cava
    return out


def paint_organs(abdomen: Abdomen, points: Array, still: NDArray[np.uint8], breath_mm: Array) -> NDArray[np.uint8]:
    """Return a copy of the tissues `still` (...) at points (3, ...) with the organs over them, moved by `breath_mm` (3,)."""
    out = still.copy()
    soft = (still == NUMBER["fat"]) | (still == NUMBER["bowel"])
    for name, center, axes in (("liver", (-82, -62, -14), (70, 84, 72)), ("spleen", (104, -62, 14), (30, 52, 38))):
        out[_inside(points, np.array(center) + breath_mm, np.array(axes)) & soft] = NUMBER[name]
    for kidney in abdomen.kidneys:
        _paint_kidney(kidney, points, out, breath_mm)
    ball = np.full(3, abdomen.lesion_mm)
    out[_inside(points, abdomen.lesion_center + breath_mm, ball)] = NUMBER["lesion"]
    return out


def shape_volumes_ml(abdomen: Abdomen, step_mm: float = 1.2) -> NDArray[np.float64]:
    """Return the volumes of background (NaN), cortex, medulla and lesion (a ball); the kidneys' on a fine grid."""
    counts = np.zeros(4)
    for kidney in abdomen.kidneys:
        reach = kidney.axes + abs(np.sin(kidney.lean)) * np.array([kidney.axes[1], 0, 0])
        sides = [np.arange(c - r, c + r, step_mm, dtype=np.float32) for c, r in zip(kidney.center, reach, strict=True)]
        box = np.stack(np.meshgrid(*sides, indexing="ij"))
        tissues = np.zeros(box.shape[1:], np.uint8)
        _paint_kidney(kidney, box, tissues, np.zeros(3))
        tissues[_inside(box, abdomen.lesion_center, np.full(3, abdomen.lesion_mm))] = NUMBER["air"]
        counts += [np.count_nonzero(tissues == number) for number in range(4)]
    volumes = counts * step_mm**3 / 1000
    return np.array([np.nan, volumes[1], volumes[2], 4 / 3 * np.pi * abdomen.lesion_mm**3 / 1000])


def _inside(points: Array, center: Array, axes: Array) -> NDArray[np.bool_]:
    """Return whether each of the points (3, ...) lies in an ellipsoid along the axes."""
    x, y, z = (((p - np.float32(c)) / np.float32(a)) ** 2 for p, c, a in zip(points, center, axes, strict=True))
    inside: NDArray[np.bool_] = x + y + z < 1
    return inside


def _paint_kidney(kidney: Kidney, points: Array, out: NDArray[np.uint8], breath_mm: Array) -> None:
    """Paint cortex, medulla and sinus over the tissues `out` (...) at points (3, ...), in place."""
    center = kidney.center + breath_mm
    near = _inside(points, center, np.full(3, kidney.axes.max()))
    place = _leant((points[:, near].T - center), kidney.lean * kidney.side) / kidney.axes
    place[:, 0] *= -kidney.side  # now towards the dent
    away = np.linalg.norm(place, axis=1)
    u, v, w = (place / np.maximum(away, 1e-6)[:, None]).T
    surface = 1 - 0.42 * np.exp((u - 1) / 0.13)
    within = away / surface
    wave = np.cos(kidney.pyramids * np.arctan2(v, -u) + kidney.phase) * np.cos(2.6 * w + 0.4)
    edge = np.where(wave > -0.25, PYRAMID, 0.5)
    inner = np.where(within < SINUS, NUMBER["sinus"], NUMBER["renal medulla"])
    number = np.where(within < edge, inner, NUMBER["renal cortex"])
    out[near] = np.where(within < 1, number, out[near])


def _leant(places: Array, angle: float) -> Array:
    """Return places (..., 3) turned about z by `angle`."""
    c, s = np.cos(angle), np.sin(angle)
    x, y, z = np.moveaxis(places, -1, 0)
    return np.stack([c * x - s * y, s * x + c * y, z], axis=-1)
