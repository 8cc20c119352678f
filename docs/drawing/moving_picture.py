"""The README's moving picture: a new phantom through one cycle, segmented by the network of `make demo`, with its volumes.

    make demo && .venv/bin/python docs/drawing/moving_picture.py demo/run docs/pictures/cycle.webp

The phantom has another seed, and twice as many frames, as those of the demo. Contours and lines are the prediction. Rings
are the exact volumes of the shapes: those of the exact label jump where the base of the heart leaves a slice of 9 mm.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from unet4d import Image4D, load_model, segment
from unet4d.metrics.volume_curves import volumes_ml, voxel_volume_ml
from unet4d.phantom import make_cine
from unet4d.phantom.cine import CINE_LABELS
from unet4d.report.pictures.layout import Planes, crop_to_label, lay_out
from unet4d.report.pictures.render import class_color, new_figure, render_figure
from unet4d.system.files import replacing

SEED, FRAMES, CYCLE_S = 3, 16, 1.6
DARK, PALE = "#101418", "#E8ECF0"
SIZE = (10.0, 2.5)
"""Inches."""


def write_moving_picture(run: Path, out: Path) -> None:
    """Segment the phantom with the network of a run and write the looping `.webp`."""
    study = make_cine(SEED, FRAMES)
    image = Image4D.from_array(study.image, study.affine, frame_duration_s=study.frame_duration_s)
    label = segment(load_model(run), image)
    values = [value for value in CINE_LABELS.values() if value]
    volumes = volumes_ml(label, values, voxel_volume_ml(study.affine))  # (T, K)
    pages = draw_pages(study.image, label, study.affine, volumes, study.shape_volumes_ml[:, values])
    pictures = [Image.fromarray(page) for page in pages]
    with replacing(out) as temporary:
        pictures[0].save(
            temporary, format="WEBP", save_all=True, append_images=pictures[1:], loop=0, quality=40, method=6,
            duration=round(1000 * CYCLE_S / FRAMES),
        )  # fmt: skip


def draw_pages(
    image: np.ndarray, label: np.ndarray, affine: np.ndarray, predicted_ml: np.ndarray, exact_ml: np.ndarray
) -> list[np.ndarray]:
    """Return a picture `(H, W, 3)` per frame: three slices with contours, and the curves `(T, K)` with the frame marked.

    Args:
        image: (T, X, Y, Z).
        label: (T, X, Y, Z).
        affine: (4, 4), voxel to mm (RAS).
        predicted_ml: (T, K), lines.
        exact_ml: (T, K), rings.
    """
    planes = lay_out(image, label, affine, None)
    slices = _slices_through_all(planes)
    planes = crop_to_label(planes)
    figure = new_figure(*SIZE, DARK)
    cells = [figure.add_axes((0.005 + 0.2 * n, 0.1, 0.195, 0.88)) for n in range(len(slices))]
    mark = _draw_curves(figure, predicted_ml, exact_ml)
    pages = []
    for t in range(len(image)):
        for cell, z in zip(cells, slices, strict=True):
            _draw_slice(cell, planes, t, z)
        mark.set_xdata([t, t])
        pages.append(render_figure(figure))
    return pages


def _slices_through_all(planes: Planes) -> list[int]:
    """Return the three slices in which the smallest class is largest in its smallest frame, in order.

    Elsewhere a class leaves the slice in some frames, as the right ventricle does towards the apex, and its contour jumps.
    """
    assert planes.label is not None
    values = [value for value in CINE_LABELS.values() if value]
    areas = np.stack([(planes.label == value).sum(axis=(2, 3)) for value in values])  # (K, T, slices)
    return sorted(np.argsort(areas.min(axis=(0, 1)))[-3:].tolist())


def _draw_curves(figure: Figure, predicted_ml: np.ndarray, exact_ml: np.ndarray) -> Line2D:
    """Draw the curves with their legend; return the line that marks a frame."""
    axes = figure.add_axes((0.68, 0.19, 0.31, 0.7), facecolor=DARK)
    names = {value: name for name, value in CINE_LABELS.items() if value}
    for k, (value, name) in enumerate(names.items()):
        axes.plot(predicted_ml[:, k], color=class_color(value), linewidth=2, label=name)
        axes.plot(exact_ml[:, k], "o", color=class_color(value), markersize=4, markerfacecolor="none", alpha=0.7)
    axes.set_xlabel("frame (ring: exact volume)", color=PALE, fontsize=8)
    axes.set_title("volume, mL", color=PALE, fontsize=9, loc="left")
    axes.tick_params(colors=PALE, labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(PALE)
    axes.set_ylim(0)
    figure.legend(loc="lower left", bbox_to_anchor=(0.0, -0.01), ncols=3, frameon=False, labelcolor=PALE, fontsize=9)
    return axes.axvline(0, color=PALE, linewidth=1, alpha=0.8)


def _draw_slice(axes: Axes, planes: Planes, t: int, z: int) -> None:
    """Draw a slice of a frame with the contour of each class, in place of the earlier one."""
    axes.clear()
    axes.set_axis_off()
    low, high = planes.window
    axes.imshow(planes.image[t, z], cmap="gray", vmin=low, vmax=high, aspect=planes.aspect, interpolation="bicubic")
    assert planes.label is not None
    for value in np.unique(planes.label[t, z]):
        if value:
            axes.contour(planes.label[t, z] == value, [0.5], colors=[class_color(int(value))], linewidths=1.8)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: python {sys.argv[0]} RUN OUT.webp")
    write_moving_picture(Path(sys.argv[1]), Path(sys.argv[2]))
