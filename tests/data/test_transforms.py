"""Intensities over the study, and augmentation: the same warp for all frames, the same draw for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from unet4d.config import DataConfig
from unet4d.data import transforms
from unet4d.data.transforms import augmentation, crop_size

PATCH = (24, 20, 6)
SEEDS = range(40)


def config(strength: str = "mild", flip_axes: tuple[int, ...] = ()) -> DataConfig:
    return DataConfig(augmentation=strength, flip_axes=list(flip_axes))


def varied(image: Tensor, label: Tensor, seed: int, tilt: bool, made: DataConfig) -> tuple[Tensor, Tensor]:
    out = augmentation(made, PATCH, tilt).set_random_state(seed)({"image": image, "label": label})
    return torch.as_tensor(out["image"]), torch.as_tensor(out["label"])


def without_intensities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the warp and the flips alone in the chain."""
    for name in vars(transforms).copy():
        if name.startswith("Rand") and name not in ("RandWarpd", "RandFlipd", "RandomizableTransform"):
            monkeypatch.setattr(transforms, name, lambda *_, **__: torch.nn.Identity())


def smooth() -> Tensor:
    """Two smooth random frames (T, X, Y, Z), larger than any turned patch."""
    coarse = torch.rand((1, 2, 5, 5, 5), generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, (60, 56, 40), mode="trilinear")[0]


# augmentation


@pytest.mark.parametrize("strength", ["mild", "strong"])
def test_the_same_seed_gives_the_same_draw_and_another_seed_another(strength):
    made = config(strength, (0, 1))
    image, label = smooth(), (smooth() > 0.5).float()
    first = [varied(image, label, seed, True, made) for seed in range(6)]
    for seed in reversed(range(6)):
        again = varied(image, label, seed, True, made)
        assert torch.equal(again[0], first[seed][0])
        assert torch.equal(again[1], first[seed][1])
    assert all(not torch.equal(first[i][0], first[j][0]) for i in range(6) for j in range(i))


def test_off_changes_nothing():
    image, label = torch.rand(4, *PATCH), torch.ones(1, *PATCH)
    out = varied(image, label, 0, True, config("off", (0, 1, 2)))
    assert torch.equal(out[0], image)
    assert torch.equal(out[1], label)
    assert crop_size(config("off"), PATCH, tilt=True) == PATCH


@pytest.mark.parametrize("tilt", [False, True])
@pytest.mark.parametrize("strength", ["mild", "strong"])
def test_what_is_read_for_a_patch_is_wider_by_an_even_number_in_the_plane(strength, tilt):
    sizes = np.array(crop_size(config(strength), (25, 20, 7), tilt))
    assert ((sizes - (25, 20, 7)) % 2 == 0).all()
    assert (sizes[:2] > (25, 20)).all()
    assert (sizes[2] > 7) == tilt


def test_the_size_read_for_a_mild_patch_is_the_one_worked_out_by_hand():
    assert crop_size(config("mild"), (80, 80, 8), tilt=False) == (128, 128, 8)


@pytest.mark.parametrize("strength", ["mild", "strong"])
def test_a_warp_in_the_plane_never_reaches_beyond_what_was_read(monkeypatch, strength):
    without_intensities(monkeypatch)
    made = config(strength, (0, 1))
    ones = torch.ones(1, *crop_size(made, PATCH, tilt=False))
    for seed in SEEDS:
        image, label = varied(ones, ones, seed, False, made)
        assert tuple(image.shape[1:]) == PATCH
        assert torch.allclose(image, torch.ones(()), atol=1e-4)
        assert torch.equal(label, torch.ones_like(label))


def test_thick_slices_stay_in_their_plane(monkeypatch):
    without_intensities(monkeypatch)
    made = config("strong", (0, 1))
    slices = torch.arange(6.0).expand(1, *crop_size(made, PATCH, tilt=False))
    for seed in SEEDS:
        image, label = varied(slices, slices, seed, False, made)
        assert torch.equal(label, torch.arange(6.0).expand(1, *PATCH))
        assert torch.allclose(image, torch.arange(6.0).expand(1, *PATCH), atol=1e-3)


def test_near_isotropic_patches_are_tilted(monkeypatch):
    without_intensities(monkeypatch)
    made = config("strong")
    shape = crop_size(made, PATCH, tilt=True)
    slices = torch.arange(float(shape[2])).expand(1, *shape)
    tilted = [varied(slices, slices, seed, True, made)[0].std((1, 2)).max() > 0.1 for seed in SEEDS]
    assert 20 < sum(tilted) < 40


@pytest.mark.parametrize("tilt", [False, True])
def test_image_and_label_move_alike(monkeypatch, tilt):
    without_intensities(monkeypatch)
    made = config("strong", (0, 1, 2))
    image = smooth() if tilt else smooth()[..., 17:23]
    label = (image > image.median()).float()
    for seed in SEEDS:
        moved, moved_label = varied(image, label, seed, tilt, made)
        sharp = (moved - image.median()).abs() > 0.12  # off the border, where nearest and linear may differ
        assert sharp.float().mean() > 0.2
        assert torch.equal((moved > image.median())[sharp], moved_label.bool()[sharp])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_only_the_flip_axes_are_mirrored(monkeypatch, axis):
    without_intensities(monkeypatch)
    made = config("mild", (axis,))
    shape = crop_size(made, PATCH, tilt=True)
    ramps = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in shape), indexing="ij"))
    mirrored = []
    for seed in SEEDS:
        image, _ = varied(ramps, ramps, seed, True, made)
        rising = [bool((image[i].diff(dim=i).mean() > 0).item()) for i in range(3)]
        assert all(rising[i] for i in range(3) if i != axis)
        mirrored.append(not rising[axis])
    assert 8 < sum(mirrored) < 32


def test_strong_goes_further_than_mild(monkeypatch):
    without_intensities(monkeypatch)
    distances = {}
    for strength in ("mild", "strong"):
        made = config(strength)
        shape = crop_size(made, PATCH, tilt=False)
        ramps = torch.stack(torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in shape), indexing="ij"))
        still = torch.stack(torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in PATCH), indexing="ij"))
        distances[strength] = [
            float((varied(ramps, ramps, s, False, made)[0] - still).norm(dim=0).mean()) for s in SEEDS
        ]
    assert min(distances["mild"]) < 1e-3  # some are not warped, and those lie exactly on the voxels
    assert np.mean(distances["strong"]) > 1.4 * np.mean(distances["mild"])


def test_a_round_ventricle_stays_nearly_round(monkeypatch):
    without_intensities(monkeypatch)
    made = config("mild")
    shape = crop_size(made, PATCH, tilt=False)
    x, y = torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in shape[:2]), indexing="ij")
    disc = ((x**2 + y**2) < 64).float()[None, :, :, None].expand(1, *shape)
    for seed in SEEDS:
        where = varied(disc, disc, seed, False, made)[1][0, :, :, 2].nonzero().float()
        variances = torch.linalg.eigvalsh(torch.cov(where.T))
        assert (variances[1] / variances[0]).sqrt() < 1.2


def test_shading_is_smooth_the_same_in_all_frames_and_keeps_the_order_of_tissues():
    shade = transforms.RandShadingd(["image"], prob=1.0, strength=0.3)
    image = torch.stack([torch.full((12, 10, 4), value) for value in (-1.0, 0.0, 2.0)])
    brighter_left = 0
    for seed in SEEDS:
        out = shade.set_random_state(seed)({"image": image})["image"]
        assert torch.equal(out[0], image[0])  # no signal, no shading
        assert torch.allclose((out[2] + 1) / (out[1] + 1), torch.tensor(3.0), atol=1e-4)
        assert (out[1].diff(dim=0).abs() < 0.8).all()
        brighter_left += int(out[1, 0].mean() > out[1, -1].mean())
    assert 8 < brighter_left < 32
