"""A study in a file without a name is the study in memory, and leaves nothing behind."""

from __future__ import annotations

import itertools
import resource
import tracemalloc

import nibabel as nib
import numpy as np
import pytest
import torch

from unet4d.datasets.study import FrameReader
from unet4d.errors import InputError, Unet4DError
from unet4d.images.grid import WorkingGrid
from unet4d.images.image4d import read_frames, read_image, read_image_info
from unet4d.pipeline import normalization
from unet4d.pipeline.disk_image import DiskImage
from unet4d.pipeline.normalization import normalize

EVERY = (slice(None),) * 5


@pytest.fixture
def path(study, tmp_path):
    study(tmp_path / "heart.nii.gz", frames=4)
    return tmp_path / "heart.nii.gz"


def spooled(path, folder, spacing=2.5, standard="zscore", interpolation="linear") -> DiskImage:
    outline = read_image_info(path)
    grid = WorkingGrid.of(outline.affine, outline.grid, spacing, None, interpolation)
    stream = FrameReader(lambda: outline, lambda: read_frames(path))
    return DiskImage(stream, outline, grid, standard, (), folder)


@pytest.mark.parametrize("standard", ["zscore", "none"])
@pytest.mark.parametrize(("spacing", "interpolation"), [(None, "linear"), (2.5, "linear"), (2.5, "cubic")])
def test_it_is_what_memory_would_hold_to_the_bit(path, tmp_path, spacing, interpolation, standard):
    image = spooled(path, tmp_path, spacing, standard, interpolation)
    whole = read_image(path)
    grid = WorkingGrid.of(whole.affine, whole.grid, spacing, None, interpolation)
    wanted = normalize(grid.image(whole.array), standard)
    assert tuple(image.shape) == wanted.shape
    assert np.array_equal(image[EVERY].numpy(), wanted)
    box = (slice(None), slice(None), slice(3, 7), slice(0, 2), slice(1, 5))
    assert torch.equal(image[box], torch.from_numpy(wanted)[box])
    image.close()


def test_nothing_is_left_of_it_and_nothing_shows_while_it_is_there(path, tmp_path):
    folder = tmp_path / "scratch"
    image = spooled(path, folder)
    assert list(folder.iterdir()) == []
    image.close()
    with pytest.raises(ValueError, match="closed"):
        image[EVERY]


def test_a_full_disk_is_reported(path, tmp_path):
    """The system itself refuses it here: numpy's own writing raises an error without the reason."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, limits[1]))
    try:
        with pytest.raises(Unet4DError, match=rf"could not write .* into {tmp_path}: File too large"):
            spooled(path, tmp_path, None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_few_frames_are_in_memory_at_any_time(tmp_path, monkeypatch):
    monkeypatch.setattr(normalization, "SAMPLE_VOXELS", 1000)
    voxels = np.random.default_rng(0).normal(size=(64, 64, 16, 40)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 2.0, 8.0, 1.0])), tmp_path / "long.nii")
    del voxels
    tracemalloc.start()
    try:
        spooled(tmp_path / "long.nii", tmp_path, None).close()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    frame = 4 * 64 * 64 * 16
    assert peak < 10 * frame < 40 * frame


def test_frames_one_by_one_are_those_read_at_once(path):
    frames = list(read_frames(path))
    assert np.array_equal(np.stack(frames, 1), read_image(path).array)


def test_channels_and_maps_are_read_frame_by_frame_as_at_once(study, tmp_path):
    study(tmp_path / "a.nii.gz", frames=3)
    study(tmp_path / "b.nii.gz", frames=1, seed=1)
    paths, kinds = [tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"], ("signal", "map")
    whole = read_image(paths, kinds=kinds)
    assert np.array_equal(np.stack(list(read_frames(paths, kinds=kinds)), 1), whole.array)
    outline = read_image_info(paths, kinds=kinds)
    assert (outline.channels, outline.frames, outline.grid) == (2, 3, whole.grid)
    assert (outline.frame_duration_s, outline.source, outline.kinds) == (whole.frame_duration_s, paths[0], kinds)
    assert np.array_equal(outline.affine, whole.affine)
    with pytest.raises(InputError, match=r"b.nii.gz: got 1 frame, expected 3"):
        next(read_frames(paths))


def test_a_damaged_file_is_reported_once_it_is_read(path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"heart.nii.gz is truncated"):
        list(itertools.islice(read_frames(path), 9))


def test_a_voxel_that_is_no_number_is_named(tmp_path):
    import nibabel as nib

    voxels = np.zeros((4, 3, 2, 5), np.float32)
    voxels[1, 2, 0, 3] = np.nan
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "bad.nii")
    frames = read_frames(tmp_path / "bad.nii")
    assert len(list(itertools.islice(frames, 3))) == 3
    with pytest.raises(InputError, match=r"bad.nii: 1 of 24 voxels of frame 3 are NaN .* frame 3, voxel \(1, 2, 0\)"):
        next(frames)
