"""Tests of mirrored labels: found where the image shows it; none is reported where the label lies as it was drawn."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data.phantom.dce import make_dce
from data.phantom.flow import make_flow
from tests.acdc import ACDC, needs_acdc
from unet4d.datasets.dataset import read_dataset
from unet4d.datasets.verify.mirrored_labels import COMPARED_GRID, MIRRORS, choose_frames, describe_mirroring, subsample
from unet4d.phantom import make_cine


def said(image: np.ndarray, label: np.ndarray, axes: tuple[int, ...] = ()) -> str:
    """Return what is found for images and labels (T, X, Y, Z), the labels mirrored along these axes."""
    frames = choose_frames(range(len(label)))
    return describe_mirroring(
        [subsample(image[t]) for t in frames], [subsample(np.flip(label[t], axes)) for t in frames]
    )


@pytest.mark.parametrize("make", [make_cine, make_flow, make_dce])
@pytest.mark.parametrize("seed", range(2))
def test_the_phantoms_labels_lie_right_and_each_mirrored_one_is_named(make, seed):
    study = make((seed, 3), 6)
    image = (study.image if study.image.ndim == 4 else study.image[0]).astype(np.float32)
    assert said(image, study.label) == ""
    for name in ("X", "Y", "X and Y", "Z"):
        assert f"mirrored along {name} its" in said(image, study.label, MIRRORS[name])


@pytest.mark.parametrize("ambiguous", [0.2, 0.45])
def test_spoiled_frames_of_a_phantom_are_not_taken_for_mirrored(ambiguous):
    for seed in range(10):
        study = make_cine((seed, 1), 8, shape=(40, 40, 4), ambiguous=ambiguous)
        assert said(study.image.astype(np.float32), study.label) == ""


@pytest.mark.parametrize("seed", range(20))
def test_noise_shows_nothing(seed):
    rng = np.random.default_rng(seed)
    image, label = rng.normal(size=(2, 24, 24, 4)).astype(np.float32), np.zeros((2, 24, 24, 4), np.uint8)
    label[:, 3:9, 4:12, 1:3] = 1
    assert said(image, label) == ""


def test_an_organ_that_is_its_own_mirror_image_shows_nothing():
    label = np.zeros((1, 20, 20, 4), np.uint8)
    label[:, 4:8, 5:12, 1:3] = label[:, 12:16, 5:12, 1:3] = 1
    image = label * 100.0 + np.random.default_rng(0).normal(size=label.shape)
    assert said(image.astype(np.float32), label, (0,)) == ""


def test_one_value_and_empty_labels_show_nothing():
    label = np.zeros((1, 20, 20, 4), np.uint8)
    assert said(np.ones(label.shape, np.float32), label) == ""
    label[:, 2:9, 2:9] = 1
    assert said(np.ones(label.shape, np.float32), label) == said(np.full(label.shape, np.nan, np.float32), label) == ""


def test_large_frames_are_reduced_alike_from_both_ends():
    volume = np.arange(301)[:, None, None] * np.ones((1, 40, 3), int)
    assert subsample(volume).shape == (COMPARED_GRID[0], 40, 3)
    np.testing.assert_array_equal(subsample(volume[::-1])[:, 0, 0], subsample(volume)[::-1, 0, 0])
    small = np.ones((5, 6, 7))
    assert subsample(small).base is None
    assert subsample(small).shape == small.shape


@needs_acdc
def test_real_cine_studies_lie_right_and_mirrored_ones_are_found():
    for case in read_dataset(ACDC).training[:4]:
        assert isinstance(case.label, Path)
        frames = choose_frames(case.labelled_frames or ())
        image, label = (
            [np.asarray(nib.load(file).dataobj[..., t], np.float32) for t in frames]
            for file in (case.images[0], case.label)
        )
        assert describe_mirroring(image, label) == ""
        for name, axes in MIRRORS.items():
            assert f"along {name} its" in describe_mirroring(image, [np.flip(one, axes) for one in label])
