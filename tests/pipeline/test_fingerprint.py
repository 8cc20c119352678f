"""The median study, worked out by hand from three headers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from unet4d.config import Config, DataConfig, InferenceConfig
from unet4d.datasets.cases import Case
from unet4d.datasets.verify.study_properties import read_study_properties
from unet4d.errors import InputError
from unet4d.pipeline.fingerprint import compute_fingerprint
from unet4d.training.resolve import resolve

SHAPES = [(10, 20, 5, 3), (12, 16, 7, 3), (20, 20, 9, 1)]
SPACINGS = [(1.0, 1.0, 10.0), (1.5, 1.5, 8.0), (2.0, 2.0, 6.0)]


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    """Three studies that are headers and zeros."""
    made = []
    for i, (shape, spacing) in enumerate(zip(SHAPES, SPACINGS, strict=True)):
        path = tmp_path / f"{i}.nii"
        nib.save(nib.Nifti1Image(np.zeros(shape, np.uint8), np.diag([*spacing, 1.0])), path)
        made.append(Case(str(i), str(i), (path,)))
    return made


def test_the_median_study_is_that_of_the_resampled_headers(cases):
    # plane spacings 1 1 1.5 1.5 2 2: 1.5. On it X is 10/1.5 = 7, 12, 20*2/1.5 = 27; Y is 13, 16, 27; Z is 5, 7, 9.
    seen = compute_fingerprint(cases, DataConfig())
    assert seen.plane_spacing_mm == 1.5
    assert seen.spacing == (1.5, 1.5, 8.0)
    assert seen.shape == (12, 16, 7)
    assert seen.frames == 3
    assert seen.shapes == ((7, 13, 5), (12, 16, 7), (27, 27, 9))
    assert seen.frame_counts == (3, 3, 1)


def test_a_configured_spacing_stands_for_the_median(cases):
    # X 20 (10/0.5), 36, 80; Y 40, 48, 80; Z 5*10/4 = 12.5 -> 12 (4.17 mm), 14, 9*6/4 = 13.5 -> 14 (3.86 mm)
    seen = compute_fingerprint(cases, DataConfig(in_plane_spacing_mm=0.5, slice_spacing_mm=4.0))
    assert seen.plane_spacing_mm == 0.5
    assert seen.spacing == (0.5, 0.5, 4.0)
    assert seen.shape == (36, 48, 14)


@pytest.mark.parametrize(("plane", "slices"), [(1.5, None), (2.5, None), (2.7, 8.0), (8.0, 8.0), (24.1, None)])
def test_slices_at_most_three_times_as_thick_as_pixels_get_the_median_spacing(cases, plane, slices):
    config = DataConfig(in_plane_spacing_mm=plane, slice_spacing_mm="median")
    seen = compute_fingerprint(cases, config)
    assert seen.slice_spacing_mm == slices
    assert resolve(Config(config), seen, "fp32").data.slice_spacing_mm == slices
    if slices:  # 50, 56 and 54 mm of them
        assert [shape[2] for shape in seen.shapes] == [6, 7, 7]


def test_a_sagittal_stack_counts_with_its_slices_last(tmp_path):
    path = tmp_path / "sagittal.nii"
    nib.save(nib.Nifti1Image(np.zeros((4, 10, 12, 2), np.uint8), np.diag([8.0, 1.0, 1.0, 1.0])), path)
    seen = compute_fingerprint([Case("a", "a", (path,))], DataConfig())
    assert seen.shape == (10, 12, 4)
    assert seen.spacing == (1.0, 1.0, 8.0)


def test_only_headers_are_read(cases, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("voxels were read")

    monkeypatch.setattr("unet4d.images.nifti.np.frombuffer", refuse)
    with pytest.raises(AssertionError, match="voxels were read"):
        cases[0].image()
    assert compute_fingerprint(cases, DataConfig()).shape == (12, 16, 7)


def test_of_known_studies_not_even_the_headers_are_read(cases):
    known = {case.name: read_study_properties(case) for case in cases[:2]}
    for case in cases[:2]:
        case.images[0].unlink()
    assert compute_fingerprint(cases, DataConfig(), known).frame_counts == (3, 3, 1)
    assert compute_fingerprint(cases, DataConfig(), known).shapes == ((7, 13, 5), (12, 16, 7), (27, 27, 9))


def test_channels_on_the_fourth_axis_are_one_frame(cases):
    assert compute_fingerprint([replace(cases[0], channels_last=True)], DataConfig()).frame_counts == (1,)


@pytest.mark.parametrize(
    ("flips", "augmentation", "fits"), [([0, 1], "mild", True), ([1], "mild", False), ([0], "off", False)]
)
def test_prediction_mirrors_along_axes_that_training_mirrors(cases, flips, augmentation, fits):
    config = Config(DataConfig(flip_axes=flips, augmentation=augmentation), inference=InferenceConfig(mirror_axes=[0]))
    seen = compute_fingerprint(cases, config.data)
    if fits:
        assert resolve(config, seen, "fp32").inference.mirror_axes == [0]
    else:
        with pytest.raises(InputError, match=r"mirror_axes with \[0\], expected axes that training mirrors"):
            resolve(config, seen, "fp32")
