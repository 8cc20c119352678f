"""Contours on pixels: centers decide, holes are holes, neighbors share nothing."""

from __future__ import annotations

import numpy as np
import pytest

from unet4d.images.dicom.rasterize import fill_contour

SIZE = (24, 20)


def square(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def test_a_pixel_is_inside_where_its_center_is():
    filled = fill_contour(square(2.5, 3.5, 6.5, 5.5), SIZE)
    wanted = np.zeros(SIZE, dtype=bool)
    wanted[3:7, 4:6] = True
    np.testing.assert_array_equal(filled, wanted)
    assert not fill_contour(square(2.1, 3.1, 2.9, 3.9), SIZE).any()  # between centers
    assert fill_contour(square(1.9, 2.9, 2.1, 3.1), SIZE).sum() == 1  # around one


@pytest.mark.parametrize("backwards", [False, True])
def test_corners_on_centers_count_one_of_two_opposite_edges(backwards):
    """So that a square of n by n pixels has its area, and squares side by side share no pixel and leave none out."""
    count = np.zeros(SIZE, dtype=int)
    for left in (2, 7):
        for top in (3, 8):
            corners = square(left, top, left + 5, top + 5)
            filled = fill_contour(corners[::-1] if backwards and left == 2 else corners, SIZE)
            assert filled.sum() == 25
            count += filled
    assert count.max() == 1
    assert count.sum() == 100


@pytest.mark.parametrize("seed", range(4))
def test_the_area_of_a_polygon_is_its_number_of_pixels_to_its_border(seed):
    """The oracle is the shoelace formula; a border of length b crosses at most about b pixels."""
    draw = np.random.default_rng(seed)
    angle = np.sort(draw.uniform(0, 2 * np.pi, 40))
    radius = draw.uniform(60, 90, 40)
    points = np.stack([100 + radius * np.cos(angle), 95 + radius * np.sin(angle)], axis=1)
    x, y = points.T
    area = abs(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2
    border = np.linalg.norm(points - np.roll(points, -1, axis=0), axis=1).sum()
    assert abs(fill_contour(points, (200, 200)).sum() - area) < 0.5 * border


def test_two_triangles_of_a_square_share_no_pixel_and_leave_none_out():
    a, b, c, d = square(2, 2, 14, 14)
    first, second, whole = (fill_contour(np.array(corners), SIZE) for corners in ([a, b, c], [c, d, a], [a, b, c, d]))
    assert not (first & second).any()
    np.testing.assert_array_equal(first | second, whole)


def test_a_contour_that_leaves_the_image_fills_what_is_in_it_and_a_line_fills_nothing():
    assert fill_contour(square(-5.5, -5.5, 1.5, 2.5), SIZE).sum() == 2 * 3
    assert not fill_contour(square(-9, -9, -2, -2), SIZE).any()
    assert not fill_contour(np.array([[2.0, 2.0], [9.0, 9.0]]), SIZE).any()
