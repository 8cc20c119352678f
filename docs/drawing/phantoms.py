"""Draws the pictures of phantoms on the pages, small .webp files in docs/pictures: `python docs/drawing/phantoms.py`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import nrrd
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from unet4d.images.label_writers import LabelClass, write_segmentation
from unet4d.inference.postprocessing_steps import Step, apply_steps
from unet4d.inference.windows import Windows
from unet4d.metrics.volume_curves import volumes_ml
from unet4d.phantom import make_cine
from unet4d.phantom.cine import CINE_LABELS
from unet4d.planning.candidates import PATCH_FRACTIONS
from unet4d.report.pictures.render import class_color, new_figure, render_figure

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "pictures"
DARK, PALE, RED = "#101418", "#E8ECF0", "#FF8A65"
FRAMES, SLICE = 10, 3
STUDY = make_cine(3, FRAMES)
ED, ES = STUDY.truth["ed_frame"], STUDY.truth["es_frame"]
NAMES = list(CINE_LABELS)[1:]


def study_grid() -> None:
    """Draw a study as slices by frames, with the labels of its two drawn frames."""
    slices, drawn = (1, 3, 5), (ED, ES)
    columns = sorted({*range(0, FRAMES, 2), *drawn})
    figure, axes = _grid(len(slices), len(columns), 1.6)
    for row, z in enumerate(slices):
        for axis, t in zip(axes[row], columns, strict=True):
            _show(axis, STUDY.image[t, ..., z], STUDY.label[t, ..., z] if t in drawn else None)
            if not row:
                axis.set_title(f"frame {t}" + ", drawn" * (t in drawn), color=RED if t in drawn else PALE, fontsize=9)
        axes[row][0].text(
            -0.08, 0.5, f"slice {z}", color=PALE, fontsize=9, rotation=90, va="center", transform=axes[row][0].transAxes
        )
    _save(figure, "study.webp")


def partial_labels() -> None:
    """Draw what may be drawn of a frame: all, some slices, one class, and a propagated frame."""
    figure, axes = _grid(3, 4, 1.6)
    label, slices = STUDY.label[ED], (1, 2, 3)
    only = np.where(label == CINE_LABELS["left ventricle"], label, 0)
    other = FRAMES - 1 if ED == 0 else ED - 1
    for row, z in enumerate(slices):
        _show(axes[row][0], STUDY.image[ED, ..., z], label[..., z])
        _show(axes[row][1], STUDY.image[ED, ..., z], label[..., z] if row % 2 == 0 else None)
        if row % 2:
            _note(axes[row][1], "not drawn")
        _show(axes[row][2], STUDY.image[ED, ..., z], only[..., z])
        _show(axes[row][3], STUDY.image[other, ..., z], STUDY.label[other, ..., z], dashed=True)
    titles = ("whole frame", "labelled_slices", "annotated_labels", "propagated_frames")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, color=PALE, fontsize=9)
    _save(figure, "partial_labels.webp")


def regions() -> None:
    """Draw three regions of a label map, each holding the next."""
    figure, axes = _grid(1, 3, 2.0)
    values = {"whole heart": (1, 2, 3), "left heart": (2, 3), "left ventricle": (3,)}
    for place, (axis, (name, inside)) in enumerate(zip(axes[0], values.items(), strict=True), 1):
        _show(axis, STUDY.image[ED, ..., SLICE], np.isin(STUDY.label[ED, ..., SLICE], inside) * place)
        axis.set_title(f"{name}: {list(inside)}", color=PALE, fontsize=9)
    _save(figure, "regions.webp")


def propagate() -> None:
    """Draw frames with drawn labels, and with propagated ones between them."""
    figure, axes = _grid(1, 5, 1.8)
    for t, axis in enumerate(axes[0]):
        is_drawn = t in (0, 4)
        _show(axis, STUDY.image[t, ..., SLICE], STUDY.label[t, ..., SLICE], dashed=not is_drawn)
        axis.set_title(f"frame {t}" + ", drawn" * is_drawn, color=RED if is_drawn else PALE, fontsize=9)
    _save(figure, "propagate.webp")


def windows() -> None:
    """Draw the windows over a slice, and two of them in every frame."""
    patch, size = (64, 64), STUDY.image.shape[1:3]
    starts = Windows((*size, 1), (*patch, 1), 0.5).starts
    figure = new_figure(8.4, 3.3, DARK)
    axis = figure.add_axes((0.01, 0.02, 0.38, 0.9))
    _show(axis, STUDY.image[ED, ..., SLICE], zoom=False)
    corners = [(x, y) for x in starts[0] for y in starts[1]]
    for number, corner in enumerate(corners):
        axis.add_patch(Rectangle(corner, *patch, fill=False, edgecolor=class_color(1 + number % 7), linewidth=1.6))
    axis.set_title(f"{len(corners)} windows of 64 x 64, overlap 0.5", color=PALE, fontsize=9)
    chosen = (corners[0], corners[-1])
    for row, (x, y) in enumerate(chosen):
        for column, t in enumerate(range(0, FRAMES, 2)):
            axis = figure.add_axes((0.43 + column * 0.113, 0.49 - row * 0.46, 0.108, 0.43))
            _show(axis, STUDY.image[t, x : x + patch[0], y : y + patch[1], SLICE], zoom=False)
            for side in axis.spines.values():
                side.set(visible=True, color=class_color(1 + corners.index((x, y)) % 7), linewidth=1.6)
            axis.set_axis_on()
            axis.set(xticks=(), yticks=())
            if not row:
                axis.set_title(f"frame {t}", color=PALE, fontsize=9)
    _save(figure, "windows.webp", tight=False)


def planner() -> None:
    """Draw the patches that `plan` chooses among, as fractions of the study."""
    figure, axes = _grid(1, len(PATCH_FRACTIONS), 1.8)
    size = STUDY.image.shape[1:3]
    for axis, fraction in zip(axes[0], PATCH_FRACTIONS, strict=True):
        _show(axis, STUDY.image[ED, ..., SLICE], zoom=False)
        edges = [max(min(n, 32), int(np.ceil(n * fraction))) for n in size]
        corner = [(n - edge) / 2 - 0.5 for n, edge in zip(size, edges, strict=True)]
        axis.add_patch(Rectangle(corner, *edges, fill=False, edgecolor=class_color(2), linewidth=2))
        axis.set_title(f"{edges[0]} x {edges[1]}", color=PALE, fontsize=9)
    _save(figure, "planner.webp")


def live() -> None:
    """Draw frames as they arrive, and the volumes so far."""
    arrived, figure = 6, new_figure(8.4, 3.6, DARK)
    for t in range(8):
        axis = figure.add_axes((0.06 + t * 0.117, 0.56, 0.112, 0.36))
        to_come = t > arrived
        _show(axis, STUDY.image[t, ..., SLICE] * (not to_come), STUDY.label[t, ..., SLICE] if t < arrived else None)
        axis.set_title(
            "arrives now" if t == arrived else "to come" if to_come else f"frame {t}",
            color=RED if t == arrived else PALE,
            fontsize=9,
        )
    axis = figure.add_axes((0.06, 0.12, 0.93, 0.37), facecolor=DARK)
    voxel_ml = abs(np.linalg.det(STUDY.affine[:3, :3])) / 1000
    volumes = volumes_ml(STUDY.label, [1, 2, 3], voxel_ml)[:arrived]
    for column, name in enumerate(NAMES):
        axis.plot(range(arrived), volumes[:, column], "o-", color=class_color(column + 1), label=name)
    axis.set(xlim=(-0.5, 7.5), xlabel="frame", ylabel="volume, mL")
    _light(axis)
    axis.legend(fontsize=8, facecolor=DARK, labelcolor=PALE, edgecolor="#5A6270", loc="right")
    _save(figure, "live.webp", tight=False)


def viewers() -> None:
    """Draw three planes of a segmentation that pynrrd reads from the file written for 3D Slicer."""
    classes = [LabelClass(name, value, class_color(value)) for name, value in CINE_LABELS.items() if value]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frame_000.seg.nrrd"
        write_segmentation(path, STUDY.label[ED], STUDY.affine, classes)
        label, header = nrrd.read(str(path))
    colors = {header[f"Segment{n}_Name"]: [float(c) for c in header[f"Segment{n}_Color"].split()] for n in range(3)}
    values = {header[f"Segment{n}_Name"]: int(header[f"Segment{n}_LabelValue"]) for n in range(3)}
    x, y, z = (int(np.median(at)) for at in np.nonzero(label))
    step = np.linalg.norm(header["space directions"], axis=1)
    figure = new_figure(8.4, 3.2, DARK)
    planes = {
        "in the plane of the slices": (lambda a: a[:, :, z], (0, 1)),
        "across the slices, along X": (lambda a: a[:, y, :], (0, 2)),
        "across the slices, along Y": (lambda a: a[x, :, :], (1, 2)),
    }
    for column, (name, (cut, (across, down))) in enumerate(planes.items()):
        axis = figure.add_axes((0.01 + column * 0.335, 0.12, 0.32, 0.78))
        image = cut(STUDY.image[ED])
        axis.imshow(image.T, cmap="gray", vmax=np.percentile(STUDY.image[ED], 99.5), aspect=step[down] / step[across])
        for segment, value in values.items():
            mask = cut(label) == value
            axis.imshow(
                np.dstack([*(np.full(mask.T.shape, c) for c in colors[segment]), 0.55 * mask.T]),
                aspect=step[down] / step[across],
                interpolation="nearest",
            )
        axis.set_title(name, color=PALE, fontsize=9)
        axis.set_axis_off()
    for column, (segment, color) in enumerate(colors.items()):
        figure.text(0.2 + 0.22 * column, 0.04, f"\u25a0 {segment}", color=color, fontsize=10)
    _save(figure, "viewers.webp", tight=False)


def postprocessing() -> None:
    """Draw a label map with an island and a hole, and what post-processing makes of it."""
    label = STUDY.label[[ED]].copy()
    inside = np.argwhere(label[0, ..., SLICE] == CINE_LABELS["left ventricle"])
    x, y = inside.mean(axis=0).astype(int)
    label[0, x - 2 : x + 2, y - 2 : y + 2, SLICE] = 0
    label[0, x + 14 : x + 20, y + 22 : y + 27, SLICE] = CINE_LABELS["left ventricle"]
    steps = [Step("largest_component", "left ventricle"), Step("fill_holes", "left ventricle")]
    maps = {"as predicted": label}
    for count, step in enumerate(steps, 1):
        maps[f"{step.operation}"] = apply_steps(label, steps[:count], CINE_LABELS, cyclic=False)
    figure, axes = _grid(1, 3, 2.4)
    for axis, (name, found) in zip(axes[0], maps.items(), strict=True):
        _show(axis, STUDY.image[ED, ..., SLICE], found[0, ..., SLICE])
        axis.set_title(name, color=PALE, fontsize=9)
    _save(figure, "postprocessing.webp")


def spoiled() -> None:
    """Draw frames of which one is spoiled."""
    study = make_cine(5, FRAMES, ambiguous=0.2)
    wrong = [t for t in range(FRAMES) if t in study.truth["ambiguous_frames"]]
    middle = next(t for t in wrong if 1 <= t < FRAMES - 1)
    first = min(max(0, middle - 2), FRAMES - 5)
    figure, axes = _grid(1, 5, 1.8)
    for axis, t in zip(axes[0], range(first, first + 5), strict=True):
        _show(axis, study.image[t, ..., SLICE], study.label[t, ..., SLICE])
        axis.set_title(f"frame {t}" + ", spoiled" * (t in wrong), color=RED if t in wrong else PALE, fontsize=9)
    _save(figure, "spoiled.webp")


def accuracy() -> None:
    """Draw the measured gain in Dice of five settings, a dot per seed."""
    path = ROOT / "experiments" / "results" / "accuracy" / "summary.json"
    plain, *rows = json.loads(path.read_text(encoding="utf-8"))
    figure = new_figure(7.2, 2.4, DARK)
    axis = figure.add_axes((0.3, 0.2, 0.66, 0.76), facecolor=DARK)
    axis.axvline(0, color="#5A6270")
    for place, row in enumerate(rows):
        gains = [seed["all frames"] - plain["seeds"][name]["all frames"] for name, seed in row["seeds"].items()]
        axis.plot(gains, [-place] * len(gains), "o", color=class_color(1), markersize=5)
        axis.plot([row["gain, all frames"]], [-place], "|", color=class_color(2), markersize=16, markeredgewidth=3)
    axis.set_yticks([-place for place in range(len(rows))], [row["variant"].replace("_", " ") for row in rows])
    axis.set(xlabel="gain in mean Dice: each seed, and their mean")
    _light(axis)
    _save(figure, "accuracy.webp", tight=False)


def fine_tuning() -> None:
    """Draw the measured Dice of a start from another task beside a start from scratch."""
    path = ROOT / "experiments" / "results" / "fine_tuning" / "summary.json"
    rows = {row["arm"]: row for row in json.loads(path.read_text(encoding="utf-8"))["renamed"]}
    names = {
        "scratch_quarter": "from random weights",
        "tuned_quarter_overlap_0.3": "from another task's network",
        "scratch": "from random weights",
    }
    figure = new_figure(6.4, 2.2, DARK)
    axis = figure.add_axes((0.43, 0.22, 0.5, 0.72), facecolor=DARK)
    for place, (arm, name) in enumerate(names.items()):
        value = rows[arm]["dice"]
        axis.barh(-place, value, color=class_color(2 if arm.startswith("tuned") else 1), height=0.62)
        axis.text(value + 0.01, -place, f"{value:.3f}", color=PALE, va="center", fontsize=9)
        axis.text(-0.02, -place, f"{rows[arm]['steps']} steps, {name}", color=PALE, va="center", ha="right", fontsize=9)
    axis.set(xlim=(0, 1), yticks=(), xlabel="mean Dice, 6 new phantoms, two seeds")
    _light(axis)
    _save(figure, "fine_tuning.webp", tight=False)


def _grid(rows: int, columns: int, inches: float) -> tuple[Figure, np.ndarray]:
    figure = new_figure(columns * inches, rows * inches + 0.3, DARK)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _show(
    axis: Axes, image: np.ndarray, label: np.ndarray | None = None, zoom: bool = True, dashed: bool = False
) -> None:
    """Draw a slice (X, Y), X to the right and Y down, with the contours of a label."""
    axis.imshow(image.T, cmap="gray", vmin=0, vmax=np.percentile(STUDY.image, 99.7), interpolation="nearest")
    if label is not None:
        for value in range(1, int(label.max()) + 1):
            if (label == value).any():
                axis.contour(
                    value == label.T,
                    [0.5],
                    colors=class_color(value),
                    linewidths=1.3,
                    linestyles="--" if dashed else "-",
                )
    if zoom:
        x, y = (int(np.median(at)) for at in np.nonzero(STUDY.label.max(axis=(0, 3))))
        axis.set(xlim=(x - 34, x + 34), ylim=(y + 34, y - 34))
    axis.set_axis_off()


def _note(axis: Axes, text: str) -> None:
    axis.text(0.5, 0.06, text, color=RED, fontsize=9, ha="center", transform=axis.transAxes)


def _light(axis: Axes) -> None:
    axis.tick_params(colors=PALE, labelsize=8)
    for label in (axis.xaxis.label, axis.yaxis.label):
        label.set(color=PALE, fontsize=9)
    for side in axis.spines.values():
        side.set_color("#5A6270")


def _save(figure: Figure, name: str, tight: bool = True) -> None:
    if tight:
        top = 1 - 0.26 / figure.get_figheight()
        figure.subplots_adjust(0.03, 0.01, 0.995, top, 0.04, 0.04)
    Image.fromarray(render_figure(figure)).save(PICTURES / name, quality=68, method=6)


def main() -> None:
    """Write all of them."""
    for draw in (
        study_grid,
        partial_labels,
        regions,
        propagate,
        windows,
        planner,
        live,
        viewers,
        postprocessing,
        spoiled,
        accuracy,
        fine_tuning,
    ):
        draw()


if __name__ == "__main__":
    main()
