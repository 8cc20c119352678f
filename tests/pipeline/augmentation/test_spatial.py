"""The warp of a clip: all frames and labels alike, velocities turned and mirrored as the vectors they are."""

from __future__ import annotations

import math

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
)

PATCH = (24, 20, 6)
SEEDS = range(40)
XYZ = ("velocity X", "velocity Y", "velocity Z")
QUARTER = SpatialWarp(angles=(0.0, 0.0, math.pi / 2))


def config(strength: str = "mild") -> DataConfig:
    return DataConfig(augmentation=strength)


def drawn(seed: int, strength: str, tilt: bool, kinds: tuple[str, ...] = ("signal",)) -> SpatialWarp:
    return sample_warp(np.random.default_rng(seed), SPACE_PRESETS[strength], PATCH, tilt, kinds) or SpatialWarp()


def smooth(shape: tuple[int, int, int] = (60, 56, 40)) -> Tensor:
    """Two smooth random frames (T, X, Y, Z), larger than any turned patch."""
    coarse = torch.rand((1, 2, 5, 5, 5), generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, shape, mode="trilinear")[0]


# what is read


@pytest.mark.parametrize("tilt", [False, True])
@pytest.mark.parametrize("strength", ["mild", "strong"])
def test_what_is_read_for_a_patch_is_wider_by_an_even_number_in_the_plane(strength, tilt):
    sizes = np.array(crop_size(config(strength), (25, 20, 7), tilt))
    assert ((sizes - (25, 20, 7)) % 2 == 0).all()
    assert (sizes[:2] > (25, 20)).all()
    assert (sizes[2] > 7) == tilt


def test_the_size_read_for_a_mild_patch_is_the_one_worked_out_by_hand():
    assert crop_size(config("mild"), (80, 80, 8), tilt=False) == (128, 128, 8)
    assert crop_size(config("off"), (80, 80, 8), tilt=True) == (80, 80, 8)


@pytest.mark.parametrize("strength", ["mild", "strong"])
def test_a_warp_in_the_plane_never_reaches_beyond_what_was_read(strength):
    ones = torch.ones(1, *crop_size(config(strength), PATCH, tilt=False))
    for seed in SEEDS:
        warp = drawn(seed, strength, tilt=False)
        assert torch.allclose(apply_warp(ones, warp, PATCH, "bilinear"), torch.ones(1, *PATCH), atol=1e-4)
        assert torch.equal(apply_warp(ones, warp, PATCH, "nearest"), torch.ones(1, *PATCH))


def test_beyond_what_was_read_there_are_zeros():
    out = apply_warp(torch.ones(1, *PATCH), SpatialWarp(shift=(4.0, 0.0, 0.0)), PATCH, "bilinear")
    assert torch.allclose(out[0, :20], torch.ones(()), atol=1e-5)
    assert torch.allclose(out[0, 20:], torch.zeros(()), atol=1e-5)


def test_the_middle_of_what_was_read_is_the_patch_and_a_warp_that_moves_nothing_reads_it():
    image = torch.rand(2, 30, 24, 8)
    patch = center_crop(image, PATCH)
    assert torch.equal(patch, image[:, 3:27, 2:22, 1:7])
    assert torch.allclose(apply_warp(image, SpatialWarp(), PATCH, "bilinear"), patch, atol=1e-5)
    assert torch.equal(apply_warp(image, SpatialWarp(), PATCH, "nearest"), patch)


# the warp


@pytest.mark.parametrize("tilt", [False, True])
def test_a_warp_reads_where_monais_affine_does(tilt):
    image = smooth() if tilt else smooth()[..., 17:23]
    for seed in range(10):
        warp = drawn(seed, "strong", tilt)
        affine = Affine(affine=torch.from_numpy(warp.affine), spatial_size=PATCH, padding_mode="zeros", image_only=True)
        assert np.allclose(apply_warp(image, warp, PATCH, "bilinear").numpy(), np.asarray(affine(image)), atol=1e-4)


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
    out = apply_warp(image, QUARTER, (3, 2, 1), "nearest")
    assert out[0, :, :, 0].tolist() == [[d, a], [e, b], [f, c]]


def test_thick_slices_stay_in_their_plane():
    slices = torch.arange(6.0).expand(1, *crop_size(config("strong"), PATCH, tilt=False))
    for seed in SEEDS:
        warp = drawn(seed, "strong", tilt=False)
        assert torch.equal(apply_warp(slices, warp, PATCH, "nearest"), torch.arange(6.0).expand(1, *PATCH))
        assert torch.allclose(
            apply_warp(slices, warp, PATCH, "bilinear"), torch.arange(6.0).expand(1, *PATCH), atol=1e-3
        )


def test_near_isotropic_patches_are_tilted():
    tilts = [not drawn(seed, "strong", tilt=True).in_plane for seed in SEEDS]
    assert 20 < sum(tilts) < 40


@pytest.mark.parametrize("tilt", [False, True])
def test_image_and_label_move_alike(tilt):
    image = smooth() if tilt else smooth()[..., 17:23]
    label = (image > image.median()).to(torch.uint8)
    for seed in SEEDS:
        warp = drawn(seed, "strong", tilt)
        moved, moved_label = apply_warp(image, warp, PATCH, "bilinear"), apply_warp(label, warp, PATCH, "nearest")
        sharp = (moved - image.median()).abs() > 0.12  # off the border, where nearest and linear may differ
        assert sharp.float().mean() > 0.2
        assert torch.equal((moved > image.median())[sharp], moved_label.bool()[sharp])


def test_a_round_ventricle_stays_nearly_round():
    shape = crop_size(config("mild"), PATCH, tilt=False)
    x, y = torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in shape[:2]), indexing="ij")
    disc = ((x**2 + y**2) < 64).float()[None, :, :, None].expand(1, *shape)
    for seed in SEEDS:
        where = apply_warp(disc, drawn(seed, "mild", tilt=False), PATCH, "nearest")[0, :, :, 2].nonzero().float()
        variances = torch.linalg.eigvalsh(torch.cov(where.T))
        assert (variances[1] / variances[0]).sqrt() < 1.2


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
    assert all(len(sample_flips(np.random.default_rng(seed), SPACE_PRESETS["mild"], [1, 1])) < 2 for seed in SEEDS)


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
    patch = apply_warp(clip, warp, (41, 41, 41), "nearest")
    out = rotate_velocities(patch[:, None], warp.rotation, ("signal", *XYZ))[:, 0]
    where = out[0].nonzero().float()
    axis = torch.linalg.eigh(torch.cov(where.T)).eigenvectors[:, -1]
    flow = out[1:, out[0] > 0].mean(1)
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
