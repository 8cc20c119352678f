"""Geometry of slices: planes grouped by place, checks of their positions, and the affine.

Patient coordinates are LPS: +X to the patient's left, +Y to the back, +Z to the head. A pixel in column i and row j of a plane
lies at position + i * spacing X * axis X + j * spacing Y * axis Y (DICOM PS3.3, C.7.6.2.1-1).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from unet4d.images.dicom.instance import Plane
from unet4d.system.text import shorten_list

SAME_PLACE_MM = 0.05  # planes that lie apart by no more along their normal are one slice
STEP_TOLERANCE = 0.02  # greatest distance of a slice from its even place, in steps; sideways too
_SAME_DIRECTION = 1e-3  # of each direction cosine
_SAME_SPACING = 1e-3  # of each spacing, relative
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

_Item = TypeVar("_Item")


def group_alike(items: Sequence[_Item], same: Callable[[_Item, _Item], bool]) -> list[list[_Item]]:
    """Group items that are the same as the group's first, in their order."""
    groups: list[list[_Item]] = []
    for item in items:
        group = next((group for group in groups if same(group[0], item)), None)
        if group is None:
            groups.append([item])
        else:
            group.append(item)
    return groups


def same_direction(a: Plane, b: Plane) -> bool:
    """Return whether the rows and columns of two planes are parallel."""
    return all(abs(x - y) <= _SAME_DIRECTION for x, y in zip(a.axes, b.axes, strict=True))


def same_spacing(a: Plane, b: Plane) -> bool:
    """Return whether the pixels of two planes are of one size."""
    return all(abs(x - y) <= _SAME_SPACING * x for x, y in zip(a.spacing_mm, b.spacing_mm, strict=True))


def same_size(a: Plane, b: Plane) -> bool:
    """Return whether two planes have as many rows and columns."""
    return a.size == b.size


def same_grid(a: Plane, b: Plane) -> bool:
    """Return whether two planes have the same direction, pixel spacing, rows and columns."""
    return same_direction(a, b) and same_spacing(a, b) and same_size(a, b)


def group_into_slices(planes: Sequence[Plane]) -> list[list[Plane]]:
    """Group parallel planes by their place along the normal (axis X cross axis Y), ascending."""
    normal = _normal(planes[0])
    place = {plane: float(normal @ plane.position_mm) for plane in planes}
    slices: list[list[Plane]] = []
    last = -np.inf
    for plane in sorted(planes, key=place.__getitem__):
        if place[plane] - last > SAME_PLACE_MM:
            slices.append([])
        slices[-1].append(plane)
        last = place[plane]
    return slices


def describe_mixed_planes(planes: Sequence[Plane]) -> list[str]:
    """Describe the differences among planes that should lie on one grid; empty if there are none."""
    properties: Sequence[tuple[str, Callable[[Plane, Plane], bool], Callable[[Plane], str]]] = (
        ("orientation (ImageOrientationPatient)", same_direction, lambda plane: _listed(plane.axes)),
        ("pixel spacing", same_spacing, lambda plane: f"{_listed(plane.spacing_mm)} mm"),
        ("matrix (columns x rows)", same_size, lambda plane: f"{plane.size[0]} x {plane.size[1]}"),
    )
    found = []
    for name, same, text in properties:
        most, *rest = sorted(group_alike(planes, same), key=len, reverse=True)
        if rest:
            others = ", ".join(f"{text(group[0])} in {len(group)} (first {group[0].file})" for group in rest[:3])
            more = f" and {len(rest) - 3} others" if len(rest) > 3 else ""
            found.append(f"mixed {name}: {text(most[0])} in {len(most)} planes, {others}{more}")
    return found


def describe_uneven_slices(slices: Sequence[Sequence[Plane]]) -> list[str]:
    """Describe why slices do not lie evenly on one line along their normal; empty if they do."""
    if len(slices) < 2:
        return []
    normal = _normal(slices[0][0])
    positions = np.array([planes[0].position_mm for planes in slices])
    places = positions @ normal
    step = float(np.median(np.diff(places)))
    found = []
    even = places[0] + np.arange(len(places)) * (places[-1] - places[0]) / (len(places) - 1)
    if np.abs(places - even).max() > STEP_TOLERANCE * step:
        found.append(
            f"uneven slice spacing: slices lie at {_listed(places - places[0])} mm along their normal, expected even steps "
            f"(to {STEP_TOLERANCE:.0%} of one)" + _missing_slices(places, step)
        )
    aside = np.array([plane.position_mm for planes in slices for plane in planes]) - positions[0]
    aside_mm = float(np.linalg.norm(aside - np.outer(aside @ normal, normal), axis=1).max())
    if aside_mm > STEP_TOLERANCE * step:
        found.append(f"mixed position: slices are shifted in their plane by up to {aside_mm:.3g} mm")
    return found


def _missing_slices(places: np.ndarray, step: float) -> str:
    """List the places where slices seem to be missing: where a gap is a multiple of the usual step."""
    counts = np.diff(places) / step
    whole = np.rint(counts)
    if np.abs(counts - whole).max() > 0.1 or whole.max() < 2:
        return ""
    missing = [
        start + step * n - places[0]
        for start, count in zip(places[:-1], whole, strict=True)
        for n in range(1, int(count))
    ]
    return f"; missing are slices at {_listed(missing)} mm"


def slices_affine(slices: Sequence[Sequence[Plane]]) -> np.ndarray | None:
    """Return (4, 4) float64, voxel (X, Y, Z) to mm (RAS), of evenly spaced slices; X counts columns and Y rows.

    The step along Z is that of the positions; of a single slice its SpacingBetweenSlices, else its SliceThickness. None for a
    single slice with neither.
    """
    first = slices[0][0]
    normal = _normal(first)
    if len(slices) > 1:
        step_mm = (np.array(slices[-1][0].position_mm) - first.position_mm) @ normal / (len(slices) - 1)
    elif first.thickness_mm:
        step_mm = abs(first.thickness_mm)
    else:
        return None
    affine = np.eye(4)
    affine[:3, 0] = np.array(first.axes[:3]) * first.spacing_mm[0]
    affine[:3, 1] = np.array(first.axes[3:]) * first.spacing_mm[1]
    affine[:3, 2] = normal * step_mm
    affine[:3, 3] = first.position_mm
    return _LPS_TO_RAS @ affine


def to_pixels(plane: Plane, points_mm: np.ndarray) -> np.ndarray:
    """Return (N, 3) of points (N, 3) in patient coordinates (LPS): column and row of a plane, and the mm along its normal."""
    basis = np.array([plane.axes[:3], plane.axes[3:], _normal(plane)])
    return (points_mm - np.array(plane.position_mm)) @ basis.T / (*plane.spacing_mm, 1.0)


def most_frequent(counts: Sequence[int]) -> int:
    """Return the most frequent of some counts, of several such the largest."""
    occurrences = Counter(counts)
    return max(occurrences, key=lambda count: (occurrences[count], count))


def _normal(plane: Plane) -> np.ndarray:
    """Return (3,) unit vector, axis X cross axis Y."""
    normal = np.cross(plane.axes[:3], plane.axes[3:])
    return normal / np.linalg.norm(normal)


def _listed(values: Sequence[float] | np.ndarray) -> str:
    """Return the numbers with at most four decimals; "-0" is 0."""
    return shorten_list((f"{round(float(value), 4) + 0:g}" for value in values), 24)
