"""Surface distances against answers derived by hand, properties, and oracles that share no code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from tests.drawn import draw
from unet4d.metrics.overlap import count_voxels, dice
from unet4d.metrics.surface import surface_scores


def hd95(reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...] = (1, 1, 1)) -> float:
    return float(surface_scores(reference, prediction, [1], spacing).hd95_mm[0, 0])


def oracle_hd95(reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...]) -> float:
    """Compute HD95 of one 3D pair from a list of surface voxels and every distance: no erosion, no tree, no transform."""

    def surface(mask: np.ndarray) -> np.ndarray:
        points = []
        for x, y, z in np.argwhere(mask):
            for step in ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)):
                there = (x + step[0], y + step[1], z + step[2])
                if any(i < 0 or i >= n for i, n in zip(there, mask.shape, strict=True)) or not mask[there]:
                    points.append((x, y, z))
                    break
        return np.array(points, float) * np.array(spacing)

    a, b = surface(reference), surface(prediction)
    all_pairs = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    return max(np.percentile(all_pairs.min(0), 95), np.percentile(all_pairs.min(1), 95))


def blob(seed: int, shape: tuple[int, ...] = (12, 10, 6)) -> np.ndarray:
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    return (field > np.quantile(field, 0.7)).astype(np.uint8)


def test_no_warning_reaches_the_user(recwarn):
    hd95(blob(1)[None], blob(2)[None])
    assert [str(warning.message) for warning in recwarn] == []


def test_empty_masks_follow_the_convention():
    one = draw("1..")
    none = draw("...")
    pairs = ((none, none), (one, none), (none, one))
    both, only_reference, only_prediction = (count_voxels(a, b, [1]) for a, b in pairs)
    assert np.isnan(dice(both)).all()
    for counts in (only_reference, only_prediction):
        assert dice(counts).tolist() == [[0.0]]
    for a, b in pairs:
        assert np.isnan(hd95(a, b))


@pytest.mark.parametrize(
    ("reference", "prediction", "spacing", "wanted"),
    [
        # one voxel to one voxel: 1 row of 3 mm and 2 columns of 2 mm
        ("1... .... ....", ".... ..1. ....", (3, 2, 10), 5.0),
        # a bar grown by two columns of 1.5 mm on one side; all voxels are contour. Distances of the prediction's
        # five: 0 0 0 1.5 3.0; q95 lies 0.8 of the way from the fourth to the fifth: 1.5 + 0.8 * 1.5
        ("111.. .....", "11111 .....", (1, 1.5, 10), 2.7),
        # touching the image's border, where the contour must not be open: 3x3 squares, one row of 2 mm apart
        ("111 111 111 ...", "... 111 111 111", (2, 1, 10), 2.0),
        # the whole image against its middle. Outer contour of 16, inner of 8 (the middle voxel of 3x3 is not contour).
        # Corners lie sqrt(2) from it, other outer voxels 1: q95 of twelve 1 and four sqrt(2) is sqrt(2)
        ("11111 11111 11111 11111 11111", "..... .111. .111. .111. .....", (1, 1, 10), 2**0.5),
    ],
)
def test_hausdorff_by_hand(reference: str, prediction: str, spacing: tuple[float, ...], wanted: float):
    a, b = draw(reference), draw(prediction)
    assert hd95(a, b, spacing) == pytest.approx(wanted, rel=1e-6)
    assert hd95(b, a, spacing) == pytest.approx(wanted, rel=1e-6)


def test_single_slice_is_measured_by_its_contour():
    """A square of 20 moved by 3 of 1 mm: in the plane 3 mm. Taken as a 3D volume, its inside would be surface too."""
    plane = np.zeros((1, 40, 40, 1), np.uint8)
    plane[0, 10:30, 10:30] = 1
    moved = np.roll(plane, 3, axis=1)
    assert hd95(plane, moved, (1, 1, 8)) == pytest.approx(3.0)
    for axis in (1, 2, 3):  # whichever axis is the single one
        a, b = (np.moveaxis(volume, 3, axis) for volume in (plane, moved))
        spacing = np.insert([1.0, 1.0], axis - 1, 8.0)
        assert hd95(a, b, tuple(spacing)) == pytest.approx(3.0)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("steps", [1, 2])
def test_translation_by_k_voxels_costs_k_spacings(axis: int, steps: int):
    spacing = (1.4, 0.7, 9.0)
    cube = np.zeros((1, 30, 30, 12), np.uint8)
    cube[0, 5:17, 5:20, 2:7] = 1
    moved = np.roll(cube, steps, axis=1 + axis)
    # no distance is longer than the step, and the leading face, over 5 % of the surface, is exactly that far away
    assert hd95(cube, moved, spacing) == pytest.approx(steps * spacing[axis], rel=1e-6)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.37, 1.88, 10.0)])
def test_hausdorff_equals_brute_force(spacing: tuple[float, ...]):
    for seed in range(4):
        a, b = blob(seed), blob(seed + 100)
        assert hd95(a[None], b[None], spacing) == pytest.approx(oracle_hd95(a, b, spacing), rel=1e-5)


def test_symmetry_and_identity():
    a, b = blob(1)[None], blob(2)[None]
    spacing = (1.2, 1.5, 8)
    assert hd95(a, b, spacing) == hd95(b, a, spacing) > 0
    assert hd95(a, a, spacing) == 0
    np.testing.assert_array_equal(dice(count_voxels(a, b, [1])), dice(count_voxels(b, a, [1])))
    assert dice(count_voxels(a, a, [1])).tolist() == [[1.0]]


def test_distance_never_runs_through_time():
    """Each frame is 16 voxels off, though a neighboring frame would fit; one call equals a call for each frame."""
    reference = np.zeros((4, 40, 5, 3), np.uint8)
    prediction = np.zeros_like(reference)
    for t in range(4):
        reference[t, 2 + 16 * (t % 2), 2, 1] = 1
        prediction[t, 18 - 16 * (t % 2), 2, 1] = 1
    assert surface_scores(reference, prediction, [1], (1, 1, 1)).hd95_mm.ravel().tolist() == [16.0] * 4


def test_every_frame_and_class_counts_the_first_too():
    rng = np.random.default_rng(0)
    reference = rng.integers(0, 3, (3, 8, 7, 4)).astype(np.uint8)
    prediction = rng.integers(0, 3, (3, 8, 7, 4)).astype(np.uint8)
    together = surface_scores(reference, prediction, [1, 2], (1, 2, 9)).hd95_mm
    scores = dice(count_voxels(reference, prediction, [1, 2]))
    assert np.isfinite(together).all()
    for t in range(3):
        alone = surface_scores(reference[t : t + 1], prediction[t : t + 1], [1, 2], (1, 2, 9)).hd95_mm
        np.testing.assert_allclose(together[t : t + 1], alone)
        for k in (0, 1):
            r, p = reference[t] == k + 1, prediction[t] == k + 1
            assert scores[t, k] == pytest.approx(2 * (r & p).sum() / (r.sum() + p.sum()))


def scores(reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...], tolerance: float = 2.0):
    """Return HD95, ASD and NSD of class 1 in frame 0."""
    found = surface_scores(reference, prediction, [1], spacing, tolerance)
    return tuple(float(array[0, 0]) for array in (found.hd95_mm, found.asd_mm, found.nsd))


def test_average_distance_and_surface_dice_by_hand():
    """A bar grown by two columns of 1.5 mm. Distances of the prediction's five voxels: 0 0 0 1.5 3; of the reference's three: 0."""
    bar, grown = draw("111.. ....."), draw("11111 .....")
    for a, b in ((bar, grown), (grown, bar)):
        assert scores(a, b, (1, 1.5, 10), 2.0) == pytest.approx((2.7, 4.5 / 8, 7 / 8))
        assert scores(a, b, (1, 1.5, 10), 1.0)[2] == pytest.approx(6 / 8)
        assert scores(a, b, (1, 1.5, 10), 3.0)[2] == 1


def test_a_slice_of_10_mm_counts_as_10_mm():
    """Two voxels in one slice against the same and one more slice below: d = 0 0 10 10 and 0 0."""
    one = np.zeros((1, 4, 4, 3), np.uint8)
    one[0, 1:3, 1, 0] = 1
    two = one.copy()
    two[0, 1:3, 1, 1] = 1
    assert scores(one, two, (1.4, 1.4, 10.0)) == pytest.approx((10.0, 20 / 6, 4 / 6))


@pytest.mark.parametrize("spacing", [0.7, 1.4, 0.1, 1 / 3])
def test_a_distance_of_exactly_the_tolerance_is_within_it(spacing: float):
    """Beside a voxel that both share, one lies three apart, near and far along the axis: whatever the last bits of that are."""
    for start in range(5, 40):
        a, b = np.zeros((2, 1, 45, 3, 1), np.uint8)
        a[0, [0, start], 1, 0] = b[0, [0, start + 3], 1, 0] = 1
        assert scores(a, b, (spacing, 1, 1), 3 * spacing)[2] == 1
        assert scores(a, b, (spacing, 1, 1), 2.99 * spacing)[2] == 0.5


def test_surface_scores_of_empty_masks_follow_the_convention():
    one, none = draw("1.. ..."), draw("... ...")
    both = scores(none, none, (1, 1, 1))
    assert np.isnan(both).all()
    for a, b in ((one, none), (none, one)):
        hd95, asd, nsd = scores(a, b, (1, 1, 1))
        assert np.isnan([hd95, asd]).all()
        assert nsd == 0


def test_all_distances_scale_with_the_spacing_and_nsd_with_its_tolerance():
    a, b = blob(3)[None], blob(4)[None]
    hd95, asd, nsd = scores(a, b, (1.2, 1.5, 8.0), 2.0)
    assert 0 < nsd < 1
    assert scores(a, b, (3.6, 4.5, 24.0), 6.0) == pytest.approx((3 * hd95, 3 * asd, nsd))
    assert scores(b, a, (1.2, 1.5, 8.0), 2.0) == pytest.approx((hd95, asd, nsd))
    assert scores(a, a, (1.2, 1.5, 8.0), 0.0) == (0, 0, 1)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("shape", [(12, 10, 6), (40, 30, 1), (30, 28, 9)])
def test_surface_scores_equal_those_of_monai(shape: tuple[int, ...]):
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

    for seed in range(3):
        a, b = blob(seed, shape), blob(seed + 10, shape)
        there, spacing = (
            [torch.tensor(m.reshape(1, 1, *(n for n in shape if n > 1))) for m in (b, a)],
            [1.37, 1.88, 10.0],
        )
        plane = {"include_background": True, "spacing": spacing[: there[0].ndim - 2]}
        wanted = (
            float(compute_hausdorff_distance(*there, percentile=95, **plane)),
            float(compute_average_surface_distance(*there, symmetric=True, **plane)),
            float(compute_surface_dice(*there, [3.0], **plane)),
        )
        assert scores(a[None], b[None], tuple(spacing), 3.0) == pytest.approx(wanted, rel=1e-4)


def test_a_face_towards_ignored_voxels_is_no_surface():
    """Slice 2 is known and the slices beside it are not: its class is measured by the contour, as in a single slice."""
    reference, prediction, ignored = (np.zeros((1, 10, 9, 7), np.uint8) for _ in range(3))
    reference[0, 2:8, 2:7], prediction[0, 3:8, 2:8] = 1, 1
    ignored[..., [0, 1, 3, 5, 6]] = 1
    reference[ignored > 0], prediction[ignored > 0] = 0, 0
    spacing = (1.5, 1.0, 8.0)
    found = surface_scores(reference, prediction, [1], spacing, 1.2, ignored > 0)
    alone = surface_scores(reference[..., 2:3], prediction[..., 2:3], [1], spacing, 1.2)
    for name in ("hd95_mm", "asd_mm", "nsd"):
        assert getattr(found, name) == pytest.approx(getattr(alone, name))
    assert surface_scores(reference, prediction, [1], spacing, 1.2).asd_mm < found.asd_mm


def test_a_class_with_no_known_voxel_beside_it_has_no_distance():
    reference = np.zeros((1, 5, 5, 5), np.uint8)
    reference[0, 2, 2, 2] = 1
    found = surface_scores(reference, reference, [1], (1, 1, 1), ignored=reference == 0)
    assert np.isnan([found.hd95_mm, found.asd_mm, found.nsd]).all()


def test_without_an_ignored_voxel_distances_are_those_of_before():
    reference, prediction = blob(1)[None], blob(2)[None]
    plain, found = (
        surface_scores(reference, prediction, [1], (1, 2, 3), ignored=given) for given in (None, reference > 1)
    )
    for name in ("hd95_mm", "asd_mm", "nsd"):
        assert getattr(found, name) == pytest.approx(getattr(plain, name), abs=1e-12)
