"""Drawings as SVG, light and dark: boxes, arrows, text and small pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

PICTURES = Path(__file__).parents[1] / "pictures"
INKS = {"encoder": ("#0b69a3", "#6cc0f5"), "decoder": ("#00714f", "#4fd1a5"), "lstm": ("#a84300", "#ff9d52"),
        "note": ("#5a6270", "#a9b3c2"), "data": ("#7a3d8f", "#d9a3ec")}  # fmt: skip
"""Colors by kind, on the light ground and on the dark one; contrast with it is 4.5 or more."""
GROUND, TEXT = ("#ffffff", "#1b1f27"), ("#1c2128", "#e8ebf0")
Point = tuple[float, float]


def _style() -> str:
    rules = []
    for place, (head, foot) in enumerate((("", ""), ("@media (prefers-color-scheme: dark) {", "}"))):
        kinds = "".join(
            f".{kind}{{stroke:{inks[place]};fill:{inks[place]}}}.{kind}.text{{stroke:none}}"
            for kind, inks in INKS.items()
        )
        rules.append(
            f"{head}.ground{{fill:{GROUND[place]}}}.plain{{stroke:{TEXT[place]};fill:{TEXT[place]}}}.plain.text{{stroke:none}}"
            f"{kinds}{foot}"
        )
    return (
        "".join(rules)
        + ".box{fill-opacity:.13;stroke-width:1.4}.line{fill:none;stroke-width:1.5}.dash{stroke-dasharray:5 4}"
    )


class Drawing:
    """A drawing of a size in pixels; `title` and `description` are read out by screen readers.

    The ground is part of it, so that it can be read on a page of any color.
    """

    def __init__(self, width: float, height: float, title: str, description: str):
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
            f'font-family="system-ui,sans-serif" font-size="13"><title>{escape(title)}</title>'
            f"<desc>{escape(description)}</desc><style>{_style()}</style>",
            f'<rect class="ground" width="{width:g}" height="{height:g}" rx="8"/>',
        ]

    def box(
        self, x: float, y: float, width: float, height: float, text: str = "", kind: str = "plain", size: float = 12
    ) -> None:
        """Draw a box with lines of text in its middle."""
        self._parts.append(
            f'<rect class="box {kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="4"/>'
        )
        lines = text.splitlines()
        first = y + height / 2 + size * 0.36 - (len(lines) - 1) * size * 0.6
        for number, line in enumerate(lines):
            self.text(x + width / 2, first + number * size * 1.2, line, kind, size, "middle")

    def text(
        self,
        x: float,
        y: float,
        text: str,
        kind: str = "plain",
        size: float = 12,
        anchor: str = "start",
        bold: bool = False,
    ) -> None:
        """Write a line of text from, to or around a point on its base line."""
        weight = ' font-weight="600"' if bold else ""
        self._parts.append(
            f'<text class="text {kind}" x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{anchor}"{weight}>'
            f"{escape(text)}</text>"
        )

    def arrow(
        self, points: Sequence[Point], kind: str = "plain", dashed: bool = False, both: bool = False, head: bool = True
    ) -> None:
        """Draw a line through points, with a head at its end, at both ends, or none."""
        path = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
        self._parts.append(f'<path class="line {kind}{" dash" * dashed}" d="{path}"/>')
        if head:
            self._head(points[-2], points[-1], kind)
        if both:
            self._head(points[1], points[0], kind)

    def circle(self, x: float, y: float, radius: float, kind: str = "plain", text: str = "") -> None:
        """Draw a circle with a sign in it."""
        self._parts.append(f'<circle class="box {kind}" cx="{x:g}" cy="{y:g}" r="{radius:g}"/>')
        if text:
            self.text(x, y + radius * 0.55, text, kind, radius * 1.7, "middle")

    def path(self, data: str, kind: str = "plain", dashed: bool = False) -> None:
        """Draw a line of SVG path data."""
        self._parts.append(f'<path class="line {kind}{" dash" * dashed}" d="{data}"/>')

    def picture(self, x: float, y: float, width: float, height: float, pixels: np.ndarray) -> None:
        """Draw pixels, (H, W, 3) uint8."""
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "WEBP", quality=60, method=6)
        content = base64.b64encode(file.getvalue()).decode()
        self._parts.append(
            f'<image x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" href="data:image/webp;base64,{content}"/>'
        )

    def save(self, name: str) -> None:
        """Write the drawing into docs/pictures."""
        (PICTURES / name).write_text("\n".join([*self._parts, "</svg>\n"]), encoding="utf-8")

    def _head(self, before: Point, end: Point, kind: str) -> None:
        way = np.subtract(end, before)
        way = way / max(1e-9, float(np.hypot(*way)))
        across = np.array([-way[1], way[0]])
        corners = [end, end - 7 * way + 3.5 * across, end - 7 * way - 3.5 * across]
        self._parts.append(f'<path class="{kind}" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in corners)}Z"/>')
