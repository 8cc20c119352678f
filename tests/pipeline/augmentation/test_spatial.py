"""The warp of a clip: all frames and labels alike, velocities turned and mirrored as the vectors they are."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from monai.transforms import Affine
from torch import Tensor

from unet4d.config import DataConfig
from unet4d.pipeline.augmentation.presets import SPACE_PRESETS
from unet4d.pipeline.augmentation.spatial import (
    SpatialWarp,
    apply_warp,
    center_crop,
    crop_size,
    flip_clip,
    rotatable_axes,
    rotate_velocities,
    sample_flips,
    sample_warp,
    warp_label,
)

PATCH = (24, 20, 6)
SEEDS = range(40)
XYZ = ("velocity X", "velocity Y", "velocity Z")
QUARTER = SpatialWarp(angles=(0.0, 0.0, math.pi / 2))


def drawn(seed: int, strength: str, tilt: bool, kinds: tuple[str, ...] = ("signal",)) -> SpatialWarp:
    return sample_warp(np.random.default_rng(seed), SPACE_PRESETS[strength], PATCH, tilt, kinds) or SpatialWarp()


def smooth(shape: tuple[int, int, int] = (60, 56, 40)) -> Tensor:
    """Two smooth random frames (T, X, Y, Z), larger than any turned patch."""
    coarse = torch.rand((1, 2, 5, 5, 5), generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, shape, mode="trilinear")[0]


# what is read


@pytest.mark.parametrize("tilt", [False, True])
def test_what_is_read_suffices_and_is_wider_by_an_even_number(tilt):
    image = smooth((80, 76, 64)) if tilt else smooth((80, 76, 6))
    for seed in SEEDS:
        warp = drawn(seed, "strong", tilt)
        size = np.array(crop_size(warp, PATCH))
        assert ((size - PATCH) % 2 == 0).all()
        assert (size[2] > PATCH[2]) <= tilt
        read = apply_warp(center_crop(image, size.tolist()), warp, PATCH)
        assert torch.allclose(read, apply_warp(image, warp, PATCH), atol=1e-5)
        if warp != SpatialWarp():
            too_small = apply_warp(torch.ones(1, *np.maximum(size - [2, 2, 2 * tilt], 1).tolist()), warp, PATCH)
            assert float(too_small.min()) < 0.999


def test_the_sizes_read_are_those_worked_out_by_hand():
    assert crop_size(None, (80, 80, 8)) == crop_size(SpatialWarp(), (80, 80, 8)) == (80, 80, 8)
    # 79 (cos 15 + sin 15) = 96.8 between the outermost centers: 8.9 voxels on either side of 39.5
    assert crop_size(SpatialWarp((0, 0, math.radians(15))), (80, 80, 8)) == (98, 98, 8)
    assert crop_size(SpatialWarp(scale=(1.2, 0.5, 1.0), shift=(0.0, -0.5, 0.0)), (81, 21, 8)) == (97, 21, 8)
    assert crop_size(QUARTER, (24, 20, 6)) == (24, 24, 6)


def test_beyond_what_was_read_there_are_zeros():
    out = apply_warp(torch.ones(1, *PATCH), SpatialWarp(shift=(4.0, 0.0, 0.0)), PATCH)
    assert torch.allclose(out[0, :20], torch.ones(()), atol=1e-5)
    assert torch.allclose(out[0, 20:], torch.zeros(()), atol=1e-5)


def test_the_middle_of_what_was_read_is_the_patch_and_a_warp_that_moves_nothing_reads_it():
    image = torch.rand(2, 30, 24, 8)
    patch = center_crop(image, PATCH)
    assert torch.equal(patch, image[:, 3:27, 2:22, 1:7])
    assert torch.allclose(apply_warp(image, SpatialWarp(), PATCH), patch, atol=1e-5)
    label = (image * 5).to(torch.uint8)
    assert torch.equal(warp_label(label, SpatialWarp(), PATCH), center_crop(label, PATCH))


# the warp


@pytest.mark.parametrize("tilt", [False, True])
def test_a_warp_reads_where_monais_affine_does(tilt):
    image = smooth() if tilt else smooth()[..., 17:23]
    for seed in range(10):
        warp = drawn(seed, "strong", tilt)
        read = apply_warp(image, warp, PATCH).numpy()
        for z, shift in enumerate(warp.slice_shifts or [(0.0, 0.0)] * PATCH[2]):
            there = np.array(warp.shift) + np.array(warp.scale) * (*shift, 0.0)
            alone = torch.from_numpy(SpatialWarp(warp.angles, warp.scale, tuple(there)).affine)
            affine = Affine(affine=alone, spatial_size=PATCH, padding_mode="zeros", image_only=True)
            assert np.allclose(read[..., z], np.asarray(affine(image))[..., z], atol=1e-4)


def test_monai_gives_the_same_affine_for_the_same_turn_size_and_shift():
    warp = drawn(3, "strong", tilt=True)
    by_parameters = Affine(warp.angles, None, warp.shift, warp.scale, spatial_size=PATCH, image_only=True)
    assert np.abs(warp.angles).min() > 0
    _, affine = by_parameters.affine_grid(spatial_size=PATCH)
    assert torch.allclose(affine, torch.from_numpy(warp.affine).float(), atol=1e-5)


def test_a_quarter_turn_about_z_equals_one_by_hand():
    """Voxel (x, y) of the patch is read at (-y, x).

    c f
    b e    ->   a b c        x to the right, y upwards
    a d         d e f
    """
    a, b, c, d, e, f = range(6)
    image = torch.tensor([[a, b, c], [d, e, f]]).float()[None, :, :, None]
    assert apply_warp(image, QUARTER, (3, 2, 1))[0, :, :, 0].round(decimals=4).tolist() == [[d, a], [e, b], [f, c]]
    assert warp_label(image.to(torch.uint8), QUARTER, (3, 2, 1))[0, :, :, 0].tolist() == [[d, a], [e, b], [f, c]]


def test_thick_slices_stay_in_their_plane():
    slices = torch.arange(6.0).expand(1, 80, 76, 6)
    for seed in SEEDS:
        warp = drawn(seed, "strong", tilt=False)
        assert torch.equal(warp_label(slices.to(torch.uint8), warp, PATCH)[0, 0, 0], torch.arange(6, dtype=torch.uint8))
        assert torch.allclose(apply_warp(slices, warp, PATCH), torch.arange(6.0).expand(1, *PATCH), atol=1e-3)


def test_each_slice_is_read_where_its_own_shift_leads_in_all_frames_and_labels_alike():
    image = torch.arange(2 * 30 * 24 * 3).reshape(2, 30, 24, 3) % 251
    warp = SpatialWarp(slice_shifts=((0.0, 0.0), (3.0, -2.0), (0.0, 1.0)))
    assert crop_size(warp, (24, 20, 3)) == (30, 24, 3)
    expected = torch.stack([image[:, 3:27, 2:22, 0], image[:, 6:30, 0:20, 1], image[:, 3:27, 3:23, 2]], dim=-1)
    assert torch.allclose(apply_warp(image, warp, (24, 20, 3)), expected.float(), atol=1e-3)
    label = (image % 4).to(torch.uint8)
    assert torch.equal(warp_label(label, warp, (24, 20, 3)), (expected % 4).to(torch.uint8))


@pytest.mark.parametrize(("warp", "slices"), [({"angles": (0.1, 0.0, 0.0)}, 3), ({}, 2), ({}, 4)])
def test_shifts_that_fit_no_patch_are_refused(warp, slices):
    with pytest.raises(ValueError, match="slice_shifts"):
        apply_warp(torch.zeros(1, 30, 24, 3), SpatialWarp(**warp, slice_shifts=((1.0, 0.0),) * 3), (24, 20, slices))


def test_two_fifths_of_thick_stacks_have_shifted_slices_and_no_others():
    warps = [drawn(seed, "strong", tilt=False) for seed in range(500)]
    shifts = np.array([warp.slice_shifts for warp in warps if warp.slice_shifts])
    assert len(shifts) / 500 == pytest.approx(0.4, abs=0.05)
    assert shifts.shape[1:] == (PATCH[2], 2)
    # Deviations are uniform from 0 to 5; a normal number clipped at 2 deviations has a variance of 0.92.
    assert np.sqrt(np.square(shifts).mean()) == pytest.approx(5 * math.sqrt(0.92 / 3), rel=0.1)
    assert np.abs(shifts).max() <= 10
    assert not any(drawn(seed, "strong", tilt=True).slice_shifts for seed in SEEDS)
    rng = np.random.default_rng(0)
    single = [sample_warp(rng, SPACE_PRESETS["strong"], (24, 20, 1), False, ("signal",)) for _ in SEEDS]
    assert not any(warp.slice_shifts for warp in single if warp)


def test_strong_turns_a_fifth_of_thick_stacks_by_any_angle_and_mild_none():
    for name, tilt, wanted in (("strong", False, 0.2), ("strong", True, 0.0), ("mild", False, 0.0)):
        angles = np.array([drawn(seed, name, tilt).angles[2] for seed in range(500)])
        beyond = np.abs(angles) > math.radians(SPACE_PRESETS[name].rotation_deg)
        assert beyond.mean() == pytest.approx(wanted * 5 / 6, abs=0.03)
        assert not wanted or np.abs(angles).max() > 3
    assert drawn(1, "strong", False, ("velocity X",)).angles == (0, 0, 0)


def test_near_isotropic_patches_are_tilted():
    tilts = [not drawn(seed, "strong", tilt=True).in_plane for seed in SEEDS]
    assert 20 < sum(tilts) < 40


@pytest.mark.parametrize("tilt", [False, True])
def test_image_and_label_move_alike(tilt):
    image = smooth() if tilt else smooth()[..., 17:23]
    label = (image > image.median()).to(torch.uint8)
    for seed in SEEDS:
        warp = drawn(seed, "strong", tilt)
        moved, moved_label = apply_warp(image, warp, PATCH), warp_label(label, warp, PATCH)
        sharp = (moved - image.median()).abs() > 0.12  # off the border, which both smooth
        assert sharp.float().mean() > 0.2
        assert torch.equal((moved > image.median())[sharp], moved_label.bool()[sharp])


def test_a_round_ventricle_stays_nearly_round():
    shape = (60, 56, 6)
    x, y = torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in shape[:2]), indexing="ij")
    disc = ((x**2 + y**2) < 64).to(torch.uint8)[None, :, :, None].expand(1, *shape)
    for seed in SEEDS:
        where = warp_label(disc, drawn(seed, "mild", tilt=False), PATCH)[0, :, :, 2].nonzero().float()
        variances = torch.linalg.eigvalsh(torch.cov(where.T))
        assert (variances[1] / variances[0]).sqrt() < 1.2


def warped_by_nearest(label: Tensor, warp: SpatialWarp, size: tuple[int, int, int]) -> Tensor:
    """Read a label (N, X, Y, Z) where the warp leads, at the nearest voxel: what linear shares are compared with."""
    homogeneous = np.stack([*np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in size), indexing="ij"), np.ones(size)])
    at = np.tensordot(warp.affine, homogeneous, 1)[:3] + (np.array(label.shape[1:])[:, None, None, None] - 1) / 2
    nearest = torch.from_numpy(np.rint(at).astype(int).clip(0, np.array(label.shape[1:])[:, None, None, None] - 1))
    return label[(slice(None), *nearest)]


def frayed(shape: Tensor) -> int:
    """Count the faces of pixels in the border of a shape (X, Y) beyond those of the box around it: none where no notch is."""
    across = (shape[:, :-1] != shape[:, 1:]).sum(), (shape[:-1] != shape[1:]).sum()
    return int(sum(across)) - 2 * int(sum(shape.any(axis).sum() for axis in (0, 1)))


def test_a_warped_disc_is_truer_and_less_frayed_than_by_nearest_neighbors():
    """Oracle: the disc, where the inverse of the warp puts it, and its area."""
    size, radius, rng = (81, 81, 1), 20.0, np.random.default_rng(0)
    wrong, notches, areas = Counter(), Counter(), []
    x, y = torch.meshgrid(*(torch.arange(101.0) - 50 for _ in range(2)), indexing="ij")
    disc = ((x**2 + y**2) < radius**2).to(torch.uint8)[None, :, :, None]
    here = torch.stack(torch.meshgrid(*(torch.arange(81.0) - 40 for _ in range(2)), indexing="ij"))
    for _ in range(20):
        scale, angle, *shift = (float(rng.uniform(*span)) for span in ((0.7, 1.4), (-3, 3), (-3, 3), (-3, 3)))
        warp = SpatialWarp((0, 0, angle), (scale, scale, 1.0), (*shift, 0.0))
        affine = torch.from_numpy(warp.affine).float()
        truth = (torch.tensordot(affine[:2, :2], here, 1) + affine[:2, 3, None, None]).norm(dim=0) < radius
        for name, warped in (("linear", warp_label), ("nearest", warped_by_nearest)):
            found = warped(disc, warp, size)[0, :, :, 0].bool()
            wrong[name] += int((found != truth).sum())
            notches[name] += frayed(found)
            if name == "linear":
                areas.append(float(found.sum()) * scale**2 / (math.pi * radius**2) - 1)
    assert not frayed(disc[0, :, :, 0].bool())
    assert wrong["linear"] < 0.9 * wrong["nearest"]
    assert notches["linear"] < 0.5 * notches["nearest"]
    assert np.abs(areas).max() < 0.02


def test_a_warped_label_is_that_of_whole_maps_of_every_class_and_background_outside():
    """Oracle: the largest of K maps at once, the background's share with all that lies outside of what was read."""
    label = (smooth((30, 26, 6)) * 5).to(torch.uint8)
    warp = SpatialWarp((0, 0, 0.4), (1.1, 0.9, 1.0), (6.0, 0.5, 0.0))
    maps = torch.stack([apply_warp((label == k).float(), warp, PATCH) for k in range(5)])
    maps[0] += 1 - maps.sum(0)
    assert len(label.unique()) > 3
    sure = maps.topk(2, 0).values.diff(dim=0)[0].abs() > 1e-5
    assert torch.equal(warp_label(label, warp, PATCH)[sure], maps.argmax(0).to(torch.uint8)[sure])
    assert sure.float().mean() > 0.99
    assert not warp_label(label[:0], warp, PATCH).numel()


def test_strong_goes_further_than_mild_and_some_patches_stay_where_they_are():
    def way(warp: SpatialWarp) -> float:
        corner = np.array([*PATCH, 2]) / 2
        return float(np.linalg.norm((warp.affine @ corner - corner)[:2]))

    mild, strong = ([way(drawn(seed, name, tilt=False)) for seed in SEEDS] for name in ("mild", "strong"))
    assert min(mild) == min(strong) == 0
    assert np.mean(strong) > 1.4 * np.mean(mild)


# mirroring


def test_only_the_flip_axes_are_mirrored_half_of_the_time():
    drawn_axes = [sample_flips(np.random.default_rng(seed), SPACE_PRESETS["mild"], [0, 2]) for seed in SEEDS]
    assert set(drawn_axes) == {(), (0,), (2,), (0, 2)}
    assert all(8 < sum(axis in axes for axes in drawn_axes) < 32 for axis in (0, 2))
    assert DataConfig(flip_axes=[1, 0, 1]).mirrored_axes == [0, 1]
    assert DataConfig(flip_axes=[1], augmentation="off").mirrored_axes == []


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_flip_mirrors_its_axis_and_twice_is_nothing(axis):
    image = torch.rand(2, 3, *PATCH)
    once = flip_clip(image, [axis])
    assert torch.equal(once.movedim(2 + axis, 0)[0], image.movedim(2 + axis, 0)[-1])
    assert torch.equal(flip_clip(once, [axis]), image)
    label = image[0] > 0.5
    assert torch.equal(flip_clip(label, [axis]), once[0] > 0.5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_flip_negates_the_velocity_along_its_axis_and_no_other_channel(axis):
    kinds = ("velocity Z", "signal", "velocity -X", "map", "velocity Y")
    image = torch.rand(5, 2, *PATCH) + 0.1
    out = flip_clip(image, [axis], kinds)
    mirrored = image.flip(2 + axis)
    negated = {0: 2, 1: 4, 2: 0}[axis]
    for channel in range(5):
        assert torch.equal(out[channel], mirrored[channel] * (-1 if channel == negated else 1))
    assert torch.equal(flip_clip(out, [axis], kinds), image)


# velocities


def test_a_quarter_turn_of_a_vector_field_equals_one_by_hand():
    """Blood that ran along +X where it was read runs along -Y in the patch, where +X of the patch is read along +Y."""
    along_x = torch.stack([torch.zeros(5, 5, 3), torch.ones(5, 5, 3), torch.zeros(5, 5, 3), torch.zeros(5, 5, 3)])
    out = rotate_velocities(along_x[:, None].clone(), QUARTER.rotation, ("signal", *XYZ))
    expected = torch.tensor([0.0, 0.0, -1.0, 0.0])[:, None, None, None, None].expand(4, 1, 5, 5, 3)
    assert torch.allclose(out, expected, atol=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_a_jet_still_runs_along_its_vessel(seed):
    """Oracle: the vessel's direction from its voxels, read by the warp, against the velocities in them."""
    grid = torch.stack(torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in (61, 61, 61)), indexing="ij"))
    direction = torch.nn.functional.normalize(torch.tensor([1.0, -0.6, 0.4]), dim=0)
    along = torch.tensordot(direction, grid, dims=1)
    vessel = ((grid - along * direction[:, None, None, None]).norm(dim=0) < 3).float()
    clip = torch.cat([vessel[None], direction[:, None, None, None] * vessel])
    turn = np.random.default_rng(seed).uniform(-0.5, 0.5, 3)
    warp = SpatialWarp(angles=tuple(turn.tolist()))
    patch = apply_warp(clip, warp, (41, 41, 41))
    out = rotate_velocities(patch[:, None], warp.rotation, ("signal", *XYZ))[:, 0]
    where = (out[0] > 0.5).nonzero().float()
    axis = torch.linalg.eigh(torch.cov(where.T)).eigenvectors[:, -1]
    flow = out[1:, out[0] > 0.5].mean(1)
    assert float((axis @ flow).abs() / flow.norm()) > 0.999


@pytest.mark.parametrize("zoom", [0.8, 1.3])
def test_a_turn_keeps_the_speed_and_so_does_a_zoom(zoom):
    velocities = torch.randn(3, 2, 4, 4, 4)
    warp = SpatialWarp((0.3, -0.2, 0.5), (zoom, zoom, zoom), (1.0, 2.0, 0.0))
    out = rotate_velocities(velocities.clone(), warp.rotation, XYZ)
    assert torch.allclose(out.norm(dim=0), velocities.norm(dim=0), atol=1e-5)
    assert not torch.allclose(out, velocities, atol=0.1)


def test_components_are_found_by_their_kinds_and_other_channels_are_left():
    image = torch.randn(5, 2, 4, 4, 4)
    kinds = ("velocity Z", "map", "velocity Y", "signal", "velocity -X")
    rotation = SpatialWarp(angles=(0.3, -0.2, 0.5)).rotation
    out = rotate_velocities(image.clone(), rotation, kinds)
    in_order = rotate_velocities(image[[4, 2, 0]].clone(), rotation, XYZ)
    assert torch.allclose(out[[4, 2, 0]], in_order, atol=1e-6)
    assert torch.equal(out[[1, 3]], image[[1, 3]])


@pytest.mark.parametrize(
    ("kinds", "axes"),
    [
        ((), (True, True, True)),
        (XYZ, (True, True, True)),
        (("velocity Z",), (False, False, True)),
        (("velocity X",), (True, False, False)),
        (("velocity -X", "velocity Y"), (False, False, True)),
    ],
)
def test_a_plane_turns_only_if_both_of_its_velocities_or_none_were_measured(kinds, axes):
    assert rotatable_axes(("signal", *kinds)) == axes
    turns = np.array([drawn(seed, "strong", True, ("signal", *kinds)).angles for seed in SEEDS])
    assert (np.abs(turns).max(0) > 0).tolist() == list(axes)


def test_two_components_of_one_plane_turn_without_the_third():
    velocities = torch.randn(2, 1, 3, 3, 3)
    whole = torch.cat([velocities, torch.zeros(1, 1, 3, 3, 3)])
    out = rotate_velocities(velocities.clone(), QUARTER.rotation, XYZ[:2])
    assert torch.allclose(out, rotate_velocities(whole, QUARTER.rotation, XYZ)[:2], atol=1e-6)
