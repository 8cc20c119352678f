"""Label maps drawn in ASCII."""

from __future__ import annotations

import numpy as np


def draw(picture: str) -> np.ndarray:
    """Return one frame of one slice from ASCII: rows are X, columns are Y; `.` is 0."""
    rows = picture.split()
    plane = np.array([[0 if mark == "." else int(mark) for mark in row] for row in rows], np.uint8)
    return plane[None, :, :, None]
