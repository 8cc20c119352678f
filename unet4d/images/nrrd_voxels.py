"""Voxels of NRRD files, read from inside the folder of the header and decoded no further than the header announces.

pynrrd would read a data file anywhere on the machine, and decompress without a limit. Here it parses headers and types alone.
"""

from __future__ import annotations

import bz2
import gzip
import io
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from unet4d.errors import InputError
from unet4d.system.memory import check_fits
from unet4d.system.regular_files import open_regular
from unet4d.system.safe_paths import path_inside

_ASCII, _GZIP, _BZIP2 = ("ascii", "text", "txt"), ("gzip", "gz"), ("bzip2", "bz2")
_MAX_RATIO = 1040  # deflate cannot expand further, so a header that announces more is wrong
_LONGEST_TEXT = 64  # bytes of one number in text with the white space around it
_BLOCK = 2**20


def data_file_of(path: Path, fields: Mapping[str, Any]) -> Path | None:
    """Return the file that holds the voxels of a header; None where it is the header's own.

    Raises:
        InputError: it lies outside the header's folder, or there are several.
    """
    name = fields.get("data file", fields.get("datafile"))
    if name is None:
        return None
    if re.match(r"LIST\b|.*%\d*d.*\s\d", str(name)):
        raise InputError(f"{path}: got voxels in several files ({name!r}), expected one; save it as one .nrrd")
    return path_inside(name, f"{path}: its data file", path.parent)


def read_nrrd_voxels(path: Path, fields: Mapping[str, Any], header: BinaryIO) -> np.ndarray:
    """Read the voxels of a NRRD file, its axes in the order of its sizes.

    Args:
        path: the header.
        fields: as pynrrd parses them.
        header: the file, just behind its header.

    Raises:
        InputError: the voxels are no real numbers, lie outside the folder, or are more than memory holds.
        EOFError, OSError, ValueError, zlib.error: the voxels are damaged, or fewer or more than the header announces.
    """
    data_file = data_file_of(path, fields)
    if data_file is None:
        return _read(path, fields, header)
    with open_regular(data_file) as file:
        return _read(path, fields, file)


def _read(path: Path, fields: Mapping[str, Any], file: BinaryIO) -> np.ndarray:
    encoding, dtype = str(fields["encoding"]).lower(), _dtype(path, fields)
    sizes = tuple(int(size) for size in fields["sizes"])
    count = math.prod(sizes)
    size = count * dtype.itemsize
    lines, skipped = (int(fields.get(f"{what} skip", fields.get(f"{what}skip", 0))) for what in ("line", "byte"))
    _skip_lines(file, lines)
    left = os.fstat(file.fileno()).st_size - file.tell()
    if skipped < (-1 if encoding == "raw" else 0):
        raise ValueError(f"byte skip is {skipped} for the encoding {encoding}")
    if encoding == "raw":
        file.seek(left - size if skipped == -1 else skipped, os.SEEK_CUR)
        voxels = np.frombuffer(_read_exactly(file, size, left, path), dtype)
    elif encoding in _ASCII:
        file.seek(skipped, os.SEEK_CUR)
        voxels = _numbers(file.read(count * _LONGEST_TEXT + 1), dtype, count)
    elif encoding in (*_GZIP, *_BZIP2):
        most = left * _MAX_RATIO if encoding in _GZIP else math.inf
        with gzip.GzipFile(fileobj=file) if encoding in _GZIP else bz2.BZ2File(file) as stream:
            stream.seek(skipped)
            voxels = np.frombuffer(_read_exactly(cast(BinaryIO, stream), size, most, path), dtype)
    else:
        raise ValueError(f"the encoding {encoding!r} is unknown")
    return voxels.reshape(sizes, order="F")


def _dtype(path: Path, fields: Mapping[str, Any]) -> np.dtype:
    """Return the type of the voxels, as pynrrd reads one voxel of zeros."""
    import nrrd

    is_text = str(fields["encoding"]).lower() in _ASCII
    voxel = {**fields, "sizes": np.ones_like(fields["sizes"]), "encoding": "ascii" if is_text else "raw"}
    for field in ("data file", "datafile", "line skip", "lineskip", "byte skip", "byteskip"):
        voxel.pop(field, None)
    dtype = nrrd.read_data(voxel, io.BytesIO(b"0" if is_text else bytes(16))).dtype
    if dtype.kind not in "iuf":
        raise InputError(f"{path}: got voxels of {fields['type']!r}, expected real numbers; convert it first")
    return cast(np.dtype, dtype)


def _skip_lines(file: BinaryIO, lines: int) -> None:
    if lines < 0:
        raise ValueError(f"line skip is {lines}")
    while lines:
        part = file.readline(_BLOCK)
        if not part:
            raise EOFError(f"it ends {lines} lines before its voxels begin")
        lines -= part.endswith(b"\n")


def _read_exactly(stream: BinaryIO, size: int, most: float, path: Path) -> bytearray:
    """Read exactly `size` bytes, block by block, so that no memory is taken for absent bytes."""
    if size > most:
        raise EOFError(f"its header announces {size} bytes of voxels")
    check_fits(size, path)
    data = bytearray()
    while len(data) < size and (block := stream.read(min(_BLOCK, size - len(data)))):
        data += block
    if len(data) < size:
        raise EOFError(f"it holds {len(data)} of {size} bytes of voxels")
    if stream.read(1):
        raise ValueError(f"more follows the {size} bytes of voxels that its header announces")
    return data


def _numbers(text: bytes, dtype: np.dtype, count: int) -> np.ndarray:
    """Parse `count` numbers written as text."""
    wide = np.dtype(np.float64 if dtype.kind == "f" else np.uint64 if dtype == np.uint64 else np.int64)
    words = text.split()
    if len(words) != count:
        raise ValueError(f"got {len(words)} numbers, expected the {count} that its header announces")
    numbers = np.array(words, dtype="S").astype(wide)
    with np.errstate(over="ignore"):
        voxels = numbers.astype(dtype)
    if dtype.kind != "f" and not np.array_equal(voxels, numbers):
        raise ValueError(f"a number does not fit {dtype}")
    return voxels
