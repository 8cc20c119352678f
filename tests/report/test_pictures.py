"""Pictures: orientation, proportions, colors, and contours that lie on their class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from unet4d.report.pictures.contour_sheet import column_names, draw_contour_sheet, draw_thumbnail, write_animation
from unet4d.report.pictures.curve_plot import draw_curves
from unet4d.report.pictures.layout import crop_to_label, display_axes, display_window, lay_out, pick_evenly
from unet4d.report.pictures.render import class_color, save_picture


def near(picture: np.ndarray, color: str, tolerance: int = 30) -> np.ndarray:
    """Return (H, W) bool: where a picture has about this color."""
    expected = np.array(ImageColor.getrgb(color)[:3])
    return (np.abs(picture.astype(int) - expected) <= tolerance).all(-1)


@pytest.fixture
def study() -> tuple[np.ndarray, np.ndarray]:
    """Return (T, X, Y, Z) = (4, 30, 24, 3): class 1 a square that moves with time, class 2 in slice 1 alone."""
    label = np.zeros((4, 30, 24, 3), np.uint8)
    for t in range(4):
        label[t, 5 + t : 12 + t, 6:14] = 1
    label[:, 20:25, 15:20, 1] = 2
    return label.astype(np.float32) * 20 + 50, label


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        # voxel axes to right, anterior, superior: both in the plane must be reversed to run left and posterior
        (np.diag([1, 1, 5]), ((2, 1, 0), (True, True))),
        # already left, posterior: nothing to reverse
        (np.diag([-1, -1, 5]), ((2, 1, 0), (False, False))),
        # first axis posterior, second left: the picture is transposed
        (np.array([[0, -1, 0], [-1, 0, 0], [0, 0, 5]]), ((2, 0, 1), (False, False))),
        # sagittal stack: slices across the thick first axis, rows run down (inferior), columns to the back
        (np.diag([8, -1, 1]), ((0, 2, 1), (True, False))),
        # a tilt of 20 degrees changes nothing
        (
            np.array([[np.cos(0.35), -np.sin(0.35), 0], [np.sin(0.35), np.cos(0.35), 0], [0, 0, 5]]),
            ((2, 1, 0), (True, True)),
        ),
    ],
)
def test_display_is_radiological(columns: np.ndarray, expected):
    affine = np.eye(4)
    affine[:3, :3] = columns
    assert display_axes(affine) == expected


def test_left_of_the_patient_is_right_in_the_picture_whatever_the_storage():
    """A bright voxel at the patient's left front is upper right in the picture, for an image stored RAS and LPS."""
    for signs in ((1, 1), (-1, -1), (1, -1)):
        affine = np.diag([signs[0], signs[1], 5.0, 1.0])
        image = np.zeros((1, 10, 10, 1), np.float32)
        image[0, 1 if signs[0] > 0 else 8, 8 if signs[1] > 0 else 1, 0] = 1
        plane = lay_out(image, None, affine, None).image[0, 0]
        row, column = np.argwhere(plane == 1)[0]
        assert (row, column) == (1, 8)


def test_contours_lie_on_their_class_in_its_colour(study):
    image, label = study
    image, label, affine = image[..., 1:2], label[..., 1:2], np.diag([-1, -1, 8, 1])
    width = crop_to_label(lay_out(image, label, affine, None)).image.shape[3]
    sheet = draw_contour_sheet(image, label, affine, frames=[0, 3])
    assert sheet.dtype == np.uint8
    assert sheet.shape[2] == 3
    centers = []
    for left in (28, 28 + 194):  # a caption of 28 pixels, cells of 190 and gaps of 4
        cell = sheet[:, left : left + 190]
        _, columns = np.nonzero(near(cell, class_color(1)))
        assert len(columns) > 100
        centers.append(columns.mean())
        assert near(cell, class_color(2)).sum() > 50
    assert centers[1] - centers[0] == pytest.approx(3 * 190 / width, abs=2)  # 3 voxels, in a cell of 190
    bare = draw_contour_sheet(image, None, frames=[0])
    assert not near(bare, class_color(1)).any()


def test_reference_is_drawn_where_it_has_something(study):
    image, label = study
    reference = np.zeros_like(label)
    reference[0] = np.roll(label[0], 2, axis=1)

    def white(frame: int) -> int:
        names = {}
        with_it = draw_contour_sheet(image, label, frames=[frame], reference=reference, class_names=names)
        without = draw_contour_sheet(image, label, frames=[frame], class_names=names)
        return int((near(with_it, "white") & ~near(without, "white")).sum())

    assert white(0) > 50
    assert white(1) == 0


def test_pixels_keep_their_proportions(study):
    image, _ = study  # 30 x 24 voxels
    for spacing, expected in (((1, 1), 24 / 30), ((1, 2), 48 / 30), ((3, 1), 24 / 90)):
        affine = np.diag([*spacing, 9, 1])
        sheet, one = (draw_contour_sheet(image[..., :slices], None, affine, frames=[0]) for slices in (2, 1))
        height = sheet.shape[0] - one.shape[0] - 4  # what one more slice adds, less the gap between
        width = one.shape[1] - 28 - 4 - 4
        assert height / width == pytest.approx(expected, rel=0.03)


def test_zoom_keeps_every_labelled_voxel(study):
    image, label = study
    planes = lay_out(image, label, None, None)
    close = crop_to_label(planes)
    assert close.label is not None
    assert close.image.shape == close.label.shape
    assert (close.label > 0).sum() == (label > 0).sum()
    small = np.zeros_like(label)
    small[0, 20, 3, 1] = 1
    assert crop_to_label(lay_out(image, small, None, None)).image[0, 0].size < 20
    assert crop_to_label(lay_out(image, np.zeros_like(label), None, None)).image.shape == planes.image.shape


def test_window_ignores_single_bright_voxels_and_survives_a_flat_image():
    image = np.random.default_rng(0).uniform(0, 100, (2, 20, 20, 5)).astype(np.float32)
    image[0, 0, 0, 0] = 1e6
    assert display_window(image)[1] < 110
    low, high = display_window(np.zeros((1, 3, 3, 3), np.float32))
    assert low < high


def test_spread_keeps_both_ends():
    assert pick_evenly(range(10), 4) == [0, 3, 6, 9]
    assert pick_evenly([7], 4) == [7]
    assert pick_evenly([2, 5], 4) == [2, 5]


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 40, 1, 1), (2, 1, 40, 2)])
def test_tiny_and_thin_studies_can_be_drawn(shape: tuple[int, ...]):
    label = np.ones(shape, np.uint8)
    names = dict.fromkeys(range(1, 12), "a long class name")
    sheet = draw_contour_sheet(label.astype(np.float32), label, class_names=names)
    assert max(sheet.shape) < 4000


def test_a_label_of_another_shape_is_refused(study):
    image, label = study
    with pytest.raises(ValueError, match=r"\(T, X, Y, Z\)"):
        draw_contour_sheet(image, label[:2])


def test_animation_loops_over_every_frame_in_time(study, tmp_path: Path):
    image, label = study
    path = write_animation(
        tmp_path / "loop.webp", image, label, frame_duration_s=0.05, class_names={1: "one", 2: "two"}
    )
    pages = []
    with Image.open(path) as loop:
        assert loop.n_frames == 4
        assert loop.info["loop"] == 0
        for t in range(4):
            loop.seek(t)
            loop.load()
            assert loop.info["duration"] == 50
            pages.append(np.asarray(loop.convert("RGB")))
    upper, lower = np.split(pages[0][: len(pages[0]) // 2 * 2], 2)
    assert near(lower, class_color(1), 60).sum() > near(upper, class_color(1), 60).sum() + 100
    assert (pages[0] != pages[3]).any()
    assert sorted(file.name for file in tmp_path.iterdir()) == [path.name]


def test_curves_use_the_colors_of_the_contours():
    curves = {"one": np.array([3.0, 5.0, 4.0]), "two": np.array([1.0, 1.0, 0.0])}
    plain = draw_curves(curves, frame_duration_s=0.04)
    assert near(plain, class_color(1)).sum() > 100
    assert near(plain, class_color(2)).sum() > 100
    swapped = draw_curves(curves, colors={"one": class_color(5), "two": class_color(6)})
    assert near(swapped, class_color(5)).sum() > 100
    assert near(swapped, class_color(1)).sum() == 0
    ringed = draw_curves(curves, frame_duration_s=0.04, reference={"one": np.array([3.5, np.nan, np.nan])})
    assert (ringed != plain).any()
    assert draw_curves({"alone": np.array([2.0])}).shape == plain.shape


@pytest.mark.parametrize(("seconds", "whole"), [(None, True), (0.3, False)])
def test_frames_are_counted_in_whole_numbers(monkeypatch, seconds, whole):
    """Two frames had ticks at 0.2, 0.4, ... of a frame; seconds may have them."""
    figures = []
    monkeypatch.setattr("unet4d.report.pictures.curve_plot.render_figure", figures.append)
    draw_curves({"one": np.array([3.0, 5.0])}, frame_duration_s=seconds)
    ticks = figures[0].axes[0].get_xticks()
    assert (np.asarray(ticks) % 1 == 0).all() == whole
    assert len(ticks) >= 2


def test_the_columns_of_the_largest_and_smallest_volume_are_named(study, monkeypatch):
    assert column_names([0, 2, 3]) == ["frame 0", "frame 2", "frame 3"]
    assert column_names([0, 2, 3], [3, 0]) == ["frame 0 (smallest)", "frame 2", "frame 3 (largest)"]
    assert column_names([0, 2], [3, 0]) == ["frame 0 (smallest)", "frame 2"]
    assert column_names([0, 2], [0, 0]) == ["frame 0", "frame 2"], "nothing changes"
    assert column_names([0, 2, 3], [3, 0], ("ED", "ES")) == ["frame 0 (ES)", "frame 2", "frame 3 (ED)"]
    figures = []
    monkeypatch.setattr("unet4d.report.pictures.contour_sheet.render_figure", figures.append)
    draw_contour_sheet(*study, frames=[0, 1], extremes=[1, 0])
    assert {"frame 0 (smallest)", "frame 1 (largest)"} <= {text.get_text() for text in figures[0].texts}


def test_the_thumbnail_shows_its_frames_side_by_side(study):
    image, label = study
    small = draw_thumbnail(image, label, np.diag([-1, -1, 8, 1]), [3, 0])
    assert small.shape[1] > 1.8 * small.shape[0] > 100
    assert small.shape[1] < 300
    left, right = np.split(small[:, : small.shape[1] // 2 * 2], 2, axis=1)
    columns = [np.nonzero(near(half, class_color(1)))[1].mean() for half in (left, right)]
    assert columns[0] > columns[1] + 5, "class 1 moves to the right"
    assert near(left, class_color(2)).any(), "the middle slice, the only one with class 2"
    still = draw_thumbnail(image[:1], label[:1] * 0, None, [0])
    assert not near(still, class_color(1)).any()


def test_moments_are_lines_across_the_curves(monkeypatch):
    figures = []
    monkeypatch.setattr("unet4d.report.pictures.curve_plot.render_figure", figures.append)
    draw_curves({"one": np.array([3.0, 5.0, 4.0])}, frame_duration_s=0.1, moments={"ED": 1, "ES": 0})
    axes = figures[0].axes[0]
    assert {text.get_text(): round(text.xy[0], 6) for text in axes.texts} == {"ED": 0.1, "ES": 0.0}
    upright = [line.get_xdata() for line in axes.lines if list(line.get_ydata()) == [0, 1]]
    np.testing.assert_allclose(upright, [[0.1, 0.1], [0, 0]])


def test_a_small_picture_can_be_read_back(tmp_path: Path):
    picture = np.full((20, 30, 3), 200, np.uint8)
    with Image.open(save_picture(tmp_path / "deep/er.webp", picture)) as back:
        assert back.format == "WEBP"
        assert np.abs(np.asarray(back).astype(int) - 200).max() < 5


def test_png_is_the_picture(tmp_path: Path):
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    with Image.open(save_picture(tmp_path / "deep/er.png", picture)) as back:
        np.testing.assert_array_equal(np.asarray(back), picture)


def test_drawing_leaves_pyplot_alone(study):
    import matplotlib.pyplot as plt

    draw_contour_sheet(*study)
    assert plt.get_fignums() == []
