"""Contour sheets and looping animations of a 4D study."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unet4d.report.pictures.layout import Planes, crop_to_label, labelled_slices, lay_out, pick_evenly
from unet4d.report.pictures.render import PALETTE, caption, class_color, new_figure, render_figure
from unet4d.system.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from PIL.Image import Image as PillowImage

DARK, PALE = "#101418", "#E8ECF0"
EXTREMES = ("largest", "smallest")


def draw_contour_sheet(
    image: np.ndarray,
    label: np.ndarray | None,
    affine: np.ndarray | None = None,
    *,
    reference: np.ndarray | None = None,
    class_names: Mapping[int, str] | None = None,
    frames: Sequence[int] | None = None,
    slices: Sequence[int] | None = None,
    extremes: Sequence[int] = (),
    extreme_names: Sequence[str] = EXTREMES,
    title: str | None = None,
    zoom: bool = True,
    cell_inches: float = 1.9,
) -> np.ndarray:
    """Draw slices (down) by frames (across) with the contour of every class.

    Args:
        image: `(T, X, Y, Z)`, one channel.
        label: `(T, X, Y, Z)` integer labels, or None for the bare image.
        affine: 4x4 voxel to mm (RAS); left out, voxels are 1 mm cubes.
        reference: `(T, X, Y, Z)`, drawn as a dashed white line where a frame has any.
        class_names: label value to name, for the legend.
        frames: which frames; left out, five spread over the study.
        slices: which slices; left out, four spread over those that hold a class.
        extremes: the frames of the largest and of the smallest volume, which are named above their columns.
        extreme_names: how, such as "ED" and "ES".
        title: a line above the sheet.
        zoom: crop the plane to what is labelled, with a margin.
        cell_inches: width of one cell (less where the plane is tall), at 100 pixels an inch.

    Returns:
        `(H, W, 3)` uint8.
    """
    planes = lay_out(image, label, affine, reference)
    frames = list(frames) if frames is not None else pick_evenly(range(len(planes.image)), 5)
    slices = list(slices) if slices is not None else pick_evenly(labelled_slices(planes), 4)
    planes = crop_to_label(planes) if zoom else planes
    cells = [[(t, z, True) for t in frames] for z in slices]
    return _draw_grid(
        planes,
        cells,
        column_names(frames, extremes, extreme_names),
        [f"slice {z}" for z in slices],
        class_names if label is not None else None,
        title,
        cell_inches,
    )


def draw_thumbnail(
    image: np.ndarray, label: np.ndarray, affine: np.ndarray | None, frames: Sequence[int]
) -> np.ndarray:
    """Draw the middle one of the slices that hold a class with its contours, small, once a frame of `frames`.

    Args:
        image: `(T, X, Y, Z)`, one channel.
        label: `(T, X, Y, Z)` integer labels.
        affine: 4x4 voxel to mm (RAS).
        frames: which frames, from left to right.

    Returns:
        `(H, W, 3)` uint8.
    """
    planes = lay_out(image, label, affine, None)
    used = labelled_slices(planes)
    cells = [[(t, used[len(used) // 2], True) for t in frames]]
    return _draw_grid(crop_to_label(planes), cells, [""] * len(frames), [], None, None, 1.25)


def column_names(
    frames: Sequence[int], extremes: Sequence[int] = (), extreme_names: Sequence[str] = EXTREMES
) -> list[str]:
    """What stands above the columns of a sheet: "frame 0 (largest)", "frame 1", ...; neither where both are the same frame."""
    said = dict(zip(extremes, extreme_names, strict=False)) if len(set(extremes)) > 1 else {}
    return [f"frame {t} ({said[t]})" if t in said else f"frame {t}" for t in frames]


def write_animation(
    path: str | os.PathLike[str],
    image: np.ndarray,
    label: np.ndarray,
    affine: np.ndarray | None = None,
    *,
    class_names: Mapping[int, str] | None = None,
    frame_duration_s: float | None = None,
    num_slices: int = 3,
    zoom: bool = True,
    cell_inches: float = 1.9,
) -> Path:
    """Write a looping `.gif` or `.webp`: the image in the upper row, the same with its contours in the lower.

    Args:
        path: where to write; the suffix names the format.
        image: `(T, X, Y, Z)`, one channel.
        label: `(T, X, Y, Z)` integer labels.
        affine: 4x4 voxel to mm.
        class_names: label value to name, for the legend.
        frame_duration_s: seconds a frame; left out, the loop takes 1.5 s. Viewers show no frame for under 20 ms.
        num_slices: how many slices, spread over those that hold a class, the outermost left out.
        zoom: crop the plane to what is labelled, with a margin.
        cell_inches: width of one cell (less where the plane is tall), at 100 pixels an inch.
    """
    from PIL import Image

    planes = lay_out(image, label, affine, None)
    used = labelled_slices(planes)
    slices = pick_evenly(used, num_slices + 2)[1:-1] if len(used) > num_slices + 1 else pick_evenly(used, num_slices)
    planes = crop_to_label(planes) if zoom else planes
    above = [f"slice {z}" for z in slices]
    figure, axes = _new_grid(planes, 2, above, [], class_names, None, cell_inches)
    pages = []
    for t in range(len(planes.image)):
        _fill_grid(axes, planes, [[(t, z, contoured) for z in slices] for contoured in (False, True)])
        pages.append(Image.fromarray(render_figure(figure)))
    milliseconds = max(20, round(1000 * (frame_duration_s or 1.5 / len(pages))))
    if Path(path).suffix.lower() == ".gif":
        pages = _with_one_palette(pages, label)
    with replacing(path) as temporary:
        pages[0].save(temporary, save_all=True, append_images=pages[1:], duration=milliseconds, loop=0)
    return Path(path)


def _with_one_palette(pages: list[PillowImage], label: np.ndarray) -> list[PillowImage]:
    """Reduce RGB pages to one palette, so that nothing flickers, with the classes' own colours in it."""
    from PIL import Image, ImageColor

    sample = pages[len(pages) // 2].copy()
    for index, value in enumerate(_classes(label)[: len(PALETTE)]):
        left = 24 * index
        sample.paste(ImageColor.getrgb(class_color(value)), (left, 0, left + 24, 24))
    palette = sample.quantize(192)
    return [page.quantize(palette=palette, dither=Image.Dither.NONE) for page in pages]


def _draw_grid(
    planes: Planes,
    cells: list[list[tuple[int, int, bool]]],
    above: list[str],
    beside: list[str],
    class_names: Mapping[int, str] | None,
    title: str | None,
    cell_inches: float,
) -> np.ndarray:
    """Draw a grid of cells (frame, slice, contoured), with a caption for each column and row, a title and a legend."""
    figure, axes = _new_grid(planes, len(cells), above, beside, class_names, title, cell_inches)
    _fill_grid(axes, planes, cells)
    return render_figure(figure)


def _new_grid(
    planes: Planes,
    rows: int,
    above: list[str],
    beside: list[str],
    class_names: Mapping[int, str] | None,
    title: str | None,
    cell_inches: float,
) -> tuple[Figure, list[list[Axes]]]:
    """An empty grid of `rows` cells for each caption `above`, captions `beside` its rows where there are any; its axes by row."""
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
    axes: list[list[Axes]] = []
    for r in range(rows):
        lower = page_height - top - (r + 1) * cell_height - r * gap
        boxes = [
            (left / page_width, lower / page_height, cell_width / page_width, cell_height / page_height)
            for left in (side + c * (cell_width + gap) for c in range(len(above)))
        ]
        axes.append([figure.add_axes(box) for box in boxes])
        middle = (lower + cell_height / 2) / page_height
        words = beside[r] if beside else ""
        figure.text(0.14 / page_width, middle, words, color=PALE, fontsize=9, rotation=90, ha="center", va="center")
    for c, words in enumerate(above):
        x, y = (side + c * (cell_width + gap) + cell_width / 2) / page_width, 1 - (top - 0.06) / page_height
        figure.text(x, y, words, color=PALE, fontsize=9, ha="center", va="bottom")
    if title:
        figure.text(side / page_width, 1 - 0.08 / page_height, caption(title), color="white", fontsize=11, va="top")
    if handles:
        corner = (side / page_width, 0)
        figure.legend(
            handles=handles, loc="lower left", bbox_to_anchor=corner, ncols=per_row, frameon=False, labelcolor=PALE, fontsize=9
        )  # fmt: skip
    return figure, axes


def _fill_grid(axes: list[list[Axes]], planes: Planes, cells: list[list[tuple[int, int, bool]]]) -> None:
    """Draw cells (frame, slice, contoured) over whatever is there."""
    for places, row in zip(axes, cells, strict=True):
        for place, (t, z, contoured) in zip(places, row, strict=True):
            for artist in (*place.images, *place.collections):
                artist.remove()
            _draw_cell(place, planes, t, z, contoured)


def _draw_cell(axes: Axes, planes: Planes, t: int, z: int, contoured: bool) -> None:
    low, high = planes.window
    axes.imshow(planes.image[t, z], cmap="gray", vmin=low, vmax=high, aspect=planes.aspect, interpolation="bicubic")
    if contoured and planes.label is not None:
        for value in _classes(planes.label[t, z]):
            _draw_contour(axes, planes.label[t, z] == value, class_color(value), 1.6, "solid")
    if contoured and planes.reference is not None:
        for value in _classes(planes.reference[t, z]):
            _draw_contour(axes, planes.reference[t, z] == value, "white", 0.9, (0, (3, 2)))
    rows, columns = planes.image.shape[2:]
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_axis_off()


def _draw_contour(axes: Axes, mask: np.ndarray, colour: str, width: float, style: object) -> None:
    """Contour of one class; a ring of zeros round the plane closes it at the image's border."""
    rows, columns = mask.shape
    axes.contour(
        np.arange(-1, columns + 1),
        np.arange(-1, rows + 1),
        np.pad(mask, 1).astype(np.float32),
        levels=[0.5],
        colors=[colour],
        linewidths=[width],
        linestyles=[style],
    )


def _legend_handles(class_names: Mapping[int, str], with_reference: bool) -> list[Line2D]:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=class_color(value), linewidth=2, label=caption(name))
        for value, name in class_names.items()
    ]
    if with_reference and handles:
        handles.append(Line2D([], [], color="white", linewidth=1, linestyle=(0, (3, 2)), label="reference"))
    return handles


def _classes(label: np.ndarray) -> list[int]:
    return [int(value) for value in np.unique(label) if value > 0]
