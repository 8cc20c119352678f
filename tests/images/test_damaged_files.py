"""Damaged study files: whatever their bytes, a reader returns voxels or raises InputError with one line.

The damage is drawn from a fixed seed. What is still read from NIfTI must be what nibabel reads.
"""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.images.slicer import write_segmentation, write_sequence, write_volume
from tests.images.test_image4d import lay, oblique, ramp
from unet4d.datasets.convert.layout_options import NO_LAYOUT_OPTIONS
from unet4d.datasets.convert.layouts import open_layout
from unet4d.errors import InputError
from unet4d.images.image4d import Image4D, read_frames, read_image, read_label
from unet4d.images.nrrd import nrrd_dimension, nrrd_files, read_nrrd_image
from unet4d.images.segmentations import label_values, read_label_map, read_segmentation

VOXELS = np.arange(4 * 3 * 2).reshape(4, 3, 2).astype(np.int16)
TOKENS = (
    *(
        b"",
        b"nan",
        b"inf",
        b"-1",
        b"0",
        b"1e400",
        b"9" * 30,
        b"9" * 5000,
        b"none",
        b"(1,2)",
        b"(nan,nan,nan)",
        b"(0,0,0)",
    ),
    *(
        b"()",
        b"\xff\xfe",
        b"%d",
        b"block",
        b"double",
        b"uint8",
        b"bzip2",
        b"raw",
        b"hex",
        b"LIST",
        b"big",
        b"4",
        b"a" * 300,
    ),
)
LINES = (
    *(
        b"line skip: 3",
        b"byte skip: -1",
        b"byte skip: 99999999999",
        b"data file: x.raw",
        b"space units: m m m",
        b"kinds: time",
    ),
    *(b"Segment0_LabelValue:=-1", b"Segment0_Layer:=99", b"Segment7_Name:=", b"spacings: 1 1 nan 1", b"dimension: 4"),
    *(b"space directions: none none none none", b"space directions: (1,0) (0,1) none", b"axis 0 index values:=0 1 nan"),
)


def flipped(block: bytes, rng: random.Random) -> bytes:
    """Change, cut out, or add a few bytes; or cut the end off."""
    at, damaged = rng.randrange(len(block)), bytearray(block)
    match rng.randrange(6):
        case 0:
            return block[:at]
        case 1:
            return block[:at] + rng.randbytes(rng.randrange(1, 20)) + block[at:]
        case 2:
            return block[:at] + block[at + rng.randrange(1, 50) :]
    for _ in range(rng.choice([1, 1, 2, 8])):
        damaged[rng.randrange(len(block))] = rng.choice([0, 255, rng.randrange(256)])
    return bytes(damaged)


def with_extreme_fields(header: nib.Nifti1Header, rng: random.Random) -> bytes:
    """Set up to three fields of a header to values at the edge of what they hold."""
    for name in rng.sample(list(header.keys()), rng.randrange(1, 4)):
        kind, place = header[name].dtype, rng.randrange(max(header[name].size, 1))
        values: list[float]
        if kind.kind == "f":
            values = [0, -1, np.nan, np.inf, -np.inf, 1e38, 1e-45, 352, 351.9, 348]
        elif kind.kind in "iu":
            values = [0, 1, -1, 2, 7, 8, 255, 352, 336, np.iinfo(kind).min, np.iinfo(kind).max]
        else:
            header[name] = rng.randbytes(2)
            continue
        header[name].reshape(-1)[place] = np.array(rng.choice(values)).astype(kind)
    return header.binaryblock


def with_other_text(block: bytes, rng: random.Random) -> bytes:
    """Change a line of the header of a NRRD file."""
    head, end, data = block.partition(b"\n\n")
    lines = head.split(b"\n")
    at = rng.randrange(len(lines))
    match rng.randrange(5):
        case 0:
            del lines[at]
        case 1:
            lines[at] = flipped(lines[at], rng)
        case 2:
            lines.insert(at, rng.choice(LINES))
        case _:
            words = lines[at].split(b" ")
            words[rng.randrange(len(words))] = rng.choice(TOKENS)
            lines[at] = b" ".join(words)
    return b"\n".join(lines) + end + data


def is_read(read: Callable[..., object], *args: object) -> bool:
    """Return whether it was read. Any error but InputError of one line fails the test."""
    refusal = ""
    try:
        read(*args)
    except InputError as error:
        refusal = str(error)
    assert "\n" not in refusal
    return not refusal


def check_nifti(path: Path) -> None:
    """Read it whole and frame by frame, and compare with what nibabel reads."""
    array = read_image(path).array
    np.testing.assert_array_equal(np.stack(list(read_frames(path)), axis=1), array)
    try:
        theirs = np.asarray(nib.load(path).dataobj, dtype=np.float32)
    except Exception:  # nibabel checks the qform also where the sform holds
        return
    np.testing.assert_array_equal(array[0], np.moveaxis(theirs.reshape(*theirs.shape[:3], -1), 3, 0))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("version", [1, 2])
def test_damaged_nifti_is_refused_or_read_as_nibabel_reads_it(version, suffix, tmp_path):
    rng = random.Random(f"{version}{suffix}")
    path, read = tmp_path / f"a{suffix}", 0
    for _ in range(150):
        with np.errstate(all="ignore"):
            fields = with_extreme_fields(oblique(version=version, dtype="<i2"), rng)
        block = lay(tmp_path / "whole.nii", oblique(version=version, dtype="<i2"), ramp()).read_bytes()
        block = rng.choice([fields + block[len(fields) :], flipped(block[:400], rng) + block[400:], block])
        damaged = gzip.compress(block, 1) if suffix == ".nii.gz" else block
        path.write_bytes(flipped(damaged, rng) if rng.random() < 0.3 else damaged)
        read += is_read(check_nifti, path)
        is_read(read_label, path)
    assert 10 < read < 140


def test_damaged_nrrd_is_read_or_refused(tmp_path):
    rng = random.Random(0)
    layers = np.zeros((2, 4, 3, 2))
    layers[0, 1], layers[1, 2] = 1, 2
    whole = []
    for encoding in ("gzip", "raw", "ascii", "bzip2"):
        segments = [("lv", 1, 0), ("rv", 2, 1)]
        series = np.stack([VOXELS] * 3)
        whole += [
            write_volume(tmp_path / f"{encoding}.nrrd", VOXELS, encoding=encoding),
            write_sequence(tmp_path / f"{encoding}.seq.nrrd", series, times=[0, 40, 80], unit="ms", encoding=encoding),
            write_segmentation(tmp_path / f"{encoding}.seg.nrrd", layers, segments, encoding=encoding),
        ]
    image, read = read_nrrd_image(whole[0]), 0
    for _ in range(400):
        source = rng.choice(whole)
        path = tmp_path / source.name.replace(source.name.partition(".")[0], "damaged")
        path.write_bytes(rng.choice([flipped, with_other_text, with_other_text])(source.read_bytes(), rng))
        read += is_read(read_nrrd_image, path)
        nrrd_dimension(path)
        nrrd_files(path)
        is_read(read_labels, path, image)
        is_read(images_of, "sequence", path)
    assert 40 < read < 300


def images_of(kind: str, source: Path) -> list[Image4D]:
    return [study.image() for study in open_layout(kind, source, NO_LAYOUT_OPTIONS).studies]


def read_labels(path: Path, image: Image4D) -> None:
    labels = label_values([path], None) or {"background": 0, "lv": 1, "rv": 2}
    (read_segmentation if path.name.endswith(".seg.nrrd") else read_label_map)(path, labels, image)


def test_damaged_dicom_is_read_or_refused(tmp_path):
    pytest.importorskip("pydicom", reason="needs the extra dicom")
    from tests.datasets.convert import dicom_files as files

    rng = random.Random(0)
    array = files.ARRAY[:2, :6, :5, :2]
    saved = files.save(files.single_frames(array, files.AFFINE, files.by_trigger), tmp_path / "single")
    saved += files.save([files.enhanced(array, files.AFFINE, 40.0)], tmp_path / "enhanced")
    read = 0
    for _ in range(80):
        file = rng.choice([saved[0], saved[-1]])
        whole = file.read_bytes()
        file.write_bytes(flipped(whole[:1500], rng) + whole[1500:])
        read += is_read(images_of, "dicom", file.parent)
        file.write_bytes(whole)
    assert 5 < read < 75
