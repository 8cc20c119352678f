"""A vessel as a tube about a curved centerline, and the blood that runs through it: known in closed form.

                 ___________                   c(s)   centerline, s mm from its start; t(s) its direction
    valve  ---->|___________)  ----> Q(t)      R(s)   radius at rest, w(t) R(s) while the pulse passes
                                               rho    distance from the centerline

    speed      u = Q / (pi R^2) * (n + 2) / n * (1 - (rho / R)^n)      n = 2: Poiseuille's parabola; more: nearer to a plug
    velocity   v = u * (t + R' / R * (p - c))                          along the wall where the tube narrows

Q passes through every cross-section. In a tube of constant radius, however curved, v has no divergence, for u does not change
along the tube; where it narrows, that holds but for a product of taper and curvature. The blood that the wall's motion stores is
left out. The profile is that of Hughes & Lubliner, "On the one-dimensional theory of blood flow in the larger vessels", Math Biosci
18:161, 1973.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.spatial import cKDTree

from unet4d.phantom.phantom_study import Array

STEP_MM = 0.5
"""Between the centerline's samples."""
REACH = 1.5
"""Distance from the centerline within which voxels are considered, in radii."""
OUTFLOW_MM, BEYOND_MM = 24.0, 200.0
"""Lengths of a tube upstream of its valve, and straight on after its last point."""


@dataclass(frozen=True)
class Vessel:
    """A tube with a valve, from the plane of which it counts, that runs out of the picture at its end.

    Attributes:
        center: (N, 3) in mm, `STEP_MM` apart.
        valve: which of them lies in the valve's plane; what lies upstream belongs to the heart.
        tangent: (N, 3), unit vectors downstream.
        radius_mm: (N,) at rest.
        bluntness: n of the velocity's profile.
    """

    center: NDArray[np.float64]
    valve: int
    tangent: NDArray[np.float64]
    radius_mm: NDArray[np.float64]
    bluntness: float


@dataclass(frozen=True)
class Near:
    """The M voxels near a vessel, and their positions relative to it.

    Attributes:
        voxels: (M,) flat indices into the grid.
        rho: (M,), distance from the centerline over the radius at rest.
        radius_mm: (M,), of the nearest cross-section, at rest.
        direction: (M, 3), the velocity's at unit speed: along the tube, and along the wall where it narrows.
        counts: (M,), whether the voxel lies downstream of the valve.
    """

    voxels: NDArray[np.int64]
    rho: Array
    radius_mm: Array
    direction: Array
    counts: NDArray[np.bool_]


def tube(controls: Array, end: Array, radii_mm: Array, bluntness: float) -> Vessel:
    """Return a vessel from its valve through the points `controls` (N, 3), which leaves the last one in the direction `end`.

    Args:
        radii_mm: (N,), at the points; in between it changes smoothly, upstream and beyond it stays.
    """
    chord = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(controls, axis=0), axis=1))])
    curve = CubicSpline(chord, controls, bc_type=("natural", (1, np.asarray(end, float))))
    fine = np.linspace(0, chord[-1], 4000)
    points = curve(fine)
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    places = np.interp(np.arange(0, along[-1], STEP_MM), along, fine)
    center, radius = curve(places), CubicSpline(chord, radii_mm, bc_type="clamped")(places)
    before = curve(0.0) - np.arange(OUTFLOW_MM, 0, -STEP_MM)[:, None] * curve(0.0, 1) / np.linalg.norm(curve(0.0, 1))
    beyond = curve(chord[-1]) + np.arange(STEP_MM, BEYOND_MM, STEP_MM)[:, None] * end
    center = np.concatenate([before, center, beyond])
    radius = np.concatenate([np.full(len(before), radius[0]), radius, np.full(len(beyond), radius[-1])])
    tangent = np.gradient(center, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    return Vessel(center, len(before), tangent, radius, bluntness)


def near(vessel: Vessel, points: Array) -> Near:
    """Return the voxels at `points` (X, Y, Z, 3) in mm that lie near a vessel."""
    flat = points.reshape(-1, 3)
    reach = REACH * vessel.radius_mm.max()
    low, high = vessel.center.min(0) - reach, vessel.center.max(0) + reach
    voxels = np.flatnonzero(((flat >= low) & (flat <= high)).all(1))
    distance, nearest = cKDTree(vessel.center).query(flat[voxels], distance_upper_bound=reach)
    voxels, distance, nearest = (values[np.isfinite(distance)] for values in (voxels, distance, nearest))
    away = flat[voxels] - vessel.center[nearest]
    tangent, radius = vessel.tangent[nearest], vessel.radius_mm[nearest]
    taper = np.gradient(vessel.radius_mm, STEP_MM)[nearest]
    direction = tangent + (taper / radius)[:, None] * away
    return Near(voxels, distance / radius, radius, direction, nearest >= vessel.valve)


def velocity(vessel: Vessel, place: Near, flow_ml_s: float, widening: float) -> Array:
    """Compute the velocity in mm/s (M, 3) of the blood near a vessel at one moment; 0 outside.

    Args:
        flow_ml_s: Q.
        widening: w, the radius over that at rest.
    """
    n, radius = vessel.bluntness, widening * place.radius_mm
    mean = 1000 * flow_ml_s / (np.pi * radius**2)
    profile = (n + 2) / n * np.clip(1 - (place.rho / widening) ** n, 0, None)
    return (mean * profile)[:, None] * place.direction


def fills(place: Near, widening: float, voxel_mm: float) -> Array:
    """Compute the fraction of each voxel (M,) that the vessel fills: half where the wall passes through its center."""
    inside = (widening - place.rho) * place.radius_mm
    return np.clip(inside / voxel_mm + 0.5, 0, 1)


def volume_ml(vessel: Vessel, low: Array, high: Array, widening: float) -> float:
    """Compute the tube's volume from its valve on, within the box `low` to `high` (3,), which it leaves at a right angle.

    It is the integral of the area along the centerline: by Pappus's theorem, bending a tube leaves its volume.
    """
    inside = ((vessel.center >= low) & (vessel.center < high)).all(1) & (np.arange(len(vessel.center)) >= vessel.valve)
    return float(np.sum(np.pi * (widening * vessel.radius_mm[inside]) ** 2) * STEP_MM / 1000)


def ejection(phase: Array, length: float, leak: float) -> Array:
    """Compute the flow's curve over a beat, at most 1.

    `phase` is in beats from the valve's opening, `length` that of the ejection in beats.
    A squared sine; after it the valve closes on a short backward flow, `leak` of the peak.
    """
    phase = np.mod(phase, 1)
    out = np.where(phase < length, np.sin(np.pi * phase / length) ** 2, 0)
    back = (phase - length) / CLOSURE
    return out - leak * np.where((back > 0) & (back < 1), np.sin(np.pi * back) ** 2, 0)


CLOSURE = 0.08
"""Beats that the backward flow takes while the valve closes."""


def ejected(length: float, leak: float) -> float:
    """Return the integral of `ejection` over a beat: the stroke volume in peaks of flow times beats."""
    return (length - leak * CLOSURE) / 2


def pulse(phase: Array, length: float) -> Array:
    """Compute the widening of the wall, 0 to 1: fastest up while blood is ejected, then slowly back; a period of one beat."""
    phase = np.mod(phase, 1)
    rise = 0.7 * length
    turn = np.where(phase < rise, 0.5 * phase / rise, 0.5 + 0.5 * (phase - rise) / (1 - rise))
    return np.sin(np.pi * turn) ** 2
