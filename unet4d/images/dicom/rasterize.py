"""Drawn parts on the pixels of an image: contours filled, frames of segmentations put where they lie.

A pixel belongs to a contour where its center lies inside. Contours of one region on one image are combined by exclusive or,
so that a contour within another is a hole. A center on the edge that two contours share belongs to one of them.
"""

from __future__ import annotations

import numpy as np

from unet4d.errors import InputError
from unet4d.images.dicom.drawings import Part, Place
from unet4d.images.dicom.geometry import STEP_TOLERANCE, to_pixels
from unet4d.images.dicom.instance import Plane

_ON_PLANE_MM = 0.1  # greatest distance of a segmentation's frame from its image
_CONTOUR_MM = 1.0  # of a contour, where the thickness of the slice is unknown


def distance_mm(part: Part, plane: Plane) -> float:
    """Return how far a part lies from a plane, in mm along its normal; 0 where the part does not tell."""
    points = part.points_mm
    if points is None:
        if part.place is None:
            return 0.0
        points = np.array([part.place.position_mm])
    return float(np.abs(to_pixels(plane, points)[:, 2]).max())


def lies_on(part: Part, plane: Plane) -> bool:
    """Return whether a part lies on a plane: a contour within half a slice, a frame of a segmentation exactly."""
    half = plane.thickness_mm / 2 if plane.thickness_mm else _CONTOUR_MM
    return distance_mm(part, plane) <= (_ON_PLANE_MM if part.points_mm is None else half)


def fill_contour(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return (X, Y) bool, the pixels with their centers inside a polygon, by the even-odd rule; left and upper edges are inside.

    Args:
        points: (N, 2), column and row of its corners; the center of the first pixel is (0, 0).
        size: (X, Y).
    """
    filled = np.zeros(size, dtype=bool)
    start, stop = points, np.roll(points, -1, axis=0)
    is_down = (start[:, 1] <= stop[:, 1])[:, None]
    (x0, y0), (x1, y1) = (
        np.where(is_down, start, stop).T,
        np.where(is_down, stop, start).T,
    )  # an edge is the same both ways
    rows = np.arange(max(0, int(np.ceil(y0.min()))), min(size[1], int(np.floor(y1.max())) + 1))
    row, edge = np.nonzero((y0 <= rows[:, None]) & (rows[:, None] < y1))
    crossed = x0[edge] + (rows[row] - y0[edge]) * (x1[edge] - x0[edge]) / (y1[edge] - y0[edge])
    toggles = np.zeros((len(rows), size[0] + 1), dtype=int)
    np.add.at(toggles, (row, np.clip(np.ceil(crossed), 0, size[0]).astype(int)), 1)
    filled[:, rows] = np.cumsum(toggles, axis=1)[:, : size[0]].T % 2 == 1
    return filled


def contour_pixels(part: Part, plane: Plane) -> np.ndarray:
    """Return (X, Y) bool, the pixels of a plane inside a contour.

    Raises:
        InputError: the contour lies beside the plane.
    """
    assert part.points_mm is not None
    points = to_pixels(plane, part.points_mm)[:, :2]
    if (points.max(axis=0) < -0.5).any() or (points.min(axis=0) > np.array(plane.size) - 0.5).any():
        raise InputError(f"its contour {part.index} lies outside of the image that it refers to; export it again")
    return fill_contour(points, plane.size)


def frame_pixels(mask: np.ndarray, part: Part, plane: Plane) -> np.ndarray:
    """Return (X, Y) bool, a segmentation's frame on the pixels of a plane; it may be cropped, mirrored or turned.

    Args:
        mask: (rows, columns) bool.

    Raises:
        InputError: the frame lies on other pixels than the plane's, or has some outside of it.
    """
    out = np.zeros(plane.size, dtype=bool)
    rows, columns = np.nonzero(mask)
    if part.place is None:
        if mask.shape[::-1] != plane.size:
            raise InputError(
                f"its frame {part.index} has {mask.shape[1]} x {mask.shape[0]} pixels, its image {plane.size[0]} x "
                f"{plane.size[1]}, expected as many; export it again"
            )
        out[columns, rows] = True
        return out
    corner = _cells(np.array([[0, 0], [1, 0], [0, 1]]), part.place, plane)
    cells = _cells(np.stack([columns, rows], axis=1), part.place, plane)
    steps = np.abs(corner[1:] - corner[0])
    off = max(np.abs(found - np.rint(found)).max(initial=0) for found in (cells, steps))
    if off > STEP_TOLERANCE or sorted(np.rint(steps).astype(int).ravel().tolist()) != [0, 0, 1, 1]:
        raise InputError(
            f"its frame {part.index} lies on other pixels than its image, expected the same grid, or a part of it; segment the "
            "image itself, or export on its geometry"
        )
    at = np.rint(cells).astype(int)
    if ((at < 0) | (at >= plane.size)).any():
        raise InputError(
            f"its frame {part.index} has pixels outside of its image, expected all inside; export it again"
        )
    out[at[:, 0], at[:, 1]] = True
    return out


def _cells(pixels: np.ndarray, place: Place, plane: Plane) -> np.ndarray:
    """Return (N, 2), the column and row of a plane of (N, 2) columns and rows of a frame."""
    x, y = np.array(place.axes[:3]) * place.spacing_mm[0], np.array(place.axes[3:]) * place.spacing_mm[1]
    points = np.array(place.position_mm) + pixels[:, :1] * x + pixels[:, 1:] * y
    return to_pixels(plane, points)[:, :2]
