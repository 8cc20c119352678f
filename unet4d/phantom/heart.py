"""A beating heart as geometry: the surfaces of blood and muscle at every moment, in closed form.

Everything is described in *heart coordinates* (mm): z runs along the long axis of the left ventricle from the base
plane at end-diastole (z = 0) towards the apex, and a slice across it is described in polar coordinates (rho, theta):

    theta = rv_angle  <--  ( RV  )| myocardium ( LV ) |      rho = 0 on the axis
                              outer   epi       endo

Three radii, functions of (theta, z, t), describe the shape: the endocardium, the epicardium, and the outer border of
the right ventricle, which sits on the epicardium as a crescent. The volumes inside them are known, so that volumes
drive the motion: the left cavity follows the volume curve, the muscle keeps its volume (it is nearly incompressible),
the right cavity follows its own curve.

Normal values: Kawel-Boehm et al., "Reference ranges (normal values) for cardiovascular magnetic resonance",
J Cardiovasc Magn Reson 22:87, 2020.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
from scipy.interpolate import PchipInterpolator

from unet4d.phantom.phantom_study import Array

EJECTION_FRACTIONS = (0.22, 0.68)
"""Range for the smooth shape: from a failing heart to a healthy one."""


class Heart(SimpleNamespace):
    """One subject's anatomy at end-diastole and its contraction, by name (`draw_heart`). Lengths in mm, angles in radians."""


@dataclass(frozen=True)
class Beat:
    """The heart's shape at one moment."""

    contraction: float  # 0 at end-diastole, 1 at end-systole
    base_mm: float
    endo_radius_mm: float
    endo_length_mm: float
    epi_radius_mm: float
    epi_length_mm: float
    rv_base_mm: float
    rv_height_mm: float
    volumes_ml: tuple[float, float, float]  # right ventricle, myocardium, left ventricle: the shape's own


def draw_heart(rng: np.random.Generator, length_mm: float, width_mm: float, rv_angle: float) -> Heart:
    """Draw a subject: the long axis fits `length_mm`, the ventricles fit a plane `width_mm` wide.

    Failing hearts are wider with thinner walls, and their base moves less, as in patients.
    """
    ejection = rng.uniform(*EJECTION_FRACTIONS)
    radius = 25.0 + 14.0 * (0.5 - ejection) + rng.normal(0, 1.5)
    wall = float(np.clip(9.0 + 6.0 * (ejection - 0.5) + rng.normal(0, 1.2), 6.5, 12.5))
    wanted = 2 * (radius + wall) + 32.0 + 20.0
    scale = min(1.0, width_mm / wanted)
    radius, wall = radius * scale, wall * scale
    apex_wall = max(0.7 * wall, 3.0)
    length = length_mm - apex_wall
    equator, bluntness = rng.uniform(0.12, 0.28), rng.uniform(2.0, 2.8)
    cavity_ml = np.pi * _fullness(equator, bluntness) * radius**2 * length / 1000
    return Heart(
        radius_mm=radius,  # endocardium at the equator
        length_mm=length,  # base plane to endocardial apex
        wall_mm=wall,  # myocardium at the equator
        apex_wall_mm=apex_wall,
        equator=equator,  # where the widest ring lies, as a fraction of the length from the base
        bluntness=bluntness,  # 2: an ellipsoid, more: rather a bullet
        ellipticity=rng.uniform(0.0, 0.06),
        ellipse_angle=rng.uniform(0, np.pi),
        eccentricity=rng.uniform(0.0, 0.05),  # the cavity is set off within the muscle: one wall is thicker
        eccentric_angle=rng.uniform(0, 2 * np.pi),
        rv_angle=rv_angle,  # direction of the right ventricle, image x to y
        rv_half_width=rng.uniform(1.12, 1.38),
        rv_skew=rng.uniform(-0.3, 0.3),  # above 0: thickest towards its lower end
        rv_roundness=rng.uniform(0.55, 0.85),
        rv_extent=rng.uniform(0.8, 0.95),  # where the right ventricle ends, as a fraction of the length
        rv_volume_ml=cavity_ml * rng.uniform(0.65, 1.05),
        rv_wall_mm=2.5 * max(scale, 0.6),
        atrium=rng.uniform(0.72, 0.92),  # radius of the left atrium over that of the epicardium at the base
        fat_mm=rng.uniform(2.0, 6.5) * scale,
        papillary_mm=rng.uniform(3.5, 5.5) * scale,
        trabeculation=rng.uniform(0.4, 1.0),
        trabecula_phase=tuple(rng.uniform(0, 2 * np.pi, 4)),
        ejection_fraction=ejection,
        rv_ejection_fraction=float(np.clip(ejection + rng.normal(0, 0.06), 0.2, 0.65)),
        shortening=ejection * rng.uniform(0.22, 0.3),  # of the long axis, as a fraction of the length
        systole=rng.uniform(0.34, 0.41),  # end-systole as a fraction of the cycle
        rv_delay=rng.uniform(0.0, 0.03),  # fraction of the cycle by which the right ventricle comes later
        twist=np.deg2rad(rng.uniform(4, 14)) * ejection / 0.6,  # of the apex against the base
        # how far the axis moves in-plane at end-systole
        sway_mm=(scale * rng.normal(0, 1.0), scale * rng.normal(0, 1.0)),
    )


def contraction(time: Array, systole: float) -> Array:
    """Return the contraction of a ventricle, 0 full to 1 emptiest, at `time` (fraction of the cycle, any real number).

    Ejection until `systole`, isovolumic relaxation, rapid filling, diastasis, and the atrial kick back to 0.
    """
    diastole = 1.0 - systole
    ejection = [(0.0, 0.0), (0.12, 0.03), (0.50, 0.62), (0.80, 0.94), (1.0, 1.0)]
    filling = [(0.09, 0.96), (0.36, 0.36), (0.50, 0.26), (0.72, 0.21), (0.86, 0.10)]
    knots = [(part * systole, value) for part, value in ejection]
    knots += [(systole + part * diastole, value) for part, value in filling]
    return PchipInterpolator(*np.array([*knots, (1.0, 0.0)]).T)(np.mod(time, 1.0))


def beats(heart: Heart, frames: int) -> list[Beat]:
    """Return the heart at `frames` moments spread evenly over one cycle, end-diastole first."""
    time = np.arange(frames) / frames
    left = contraction(time, heart.systole)
    right = contraction(time - heart.rv_delay, heart.systole)
    return [beat(heart, float(a), float(b)) for a, b in zip(left, right, strict=True)]


def beat(heart: Heart, left: float, right: float) -> Beat:
    """Return the shape when the left ventricle is contracted by `left` and the right one by `right` (0 to 1).

    The cavity's volume and the muscle's volume give the two radii; the apex of the epicardium stays where it is.
    """
    base = heart.shortening * heart.length_mm * left
    endo_length = heart.length_mm - base
    epi_length = endo_length + heart.apex_wall_mm
    fullness = np.pi * _fullness(heart.equator, heart.bluntness)
    ring = 1 + heart.ellipticity**2 / 2
    endo_ring = ring + heart.eccentricity**2 / 2
    full = fullness * endo_ring * heart.radius_mm**2 * heart.length_mm
    outside = (heart.radius_mm + heart.wall_mm) ** 2 * (heart.length_mm + heart.apex_wall_mm)
    muscle = fullness * ring * outside - full
    cavity = full * (1 - heart.ejection_fraction * left)
    endo_radius = np.sqrt(cavity / (fullness * endo_ring * endo_length))
    epi_radius = np.sqrt((cavity + muscle) / (fullness * ring * epi_length))
    rv_base = base + 0.25 * heart.shortening * heart.length_mm * right
    rv_ml = heart.rv_volume_ml * (1 - heart.rv_ejection_fraction * right)
    shape = Beat(
        left, base, endo_radius, endo_length, epi_radius, epi_length, rv_base, 0.0, (rv_ml, muscle / 1e3, cavity / 1e3)
    )
    return replace(shape, rv_height_mm=_rv_height(heart, shape, rv_ml))


def _fullness(equator: float, bluntness: float) -> float:
    """Return the volume of the truncated ovoid over that of its cylinder: the integral of the squared `profile`."""
    cut = equator / (1 - equator)
    return (1 - equator) * (1 + cut - (1 + cut ** (bluntness + 1)) / (bluntness + 1))


def profile(heart: Heart, z: Array, base_mm: float, length_mm: float) -> Array:
    """Return the radius at z over that at the equator: an ovoid up to the base plane, a cylinder above it."""
    down = np.maximum(z - np.float32(base_mm), 0) / np.float32(length_mm)
    off = np.abs(down - np.float32(heart.equator)) / np.float32(1 - heart.equator)
    return np.sqrt(np.clip(1 - off ** np.float32(heart.bluntness), 0, None))


def ring(heart: Heart, theta: Array) -> Array:
    """Return the radius of the slightly elliptic section at theta over the mean one."""
    return 1 + np.float32(heart.ellipticity) * np.cos(2 * theta - np.float32(2 * heart.ellipse_angle))


def crescent(heart: Heart, shape: Beat, theta: Array, z: Array) -> tuple[Array, Array]:
    """Return the thickness of the right ventricle over its greatest one, and the place of theta in it (-1 to 1 inside)."""
    end = heart.rv_extent * heart.length_mm
    down = np.clip((z - np.float32(shape.rv_base_mm)) / np.float32(end - shape.rv_base_mm), 0, 1)
    turn = theta - np.float32(heart.rv_angle) - np.float32(0.18) * (1 - down)
    turn = np.mod(turn + np.float32(np.pi), np.float32(2 * np.pi)) - np.float32(np.pi)
    across = turn / (np.float32(heart.rv_half_width) * (1 - np.float32(0.25) * down))
    skewed = across - np.float32(heart.rv_skew) * np.clip(1 - across**2, 0, None)
    bump = np.clip(1 - skewed**2, 0, None) ** np.float32(heart.rv_roundness) * (1 - down**2) ** np.float32(0.8)
    return bump, across


def _rv_height(heart: Heart, shape: Beat, volume_ml: float) -> float:
    """Return the greatest thickness at which the crescent has the volume `volume_ml`.

    A slice of it has the area  int (epi + h)^2/2 - epi^2/2 dtheta = int epi h + h^2/2 dtheta,  quadratic in h.
    """
    theta = np.linspace(-np.pi, np.pi, 256, endpoint=False, dtype=np.float32)[:, None]
    edges = np.linspace(shape.rv_base_mm, heart.rv_extent * heart.length_mm, 81, dtype=np.float32)
    z = ((edges[1:] + edges[:-1]) / 2)[None]
    bump, _ = crescent(heart, shape, theta, z)
    epi = shape.epi_radius_mm * profile(heart, z, shape.base_mm, shape.epi_length_mm) * ring(heart, theta)
    cell = (2 * np.pi / 256) * float(edges[1] - edges[0])
    linear, square = float((epi * bump).sum()) * cell, float((bump**2).sum()) / 2 * cell
    return float((-linear + np.sqrt(linear**2 + 4 * square * volume_ml * 1000)) / (2 * square))
