"""Class colors, figures without global state, and files of pictures. A picture is an `(H, W, 3)` uint8 array."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unet4d.metrics.regions import ClassValue, painted_value
from unet4d.system.files import PathLike, replacing
from unet4d.system.text import shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALETTE = ("#56B4E9", "#E69F00", "#CC79A7", "#009E73", "#F0E442", "#D55E00", "#0072B2")
"""Colors that are distinct under all common forms of color blindness: Okabe & Ito, "Color Universal Design" (2008)."""
DPI = 100


def class_color(value: ClassValue) -> str:
    """Return the color of a class by its label value, from 1 on, or by the one it is painted with; the same in every picture."""
    return PALETTE[(painted_value(value) - 1) % len(PALETTE)]


def caption(name: str) -> str:
    """Return the name of a class for a figure: short, and without mathematics for matplotlib."""
    text = shortened(name, 40).replace("$", r"\$")
    return f"\u200b{text}" if text.startswith("_") else text  # a legend skips names that begin with "_"


def new_figure(width: float, height: float, background: str) -> Figure:
    """Return an empty figure of a size in inches, outside the global state of pyplot."""
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


def save_picture(path: PathLike, picture: np.ndarray) -> Path:
    """Write `(H, W, 3)` uint8 as a `.png`, or a small `.webp`, whole or not at all."""
    from PIL import Image

    options: dict[str, dict[str, Any]] = {
        ".png": {"format": "PNG", "compress_level": 6},
        ".webp": {"format": "WEBP", "quality": 82},
    }
    with replacing(path) as temporary:
        Image.fromarray(picture).save(temporary, **options[Path(path).suffix])
    return Path(path)
