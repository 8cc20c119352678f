"""Studies in MONAI's pipelines: read with their frame times, changed in space and back, written under their own header."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, MetaTensor, decollate_batch
from monai.transforms import (
    AsDiscreted,
    Compose,
    Flipd,
    Invertd,
    NormalizeIntensityd,
    Orientationd,
    RandAffined,
    RandFlipd,
    ScaleIntensityd,
    Spacingd,
    SpatialPadd,
)

from tests.builders import OBLIQUE
from tests.images.test_image4d import KEPT, SHAPE, lay, make_header, raw_header
from unet4d.errors import InputError
from unet4d.images.image4d import Image4D, read_image, write_image
from unet4d.images.monai_transforms import LoadStudyd, SaveStudyd, SplitFramesd

X, Y, Z, T = SHAPE
SFORM = {f"srow_{axis}": row for axis, row in zip("xyz", OBLIQUE, strict=False)}
QFORM = {"qform_code": 1, "quatern_b": 0.1, "quatern_c": -0.2, "quatern_d": 0.3, "qoffset_x": -7.5}
HEADERS = {
    "sform, ms": {"sform_code": 2, **SFORM, "xyzt_units": 18, "pixdim": (1, 2, 2, 8, 42.5, 0, 0, 0)},
    "qform, s, flipped": {**QFORM, "xyzt_units": 10, "pixdim": (-1, 1.37, 1.41, 8, 0.04, 0, 0, 0)},
    "both, another each": {"sform_code": 4, **SFORM, **QFORM, "xyzt_units": 26, "toffset": 3.5},
    "neither, no time": {"xyzt_units": 2, "slice_duration": 0.1, "slice_code": 3},
}
EACH = pytest.mark.parametrize("fields", HEADERS.values(), ids=list(HEADERS))


def write(path, fields, dtype="<i2", shape=SHAPE, **more):
    """Write a study of small whole numbers; return its file."""
    voxels = np.random.default_rng(0).integers(0, 200, shape)
    return lay(path, make_header(shape, dtype, **fields, **more), voxels)


@EACH
@pytest.mark.parametrize(
    ("dtype", "kind"), [("<i2", {}), (">f4", {"endianness": ">"}), ("<u1", {"version": 2}), ("<f8", {})]
)
def test_what_is_read_is_written_with_the_same_header_type_and_voxels(tmp_path, fields, dtype, kind):
    source = write(tmp_path / "a.nii.gz", fields, dtype, **kind)
    item = Compose([LoadStudyd("image"), SaveStudyd("image", tmp_path / "out", "again")])({"image": source})
    again = tmp_path / "out/a_again.nii.gz"
    assert item["image"].meta["saved_to"] == str(again)
    before, after = raw_header(source), raw_header(again)
    for field in (*KEPT, "dim", "datatype"):
        np.testing.assert_array_equal(before[field], after[field], err_msg=field)
    np.testing.assert_array_equal(nib.load(source).get_fdata(), nib.load(again).get_fdata())


@EACH
def test_affine_and_frame_times_are_those_of_the_file(tmp_path, fields):
    source = write(tmp_path / "a.nii", fields)
    image, read = LoadStudyd("image")({"image": source})["image"], read_image(source)
    assert image.shape == (T, X, Y, Z)
    assert image.dtype == torch.float32
    np.testing.assert_array_equal(image.affine, read.affine)
    np.testing.assert_array_equal(image.numpy(), read.array[0])
    step = {18: 0.0425, 10: 0.04, 26: 4e-8, 2: np.nan}[int(raw_header(source)["xyzt_units"])]
    np.testing.assert_allclose(image.meta["frame_times_s"], step * np.arange(T))


def test_channels_come_first_and_keep_their_frames(tmp_path):
    files = [write(tmp_path / f"{c}.nii", {"cal_max": c}) for c in range(2)]
    lay(files[1], make_header(), np.full(SHAPE, 7))
    image = Compose([LoadStudyd("image"), SplitFramesd("image")])({"image": files})["image"]
    np.testing.assert_array_equal(image, read_image(files).array)
    assert image.shape == (2, T, X, Y, Z)


SPACE = [
    Orientationd("image", "PLI"),
    Spacingd("image", (1.0, 1.2, 4.0), mode="nearest"),
    SpatialPadd("image", (20, 20, 20)),
    Flipd("image", 1),
]


@pytest.mark.parametrize("space", [SPACE[:1], SPACE[2:], SPACE], ids=["turned", "padded", "resampled"])
def test_what_is_done_in_space_is_undone_before_a_label_map_is_written(tmp_path, space):
    source = write(tmp_path / "a.nii.gz", HEADERS["sform, ms"], shape=(9, 8, 6, T))
    pre = Compose([LoadStudyd("image"), *space, SplitFramesd("image")])
    batch = next(iter(DataLoader(CacheDataset([{"image": source}], pre, progress=False), batch_size=1)))
    assert batch["image"].shape[:3] == (1, 1, T)
    classes = [(batch["image"] > limit).float() for limit in (-1, 50, 100)]
    batch["pred"] = MetaTensor(torch.cat(classes, 1).cumsum(1)).copy_meta_from(batch["image"])  # (1, K, T, X, Y, Z)
    save = [AsDiscreted("pred", argmax=True), Invertd("pred", pre, "image"), SaveStudyd("pred", tmp_path / "out")]
    for item in decollate_batch(batch):
        Compose(save)(item)
    found, voxels = (read_image(path) for path in (tmp_path / "out/a.nii.gz", source))
    wanted = (voxels.array > 50).astype(int) + (voxels.array > 100)
    assert (found.array == wanted).mean() == (1 if len(space) < 4 else pytest.approx(1, abs=0.2))
    np.testing.assert_array_equal(found.affine, voxels.affine)
    assert found.frame_duration_s == 0.0425


def test_a_random_warp_is_the_same_in_all_frames(tmp_path):
    frame = np.random.default_rng(0).random((1, 12, 10, 6))
    still = Image4D.from_array(frame.repeat(3, 0), OBLIQUE, 0.05)
    write_image(tmp_path / "a.nii", still.array[0], like=still)
    pre = [LoadStudyd("image"), ScaleIntensityd("image"), NormalizeIntensityd("image"), RandFlipd("image", 0.5, 0)]
    warp = RandAffined("image", prob=1.0, rotate_range=(0.3, 0.3, 0.3), scale_range=0.2).set_random_state(1)
    warped = Compose([*pre, warp])({"image": tmp_path / "a.nii"})["image"]
    assert warped.shape == (3, 12, 10, 6)
    assert torch.equal(warped[0], warped[1])
    assert torch.equal(warped[0], warped[2])
    assert not torch.allclose(warped[0], LoadStudyd("image")({"image": tmp_path / "a.nii"})["image"][0])


def test_batches_keep_the_header_of_each_study_also_from_workers(tmp_path):
    files = [write(tmp_path / f"{name}.nii", {**HEADERS["sform, ms"], "descrip": name.encode()}) for name in "ab"]
    data = CacheDataset(
        [{"image": file} for file in files], Compose([LoadStudyd("image"), SplitFramesd("image")]), progress=False
    )
    batch = next(iter(DataLoader(data, batch_size=2)))
    assert batch["image"].shape == (2, 1, T, X, Y, Z)
    for item in decollate_batch(batch):
        SaveStudyd("image", tmp_path / "out")(item)
    for file in files:
        assert raw_header(tmp_path / f"out/{file.name}.gz")["descrip"] == raw_header(file)["descrip"]


def test_a_tensor_on_another_grid_or_of_no_study_is_refused(tmp_path):
    source = write(tmp_path / "a.nii.gz", HEADERS["sform, ms"])
    item = Compose([LoadStudyd("image"), Spacingd("image", (1.0, 1.0, 4.0))])({"image": source})
    flipped = Compose([LoadStudyd("image"), Flipd("image", 0)])({"image": source})
    save = SaveStudyd("image", tmp_path / "out")
    for wrong in (item, flipped):
        with pytest.raises(InputError, match=r"another grid.*Invertd"):
            save(wrong)
    with pytest.raises(InputError, match="LoadStudyd"):
        save({"image": MetaTensor(torch.zeros(T, X, Y, Z))})
    image = LoadStudyd("image")({"image": source})["image"]
    with pytest.raises(InputError, match=r"expected \(T, X, Y, Z\)"):
        save({"image": image[1:]})
    assert not list((tmp_path / "out").glob("*"))
