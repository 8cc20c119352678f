"""NRRD: the place of its voxels, the axis of frames, their duration, and refusals."""

from __future__ import annotations

import bz2
import gzip
import os
import sys
import tracemalloc
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from tests.errors import error_of
from tests.images.slicer import OBLIQUE, SIGNS, geometry, write, write_sequence, write_volume
from tests.masking import needs_posix
from unet4d.errors import InputError
from unet4d.images import nrrd
from unet4d.images.nrrd import nrrd_dimension, nrrd_files, read_nrrd_header, read_nrrd_image

VOXELS = np.arange(4 * 3 * 2).reshape(4, 3, 2).astype(np.int16) - 5
SERIES = np.arange(5 * 4 * 3 * 2).reshape(5, 4, 3, 2).astype(np.int16)


def refusal(path: Path) -> str:
    message = error_of(read_nrrd_image, path)
    assert path.name in message
    return message


@pytest.mark.parametrize("space", SIGNS)
def test_every_space_gives_the_same_place_in_ras(space, tmp_path):
    header = read_nrrd_header(write(tmp_path / "a.nrrd", VOXELS, geometry(OBLIQUE, None, space)))
    np.testing.assert_allclose(header.affine, OBLIQUE, atol=1e-12)
    assert header.grid == (4, 3, 2)


def test_a_voxel_lies_at_its_place_in_the_header(tmp_path):
    """By hand: in LPS, voxel (1, 0, 2) of steps 2, 3, 5 from (10, 20, 30) lies at L 12, P 20, S 40: (-12, -20, 40) in RAS."""
    fields = {"space": "LPS", "space directions": np.diag([2.0, 3.0, 5.0]), "space origin": [10.0, 20.0, 30.0]}
    affine = read_nrrd_header(write(tmp_path / "a.nrrd", VOXELS, fields)).affine
    np.testing.assert_allclose(affine @ [1, 0, 2, 1], [-12, -20, 40, 1])


@pytest.mark.parametrize("encoding", ["gzip", "raw", "ascii", "bzip2"])
@pytest.mark.parametrize("dtype", ["<i2", ">i2", "u1", "<f4", ">f8"])
def test_voxels_are_the_same_in_every_encoding(encoding, dtype, tmp_path):
    voxels = np.abs(VOXELS).astype(dtype)
    image = read_nrrd_image(write_volume(tmp_path / "a.nrrd", voxels, encoding=encoding))
    assert image.array.dtype == np.float32
    np.testing.assert_array_equal(image.array, voxels[None, None])
    assert (image.source, image.frame_duration_s) == (tmp_path / "a.nrrd", None)
    np.testing.assert_allclose(image.affine, OBLIQUE, rtol=1e-6)


def test_voxels_in_another_file_are_read_and_belong_to_the_files(tmp_path):
    path = write_volume(tmp_path / "a.nhdr", VOXELS, encoding="raw")
    assert nrrd_files(path) == (path, tmp_path / "a.raw")
    np.testing.assert_array_equal(read_nrrd_image(path).array[0, 0], VOXELS)
    (tmp_path / "a.raw").unlink()
    assert refusal(path).startswith(f"{tmp_path / 'a.raw'} is missing, and holds the voxels of {path}; give")


def test_a_file_alone_is_all_its_files(tmp_path):
    assert nrrd_files(tmp_path / "nothing.nrrd") == (tmp_path / "nothing.nrrd",)


def test_other_units_than_mm_are_brought_to_mm(tmp_path):
    affine = np.diag([0.1, 0.2, 0.3, 1.0])
    path = write_volume(tmp_path / "a.nrrd", VOXELS, affine, **{"space units": ["cm", "cm", "cm"]})
    np.testing.assert_allclose(read_nrrd_header(path).affine, np.diag([1.0, 2.0, 3.0, 1.0]))
    path = write_volume(tmp_path / "b.nrrd", VOXELS, affine, **{"space units": ["inch"] * 3})
    assert "got space units ['inch', 'inch', 'inch'], expected mm" in refusal(path)


def test_the_affine_of_a_file_with_spacing_alone_is_that_spacing(tmp_path):
    path = write(tmp_path / "a.nrrd", VOXELS, {"spacings": [2.0, 3.0, 8.0]})
    np.testing.assert_array_equal(read_nrrd_header(path).affine, np.diag([2.0, 3.0, 8.0, 1.0]))


@pytest.mark.parametrize(
    ("changed", "given"),
    [
        ({"space": None}, "got no space, expected"),
        ({"space": None, "space dimension": 3}, "got no space, expected"),
        ({"space": "scanner-xyz"}, "got the space 'scanner-xyz', expected"),
        ({"space directions": None}, "the space 'left-posterior-superior' and no space directions, expected"),
        ({"space directions": None, "space": None, "space origin": None}, "no space and no space directions, expected"),
        ({"space directions": None, "spacings": [1.0, 1.0, 8.0]}, "and no space directions, expected"),
    ],
)
def test_without_its_place_in_the_body_a_file_is_refused(changed, given, tmp_path):
    message = refusal(write(tmp_path / "a.nrrd", VOXELS, geometry(OBLIQUE) | changed))
    assert given in message
    assert "add 'space: left-posterior-superior'" in message


def test_directions_that_flatten_space_are_refused(tmp_path):
    flat = OBLIQUE.copy()
    flat[:3, 1] = flat[:3, 0]
    assert "has no inverse" in refusal(write_volume(tmp_path / "a.nrrd", VOXELS, flat))


@pytest.mark.parametrize("list_axis", [0, 3])
@pytest.mark.parametrize("kind", ["list", "time", "???", None])
def test_the_axis_of_frames_is_found_wherever_it_lies(list_axis, kind, tmp_path):
    """Without a kind, an axis without a direction in space is the one."""
    fields = geometry(OBLIQUE, list_axis)
    fields["kinds"] = None if kind is None else [kind if k == "list" else k for k in fields["kinds"]]
    header = read_nrrd_header(write(tmp_path / "a.nrrd", np.moveaxis(SERIES, 0, list_axis), fields))
    assert (header.list_axis, header.items, header.grid) == (list_axis, 5, (4, 3, 2))
    np.testing.assert_array_equal(header.read(), SERIES)
    np.testing.assert_allclose(header.affine, OBLIQUE)


@pytest.mark.parametrize("space", ["left-posterior-superior-time", "LPST"])
def test_a_space_with_time_holds_frames_and_their_duration(space, tmp_path):
    directions = np.diag([2.0, 3.0, 5.0, 40.0])
    fields = {"space": space, "space directions": directions, "space origin": [10.0, 20.0, 30.0, 0.0]}
    fields |= {"kinds": ["domain"] * 4, "space units": ["mm", "mm", "mm", "ms"]}
    image = read_nrrd_image(write(tmp_path / "a.nrrd", np.moveaxis(SERIES, 0, 3), fields))
    np.testing.assert_array_equal(image.array[0], SERIES)
    np.testing.assert_allclose(image.affine, [[-2, 0, 0, -10], [0, -3, 0, -20], [0, 0, 5, 30], [0, 0, 0, 1]])
    assert image.frame_duration_s == pytest.approx(0.04)


@pytest.mark.parametrize(
    ("voxels", "kinds", "rows"),
    [
        (SERIES, ["domain"] * 4, np.eye(4, 3)),  # as ITK writes four dimensions
        (SERIES, ["vector", "domain", "domain", "domain"], np.eye(4, 3)),
        (VOXELS, ["domain", "domain", "list"], np.array([[1, 0, 0], [0, 1, 0], [np.nan] * 3])),
        (VOXELS[0], ["domain", "domain"], np.eye(2, 3)),
        (SERIES[None], ["list", "list", "domain", "domain", "domain"], np.eye(5, 3)),
    ],
)
def test_other_axes_than_three_of_space_and_one_of_frames_are_refused(voxels, kinds, rows, tmp_path):
    message = refusal(write(tmp_path / "a.nrrd", voxels, {"space": "LPS", "kinds": kinds, "space directions": rows}))
    assert f"of the kinds {' '.join(kinds)}, expected three of kind domain" in message
    assert "left-posterior-superior-time" in message


@pytest.mark.parametrize("list_axis", [0, 3])
@pytest.mark.parametrize(
    ("times", "unit", "duration"),
    [
        ("0 0.04 0.08 0.12 0.16", "s", 0.04),
        ("10 43.3 76.6 109.9 143.2", "ms", 0.0333),
        ("0 33 67 100 133", "ms", 0.03325),  # a scanner's trigger times, rounded
        ("0 33%2E5 67 100%2E5 134", "ms", 0.0335),  # 3D Slicer encodes as URLs are
        ("0 40 80 160 200", "ms", None),  # a frame is missing: no one duration
        ("0 1 2 3 4", "", None),
        ("0 20 40 60 80", "%", None),
        ("rest peak late later end", "s", None),
    ],
)
def test_frame_duration_comes_from_the_index_values(list_axis, times, unit, duration, tmp_path):
    path = write_sequence(tmp_path / "a.seq.nrrd", SERIES, list_axis=list_axis, times=times.split(), unit=unit)
    found = read_nrrd_image(path).frame_duration_s
    assert found == (None if duration is None else pytest.approx(duration, rel=1e-12))


def test_a_single_frame_has_no_duration(tmp_path):
    assert read_nrrd_image(write_sequence(tmp_path / "a.seq.nrrd", SERIES[:1], times=[3])).frame_duration_s is None


@pytest.mark.parametrize("times", ["0 1 2", "0 2 1 3 4", "0 1 1 2 3", "4 3 2 1 0"])
def test_impossible_times_are_refused(times, tmp_path):
    message = refusal(write_sequence(tmp_path / "a.seq.nrrd", SERIES, times=times.split()))
    assert f"got 5 frames at {times} s, expected growing times" in message


def test_the_number_of_axes_is_read_without_pynrrd(tmp_path, monkeypatch):
    three, four = write_volume(tmp_path / "a.nrrd", VOXELS), write_sequence(tmp_path / "b.nrrd", SERIES)
    (tmp_path / "c.nrrd").write_bytes(b"\x1f\x8bNRRD\ndimension: 4\n")
    (tmp_path / "d.nrrd").write_bytes(b"NRRD0004\ndimension: many\n")
    monkeypatch.setitem(sys.modules, "nrrd", None)
    others = (tmp_path / "c.nrrd", tmp_path / "d.nrrd", tmp_path / "missing.nrrd", tmp_path)
    assert [nrrd_dimension(path) for path in (three, four, *others)] == [3, 4, None, None, None, None]


def test_without_pynrrd_the_error_names_the_package(tmp_path, monkeypatch):
    path = write_volume(tmp_path / "a.nrrd", VOXELS)
    monkeypatch.setitem(sys.modules, "nrrd", None)
    assert "needs pynrrd; install it: pip install pynrrd" in refusal(path)


@pytest.mark.parametrize(("encoding", "lost"), [("raw", 1), ("raw", 4), ("gzip", 20), ("bzip2", 20), ("ascii", 10)])
def test_a_truncated_file_is_refused(encoding, lost, tmp_path):
    path = write_volume(tmp_path / "a.nrrd", VOXELS.astype(np.int32), encoding=encoding)
    path.write_bytes(path.read_bytes()[:-lost])
    assert "truncated or damaged" in refusal(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it does not begin with NRRD"),
        (b"\x1f\x8b\x08\x00", "it does not begin with NRRD"),
        (b"NRRD0004\n", "its header lacks ['type', 'encoding', 'sizes']"),
        (b"NRRD0009\n\n", "cannot be read as NRRD (Unsupported NRRD file version"),
        (b"NRRD0004\nno field\n\n", "truncated or damaged"),
        (b"NRRD0004\ntype: short\nsizes: 0 1 1\nencoding: raw\n\n", "its header lacks voxels"),
        (b"NRRD0004\ntype: short\nsizes: 1 1 1\nsizes: 2 1 1\n\n", "Duplicate header field"),
        (b"NRRD0004\ntype: short\nsizes: 1 1 1\nencoding: raw\nkinds: list\n\n", "gives 1 kinds and 3 directions"),
    ],
)
def test_other_content_than_nrrd_is_refused(content, words, tmp_path):
    (tmp_path / "a.nrrd").write_bytes(content)
    assert words in refusal(tmp_path / "a.nrrd")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert (
        refusal(tmp_path / "a.nrrd") == f"{tmp_path / 'a.nrrd'} is missing; give an existing file, or export it again"
    )
    assert "cannot be read as NRRD" in refusal(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_voxels_that_are_not_finite_are_refused(value, tmp_path):
    voxels = VOXELS.astype(np.float64)
    voxels[1, 2, 0] = value
    path = write_volume(tmp_path / "a.nrrd", voxels, encoding="raw")
    assert "1 of 24 voxels are NaN or infinite" in refusal(path)


HEADER = b"""NRRD0004
type: short
dimension: 3
space: left-posterior-superior
sizes: 4 3 2
space directions: (2,0,0) (0,3,0) (0,0,5)
space origin: (0,0,0)
endian: little
"""
BYTES = VOXELS.astype("<i2").tobytes(order="F")
PACKED = {"raw": bytes, "gzip": gzip.compress, "bzip2": bz2.compress}


def lay(path: Path, data: bytes, encoding: str = "raw", **fields: object) -> Path:
    """Put a header with these fields and the data behind it on disk, sensible or not."""
    more = "".join(f"{name.replace('_', ' ')}: {value}\n" for name, value in {"encoding": encoding, **fields}.items())
    path.write_bytes(HEADER + more.encode() + b"\n" + data)
    return path


@pytest.mark.parametrize(
    "outside", ["../secret.raw", "{outside}", "sub/../../secret.raw", "link.raw", "linked/secret.raw"]
)
def test_voxels_come_from_no_other_folder(outside, tmp_path):
    folder = tmp_path / "given"
    folder.mkdir()
    (tmp_path / "secret.raw").write_bytes(BYTES)
    (folder / "link.raw").symlink_to(tmp_path / "secret.raw")
    (folder / "linked").symlink_to(tmp_path)
    path = lay(folder / "a.nhdr", b"", data_file=outside.format(outside=tmp_path / "secret.raw"))
    assert "inside" in refusal(path)
    assert nrrd_files(path) == (path,)
    (folder / "sub").mkdir()
    (folder / "sub" / "a.raw").write_bytes(BYTES)
    path = lay(folder / "a.nhdr", b"", data_file="sub/a.raw")
    np.testing.assert_array_equal(read_nrrd_image(path).array[0, 0], VOXELS)


@pytest.mark.parametrize("several", ["LIST", "LIST 2", "a%03d.raw 1 2 1", "a%d.raw 1 2 1 2"])
def test_voxels_in_several_files_are_refused(several, tmp_path):
    assert "several files" in refusal(lay(tmp_path / "a.nhdr", b"", data_file=several))


@needs_posix("pipes in folders")
@pytest.mark.parametrize("field", ["data file", "datafile"])
def test_voxels_in_a_pipe_are_refused_at_once(field, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("pipe", "device"):
        with pytest.raises(InputError, match=f"{name}"):
            read_nrrd_image(lay(tmp_path / "a.nhdr", b"", **{field: name}))


@pytest.mark.parametrize("encoding", PACKED)
def test_lines_are_skipped_before_and_bytes_after_decompressing(encoding, tmp_path):
    packed = b"one\ntwo\n" + PACKED[encoding](b"xyz" + BYTES)
    path = lay(tmp_path / "a.nrrd", packed, encoding, line_skip=2, byte_skip=3)
    np.testing.assert_array_equal(read_nrrd_image(path).array[0, 0], VOXELS)


def test_a_byte_skip_of_minus_one_means_the_end_of_the_file(tmp_path):
    path = lay(tmp_path / "a.nrrd", b"anything" + BYTES, byte_skip=-1)
    np.testing.assert_array_equal(read_nrrd_image(path).array[0, 0], VOXELS)
    assert "damaged" in refusal(lay(tmp_path / "b.nrrd", gzip.compress(BYTES), "gzip", byte_skip=-1))
    assert "damaged" in refusal(lay(tmp_path / "c.nrrd", BYTES[1:], byte_skip=-1))


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2", "ascii"])
@pytest.mark.parametrize("skip", ["line_skip", "byte_skip"])
@pytest.mark.parametrize("value", [-2, 10**9, 10**30, "9" * 5000, "many"])
def test_a_skip_without_end_ends(skip, value, encoding, tmp_path):
    data = PACKED.get(encoding, lambda _: b"1 " * 24)(BYTES)
    assert "damaged" in refusal(lay(tmp_path / "a.nrrd", data, encoding, **{skip: value}))


@pytest.mark.parametrize("encoding", ["gzip", "bzip2"])
def test_a_stream_longer_than_announced_is_read_no_further(encoding, tmp_path):
    path = lay(tmp_path / "a.nrrd", PACKED[encoding](BYTES + bytes(50 * 2**20)), encoding)
    tracemalloc.start()
    try:
        assert "more follows the 48 bytes" in refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2", "ascii"])
def test_no_memory_is_taken_for_absent_voxels(encoding, tmp_path):
    data = PACKED.get(encoding, lambda _: b"1 " * 24)(BYTES)
    path = lay(tmp_path / "a.nrrd", data, encoding)
    path.write_bytes(path.read_bytes().replace(b"sizes: 4 3 2", b"sizes: 40000 30000 20000"))
    tracemalloc.start()
    try:
        refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "text", ["99999 " + "1 " * 23, "1.5 " + "1 " * 23, "x " + "1 " * 23, "nan " + "1 " * 23, "1 " * 25]
)
def test_numbers_in_text_that_are_not_the_headers_are_refused(text, tmp_path):
    assert "damaged" in refusal(lay(tmp_path / "a.nrrd", text.encode(), "ascii"))


def test_a_header_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(nrrd, "_LONGEST_HEADER", 2**12)
    for rest in (b"x" * 2**13, b"#\n" * 2**12):
        (tmp_path / "a.nrrd").write_bytes(b"NRRD0004\n" + rest)
        assert "does not end" in refusal(tmp_path / "a.nrrd")
        assert nrrd_dimension(tmp_path / "a.nrrd") is None


def test_any_exception_of_pynrrd_is_a_refusal(tmp_path, monkeypatch):
    path = write_volume(tmp_path / "a.nrrd", VOXELS)
    for error in (TypeError, AttributeError, RuntimeError, MemoryError, UnicodeError):
        monkeypatch.setattr("nrrd.read_header", Mock(side_effect=error("odd")))
        assert "cannot be read as NRRD (odd)" in refusal(path)


def test_more_than_memory_holds_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = write_volume(tmp_path / "a.nrrd", VOXELS)
    for name in ("free_memory_bytes", "total_memory_bytes"):
        monkeypatch.setattr(f"unet4d.system.memory.{name}", lambda: 12 * VOXELS.size - 1)
    assert "main memory" in refusal(path)
    monkeypatch.undo()
    assert read_nrrd_image(path).frames == 1
