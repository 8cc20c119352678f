"""Plot of curves: the volume, signal or flow of each class in every frame, as a picture `(H, W, 3)` uint8."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from unet4d.report.pictures.render import caption, class_color, new_figure, render_figure

if TYPE_CHECKING:
    from matplotlib.lines import Line2D


def draw_curves(
    curves: Mapping[str, np.ndarray],
    *,
    axis: str = "volume (mL)",
    colors: Mapping[str, str] | None = None,
    frame_duration_s: float | None = None,
    reference: Mapping[str, np.ndarray] | None = None,
    moments: Mapping[str, int] | None = None,
    title: str | None = None,
) -> np.ndarray:
    """Draw the curve of each class over all frames, and mark its largest and smallest value.

    Args:
        curves: class name to `(T,)`, NaN where undefined.
        axis: what is drawn, with its unit.
        colors: class name to color; None takes the palette in order.
        frame_duration_s: seconds per frame; None counts frames on the axis.
        reference: class name to `(T,)`, NaN in unlabelled frames; drawn as rings in the color of the class.
        moments: name to frame, such as "ED" and "ES"; each drawn as a dashed line.
        title: a line above the curves.

    Returns:
        `(H, W, 3)` uint8.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(8.6, 3.6, "white")
    axes = figure.add_axes((0.085, 0.16, 0.72, 0.72))
    for index, (name, curve) in enumerate(curves.items()):
        color = (colors or {}).get(name, class_color(index + 1))
        time = np.arange(len(curve)) * (frame_duration_s or 1)
        axes.plot(time, curve, color=color, linewidth=2, label=caption(name), marker="." if len(curve) < 60 else "")
        known = np.isfinite(curve).any()
        for at, marker in ((int(np.nanargmax(curve)), "^"), (int(np.nanargmin(curve)), "v")) if known else ():
            axes.plot(time[at], curve[at], marker, color=color, markersize=9, markeredgecolor="#333333")
        if reference and name in reference:
            axes.plot(time, reference[name], "o", markerfacecolor="none", markeredgecolor=color, markersize=10)
    axes.set_xlabel("time (s)" if frame_duration_s else "frame")
    if not frame_duration_s:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(axis)
    low, high = axes.get_ylim()
    shown = [value for curve in (*curves.values(), *(reference or {}).values()) for value in curve if value < 0]
    axes.set_ylim(low if shown else 0, high + 0.06 * (high - min(low, 0)))
    for name, frame in (moments or {}).items():
        x = frame * (frame_duration_s or 1.0)
        axes.axvline(x, color="#8b98a5", linewidth=1, linestyle=(0, (3, 3)), zorder=0)
        axes.annotate(
            name, (x, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=9, color="#46525e"
        )
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    handles = [*axes.get_legend_handles_labels()[0], *_marker_legend(bool(reference))]
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.02), frameon=False, fontsize=9)
    if title:
        axes.set_title(caption(title), loc="left", fontsize=11)
    return render_figure(figure)


def _marker_legend(with_reference: bool) -> list[Line2D]:
    from matplotlib.lines import Line2D

    def handle(marker: str, label: str, face: str) -> Line2D:
        return Line2D([], [], marker=marker, label=label, markerfacecolor=face, color="#333333", linestyle="none")

    handles = [handle("^", "largest", "#999999"), handle("v", "smallest", "#999999")]
    return [*handles, handle("o", "reference", "none")] if with_reference else handles
