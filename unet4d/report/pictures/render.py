"""Colours, and the way from a drawn figure to pixels and to a PNG file. A picture is an `(H, W, 3)` uint8 array."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unet4d.system.files import replacing
from unet4d.system.text import shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe & Ito, "Color Universal Design" (2008): told apart under all common forms of colour blindness. Class k has colour
# (k - 1) mod 7 in every picture.
PALETTE = ("#56B4E9", "#E69F00", "#CC79A7", "#009E73", "#F0E442", "#D55E00", "#0072B2")
DPI = 100


def class_color(value: int) -> str:
    """Colour of a class by its label value (1 is the first)."""
    return PALETTE[(value - 1) % len(PALETTE)]


def caption(name: str) -> str:
    """Return the name of a class as a figure takes it: short, and without meaning to matplotlib's own small language."""
    text = shortened(name, 40).replace("$", r"\$")
    return f"\u200b{text}" if text.startswith("_") else text  # a legend leaves out what begins with "_"


def new_figure(width: float, height: float, background: str) -> Figure:
    """A figure of its own, outside pyplot's global state, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, facecolor=background)


def render_figure(figure: Figure) -> np.ndarray:
    """Draw a figure into `(H, W, 3)` uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # drawn as a box
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save_png(path: str | os.PathLike[str], picture: np.ndarray) -> Path:
    """Write `(H, W, 3)` uint8 as a PNG, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(_png_bytes(picture))
    return Path(path)


def save_picture(path: str | os.PathLike[str], picture: np.ndarray) -> Path:
    """Write `(H, W, 3)` uint8 as a small `.webp`, whole or not at all."""
    from PIL import Image

    with replacing(path) as temporary:
        Image.fromarray(picture).save(temporary, format="WEBP", quality=82)
    return Path(path)


def _png_bytes(picture: np.ndarray) -> bytes:
    """`(H, W, 3)` uint8 as the bytes of a PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()
