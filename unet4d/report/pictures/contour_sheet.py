"""Contour sheets, thumbnails and looping animations of a 4D study."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unet4d.metrics.regions import ClassValue, Region, class_mask
from unet4d.report.pictures.layout import Planes, crop_to_label, labelled_slices, lay_out, pick_evenly
from unet4d.report.pictures.render import caption, class_color, new_figure, render_figure
from unet4d.system.files import PathLike, replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

DARK, PALE = "#101418", "#E8ECF0"
EXTREMES = ("largest", "smallest")
CELL_INCHES = 1.9
"""Width of a cell, less where the plane is tall."""


def draw_contour_sheet(
    image: np.ndarray,
    label: np.ndarray | None,
    affine: np.ndarray | None = None,
    *,
    reference: np.ndarray | None = None,
    class_names: Mapping[ClassValue, str] | None = None,
    frames: Sequence[int] | None = None,
    extremes: Sequence[int] = (),
    extreme_names: Sequence[str] = EXTREMES,
    title: str | None = None,
) -> np.ndarray:
    """Draw four slices (down) by frames (across) with the contour of every class, cropped to the label with a margin.

    The slices are spread over those with a class.

    Args:
        image: `(T, X, Y, Z)`, one channel.
        label: `(T, X, Y, Z)` integer labels, or None for the image alone.
        affine: 4x4 voxel to mm (RAS); without one, voxels are 1 mm cubes.
        reference: `(T, X, Y, Z)`, drawn as a dashed white line where a frame has any.
        class_names: label value to name, for the legend; a region to name has its own contour.
        frames: frames to draw; None takes five spread over the study.
        extremes: the frames of the largest and of the smallest volume, to be named above their columns.
        extreme_names: their names, such as "ED" and "ES".
        title: a line above the sheet.

    Returns:
        `(H, W, 3)` uint8.
    """
    planes = lay_out(image, label, affine, reference)
    frames = list(frames) if frames is not None else pick_evenly(range(len(planes.image)), 5)
    slices = pick_evenly(labelled_slices(planes), 4)
    planes = crop_to_label(planes)
    above, beside = column_names(frames, extremes, extreme_names), [f"slice {z}" for z in slices]
    names = class_names if label is not None else None
    figure, axes = _new_grid(planes, len(slices), above, beside, class_names=names, title=title)
    _fill_grid(axes, planes, [[(t, z, True) for t in frames] for z in slices], class_names)
    return render_figure(figure)


def draw_thumbnail(
    image: np.ndarray,
    label: np.ndarray,
    affine: np.ndarray | None,
    frames: Sequence[int],
    class_names: Mapping[ClassValue, str] | None = None,
) -> np.ndarray:
    """Draw the middle slice of those with a class, small, with its contours, in each of `frames` from left to right.

    Args:
        image: `(T, X, Y, Z)`, one channel.
        label: `(T, X, Y, Z)` integer labels.
        affine: 4x4 voxel to mm (RAS).
        frames: frames to draw.
        class_names: as in `draw_contour_sheet`, without a legend.

    Returns:
        `(H, W, 3)` uint8.
    """
    planes = lay_out(image, label, affine, None)
    slices = labelled_slices(planes)
    planes = crop_to_label(planes)
    figure, axes = _new_grid(planes, 1, [""] * len(frames), cell_inches=1.25)
    _fill_grid(axes, planes, [[(t, slices[len(slices) // 2], True) for t in frames]], class_names)
    return render_figure(figure)


def column_names(
    frames: Sequence[int], extremes: Sequence[int] = (), extreme_names: Sequence[str] = EXTREMES
) -> list[str]:
    """Return the captions of columns: "frame 0 (largest)", "frame 1", ...; none is named where both extremes are the same frame."""
    names = dict(zip(extremes, extreme_names, strict=False)) if len(set(extremes)) > 1 else {}
    return [f"frame {t} ({names[t]})" if t in names else f"frame {t}" for t in frames]


def write_animation(
    path: PathLike,
    image: np.ndarray,
    label: np.ndarray,
    affine: np.ndarray | None = None,
    *,
    class_names: Mapping[ClassValue, str] | None = None,
    frame_duration_s: float | None = None,
) -> Path:
    """Write a looping `.webp`: the image in the upper row, the same with its contours in the lower.

    It shows three slices, spread over those with a class without the outermost.

    Args:
        path: where to write.
        image: `(T, X, Y, Z)`, one channel.
        label: `(T, X, Y, Z)` integer labels.
        affine: 4x4 voxel to mm.
        class_names: label value to name, for the legend; a region to name has its own contour.
        frame_duration_s: seconds per frame; None makes the loop 1.5 s long. Viewers show no frame for under 20 ms.
    """
    from PIL import Image

    planes = lay_out(image, label, affine, None)
    used = labelled_slices(planes)
    slices = pick_evenly(used, 5)[1:-1] if len(used) > 4 else pick_evenly(used, 3)
    planes = crop_to_label(planes)
    figure, axes = _new_grid(planes, 2, [f"slice {z}" for z in slices], class_names=class_names)
    pages = []
    for t in range(len(planes.image)):
        _fill_grid(axes, planes, [[(t, z, contoured) for z in slices] for contoured in (False, True)], class_names)
        pages.append(Image.fromarray(render_figure(figure)))
    milliseconds = max(20, round(1000 * (frame_duration_s or 1.5 / len(pages))))
    with replacing(path) as temporary:
        pages[0].save(temporary, format="WEBP", save_all=True, append_images=pages[1:], duration=milliseconds, loop=0)
    return Path(path)


def draw_frames(
    image: np.ndarray,
    label: np.ndarray,
    affine: np.ndarray | None = None,
    *,
    class_names: Mapping[ClassValue, str] | None = None,
    captions: Sequence[str] = (),
) -> Iterator[np.ndarray]:
    """Yield a picture per frame: up to nine slices, spread over those with a class, with the contour of every class.

    Args:
        image: `(T, X, Y, Z)`, one channel.
        label: `(T, X, Y, Z)` integer labels.
        affine: 4x4 voxel to mm (RAS).
        class_names: label value to name, for the legend.
        captions: a line above each picture.

    Yields:
        `(H, W, 3)` uint8, all of one size.
    """
    planes = lay_out(image, label, affine, None)
    slices = pick_evenly(labelled_slices(planes), 9)
    planes = crop_to_label(planes)
    columns = math.ceil(math.sqrt(len(slices)))
    rows = [slices[start : start + columns] for start in range(0, len(slices), columns)]
    figure, axes = _new_grid(planes, len(rows), [""] * columns, class_names=class_names, title=" ")
    for cell in axes[-1][len(rows[-1]) :]:
        cell.set_visible(False)
    used = [cells[: len(row)] for cells, row in zip(axes, rows, strict=True)]
    line = figure.text(0.01, 0.99, "", color=PALE, fontsize=11, va="top")
    for t in range(len(planes.image)):
        line.set_text(captions[t] if captions else f"frame {t}")
        _fill_grid(used, planes, [[(t, z, True) for z in row] for row in rows], class_names)
        yield render_figure(figure)


def _new_grid(
    planes: Planes,
    rows: int,
    above: list[str],
    beside: Sequence[str] = (),
    *,
    class_names: Mapping[ClassValue, str] | None = None,
    title: str | None = None,
    cell_inches: float = CELL_INCHES,
) -> tuple[Figure, list[list[Axes]]]:
    """Return an empty grid with a column for each caption `above` and optional captions `beside` its rows; its axes by row."""
    tall = planes.image.shape[2] * planes.aspect / planes.image.shape[3]
    cell_width = cell_inches * min(1, 1.5 / tall)
    cell_height, side, gap = cell_width * tall, 0.28 if beside else 0.06, 0.04
    page_width = side + len(above) * (cell_width + gap) + 0.04
    handles = _legend_handles(class_names or {}, planes.reference is not None)
    per_row = max(1, int(page_width / (0.6 + 0.085 * max((len(str(h.get_label())) for h in handles), default=0))))
    captions = 0.24 if any(above) else 0.04
    top, bottom = captions + (0.3 if title else 0), (0.1 if any(above) else 0) + 0.24 * -(-len(handles) // per_row)
    page_height = top + rows * (cell_height + gap) + bottom
    figure = new_figure(page_width, page_height, DARK)

    def write(x: float, y: float, text: str, **style: Any) -> None:
        figure.text(x / page_width, y / page_height, text, **{"color": PALE, "fontsize": 9, **style})

    axes: list[list[Axes]] = []
    for r in range(rows):
        lower = page_height - top - (r + 1) * cell_height - r * gap
        lefts = [side + c * (cell_width + gap) for c in range(len(above))]
        cell = lower / page_height, cell_width / page_width, cell_height / page_height
        axes.append([figure.add_axes((left / page_width, *cell)) for left in lefts])
        write(0.14, lower + cell_height / 2, beside[r] if beside else "", rotation=90, ha="center", va="center")
    for c, text in enumerate(above):
        center = side + c * (cell_width + gap) + cell_width / 2
        write(center, page_height - top + 0.06, text, ha="center", va="bottom")
    if title:
        write(side, page_height - 0.08, caption(title), color="white", fontsize=11, va="top")
    if handles:
        figure.legend(
            handles=handles, loc="lower left", bbox_to_anchor=(side / page_width, 0), ncols=per_row, frameon=False,
            labelcolor=PALE, fontsize=9,
        )  # fmt: skip
    return figure, axes


def _fill_grid(
    axes: list[list[Axes]],
    planes: Planes,
    cells: list[list[tuple[int, int, bool]]],
    class_names: Mapping[ClassValue, str] | None,
) -> None:
    """Draw cells (frame, slice, contoured) in place of the earlier ones."""
    regions = [value for value in class_names or () if isinstance(value, Region)]
    for row_axes, row in zip(axes, cells, strict=True):
        for cell, (t, z, contoured) in zip(row_axes, row, strict=True):
            for artist in (*cell.images, *cell.collections):
                artist.remove()
            _draw_cell(cell, planes, t, z, regions if contoured else None)


def _draw_cell(axes: Axes, planes: Planes, t: int, z: int, regions: Sequence[Region] | None) -> None:
    """Draw a slice of a frame with the contours of the regions, of each class where there are none; without any for None."""
    low, high = planes.window
    axes.imshow(planes.image[t, z], cmap="gray", vmin=low, vmax=high, aspect=planes.aspect, interpolation="bicubic")
    if regions is not None and planes.label is not None:
        for value, mask in _masks(planes.label[t, z], regions):
            _draw_contour(axes, mask, class_color(value), 1.6, "solid")
    if regions is not None and planes.reference is not None:
        for _, mask in _masks(planes.reference[t, z], regions):
            _draw_contour(axes, mask, "white", 0.9, (0, (3, 2)))
    rows, columns = planes.image.shape[2:]
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_axis_off()


def _draw_contour(axes: Axes, mask: np.ndarray, color: str, width: float, style: object) -> None:
    """Draw the contour of one class; a ring of zeros around the plane closes it at the border of the image."""
    columns, rows = np.arange(-1, mask.shape[1] + 1), np.arange(-1, mask.shape[0] + 1)
    padded = np.pad(mask, 1).astype(np.float32)
    axes.contour(columns, rows, padded, levels=[0.5], colors=[color], linewidths=[width], linestyles=[style])


def _legend_handles(class_names: Mapping[ClassValue, str], with_reference: bool) -> list[Line2D]:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=class_color(value), linewidth=2, label=caption(name))
        for value, name in class_names.items()
    ]
    if with_reference and handles:
        handles.append(Line2D([], [], color="white", linewidth=1, linestyle=(0, (3, 2)), label="reference"))
    return handles


def _masks(label: np.ndarray, regions: Sequence[Region]) -> Iterator[tuple[ClassValue, np.ndarray]]:
    """Yield the regions, or the classes, that a slice has, each with its mask."""
    values: Sequence[ClassValue] = regions or [int(value) for value in np.unique(label) if value > 0]
    for value in values:
        mask = class_mask(label, value)
        if mask.any():
            yield value, mask
