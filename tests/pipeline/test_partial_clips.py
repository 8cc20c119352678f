"""Clips of partly drawn studies: ignored voxels never become a class, patches see what was drawn, frames keep their weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.builders import cached_study, change_dataset, write_dataset_json, write_study
from unet4d.config import DataConfig
from unet4d.datasets.dataset import read_dataset
from unet4d.images.grid import IGNORE, WorkingGrid
from unet4d.pipeline.augmentation.spatial import SpatialWarp, crop_size, warp_label
from unet4d.pipeline.cache import cached_studies
from unet4d.pipeline.cached_study import WHOLE_LABEL, CachedStudy, LabelScope
from unet4d.pipeline.clip_dataset import Batch, ClipDataset, collate

WARPS = [
    SpatialWarp((0, 0, 0.4), (1.1, 0.9, 1.0), (1.5, -0.5, 0)),
    SpatialWarp((0.2, -0.3, 0.5), (0.9, 1.2, 1.1), (0, 1, 0.5)),
]


def blobs(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Return a frame of class indices 0 to 2 in blocks of two voxels."""
    coarse = np.random.default_rng(seed).integers(0, 3, [-(-n // 2) for n in shape], np.uint8)
    return np.kron(coarse, np.ones((2, 2, 2), np.uint8))[tuple(slice(n) for n in shape)]


def partly(label: np.ndarray, part: str) -> np.ndarray:
    """Return a copy without every second slice, or without the lower quarter in the plane."""
    ignored, (x, y) = label.copy(), (n // 2 for n in label.shape[-3:-1])
    ignored[(..., slice(1, None, 2)) if part == "slices" else (..., slice(x), slice(y), slice(None))] = IGNORE
    return ignored


def study(scope: LabelScope = WHOLE_LABEL, part: str = "", **options) -> CachedStudy:
    """Return a study of which slices 1 to 4 of five, or other parts, were not drawn."""
    made = cached_study(**options)
    label = made.label.copy()
    if part == "one slice":
        label[..., 1:] = IGNORE
    elif part:
        label = partly(label, part)
    kept = [row for row in made.foreground.tolist() if label[row[0], *row[2:]] != IGNORE]
    scope = replace(scope, ignores=bool((label == IGNORE).any()))
    return replace(made, label=label, foreground=np.array(kept, np.int32), scope=scope)


def clips(*studies: CachedStudy, **options) -> ClipDataset:
    options = {"patch_size": (8, 6, 3), "frames": 4, "augmentation": "off", **options}
    return ClipDataset(studies, DataConfig(**options), True, 0)


@pytest.mark.parametrize("part", ["slices", "quarter"])
@pytest.mark.parametrize("spacing", [(0.7, 1.3), (1.6, 1.0), (1.0, 0.5), (1.0, 1.0)], ids=str)
def test_a_resampled_voxel_has_the_class_it_has_when_all_is_drawn_or_none(spacing, part):
    """Whatever lies in the ignored voxels: nothing of them enters a class."""
    label = blobs((10, 8, 7))[None]
    grid = WorkingGrid.of(np.eye(4), label.shape[1:], *spacing)
    whole, found = grid.label(label, 3), grid.label(partly(label, part), 3)
    known = found != IGNORE
    assert known.any()
    assert not known.all()
    assert np.array_equal(found[known], whole[known])
    if spacing == (1.0, 1.0):
        assert np.array_equal(found, partly(whole, part))


@pytest.mark.parametrize("part", ["slices", "quarter"])
@pytest.mark.parametrize("warp", WARPS, ids=["in plane", "tilted"])
def test_a_warped_voxel_has_the_class_it_has_when_all_is_drawn_or_none(warp, part):
    patch = (8, 8, 7)
    size = crop_size(warp, patch)
    label = blobs(size)
    whole = warp_label(torch.from_numpy(label)[None], warp, patch)
    found = warp_label(torch.from_numpy(partly(label, part))[None], warp, patch)
    known = found != IGNORE
    assert known.any()
    assert not known.all()
    assert torch.equal(found[known], whole[known])
    if warp.in_plane and part == "slices" and size[2] == patch[2]:
        assert known[..., ::2].all()


def test_beyond_a_partly_drawn_study_a_patch_is_ignored_and_beyond_a_whole_one_background():
    for one, beyond in ((study(), 0), (study(part="slices"), IGNORE)):
        clip = clips(one, patch_size=(18, 12, 5), frames=2)[0]
        label, outside = clip.label[clip.labelled][0], clip.image[clip.labelled][0, 0] == 0
        assert outside.any()
        assert (label[outside] == beyond).all()
        known = [bool((label[..., z][~outside[..., z]] != IGNORE).all()) for z in range(5)]
        assert all(known) if beyond == 0 else known in rolls([True, False, True, False, True])


def rolls(slices: list) -> list[list]:
    """Return the slices of a stack, begun with each of them."""
    return [slices[first:] + slices[:first] for first in range(len(slices))]


@pytest.mark.parametrize("augmentation", ["off", "strong"])
def test_ignored_voxels_stay_ignored_in_clips(augmentation):
    """Slices are warped one by one, so the ignored ones of the study are those of the clip, mirrored and rolled."""
    made = clips(study(part="slices"), augmentation=augmentation, patch_size=(8, 6, 5), flip_axes=[0, 1, 2])
    for number in range(6):
        clip = made[number]
        label = clip.label[clip.labelled]
        undrawn = (label == IGNORE).all(1).all(1).all(0)
        assert undrawn.tolist() in rolls([False, True, False, True, False])
        assert (label[..., ~undrawn] != IGNORE).any()
        assert set(label.unique().tolist()) <= {0, 1, 2, IGNORE}


def test_every_patch_sees_a_drawn_voxel_and_foreground_centers_are_drawn():
    one = study(part="one slice")
    assert {row[4] for row in one.foreground.tolist()} == {0}
    for fraction in (0.0, 1.0):
        made = clips(one, foreground_fraction=fraction)
        seen = [made[number] for number in range(30)]
        assert all((clip.label[clip.labelled] != IGNORE).any() for clip in seen)


def numbered(made: CachedStudy) -> CachedStudy:
    """Return a study of which slice z is z + 1 in the image."""
    return replace(made, image=np.broadcast_to(np.arange(1.0, 6.0, dtype=np.float32), made.image.shape).copy())


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_thick_slices_that_were_partly_drawn_are_rolled_with_their_labels(fraction):
    """A patch of all five slices begins with each of them; a stack stays where each slice was drawn, in part or wholly."""
    of_slices = clips(numbered(study(part="slices")), patch_size=(8, 6, 5), foreground_fraction=fraction)
    seen = set()
    for number in range(40):
        clip = of_slices[number]
        places = clip.image[0, 0, 0, 0].tolist()
        assert (clip.image == clip.image[0, 0, 0, 0]).all()
        assert places in rolls([1, 2, 3, 4, 5])
        drawn = (clip.label[clip.labelled] != IGNORE).all(1).all(1).all(0)
        assert drawn.tolist() == [place % 2 == 1 for place in places]
        seen.add(places[0])
    assert seen == {1, 2, 3, 4, 5}
    for made in (study(part="quarter"), study()):
        still = clips(numbered(made), patch_size=(8, 6, 5), foreground_fraction=fraction)
        assert all(still[number].image[0, 0, 0, 0].tolist() == [1, 2, 3, 4, 5] for number in range(10))


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_thin_slices_that_were_partly_drawn_are_shifted_along_z_and_whole_ones_are_not(fraction):
    """A patch of all five slices: the first one of the study is the second, the first, or beyond the patch."""
    thin = {"spacing": (1.0, 1.0, 1.0)}
    for made, wanted in ((study(part="slices", **thin), {-1, 0, 1}), (study(**thin), {0})):
        of_slices = clips(numbered(made), patch_size=(8, 6, 5), foreground_fraction=fraction)
        seen = set()
        for number in range(40):
            clip = of_slices[number]
            assert (clip.label[clip.labelled] != IGNORE).any()
            seen.add(int(clip.image[0, 0, 0, 0, 2]) - 3)
        assert seen == wanted


def test_patches_center_on_regions_where_these_are_trained():
    """Class 2 is one voxel of each frame and class 1 sixteen: half of the patches center on it, of one region a seventeenth."""
    one = cached_study()
    config, shares = DataConfig(patch_size=(1, 1, 1), frames=1, augmentation="off", foreground_fraction=1.0), []
    for regions in ((), ((1, 2),), ((1, 2), (2,))):
        made = ClipDataset([one], config, True, 0, regions=regions)
        seen = [int(made[number].label[0, 0, 0, 0]) for number in range(200)]
        assert set(seen) <= {1, 2}
        shares.append(seen.count(2) / 200)
    assert shares == pytest.approx([1 / 2, 1 / 17, (1 / 17 + 1) / 2], abs=0.12)


def test_frames_keep_their_weights_and_those_without_any_are_not_labelled():
    scope = LabelScope(weights=(1.0, 0.25, 0.0), propagated=(3, 4))
    one = study(scope, labelled=(1, 3, 4))
    weight_of = {float(frame[0, 0, 0]): w for frame, w in zip(one.image[0, [1, 3]], (1.0, 0.25), strict=True)}
    made = clips(one, patch_size=(14, 12, 5), frames=6)
    for number in range(6):
        clip = made[number]
        for t in range(6):
            weight = weight_of.get(float(clip.image[t, 0, 0, 0, 0]), 0.0)
            assert (float(clip.weights[t]), bool(clip.labelled[t])) == (weight, weight > 0)


def test_a_batch_of_whole_labels_has_no_weights_and_one_beside_a_partly_drawn_label_counts_one():
    whole, part = clips(study(case="whole")), clips(study(LabelScope(annotated=(2,)), part="slices", case="part"))
    assert collate([whole[0], whole[1]]).weights is None
    batch = collate([whole[0], part[0]])
    assert isinstance(batch, Batch)
    assert torch.equal(batch.weights, batch.labelled.float())
    assert batch.annotated == (None, (2,))


# the cache


def write(root: Path, frames: int = 2, **entry) -> Path:
    """Write a study with classes 3 and 7 in every slice."""
    label = np.zeros((frames, 8, 6, 4), np.uint8)
    label[:, 1:4], label[:, 5] = 3, 7
    write_study(root / "images/a.nii.gz", np.random.default_rng(0).random(label.shape).astype(np.float32), (1, 1, 8))
    write_study(root / "labels/a.nii.gz", label, (1, 1, 8))
    return write_dataset_json(root, [{"case": "a", **entry}], {"background": 0, "wall": 3, "blood": 7})


def built(root: Path, cache: Path) -> CachedStudy:
    dataset = read_dataset(root)
    return cached_studies(dataset.training, dataset, DataConfig(), None, cache)[0]


def test_an_entry_keeps_what_was_drawn(tmp_path):
    root = write(
        tmp_path / "data", labelled_slices={"1": [0, 2]}, frame_weights={"0": 0.5}, annotated_labels=[3, 7], propagated_frames=[0]
    )  # fmt: skip
    one = built(root, tmp_path / "cache")
    assert one.scope == LabelScope(True, None, (0.5, 1.0), (0,))
    assert (one.label[1][..., 1::2] == IGNORE).all()
    assert not (one.label[0] == IGNORE).any()
    assert {row[4] for row in one.foreground.tolist() if row[0] == 1} == {0, 2}
    assert (one.taught_rows, one.evaluated_rows) == ([0, 1], [1])


def test_a_study_whose_every_slice_is_listed_has_the_arrays_and_batches_of_a_whole_one(tmp_path):
    whole = built(write(tmp_path / "whole"), tmp_path / "cache")
    assert "scope" not in json.loads((tmp_path / "cache" / whole.entry / "study.json").read_text())
    listed = built(write(tmp_path / "listed", labelled_slices=[0, 1, 2, 3], frame_weights={"0": 1}), tmp_path / "cache")
    assert listed.scope.is_whole
    for name in ("image", "label", "foreground"):
        assert np.array_equal(getattr(whole, name), getattr(listed, name))
    ours, plain = (collate([clips(one)[n] for n in (0, 1)]) for one in (listed, whole))
    assert all(torch.equal(a, b) for a, b in zip(ours[:3], plain[:3], strict=True))
    assert ours.weights is plain.weights is None


@pytest.mark.parametrize(
    "change",
    [{"labelled_slices": [0]}, {"annotated_labels": [3, 7]}, {"frame_weights": {"1": 0.5}}, {"propagated_frames": [1]}],
    ids=lambda change: next(iter(change)),
)
def test_another_statement_is_another_entry(change, tmp_path):
    root = write(tmp_path / "data")
    before = built(root, tmp_path / "cache").entry
    change_dataset(root, lambda about: about["training"][0].update(change))
    assert built(root, tmp_path / "cache").entry != before
