"""Embedding of a study in a page: position of every voxel, reductions of the size; and the scripts as they were tested."""

from __future__ import annotations

import base64
import gzip
import hashlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import unet4d.report.viewer
from tests.builders import OBLIQUE
from unet4d.report.viewer.embedding import EmbeddedStudy, embed_study
from unet4d.report.viewer.scripts import NIIVUE_SHA256, NIIVUE_VERSION, niivue_script, page_scripts


def unpacked(text: str) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))


def study(
    frames: int = 6, grid: tuple[int, int, int] = (48, 40, 6), noise: float = 30
) -> tuple[np.ndarray, np.ndarray]:
    """Return noise with a class 3 in a corner and a class 7 that is one voxel in one frame; (T, X, Y, Z) twice."""
    image = np.random.default_rng(0).normal(100, noise, (frames, *grid)).astype(np.float32)
    label = np.zeros(image.shape, np.uint8)
    label[:, 8:14, 25:31, 1:3] = 3
    label[frames // 2, 15, 27, 4] = 7
    return image, label


def embed(budget: int, **changes) -> tuple[EmbeddedStudy, np.ndarray, np.ndarray]:
    image, label = study(**changes)
    return embed_study(image, label, OBLIQUE, (20.0, 180.0), budget), image, label


def test_a_small_study_is_whole():
    found, image, label = embed(10**7)
    shown, classes = unpacked(found.image), unpacked(found.label)
    assert shown.shape == classes.shape == (48, 40, 6, 6)
    assert shown.get_data_dtype() == classes.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(classes.dataobj), label.transpose(1, 2, 3, 0))
    expected = np.clip((image - 20) / 160 * 255, 0, 255).transpose(1, 2, 3, 0)
    assert np.abs(np.asarray(shown.dataobj) - expected).max() <= 0.5 + 1e-3
    np.testing.assert_allclose(shown.affine, OBLIQUE, atol=1e-5)
    assert (found.start, found.steps, found.frames) == ((0, 0, 0), (1, 1, 1), tuple(range(6)))
    assert found.notes == ("Intensities from 20 (black) to 180 (white) in 256 gray levels.",)


@pytest.mark.parametrize("share", [0.9, 0.5, 0.3, 0.1, 0.01])
def test_every_voxel_keeps_its_position_in_every_reduction(share):
    """The center of mass of a class, in mm, is that of the study, to half of one of the page's voxels."""
    whole, _, label = embed(10**7)
    budget = int(whole.size * share)
    found, _, _ = embed(budget)
    assert found.size <= budget
    for text in (found.image, found.label):
        header = unpacked(text).header
        assert header.get_xyzt_units()[0] == "mm"
        for affine, code in (header.get_sform(coded=True), header.get_qform(coded=True)):
            assert code == 1
            if text == found.label:
                np.testing.assert_allclose(affine[:3, 3], found.affine[:3, 3], atol=1e-4)
        np.testing.assert_allclose(header.get_sform(), found.affine, atol=1e-4)
    classes = np.asarray(unpacked(found.label).dataobj)
    classes = classes[..., None] if classes.ndim == 3 else classes
    assert classes.shape[3] == len(found.frames)
    if found.steps == (1, 1, 1):
        kept = tuple(slice(a, a + n) for a, n in zip(found.start, classes.shape[:3], strict=True))
        np.testing.assert_array_equal(classes, label[list(found.frames)][(slice(None), *kept)].transpose(1, 2, 3, 0))

    def center(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
        return affine[:3] @ [*np.argwhere(mask).mean(0), 1]

    tolerance = 0.5 * np.linalg.norm(found.affine[:3, :3], axis=0).max() + 1e-6
    here, there = center(classes[..., 0] == 3, found.affine), center(label[0] == 3, OBLIQUE)
    assert np.linalg.norm(here - there) <= tolerance


def test_blocks_of_voxels_are_means_about_their_own_center():
    """The center of the first block of 2 x 2 voxels lies half a voxel further in; the label of a block is its most frequent one."""
    from unet4d.report.viewer.embedding import _PageGrid

    grid = _PageGrid((slice(2, 8), slice(0, 4), slice(0, 2)), (2, 2, 1))
    frame = np.arange(10 * 4 * 2, dtype=np.float32).reshape(10, 4, 2)
    gray = grid.gray(frame, (0.0, 255.0), 256)
    assert gray.shape == (3, 2, 2)
    assert gray[0, 0, 0] == round(float(frame[2:4, 0:2, 0].mean()))
    np.testing.assert_allclose(grid.affine(np.diag([1, 1, 8, 1.0]))[:3, 3], [2.5, 0.5, 0])
    label = np.zeros((10, 4, 2), np.uint8)
    label[2:4, 0:2, 0] = [[3, 3], [3, 0]]
    label[4:6, 0:2, 0] = [[3, 0], [0, 0]]
    found = grid.majority(label, np.array([0, 3], np.uint8))
    assert (found[0, 0, 0], found[1, 0, 0]) == (3, 0)


def test_reductions_are_listed_and_thick_slices_stay():
    whole, _, _ = embed(10**7)
    cropped = embed(int(whole.size * 0.9))[0]
    assert any(line.startswith("Cropped around the segmentation to ") for line in cropped.notes)
    assert "256 gray levels" in cropped.notes[0]
    fewer = embed(int(cropped.size * 0.8))[0]
    assert "64 gray levels" in fewer.notes[0]
    least = embed(int(whole.size * 0.05))[0]
    assert any("each voxel is the mean of 2 x 2 x 1." in line for line in least.notes)
    assert least.steps == (2, 2, 1)


def test_a_study_without_segmentation_or_with_one_frame():
    image, label = study(1)
    found = embed_study(image, label * 0, OBLIQUE, (0, 1), 10**6)
    assert unpacked(found.image).shape == (48, 40, 6)
    assert not np.asarray(unpacked(found.label).dataobj).any()
    assert embed_study(image, label * 0, OBLIQUE, (0, 1), 10).frames == (0,), "what cannot fit is as small as can be"


def test_the_same_study_gives_the_same_text():
    assert embed(10**7)[0].image == embed(10**7)[0].image


def test_the_viewer_is_the_file_that_was_tested():
    folder = Path(unet4d.report.viewer.__file__).parent
    source = gzip.decompress((folder / "niivue.umd.js.gz").read_bytes())
    assert hashlib.sha256(source).hexdigest() == NIIVUE_SHA256
    about = (folder / "README.md").read_text()
    assert NIIVUE_SHA256 in about
    assert NIIVUE_VERSION in about
    assert niivue_script().encode().endswith(source)
    assert "Redistribution and use in source and binary forms" in niivue_script()


def test_the_scripts_request_nothing():
    for word in ("http://www.w3.org/2000/svg", "openStage", "keepCurve"):
        assert word in page_scripts()
    for word in ("fetch(", "XMLHttpRequest", "import(", "innerHTML", "eval(", "https://"):
        assert word not in page_scripts()


def test_the_files_of_the_viewer_are_installed():
    import tomllib

    settings = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    packaged = settings["tool"]["setuptools"]["package-data"]
    for package, folder in (("unet4d.report.viewer", "report/viewer"), ("unet4d.report.pages", "report/pages")):
        root = Path(unet4d.__file__).parent / folder
        there = {file.name for file in root.iterdir() if file.is_file() and file.suffix != ".py"}
        assert there == {file.name for pattern in packaged[package] for file in root.glob(pattern)}
