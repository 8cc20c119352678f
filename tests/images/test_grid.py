"""The working grid: one anatomy is one array however it was stored, and the way back loses nothing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.ndimage import zoom
from torch.nn.functional import one_hot

from unet4d.errors import InputError
from unet4d.images.grid import WorkingGrid
from unet4d.images.resample_back import NativeLabel

SPACINGS = {
    "thick axial": (1.2, 1.2, 8.0),
    "thick coronal": (1.2, 8.0, 1.2),
    "thick sagittal": (8.0, 1.2, 1.2),
    "nearly isotropic": (1.0, 1.1, 1.2),
    "two coarse axes": (1.0, 4.0, 4.0),
}
ORIENTATIONS = [
    (order, flips) for order in itertools.permutations(range(3)) for flips in itertools.product((False, True), repeat=3)
]


def affine_of(spacing, turn: np.ndarray | None = None) -> np.ndarray:
    affine = np.diag([*spacing, 1.0])
    affine[:3, :3] = (np.eye(3) if turn is None else turn) @ affine[:3, :3]
    affine[:3, 3] = (-40.0, 12.0, 7.0)
    return affine


def rotation(degrees) -> np.ndarray:
    """Return the rotation about X, then Y, then Z."""
    turned = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        one = np.eye(3)
        i, j = [other for other in range(3) if other != axis]
        one[i, i] = one[j, j] = np.cos(angle)
        one[i, j], one[j, i] = -np.sin(angle), np.sin(angle)
        turned = one @ turned
    return turned


def stored(array: np.ndarray, affine: np.ndarray, order, flips) -> tuple[np.ndarray, np.ndarray]:
    """Return the same anatomy stored with other voxel axes."""
    lead = array.ndim - 3
    written = array.transpose(*range(lead), *(lead + axis for axis in order))
    to_old = np.zeros((4, 4))
    to_old[3, 3] = 1
    for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
        to_old[old, new] = -1 if flip else 1
        to_old[old, 3] = array.shape[lead + old] - 1 if flip else 0
        written = np.flip(written, lead + new) if flip else written
    return written, affine @ to_old


def working_axes(grid: WorkingGrid, affine: np.ndarray) -> np.ndarray:
    """Return the world directions of the working axes, one per column."""
    return affine[:3, list(grid.order)] * np.where(grid.flips, -1, 1)


def logits_of(label: np.ndarray, classes: int) -> torch.Tensor:
    return one_hot(torch.from_numpy(label.astype(np.int64)), classes).movedim(-1, 1).float()


def native_label(grid: WorkingGrid, logits: torch.Tensor) -> np.ndarray:
    """Return class indices on the native grid, from whole logits."""
    native = NativeLabel(grid, len(logits), range(logits.shape[1]))
    native.fill(logits, *((0, len(axis.low)) for axis in native.axes[:2]))
    return native.label


@pytest.mark.parametrize("spacing", SPACINGS.values(), ids=SPACINGS.keys())
def test_one_anatomy_is_one_working_image_in_all_48_orientations(spacing):
    image = np.random.default_rng(0).random((2, 3, 4, 5, 6), dtype=np.float32)
    affine = affine_of(spacing)
    first = WorkingGrid.of(affine, image.shape[2:]).image(image)
    for order, flips in ORIENTATIONS:
        written, its_affine = stored(image, affine, order, flips)
        grid = WorkingGrid.of(its_affine, written.shape[2:])
        assert np.array_equal(grid.image(written), first)


@pytest.mark.parametrize("degrees", [(0, 0, 0), (20, -15, 30), (-50, 35, 10)])
@pytest.mark.parametrize("spacing", SPACINGS.values(), ids=SPACINGS.keys())
def test_the_way_there_and_back_loses_nothing_without_resampling(spacing, degrees):
    label = np.random.default_rng(1).integers(0, 4, (2, 4, 5, 6)).astype(np.uint8)
    affine = affine_of(spacing, rotation(degrees))
    for order, flips in ORIENTATIONS:
        written, its_affine = stored(label, affine, order, flips)
        grid = WorkingGrid.of(its_affine, written.shape[1:])
        back = native_label(grid, logits_of(grid.label(written, 4), 4))
        assert back.dtype == np.uint8
        assert np.array_equal(back, written)


@pytest.mark.parametrize("degrees", [(0, 0, 0), (20, -15, 30), (-50, 35, 10)])
@pytest.mark.parametrize("spacing", SPACINGS.values(), ids=SPACINGS.keys())
def test_the_working_grid_is_right_handed_with_thick_slices_last(spacing, degrees):
    affine = affine_of(spacing, rotation(degrees))
    for order, flips in ORIENTATIONS:
        written, its_affine = stored(np.zeros((4, 5, 6)), affine, order, flips)
        grid = WorkingGrid.of(its_affine, written.shape)
        assert np.linalg.det(working_axes(grid, its_affine)) > 0
        assert grid.spacing[2] == pytest.approx(max(spacing))


def test_a_ras_study_is_unchanged_and_an_lps_study_is_reoriented_to_ras():
    image = np.arange(24, dtype=np.float32).reshape(1, 1, 2, 3, 4)
    grid = WorkingGrid.of(np.diag([1.0, 1.0, 8.0, 1.0]), (2, 3, 4))
    assert (grid.order, grid.flips) == ((0, 1, 2), (False, False, False))
    assert np.array_equal(grid.image(image), image)
    lps = WorkingGrid.of(np.diag([-1.0, -1.0, 8.0, 1.0]), (2, 3, 4))
    assert np.array_equal(lps.image(image), image[:, :, ::-1, ::-1])


def test_a_thick_coronal_stack_lies_right_superior_posterior():
    axes = working_axes(WorkingGrid.of(affine_of((1.0, 8.0, 1.0)), (4, 5, 6)), affine_of((1.0, 8.0, 1.0)))
    assert np.array_equal(np.sign(axes), [[1, 0, 0], [0, 0, -1], [0, 1, 0]])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_single_slice_lies_last_however_thin_it_is(axis):
    shape = [6, 6, 6]
    shape[axis] = 1
    grid = WorkingGrid.of(np.diag([1.4, 1.4, 1.4, 1.0]), shape, plane_spacing_mm=0.7)
    assert grid.order[2] == axis
    assert grid.shape == (12, 12, 1)


def test_resampling_keeps_the_field_of_view():
    grid = WorkingGrid.of(np.diag([1.3, 1.3, 8.0, 1.0]), (50, 41, 7), plane_spacing_mm=1.7, slice_spacing_mm=5.0)
    assert grid.shape == (38, 31, 11)
    assert np.allclose(np.multiply(grid.shape, grid.spacing), (50 * 1.3, 41 * 1.3, 7 * 8.0))
    ramp = np.broadcast_to(np.arange(50, dtype=np.float32)[:, None, None] + 0.5, (1, 1, 50, 41, 7))
    centers = (np.arange(38) + 0.5) * 50 / 38  # in native voxels from the border
    assert np.allclose(grid.image(ramp)[0, 0, 1:-1, 3, 3], centers[1:-1], atol=1e-4)


def test_the_slice_spacing_stays_without_a_setting():
    grid = WorkingGrid.of(np.diag([1.0, 1.0, 8.0, 1.0]), (10, 10, 7), plane_spacing_mm=2.0)
    assert grid.shape == (5, 5, 7)
    assert grid.spacing == (2.0, 2.0, 8.0)


def test_a_label_is_resampled_to_the_class_with_the_largest_linear_share():
    # halved: each new voxel is the mean of two; a tie goes to the lower class
    label = np.array([0, 0, 1, 1, 2, 2, 1, 2], np.uint8).reshape(1, 8, 1, 1)
    grid = WorkingGrid((8, 1, 1), (0, 1, 2), (False,) * 3, (4, 1, 1), (2.0, 1.0, 1.0))
    assert grid.label(label, 3).ravel().tolist() == [0, 1, 2, 1]
    # thirded: the middle of 0 2 2 wins over the mean 4/3, which would be a class that is not there
    grid = WorkingGrid((6, 1, 1), (0, 1, 2), (False,) * 3, (2, 1, 1), (3.0, 1.0, 1.0))
    assert grid.label(np.array([0, 2, 2, 2, 0, 0], np.uint8).reshape(1, 6, 1, 1), 3).ravel().tolist() == [2, 0]


@pytest.mark.parametrize(("plane", "slices"), [(0.9, None), (2.1, None), (1.7, 4.0)])
def test_a_ball_survives_resampling_both_ways(plane, slices):
    x, y, z = np.meshgrid(np.arange(40) - 19.5, np.arange(36) - 17.5, (np.arange(9) - 4) * 4, indexing="ij")
    ball = ((x**2 + y**2 + z**2) < 14**2).astype(np.uint8)[None]
    affine = affine_of((1.4, 1.4, 5.6), rotation((20, -15, 30)))
    written, its_affine = stored(ball, affine, (2, 0, 1), (True, False, True))
    grid = WorkingGrid.of(its_affine, written.shape[1:], plane, slices)
    back = native_label(grid, logits_of(grid.label(written, 2), 2))
    assert 2 * (back & written).sum() / (int(back.sum()) + int(written.sum())) > 0.95


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("shape", [(6, 5, 1), (1, 5, 6), (6, 1, 1), (1, 1, 1)])
def test_single_slices_and_frames_go_there_and_back(shape, frames):
    grid = WorkingGrid.of(np.diag([1.0, 1.0, 8.0, 1.0]), shape, plane_spacing_mm=0.5)
    label = np.ones((frames, *shape), np.uint8)
    assert grid.image(label[None]).shape == (1, frames, *grid.shape)
    assert np.array_equal(native_label(grid, logits_of(grid.label(label, 2), 2)), label)


def test_a_single_slice_is_turned_in_all_48_orientations():
    image = np.random.default_rng(2).random((1, 2, 5, 1, 4), dtype=np.float32)
    label = (image[0] > 0.5).astype(np.uint8)
    affine = affine_of((1.4, 1.0, 1.4))
    for order, flips in ORIENTATIONS:
        written, its_affine = stored(image, affine, order, flips)
        its_label, _ = stored(label, affine, order, flips)
        grid = WorkingGrid.of(its_affine, written.shape[2:])
        assert np.array_equal(grid.image(written)[0, :, :, :, 0], image[0, :, :, 0])
        assert np.array_equal(native_label(grid, logits_of(grid.label(its_label, 2), 2)), its_label)


FLOW = ("signal", "velocity X", "velocity Y", "velocity Z")


def vectors_stored(image: np.ndarray, affine: np.ndarray, order, flips) -> tuple[np.ndarray, np.ndarray]:
    """Return the same as `stored`, for a magnitude and a velocity along X, Y, Z: its components follow the axes."""
    written, its_affine = stored(image, affine, order, flips)
    components = [(-1 if flip else 1) * written[1 + old] for old, flip in zip(order, flips, strict=True)]
    return np.stack([written[0], *components]), its_affine


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_a_single_slice_seen_from_behind_is_resampled(interpolation):
    image = np.random.default_rng(0).random((1, 2, 6, 5, 1), np.float32)
    front, behind = (
        WorkingGrid.of(affine_of((1.5, 1.5, z)), (6, 5, 1), 1.0, None, interpolation).image(image) for z in (8, -8)
    )
    assert front.shape == (1, 2, 9, 8, 1)
    np.testing.assert_array_equal(front, behind)


@pytest.mark.parametrize("spacing", SPACINGS.values(), ids=SPACINGS.keys())
def test_one_flow_is_one_working_image_in_all_48_orientations(spacing):
    image = np.random.default_rng(3).normal(size=(4, 2, 4, 5, 6)).astype(np.float32)
    affine = affine_of(spacing, rotation((20, -15, 30)))
    first = WorkingGrid.of(affine, image.shape[2:], 1.7).image(image, FLOW)
    for order, flips in ORIENTATIONS:
        written, its_affine = vectors_stored(image, affine, order, flips)
        assert np.array_equal(WorkingGrid.of(its_affine, written.shape[2:], 1.7).image(written, FLOW), first)


def test_a_velocity_keeps_its_direction_in_the_body():
    """The direction of the vector in the world, in mm, is the same before and after."""
    image = np.random.default_rng(4).normal(size=(4, 1, 4, 5, 6)).astype(np.float32)
    for order, flips in ORIENTATIONS:
        affine = stored(image, affine_of((1.0, 1.1, 1.2), rotation((20, -15, 30))), order, flips)[1]
        grid = WorkingGrid.of(affine, image.shape[2:])
        axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        working = working_axes(grid, affine) / np.linalg.norm(working_axes(grid, affine), axis=0)
        seen = np.einsum("wc,cxyz->wxyz", working, grid.image(image, FLOW)[1:, 0])
        meant = np.stack([grid.image(one[None])[0, 0] for one in np.einsum("wc,ctxyz->wtxyz", axes, image[1:])])
        assert np.allclose(seen, meant, atol=1e-5)


def test_components_declared_backwards_and_in_another_order_are_the_same_flow():
    image = np.random.default_rng(5).normal(size=(4, 2, 4, 5, 6)).astype(np.float32)
    grid = WorkingGrid.of(np.diag([-1.0, 1.0, 1.0, 1.0]), image.shape[2:])
    backwards = image * np.array([1, -1, 1, -1], np.float32)[:, None, None, None, None]
    kinds = ("signal", "velocity -X", "velocity Y", "velocity -Z")
    assert np.array_equal(grid.image(backwards, kinds), grid.image(image, FLOW))
    mixed = grid.image(image[[2, 0, 3, 1]], ("velocity Y", "signal", "velocity Z", "velocity X"))
    assert np.array_equal(mixed, grid.image(image, FLOW)[[2, 0, 3, 1]])


def test_resampling_leaves_the_unit_of_a_velocity():
    image = np.ones((4, 1, 6, 6, 4), np.float32) * np.array([1, 30, 40, 50], np.float32)[:, None, None, None, None]
    grid = WorkingGrid.of(np.diag([1.0, 1.0, 8.0, 1.0]), (6, 6, 4), 2.0, 4.0)
    assert grid.shape == (3, 3, 8)
    assert np.allclose(grid.image(image, FLOW)[:, 0, 1, 1, 3], [1, 30, 40, 50])


def test_a_turn_that_needs_a_missing_component_is_refused_and_names_the_study():
    sagittal = WorkingGrid.of(np.diag([8.0, 1.0, 1.0, 1.0]), (4, 5, 6))
    image = np.ones((2, 1, 4, 5, 6), np.float32)
    with pytest.raises(InputError, match=r'scan\.nii: .* expected "velocity X".* axis Z is the file\'s axis X'):
        sagittal.image(image, ("signal", "velocity Z"), "scan.nii")
    assert np.array_equal(sagittal.image(image, ("signal", "signal")), sagittal.image(image))


# cubic interpolation


def of_voxels(spacing, shape, plane, slices=None, interpolation="cubic") -> WorkingGrid:
    return WorkingGrid.of(np.diag([*spacing, 1.0]), shape, plane, slices, interpolation)


@pytest.mark.parametrize(
    ("spacing", "plane", "slices"),
    [
        ((1.2, 1.2, 8.0), 0.9, None),
        ((1.2, 1.2, 8.0), 1.5, 5.0),
        ((1.2, 1.2, 3.0), 1.5, 2.0),
        ((1.0, 1.1, 1.2), 1.7, 1.7),
    ],
)
def test_cubic_images_are_scipys_splines_and_linear_across_slices_three_times_as_thick(spacing, plane, slices):
    image = np.random.default_rng(0).normal(size=(2, 3, 21, 18, 6)).astype(np.float32)
    grid = of_voxels(spacing, image.shape[2:], plane, slices)
    found = grid.image(image, ("signal", "map"))
    factors = np.divide(grid.shape, image.shape[2:])
    across = 1 if spacing[2] == 8.0 else 3
    for frame, got in zip(image.reshape(-1, 21, 18, 6), found.reshape(-1, *grid.shape), strict=True):
        wanted = frame.astype(float)
        for axis, order in enumerate((3, 3, across)):
            steps = [factors[axis] if other == axis else 1.0 for other in range(3)]
            wanted = zoom(wanted, steps, order=order, mode="nearest", grid_mode=True)
        assert np.allclose(got, wanted, atol=1e-4)
    assert found.dtype == np.float32


def test_a_frame_alone_is_that_of_the_study_and_labels_stay_linear():
    image = np.random.default_rng(0).normal(size=(1, 3, 21, 18, 6)).astype(np.float32)
    cubic, linear = (of_voxels((1.2, 1.2, 8.0), (21, 18, 6), 0.9, None, by) for by in ("cubic", "linear"))
    whole = cubic.image(image)
    assert all(np.array_equal(cubic.image(image[:, t : t + 1]), whole[:, t : t + 1]) for t in range(3))
    assert not np.allclose(whole, linear.image(image), atol=0.1)
    label = (image[0] > 0).astype(np.uint8)
    assert np.array_equal(cubic.label(label, 2), linear.label(label, 2))
    same = of_voxels((1.2, 1.2, 8.0), (21, 18, 6), None)
    assert np.array_equal(same.image(image), image)


@pytest.mark.parametrize("shape", [(6, 5, 1), (1, 1, 4), (1, 1, 1)])
def test_axes_of_one_voxel_are_cubic_too(shape):
    grid = of_voxels((1.0, 1.0, 1.2), shape, 0.4, 0.5)
    assert np.allclose(grid.image(np.full((1, 2, *shape), 3.0)), 3.0, atol=1e-5)


def test_a_smooth_image_is_truer_after_cubic_than_after_linear_interpolation():
    """Oracle: the same wave, sampled at the centers of the finer voxels."""

    def wave(n: int) -> np.ndarray:
        at = (np.arange(n) + 0.5) / n * 40
        return np.broadcast_to((np.sin(at) * np.cos(0.7 * at)[:, None])[..., None], (1, 1, n, n, 2))

    errors = {
        by: np.abs(of_voxels((1.0, 1.0, 8.0), (40, 40, 2), 0.6, None, by).image(wave(40)) - wave(67))[
            :, :, 6:-6, 6:-6
        ].mean()
        for by in ("cubic", "linear")
    }
    assert errors["cubic"] < 0.3 * errors["linear"]
