"""NIfTI in and out: nibabel reads the same voxels, the header comes back to the bit, bad files end in one line."""

from __future__ import annotations

import gzip
import math
import os
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.masking import needs_posix
from unet4d.datasets.convert.layout_options import NO_LAYOUT_OPTIONS
from unet4d.datasets.convert.layouts import LAYOUTS, open_layout
from unet4d.datasets.find_studies import open_source
from unet4d.errors import InputError
from unet4d.images import image4d
from unet4d.images.image4d import Image4D, read_frames, read_image, read_image_info, read_label, write_image
from unet4d.images.nrrd import read_nrrd_header
from unet4d.system.files import read_json

KEPT = (
    *("dim_info", "pixdim", "xyzt_units", "toffset", "slice_start", "slice_end", "slice_code", "slice_duration"),
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)
SHAPE = (3, 4, 2, 5)  # X, Y, Z, T


def make_header(shape=SHAPE, dtype="<i2", version=1, endianness="<", **fields):
    """Return a header with `fields` set as they shall lie on disk, sensible or not."""
    header = (nib.Nifti1Header if version == 1 else nib.Nifti2Header)(endianness=endianness)
    header.set_data_dtype(np.dtype(dtype))
    header["dim"][: len(shape) + 1] = (len(shape), *shape)
    header["pixdim"][:5] = (1, 1.37, 1.41, 8, 0.04)
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["vox_offset"], header["magic"] = header.single_vox_offset, header.single_magic
    for name, value in fields.items():
        header[name] = value
    return header


def lay(path, header, array):
    """Put header and voxels on disk byte by byte: nothing is repaired on the way."""
    dtype = header.get_data_dtype()
    block = header.binaryblock + bytes(4) + np.asarray(array).astype(dtype).tobytes(order="F")
    path.write_bytes(gzip.compress(block, 1) if path.name.endswith(".gz") else block)
    return path


def raw_header(path):
    """Return the header on disk, unrepaired."""
    block = gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()
    kind = nib.Nifti2Header if 540 in (int.from_bytes(block[:4], order) for order in ("little", "big")) else None
    kind = kind or nib.Nifti1Header
    return kind(block[: kind.sizeof_hdr], check=False)


def ramp(shape=SHAPE):
    return np.arange(math.prod(shape)).reshape(shape)


def rotation(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def oblique(version=1, qfac=1.0, **fields):
    """Return a header with equal sform and qform, rotated by 33 degrees about two axes."""
    header = make_header(version=version, **fields)
    affine = np.eye(4)
    affine[:3, :3] = rotation(33) * np.array([1.37, 1.41, 8 * qfac])
    affine[:3, 3] = (-11.3, 7.77, 0.1)
    header.set_qform(affine, code=1)
    header.set_sform(affine, code=2)
    header["pixdim"][4] = fields.get("step", 0.04)
    return header


SROWS = {"srow_x": (1.37, 0, 0, -3.3), "srow_y": (0, 1.41, 0.02, 1e-7), "srow_z": (0, 0, 8, 12.1)}
QUATERNION = {"quatern_b": 0.1, "quatern_c": -0.3, "quatern_d": 0.7, "qoffset_x": -90.123, "qoffset_z": 1 / 3}
HEADERS = {
    "qform only": make_header(qform_code=1, **QUATERNION),
    "sform only": make_header(sform_code=2, **SROWS),
    "sform and qform disagree": make_header(qform_code=1, sform_code=4, **QUATERNION, **SROWS),
    "neither": make_header(),
    "neither, but values under code 0": make_header(**QUATERNION, **SROWS),
    "oblique": oblique(),
    "oblique, left-handed (qfac -1)": oblique(qfac=-1.0),
    "qfac 0": make_header(qform_code=1, pixdim=(0, 1.37, 1.41, 8, 0.04, 3, 0, 0), **QUATERNION),
    "milliseconds": make_header(sform_code=1, xyzt_units=2 | 16, pixdim=(1, 1, 1, 8, 36.4, 1, 1, 1), **SROWS),
    "offset in time and slice timing": make_header(
        toffset=0.123, xyzt_units=10, slice_code=3, slice_end=1, slice_duration=0.02, dim_info=57, **SROWS
    ),
    "pixdim beyond the axes": make_header(pixdim=(-1, 1.37, 1.41, 8, 0.04, 7, -2, 0.5), qform_code=2, **QUATERNION),
    "NIfTI-2": oblique(version=2, toffset=1 / 3, xyzt_units=10),
    "big-endian": make_header(dtype=">i2", endianness=">", qform_code=1, toffset=0.1, xyzt_units=18, **QUATERNION),
}


def one_line(error):
    message = str(error.value)
    assert "\n" not in message
    return message


# Header ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("name", HEADERS)
def test_every_geometry_and_time_field_survives_to_the_bit(name, suffix, tmp_path):
    source = lay(tmp_path / f"in{suffix}", HEADERS[name], ramp())
    image = read_image(source)
    write_image(tmp_path / f"out{suffix}", np.ones(image.array.shape[1:], np.uint8), like=image)
    before, after = raw_header(source), raw_header(tmp_path / f"out{suffix}")
    assert type(before) is type(after)
    assert {f: after[f].tobytes() for f in KEPT} == {f: before[f].tobytes() for f in KEPT}
    np.testing.assert_array_equal(read_image(tmp_path / f"out{suffix}").affine, image.affine)


@pytest.mark.parametrize("name", HEADERS)
def test_affine_is_nibabels(name, tmp_path):
    path = lay(tmp_path / "a.nii", HEADERS[name], ramp())
    np.testing.assert_array_equal(read_image(path).affine, nib.load(path).affine)


def test_spacing_is_the_length_of_the_affines_columns():
    assert Image4D.from_array(np.zeros((1, 2, 3, 4)), rotation_affine()).spacing == pytest.approx((1.5, 2, 9))


def rotation_affine():
    affine = np.eye(4)
    affine[:3, :3] = rotation(20) * (1.5, 2, 9)
    affine[:3, 3] = (1, -2, 3)
    return affine


@pytest.mark.parametrize(("unit", "factor"), [(1, 1000.0), (2, 1.0), (3, 0.001), (0, 1.0)])
def test_affine_is_in_millimetres_whatever_the_unit_of_the_file(unit, factor, tmp_path):
    image = read_image(lay(tmp_path / "a.nii", make_header(xyzt_units=unit, sform_code=1, **SROWS), ramp()))
    assert image.affine[2, 2] == 8 * factor
    assert image.spacing[0] == pytest.approx(1.37 * factor)


@pytest.mark.parametrize(
    ("units", "step", "expected"),
    [
        *((8, 0.04, 0.04), (16, 40, 0.04), (24, 40000, 0.04), (0, 1, None), (32, 25, None), (40, 1, None)),
        *((48, 1, None), (8, 0, None), (8, -1, None), (8, np.nan, None), (8, np.inf, None)),
    ],
)
def test_frame_duration_is_in_seconds_or_none_if_unknown(units, step, expected, tmp_path):
    header = make_header(xyzt_units=units | 2, pixdim=(1, 1, 1, 1, step, 1, 1, 1))
    assert read_image(lay(tmp_path / "a.nii", header, ramp())).frame_duration_s == expected


def test_a_3d_file_has_one_frame_of_no_duration_and_gives_a_3d_file(tmp_path):
    header = make_header(shape=(3, 4, 2), xyzt_units=10)
    image = read_image(lay(tmp_path / "a.nii", header, ramp((3, 4, 2))))
    assert (image.channels, image.frames, image.grid, image.frame_duration_s) == (1, 1, (3, 4, 2), None)
    for label in (np.ones((1, 3, 4, 2), np.uint8), np.ones((3, 4, 2), np.uint8)):
        write_image(tmp_path / "out.nii", label, like=image)
        assert nib.load(tmp_path / "out.nii").shape == (3, 4, 2)
        assert read_label(tmp_path / "out.nii", like=image).shape == (1, 3, 4, 2)


def test_a_4d_file_of_one_frame_stays_4d(tmp_path):
    image = read_image(lay(tmp_path / "a.nii", make_header(shape=(3, 4, 2, 1)), ramp((3, 4, 2, 1))))
    write_image(tmp_path / "out.nii", np.ones((1, 3, 4, 2), np.uint8), like=image)
    assert nib.load(tmp_path / "out.nii").shape == (3, 4, 2, 1)


def test_a_singleton_fifth_axis_is_dropped(tmp_path):
    image = read_image(lay(tmp_path / "a.nii", make_header(shape=(*SHAPE, 1)), ramp()))
    assert image.array.shape == (1, 5, 3, 4, 2)


def test_from_array_round_trip(tmp_path):
    array = np.random.default_rng(0).normal(size=(5, 3, 4, 2))
    made = Image4D.from_array(array, rotation_affine(), 0.04)
    write_image(tmp_path / "a.nii.gz", made.array[0], like=made)
    back = read_image(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(back.array[0], array.astype(np.float32))
    np.testing.assert_allclose(back.affine, rotation_affine(), atol=1e-6)
    header = nib.load(tmp_path / "a.nii.gz").header
    assert (back.frame_duration_s, int(header["qform_code"]), int(header["sform_code"])) == (0.04, 1, 1)
    np.testing.assert_allclose(header.get_qform(), rotation_affine(), atol=1e-5)
    assert header.get_xyzt_units() == ("mm", "sec")


def test_from_array_without_a_duration_leaves_the_unit_unknown(tmp_path):
    made = Image4D.from_array(np.zeros((2, 3, 4, 2)), np.eye(4))
    write_image(tmp_path / "a.nii", made.array[0], like=made)
    assert read_image(tmp_path / "a.nii").frame_duration_s is None


@pytest.mark.parametrize(
    ("array", "affine", "duration"),
    [
        (np.zeros((3, 4, 2)), np.eye(4), None),
        (np.zeros((0, 3, 4, 2)), np.eye(4), None),
        (np.zeros((1, 3, 4, 2)), np.eye(3), None),
        (np.zeros((1, 3, 4, 2)), np.diag([1.0, 0, 1, 1]), None),
        (np.zeros((1, 3, 4, 2)), np.eye(4), -1.0),
    ],
)
def test_from_array_refuses(array, affine, duration):
    with pytest.raises(InputError):
        Image4D.from_array(array, affine, duration)


# Voxels ----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=3, max_size=4),
    dtype=st.sampled_from(["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]),
    endianness=st.sampled_from("<>"),
    version=st.sampled_from([1, 2]),
    suffix=st.sampled_from([".nii", ".nii.gz"]),
    scale=st.sampled_from([(1, 0), (0, 0), (np.nan, np.nan), (0.37, -12.5), (2, 0), (1, 100)]),
    seed=st.integers(0, 99),
)
def test_voxels_are_those_that_nibabel_reads(shape, dtype, endianness, version, suffix, scale, seed):
    header = make_header(shape, endianness + dtype, version, endianness, scl_slope=scale[0], scl_inter=scale[1])
    stored = np.random.default_rng(seed).integers(0, 120, size=shape)
    with tempfile.TemporaryDirectory() as folder:
        path = lay(Path(folder) / f"a{suffix}", header, stored)
        image = read_image(path)
        expected = np.asarray(nib.load(path).dataobj).astype(np.float32)
    assert image.array.dtype == np.float32
    assert image.array.dtype.isnative
    expected = expected[..., None] if expected.ndim == 3 else expected
    np.testing.assert_allclose(image.array[0], np.moveaxis(expected, -1, 0), rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    low=st.sampled_from([0, 0, -1, -300, -70000]),
    high=st.sampled_from([1, 255, 256, 40000, 2**40]),
    dtype=st.sampled_from([np.int64, np.float32, np.float64]),
    source=st.sampled_from(sorted(HEADERS)),
)
def test_nibabel_reads_back_the_written_values_unscaled(low, high, dtype, source):
    image = Image4D(np.zeros((1, 5, 3, 4, 2), np.float32), HEADERS[source])
    label = np.random.default_rng(1).integers(low, high, size=(5, 3, 4, 2), endpoint=True).astype(dtype)
    label.flat[:2] = low, high
    with tempfile.TemporaryDirectory() as folder:
        write_image(Path(folder) / "a.nii", label, like=image)
        back = nib.load(Path(folder) / "a.nii")
        values = np.moveaxis(np.asarray(back.dataobj), -1, 0)
    assert (back.dataobj.slope, back.dataobj.inter) == (1, 0)
    if dtype != np.int64:
        wanted = np.float32
    else:
        bits = next(n for n in (16, 32, 64) if -(2 ** (n - 1)) <= low and high < 2 ** (n - 1))
        wanted = np.uint8 if low >= 0 and high < 256 else np.dtype(f"i{bits // 8}")
    assert back.get_data_dtype() == np.dtype(wanted).newbyteorder(HEADERS[source].endianness)
    np.testing.assert_array_equal(values, label.astype(np.float32) if dtype != np.int64 else label)


def test_a_label_map_does_not_inherit_the_images_scale_or_display_window(tmp_path):
    header = make_header(scl_slope=0.5, scl_inter=-1000, cal_min=100, cal_max=900, intent_code=3)
    image = read_image(lay(tmp_path / "a.nii", header, ramp()))
    label = (np.moveaxis(ramp(), -1, 0) % 4).astype(np.uint8)
    write_image(tmp_path / "out.nii", label, like=image)
    np.testing.assert_array_equal(read_label(tmp_path / "out.nii", like=image), label)
    after = raw_header(tmp_path / "out.nii")
    assert [float(after[field]) for field in ("cal_min", "cal_max", "intent_code")] == [0, 0, 0]


def test_the_scale_slope_is_applied(tmp_path):
    image = read_image(lay(tmp_path / "a.nii.gz", make_header(scl_slope=0.5, scl_inter=-3), ramp()))
    np.testing.assert_array_equal(image.array[0], np.moveaxis(ramp() * 0.5 - 3, -1, 0))


def test_channels_come_in_the_order_of_their_files(tmp_path):
    paths = [lay(tmp_path / f"{i}.nii", make_header(dtype=d), ramp() + i) for i, d in enumerate(("<i2", "<f4"))]
    image = read_image(paths)
    assert (image.array.shape, image.source) == ((2, 5, 3, 4, 2), paths[0])
    np.testing.assert_array_equal(image.array[1], image.array[0] + 1)


def test_channels_last_takes_the_fourth_axis_as_channels_and_writes_3d(tmp_path):
    path = lay(tmp_path / "a.nii", make_header(), ramp())
    image = read_image(path, channels_last=True)
    assert (image.channels, image.frames, image.frame_duration_s) == (5, 1, None)
    np.testing.assert_array_equal(image.array[:, 0], read_image(path).array[0])
    write_image(tmp_path / "out.nii", np.zeros((1, 3, 4, 2), np.uint8), like=image)
    assert nib.load(tmp_path / "out.nii").shape == (3, 4, 2)


def test_a_map_holds_for_all_frames(tmp_path):
    series = lay(tmp_path / "0.nii", make_header(), ramp())
    values = ramp((3, 4, 2)) * 100
    flat = lay(tmp_path / "1.nii.gz", make_header((3, 4, 2)), values)
    single = lay(tmp_path / "2.nii", make_header((3, 4, 2, 1)), values)
    image = read_image([series, flat, series, single], kinds=("signal", "map", "velocity X", "map"))
    assert (image.array.shape, image.array.dtype) == ((4, 5, 3, 4, 2), np.float32)
    for channel in (1, 3):
        np.testing.assert_array_equal(image.array[channel], np.stack([values] * 5))
    np.testing.assert_array_equal(image.array[[0, 2]], np.stack([read_image(series).array[0]] * 2))


def test_a_map_beside_a_study_of_one_frame(tmp_path):
    flat = lay(tmp_path / "0.nii", make_header((3, 4, 2)), ramp((3, 4, 2)))
    assert read_image([flat, flat], kinds=("signal", "map")).array.shape == (2, 1, 3, 4, 2)


def test_other_numbers_of_frames_are_refused_and_a_map_must_be_declared(tmp_path):
    series = lay(tmp_path / "0.nii", make_header(), ramp())
    flat = lay(tmp_path / "1.nii", make_header((3, 4, 2)), ramp((3, 4, 2)))
    shorter = lay(tmp_path / "2.nii", make_header((3, 4, 2, 4)), ramp((3, 4, 2, 4)))
    with pytest.raises(InputError, match=r"1\.nii: got 1 frame, expected 5 .* \"map\" in channel_kinds"):
        read_image([series, flat])
    with pytest.raises(InputError, match=r"2\.nii: .*\(4, 3, 4, 2\).*\(5, 3, 4, 2\)"):
        read_image([series, shorter], kinds=("signal", "signal"))
    with pytest.raises(InputError, match=r"2\.nii: got 4 frames for a channel of the kind \"map\", expected one"):
        read_image([series, shorter], kinds=("signal", "map"))
    with pytest.raises(InputError, match=r"0\.nii.*\(5, 3, 4, 2\).*\(1, 3, 4, 2\)"):
        read_image([flat, series])


def test_a_map_on_another_grid_or_not_finite_is_refused(tmp_path):
    series = lay(tmp_path / "0.nii", make_header(), ramp())
    wider = lay(tmp_path / "1.nii", make_header((3, 4, 3)), ramp((3, 4, 3)))
    moved = lay(tmp_path / "2.nii", make_header((3, 4, 2), pixdim=(1, 1.5, 1.41, 8, 1, 1, 1, 1)), ramp((3, 4, 2)))
    holed = lay(tmp_path / "3.nii", make_header((3, 4, 2), "<f4"), np.where(ramp((3, 4, 2)) == 7, np.nan, 1))
    for path, words in ((wider, r"\(1, 3, 4, 3\)"), (moved, "affine"), (holed, "1 of 24 voxels of frame 0 are NaN")):
        with pytest.raises(InputError, match=words) as error:
            read_image([series, path], kinds=("signal", "map"))
        assert str(path) in one_line(error)


# Labels ----------------------------------------------------------------------------------------------------------


def test_labels_stored_as_floats_with_a_slope_round_to_their_integers(tmp_path):
    stored = (np.moveaxis(ramp(), -1, 0) % 4).astype(np.uint8)
    header = make_header(dtype="<i2", scl_slope=3 / 32767)
    path = lay(tmp_path / "a.nii", header, np.round(np.moveaxis(stored, 0, -1) / (3 / 32767)))
    label = read_label(path)
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, stored)


@pytest.mark.parametrize(
    ("dtype", "value", "shown"),
    [
        *(("<f4", 1.5, "1.5"), ("<f4", np.nan, "nan"), ("<f4", np.inf, "inf"), ("<i2", 256, "256")),
        *(("<i2", -1, "-1"), ("<f8", 1e300, "1e+300"), ("<f8", 0.99, "0.99"), ("<u8", 2**63, "9.22337e+18")),
    ],
)
def test_another_label_value_than_0_to_255_is_named(dtype, value, shown, tmp_path):
    array = np.zeros(SHAPE, dtype)
    array[2, 3, 1, 4] = value
    with pytest.raises(InputError) as error:
        read_label(lay(tmp_path / "a.nii", make_header(dtype=dtype), array))
    message = one_line(error)
    assert f"value {shown} at frame 4, voxel (2, 3, 1)" in message
    assert str(tmp_path / "a.nii") in message


def test_a_label_on_another_grid_is_refused_with_both_affines_or_shapes(tmp_path):
    image = read_image(lay(tmp_path / "image.nii", make_header(sform_code=1, **SROWS), ramp()))
    moved = lay(tmp_path / "moved.nii", make_header(sform_code=1, **SROWS | {"srow_x": (1.37, 0, 0, -2.3)}), ramp())
    with pytest.raises(InputError) as error:
        read_label(moved, like=image)
    message = one_line(error)
    assert all(text in message for text in ("moved.nii", "image.nii", "[1.37 0 0 -2.3]", "[1.37 0 0 -3.3]", "1 mm"))
    larger = lay(tmp_path / "larger.nii", make_header(shape=(3, 4, 3, 5)), ramp((3, 4, 3, 5)))
    with pytest.raises(InputError) as error:
        read_label(larger, like=image)
    assert "(3, 4, 3)" in one_line(error)
    assert "(3, 4, 2)" in one_line(error)


def test_affines_that_differ_by_rounding_agree_and_a_thicker_slice_does_not(tmp_path):
    shape = (3, 4, 1, 2)  # one slice: its thickness shows at the voxel's edge only
    image = read_image(lay(tmp_path / "image.nii", make_header(shape, sform_code=1, **SROWS), ramp(shape)))
    near = make_header(shape, sform_code=1, **SROWS | {"srow_x": (1.37, 1e-4, 0, -3.301)})
    assert read_label(lay(tmp_path / "near.nii", near, ramp(shape)), like=image).shape == (2, 3, 4, 1)
    thick = make_header(shape, sform_code=1, **SROWS | {"srow_z": (0, 0, 10, 12.1)})
    with pytest.raises(InputError, match="affine"):
        read_label(lay(tmp_path / "thick.nii", thick, ramp(shape)), like=image)


def test_the_number_of_frames_of_a_label_is_left_to_the_caller(tmp_path):
    image = read_image(lay(tmp_path / "image.nii", make_header(), ramp()))
    shape = (3, 4, 2, 2)
    assert read_label(lay(tmp_path / "a.nii", make_header(shape), ramp(shape)), like=image).shape[0] == 2


# Bad input -------------------------------------------------------------------------------------------------------


def test_not_a_number_is_counted_and_found(tmp_path):
    array = ramp().astype(np.float32)
    array[1, 2, 0, 3] = np.nan
    array[0, 0, 0, 4] = np.inf
    with pytest.raises(InputError) as error:
        read_image(lay(tmp_path / "a.nii.gz", make_header(dtype="<f4"), array))
    message = one_line(error)
    assert "1 of 24 voxels of frame 3" in message
    assert "voxel (1, 2, 0)" in message


def test_float64_beyond_float32_counts_as_infinite(tmp_path):
    with pytest.raises(InputError, match="infinite"):
        read_image(lay(tmp_path / "a.nii", make_header(dtype="<f8"), np.full(SHAPE, 1e300)))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("version", [1, 2])
def test_a_file_cut_anywhere_is_refused(suffix, version, tmp_path):
    shape = (8, 8, 4, 5)
    noise = np.random.default_rng(0).integers(0, 9999, shape)
    whole = lay(tmp_path / f"whole{suffix}", make_header(shape, version=version), noise).read_bytes()
    assert read_image(tmp_path / f"whole{suffix}").frames == 5
    for length in (0, 1, 4, 100, 347, 348, 352, len(whole) // 2, len(whole) - 9, len(whole) - 1):
        path = tmp_path / f"cut{suffix}"
        path.write_bytes(whole[:length])
        with pytest.raises(InputError) as error:
            read_image(path)
        assert str(path) in one_line(error)


def test_a_flipped_byte_in_a_compressed_file_is_noticed(tmp_path):
    path = lay(tmp_path / "a.nii.gz", make_header(), np.random.default_rng(0).integers(0, 9999, SHAPE))
    block = bytearray(path.read_bytes())
    block[-20] ^= 0x55
    path.write_bytes(block)
    with pytest.raises(InputError, match=r"a\.nii\.gz"):
        read_image(path)


def test_damage_that_makes_a_compressed_file_longer_is_noticed(tmp_path):
    """The checksum then stands behind bytes that no reader needs."""
    lay(tmp_path / "image.nii", make_header(), ramp())
    whole = (tmp_path / "image.nii").read_bytes()
    packed = bytearray(gzip.compress(whole + bytes(2 * 10**6)))
    packed[-8] ^= 1  # the checksum
    (tmp_path / "image.nii.gz").write_bytes(packed)
    with pytest.raises(InputError, match="CRC check failed"):
        read_image(tmp_path / "image.nii.gz")


def test_a_header_that_announces_terabytes_is_refused_before_memory_is_asked_for(tmp_path):
    header = make_header(dtype="<f8", shape=(30000, 30000, 30000, 30000))
    for name in ("a.nii", "a.nii.gz"):
        with pytest.raises(InputError, match="truncated"):
            read_image(lay(tmp_path / name, header, ramp()))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_more_than_memory_holds_is_refused_before_it_is_read(suffix, tmp_path, monkeypatch):
    """Compressed zeros of a few kB may be gigabytes; frame by frame they are still read, if one frame fits."""
    path = lay(tmp_path / f"a{suffix}", make_header(shape=(3, 4, 2, 99), dtype="u1"), ramp((3, 4, 2, 99)) % 5)
    for read, needed in ((read_label, 24 * 99), (read_image, 4 * 24 * 99)):
        memory(needed - 1, monkeypatch)
        with pytest.raises(InputError, match="main memory"):
            read(path)
        assert len(list(read_frames(path))) == 99
        memory(needed, monkeypatch)
        read(path)
    memory(24 * 8, monkeypatch)
    with pytest.raises(InputError, match="main memory"):
        next(read_frames(path))
    assert read_image_info(path).frames == 99


def memory(size, monkeypatch):
    """Pretend that the machine has this many bytes of main memory, all free."""
    monkeypatch.setattr("unet4d.system.memory.free_memory_bytes", lambda: size)
    monkeypatch.setattr("unet4d.system.memory.total_memory_bytes", lambda: size)


BAD_HEADERS = {
    "complex64": (make_header(dtype="<c8"), "complex64"),
    "RGB": (make_header(datatype=128, bitpix=24), "code 128"),
    "bits": (make_header(datatype=1, bitpix=1), "code 1"),
    "unknown datatype": (make_header(datatype=77), "code 77"),
    "two axes": (make_header(shape=(24, 5)), "2 axes"),
    "five axes": (make_header(shape=(3, 4, 2, 1, 5)), "5 axes"),
    "no axes": (make_header(dim=(0, 1, 1, 1, 1, 1, 1, 1)), "0 axes"),
    "an empty axis": (make_header(shape=(3, 4, 0, 5)), "(3, 4, 0, 5)"),
    "zero spacing": (make_header(pixdim=(1, 1, 0, 1, 1, 1, 1, 1)), "spacing"),
    "negative spacing": (make_header(pixdim=(1, -1, 1, 1, 1, 1, 1, 1)), "spacing"),
    "NaN spacing": (make_header(pixdim=(1, 1, 1, np.nan, 1, 1, 1, 1)), "spacing"),
    "an affine without inverse": (make_header(sform_code=1, **SROWS | {"srow_z": (1.37, 0, 0, 1)}), "affine"),
    "an affine of zeros": (make_header(sform_code=1), "affine"),
    "an affine of NaN": (make_header(sform_code=1, **SROWS | {"srow_z": (np.nan, 0, 0, 1)}), "affine"),
    "an affine of a light year": (make_header(sform_code=1, **SROWS | {"srow_z": (0, 0, 8, 9e18)}), "affine"),
    "an affine of nothing": (make_header(sform_code=1, **SROWS | {"srow_z": (0, 0, 1e-30, 0)}), "affine"),
    "a quaternion longer than one": (make_header(qform_code=1, quatern_b=0.9, quatern_c=0.9), "header is damaged"),
    "bits that are not the datatype's": (make_header(dtype="<i2", bitpix=8), "bitpix is 8, expected 16"),
    "a float of 128 bits": (make_header(datatype=1536, bitpix=128), "code 1536"),
    "an infinite slope": (make_header(scl_slope=np.inf), "scl_slope is infinite"),
    "an intercept of NaN": (make_header(scl_inter=np.nan), "header is damaged"),
    "an infinite intercept": (make_header(scl_slope=2, scl_inter=-np.inf), "header is damaged"),
    "a pair's magic": (make_header(magic=b"ni1"), "not a NIfTI-1"),
    "another version's magic": (make_header(magic=b"n+2"), "not a NIfTI-1"),
    "converted line ends": (make_header(version=2, eol_check=(10, 26, 10, 0)), "line ends"),
    "a third axis of -2": (make_header(shape=(3, 4, -2, 5)), "(3, 4, -2, 5)"),
}
OFFSETS = (0, 8, 336, 348, 351, 352.5, -352, 1e38, np.inf, -np.inf, np.nan)
OFFSETS_2 = (0, 8, 352, 540, 543, -544, 2**62, -(2**63))


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_a_header_that_no_study_has_is_refused(name, tmp_path):
    header, shown = BAD_HEADERS[name]
    path = tmp_path / "a.nii"
    path.write_bytes(header.binaryblock + bytes(4096))
    with pytest.raises(InputError) as error:
        read_image(path)
    assert shown in one_line(error)
    assert str(path) in one_line(error)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("version", "offset"), [*((1, offset) for offset in OFFSETS), *((2, offset) for offset in OFFSETS_2)]
)
def test_bytes_of_the_header_are_never_voxels(version, offset, suffix, tmp_path):
    path = lay(tmp_path / f"a{suffix}", make_header(version=version, vox_offset=offset), ramp((3, 4, 2, 99)))
    for read in (read_image, lambda path: list(read_frames(path)), read_label, read_image_info):
        with pytest.raises(InputError, match=r"vox_offset|truncated") as error:
            read(path)
        assert str(path) in one_line(error)


def with_extensions(path, sizes, offset, version, endianness="<", flag=1):
    """Lay a file with header extensions of these sizes, and voxels at `offset`."""
    header = make_header(version=version, endianness=endianness, dtype=f"{endianness}i2", vox_offset=offset)
    kind = np.dtype(f"{endianness}i4")
    extensions = b"".join(np.array([size, 6], kind).tobytes().ljust(size, b"x") for size in sizes)
    block = header.binaryblock + bytes([flag, 0, 0, 0]) + extensions
    block = block.ljust(offset, b"\0") + ramp().astype(header.get_data_dtype()).tobytes(order="F")
    path.write_bytes(gzip.compress(block, 1) if path.name.endswith(".gz") else block)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("endianness", ["<", ">"])
def test_voxels_behind_extensions_are_read_and_extensions_are_never_voxels(version, endianness, suffix, tmp_path):
    first = {1: 352, 2: 544}[version]
    path = tmp_path / f"a{suffix}"
    for sizes, offset in (([32, 16], 48), ([32], 32), ([32], 64), ([], 16), ([24], 24)):
        with_extensions(path, sizes, first + offset, version, endianness)
        np.testing.assert_array_equal(read_image(path).array[0], np.moveaxis(ramp(), 3, 0))
        if sum(sizes) == offset and offset % 16 == 0:  # others nibabel refuses, or warns of
            np.testing.assert_array_equal(nib.load(path).dataobj, ramp())
    for sizes, offset in (([32, 16], 32 + 16 - 2), ([32], 16), ([32], 0), ([2**20], 64)):
        block = with_extensions(tmp_path / "whole.nii", sizes, first + sum(sizes), version, endianness).read_bytes()
        header = make_header(version=version, endianness=endianness, dtype=f"{endianness}i2", vox_offset=first + offset)
        block = header.binaryblock + block[len(header.binaryblock) :]
        path.write_bytes(gzip.compress(block, 1) if suffix == ".nii.gz" else block)
        with pytest.raises(InputError, match=f"a whole number from {first + sum(sizes)} on"):
            read_image(path)
    np.testing.assert_array_equal(
        read_image(with_extensions(path, [32], first + 32, version, flag=0)).array[0], np.moveaxis(ramp(), 3, 0)
    )


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_more_frames_than_the_header_announces_are_not_dropped(suffix, tmp_path):
    frame = math.prod(SHAPE[:3]) * 2
    path = lay(tmp_path / f"a{suffix}", make_header(), ramp((*SHAPE[:3], 7)))
    with pytest.raises(InputError, match="enough for 2 more"):
        read_image(path)
    block = make_header().binaryblock + bytes(4 + math.prod(SHAPE) * 2 + frame - 1)  # padding, less than a frame
    path.write_bytes(gzip.compress(block) if suffix == ".nii.gz" else block)
    assert read_image(path).frames == SHAPE[3]


@needs_posix("pipes in folders")
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.seq.nrrd", "dataset.json", "a.dcm"])
@pytest.mark.parametrize("kind", ["pipe", "device", "in a folder"])
def test_a_pipe_is_refused_at_once(kind, name, tmp_path):
    path = tmp_path / name
    if kind == "device":
        path.symlink_to("/dev/zero")
    else:
        os.mkfifo(path)
    source = tmp_path if kind == "in a folder" else path
    for layout in (None, *LAYOUTS):
        with pytest.raises(InputError) as error:
            (open_layout(layout, source, NO_LAYOUT_OPTIONS) if layout else open_source(source)).studies[0].image()
        assert str(tmp_path) in one_line(error)
    for read in (read_image, read_label, read_json, read_nrrd_header):
        with pytest.raises(InputError):
            read(path)


def test_other_files_than_nifti_are_refused(tmp_path):
    (tmp_path / "folder.nii").mkdir()
    (tmp_path / "text.nii").write_text("x" * 999)
    (tmp_path / "text.nii.gz").write_text("x" * 999)
    (tmp_path / "image.png").write_text("x")
    (tmp_path / "packed.nii").write_bytes(gzip.compress(b"x"))
    wanted = {"folder.nii": "folder", "text.nii": "not a NIfTI", "text.nii.gz": "cannot be read", "image.png": ".nii"}
    for name, shown in (wanted | {"packed.nii": "name it .nii.gz", "absent.nii": "missing"}).items():
        with pytest.raises(InputError) as error:
            read_image(tmp_path / name)
        assert shown in one_line(error)
        assert str(tmp_path / name) in one_line(error)


def test_channels_on_different_grids_are_refused(tmp_path):
    first = lay(tmp_path / "a.nii", make_header(), ramp())
    shorter = lay(tmp_path / "b.nii", make_header((3, 4, 2, 4)), ramp((3, 4, 2, 4)))
    wider = lay(tmp_path / "c.nii", make_header(pixdim=(1, 1.5, 1.41, 8, 1, 1, 1, 1)), ramp())
    with pytest.raises(InputError, match=r"b\.nii.*\(4, 3, 4, 2\).*\(5, 3, 4, 2\)"):
        read_image([first, shorter])
    with pytest.raises(InputError, match=r"c\.nii.*affine"):
        read_image([first, wider])
    for paths, channels_last in (([], False), ([first, first], True)):
        with pytest.raises(InputError):
            read_image(paths, channels_last=channels_last)


# Writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 3, 4, 2), (5, 3, 4, 3), (3, 4, 2), (3, 4, 2, 5), (1, 5, 3, 4, 2)])
def test_a_label_of_another_shape_than_the_image_is_not_written(shape, tmp_path):
    image = Image4D.from_array(np.zeros((5, 3, 4, 2)), np.eye(4))
    with pytest.raises(InputError, match=r"\(5, 3, 4, 2\)"):
        write_image(tmp_path / "a.nii", np.zeros(shape, np.uint8), like=image)
    assert not list(tmp_path.iterdir())


def test_other_names_and_dtypes_are_not_written(tmp_path):
    image = Image4D.from_array(np.zeros((5, 3, 4, 2)), np.eye(4))
    with pytest.raises(InputError, match=r"\.nii"):
        write_image(tmp_path / "a.nrrd", np.zeros((5, 3, 4, 2), np.uint8), like=image)
    with pytest.raises(InputError, match="complex"):
        write_image(tmp_path / "a.nii", np.zeros((5, 3, 4, 2), complex), like=image)
    with pytest.raises(InputError, match="18446744073709551615"):
        write_image(tmp_path / "a.nii", np.full((5, 3, 4, 2), 2**64 - 1, np.uint64), like=image)


@pytest.mark.parametrize("before", [None, b"an earlier result"])
def test_writing_killed_half_way_leaves_what_was_there(before, tmp_path, monkeypatch):
    image = Image4D.from_array(np.zeros((5, 3, 4, 2)), np.eye(4))
    path = tmp_path / "a.nii.gz"
    if before is not None:
        path.write_bytes(before)

    def killed(temporary, header, volumes):
        temporary.write_bytes(header.binaryblock)
        raise KeyboardInterrupt

    monkeypatch.setattr(image4d, "write_nifti", killed)
    with pytest.raises(KeyboardInterrupt):
        write_image(path, np.zeros((5, 3, 4, 2), np.uint8), like=image)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([] if before is None else [before])


def test_the_same_label_gives_the_same_bytes(tmp_path):
    image = Image4D.from_array(np.zeros((5, 3, 4, 2)), np.eye(4))
    for name in ("a.nii.gz", "b.nii.gz"):
        write_image(tmp_path / name, np.ones((5, 3, 4, 2), bool), like=image)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert (tmp_path / "a.nii.gz").read_bytes()[4:8] == bytes(4)  # gzip's time stamp


def test_writing_does_not_change_the_image_it_is_like(tmp_path):
    image = read_image(lay(tmp_path / "a.nii", make_header(scl_slope=2), ramp()))
    before = image.header.binaryblock
    write_image(tmp_path / "out.nii", np.ones((5, 3, 4, 2), np.uint8), like=image)
    assert image.header.binaryblock == before
