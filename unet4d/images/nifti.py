"""NIfTI files, byte by byte: the header as it lies on disk, voxels frame by frame, geometry and time from the header.

nibabel repairs odd header fields when it reads and writes. Here headers are read and written unrepaired, and nibabel interprets
them. Frames come one at a time: a study never lies in memory in float64.
"""

from __future__ import annotations

import contextlib
import gzip
import itertools
import math
import os
import zlib
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel as nib
import numpy as np

from unet4d.errors import InputError
from unet4d.system.files import PathLike
from unet4d.system.memory import check_fits
from unet4d.system.regular_files import open_regular
from unet4d.system.signals import check_stop

Header = nib.Nifti1Header | nib.Nifti2Header

NIFTI_SUFFIXES = (".nii.gz", ".nii")
_MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # unknown (taken as mm), metre, mm, micrometre
_UNITS_PER_SECOND = {8: 1.0, 16: 1e3, 24: 1e6}  # s, ms, µs; other units (Hz, ppm, rad/s) are no time
GRID_TOLERANCE = 0.01  # how far a corner of two grids may lie apart, in voxels of the finest axis
_FARTHEST_MM, _SMALLEST_MM = 1e9, 1e-9  # of an affine; beyond is damage
_GZIP_MAX_RATIO = 1040  # deflate cannot expand further, so a header that promises more lies
_LONGEST_HEADER = 544  # NIfTI-2, with the 4 bytes that announce extensions
_LONGEST_NUMBER = 8  # bytes; the content of a wider float depends on the machine that wrote it
_WORKING_BYTES = 16  # per voxel of the frame at hand: scaled in float64, then copied, checked and resampled in float32
_BLOCK = 2**20

_open_gzip: Any = gzip.open
_pack_gzip: Any = partial(gzip.GzipFile, "", "wb", 4, mtime=0)  # nearly as small as at 9, in a fraction of the time
_GZIP_ERRORS: tuple[Any, ...] = (zlib.error,)
with contextlib.suppress(ImportError):
    from isal import igzip, isal_zlib

    _open_gzip, _GZIP_ERRORS = igzip.open, (zlib.error, isal_zlib.error)  # half the time
    _pack_gzip = partial(igzip.IGzipFile, "", "wb", 2, mtime=0)  # at most a sixth of the time; images are 2 % larger


def read_header(path: PathLike) -> tuple[Header, tuple[int, int, int, int]]:
    """Read and check the header alone; return it as it lies on disk, and (T, X, Y, Z). Raises InputError."""
    with open_nifti(Path(path), only_header=True) as (header, shape, _):
        return header, shape


@contextlib.contextmanager
def open_nifti(
    path: Path, only_header: bool = False
) -> Iterator[tuple[Header, tuple[int, int, int, int], Iterator[np.ndarray]]]:
    """Open a file; yield header, (T, X, Y, Z), and an iterator over the frames (X, Y, Z), scaled.

    With `only_header` hardly more than the header is read, as long as no frame is asked for.

    Raises:
        InputError: missing, truncated, damaged, or no NIfTI; names the file.
        Stopped: after a stop signal, also between two frames.
    """
    check_suffix(path)
    compressed = _is_compressed(path)
    open_gzip = gzip.open if only_header else _open_gzip  # isal would read half a megabyte ahead
    check_stop()
    try:
        with open_regular(path) as raw, open_gzip(raw) if compressed else raw as opened_file:
            file = cast(BinaryIO, opened_file)
            block = file.read(_LONGEST_HEADER)
            header = parse_header(block, path)
            shape = _check_header(header, path)
            start = _check_offset(header, block, file, path)
            size = start + math.prod(shape) * header.get_data_dtype().itemsize
            if size > os.fstat(raw.fileno()).st_size * (_GZIP_MAX_RATIO if compressed else 1):  # before memory is taken
                raise EOFError(f"its header announces {size} bytes of header and voxels")
            yield header, shape, _volumes(file, header, shape, start, path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        what = "is a folder" if isinstance(error, IsADirectoryError) else "is missing"
        raise InputError(f"{path} {what}; give the path of an existing .nii or .nii.gz file") from error
    except EOFError as error:
        raise InputError(f"{path} is truncated ({error}); copy or export it again") from error
    except (OSError, *_GZIP_ERRORS) as error:
        raise InputError(f"{path} cannot be read as NIfTI ({error}); copy or export it again") from error


def parse_header(block: bytes, path: Path) -> Header:
    """Return the header that the first bytes of a file hold, unrepaired."""
    kinds = ((348, nib.Nifti1Header, 344, b"n+1\0"), (540, nib.Nifti2Header, 4, b"n+2\0"))
    for size, kind, at, magic in kinds:
        for endianness, order in (("<", "little"), (">", "big")):
            if block[:4] == size.to_bytes(4, cast(Any, order)) and block[at : at + 4] == magic:
                if len(block) < size:
                    raise EOFError("it ends within the header")
                return kind(block[:size], endianness=endianness, check=False)
    if not block:
        raise EOFError("it is empty")
    hint = "it is gzip-compressed: name it .nii.gz" if block[:2] == b"\x1f\x8b" else "export the study as NIfTI"
    raise InputError(f"{path} is not a NIfTI-1 or NIfTI-2 file (its first bytes are {block[:4]!r}); {hint}")


def _check_header(header: Header, path: Path) -> tuple[int, int, int, int]:
    """Return (T, X, Y, Z). Raises InputError for a header that no study can have."""
    rank = int(header["dim"][0])
    shape = tuple(int(n) for n in header["dim"][1 : rank + 1]) if 1 <= rank <= 7 else ()
    if not 3 <= rank <= 7 or any(n != 1 for n in shape[4:]):
        raise InputError(f"{path}: got {rank} axes {shape}, expected (X, Y, Z) or (X, Y, Z, T); save one such file")
    if any(n < 1 for n in shape):
        raise InputError(f"{path}: got an empty axis in shape {shape}, expected 1 or more along each; export it again")
    dtype = np.dtype("V")
    with contextlib.suppress(KeyError):
        dtype = header.get_data_dtype()
    if dtype.kind not in "iuf" or dtype.itemsize > _LONGEST_NUMBER:
        label = f"{dtype.name} (code {int(header['datatype'])})"
        raise InputError(f"{path}: got voxels of {label}, expected real numbers of up to 64 bits; convert it first")
    spacing = tuple(float(n) for n in header["pixdim"][1:4])
    if not all(n > 0 and math.isfinite(n) for n in spacing):
        raise InputError(f"{path}: got the spacing {spacing}, expected three sizes above 0; correct pixdim")
    try:
        if header["bitpix"] not in (0, 8 * dtype.itemsize):
            raise ValueError(f"bitpix is {header['bitpix']}, expected {8 * dtype.itemsize}")
        affine = affine_of(header)
        header.get_slope_inter()
        if math.isinf(header["scl_slope"]):  # NaN is how nibabel writes that there is none
            raise ValueError("scl_slope is infinite")
        line_ends = header["eol_check"].tolist() if isinstance(header, nib.Nifti2Header) else []
        if line_ends not in ([], [0, 0, 0, 0], [13, 10, 26, 10]):
            raise ValueError("line ends were converted as in a text")
    except (ValueError, OverflowError, nib.spatialimages.HeaderDataError) as error:  # the last is no ValueError
        raise InputError(f"{path}: its header is damaged ({error}); export it again") from error
    check_affine(affine, f"{path}: affine")
    return (shape[3] if rank > 3 else 1, shape[0], shape[1], shape[2])


def _check_offset(header: Header, start: bytes, file: BinaryIO, path: Path) -> int:
    """Return the byte at which the voxels begin: behind the header and every header extension.

    An offset of 0 is an error as well: some readers skip the header then, others take it for voxels.

    Raises:
        InputError: the offset is no whole number, or lies inside the header or an extension.
    """
    first, offset = header.single_vox_offset, float(header["vox_offset"])
    end = first
    if start[first - 4 : first - 3] not in (b"", b"\0"):  # extensions follow
        while end == first or end + 8 <= offset:
            file.seek(end)
            pair = np.frombuffer(file.read(8), dtype=np.dtype(f"{header.endianness}i4"))
            if len(pair) < 2 or pair[0] < 8 or pair[1] < 0:  # padding
                break
            end += int(pair[0])
    if not (offset.is_integer() and offset >= end):
        raise InputError(
            f"{path}: its voxels begin at byte {offset:.10g} (vox_offset), expected a whole number from {end} on, the end of "
            "its header; export it again"
        )
    return int(offset)


def _volumes(
    file: BinaryIO, header: Header, shape: tuple[int, int, int, int], start: int, path: Path
) -> Iterator[np.ndarray]:
    """Yield the frames (X, Y, Z) in the order of the file: as stored, or float64 where a scale slope applies."""
    dtype = header.get_data_dtype()
    slope, inter = header.get_slope_inter()
    plain = slope is None or (slope, inter) == (1.0, 0.0)
    check_fits((dtype.itemsize + _WORKING_BYTES) * math.prod(shape[1:]), path)
    file.seek(start)
    size = math.prod(shape[1:]) * dtype.itemsize
    for t in range(shape[0]):
        block = file.read(size)
        if len(block) < size:
            raise EOFError(f"it ends within frame {t} of {shape[0]}")
        volume = np.frombuffer(block, dtype=dtype).reshape(shape[1:], order="F")
        with np.errstate(over="ignore", invalid="ignore"):  # the caller checks the values
            scaled = _along_z(volume) if plain else volume.astype(np.float64) * slope + inter
        check_stop()
        yield scaled
    rest = 0
    while block := file.read(_BLOCK):  # a gzip stream checks its checksum at its end, which damage may have moved
        rest += len(block)
    if rest >= size:
        raise InputError(
            f"{path}: {rest} bytes follow the {shape[0]} frames that its header announces, enough for {rest // size} more; "
            "expected the end of the file; correct dim, or export it again"
        )


def _along_z(volume: np.ndarray) -> np.ndarray:
    """Return a volume (X, Y, Z) laid out row by row along Z, so that copying it into C order takes a third of the time."""
    return np.ascontiguousarray(volume.swapaxes(0, 1)).swapaxes(0, 1)


def affine_of(header: Header) -> np.ndarray:
    """Return (4, 4) float64, voxel to mm (RAS), by nibabel's order: sform, qform, spacing around the volume's center."""
    header = header.copy()
    header["pixdim"][0] = -1.0 if header["pixdim"][0] < 0 else 1.0  # NIfTI: a qfac of 0 means 1
    affine = np.array(header.get_best_affine(), dtype=np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # check_affine raises
        affine[:3] *= _MM_PER_UNIT.get(int(header["xyzt_units"]) & 0x07, 1.0)
    return affine


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """Return the voxel size in mm along X, Y and Z."""
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0)
    return float(x), float(y), float(z)


def frame_duration_s_of(header: Header) -> float | None:
    """Return the seconds from frame to frame; None for a 3D file, an unknown unit, a unit that is not time, or a value <= 0."""
    units_per_second = _UNITS_PER_SECOND.get(int(header["xyzt_units"]) & 0x38)
    step = float(str(header["pixdim"][4]))  # the shortest decimal: 0.04, where float32 widened is 0.0399999991
    if units_per_second is None or header["dim"][0] < 4 or not (step > 0 and math.isfinite(step)):
        return None
    return step / units_per_second


def header_for(source: Header, shape: tuple[int, ...], dtype: np.dtype) -> Header:
    """Return a copy of a header for other voxels: geometry, time and text stay; type, scale, window and meaning go."""
    header = source.copy()
    header["dim"][:] = 1
    header["dim"][: len(shape) + 1] = (len(shape), *shape)  # not set_data_shape, which resets pixdim
    header.set_data_dtype(dtype)
    header["magic"] = header.single_magic
    header["vox_offset"] = header.single_vox_offset
    header["scl_slope"] = 1
    for field in ("scl_inter", "cal_min", "cal_max", "intent_code", "intent_p1", "intent_p2", "intent_p3"):
        header[field] = 0
    header["intent_name"] = b""
    return header


def write_nifti(path: Path, header: Header, volumes: Iterable[np.ndarray]) -> None:
    """Write `header` unrepaired, and the frames (X, Y, Z) in its dtype and byte order.

    The same input gives the same bytes, as long as isal is installed or is not.
    """
    with contextlib.ExitStack() as stack:
        file: Any = stack.enter_context(open(path, "wb"))
        if _is_compressed(path):
            file = stack.enter_context(_pack_gzip(file))
        file.write(header.binaryblock + bytes(4))  # 4 zeros: no header extensions
        for volume in volumes:
            file.write(np.asarray(volume, dtype=header.get_data_dtype()).tobytes(order="F"))


def check_same_grid(
    path: Path,
    header: Header,
    shape: tuple[int, ...],
    other: Path | str,
    other_header: Header,
    other_shape: tuple[int, ...],
) -> None:
    """Raise InputError unless both shapes are the same and the corners of the grids coincide."""
    if tuple(shape) != tuple(other_shape):
        axes = "(T, X, Y, Z)" if len(shape) == 4 else "(X, Y, Z)"
        raise InputError(f"{path}: {axes} is {tuple(shape)}, in {other} {tuple(other_shape)}; bring both to one grid")
    ours, theirs = affine_of(header), affine_of(other_header)
    apart_mm = corners_apart_mm(ours, theirs, shape)
    if not apart_mm <= GRID_TOLERANCE * min(spacing_of(theirs)):
        raise InputError(
            f"{path}: its affine {_rows(ours)} is not {_rows(theirs)}, that of {other} (corners up to "
            f"{apart_mm:.3g} mm apart); resample one onto the other's grid, or correct the header"
        )


def corners_apart_mm(affine: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> float:
    """Return the largest distance between the corners of a grid (..., X, Y, Z) under two affines."""
    corners = np.array([(*c, 1) for c in itertools.product(*((-0.5, n - 0.5) for n in shape[-3:]))], dtype=np.float64)
    return float(np.linalg.norm(corners @ (affine - other).T, axis=1).max())


def check_affine(affine: np.ndarray, what: str) -> None:
    """Raise InputError unless `affine` is a finite (4, 4) that spans space; `what` begins the message."""
    if affine.shape != (4, 4) or not (np.abs(affine) <= _FARTHEST_MM).all():  # NaN is not
        raise InputError(f"{what} is {_rows(affine)}, expected numbers up to {_FARTHEST_MM:g}; correct the header")
    columns = np.linalg.norm(affine[:3, :3], axis=0)
    if not (columns >= _SMALLEST_MM).all() or abs(np.linalg.det(affine[:3, :3] / columns)) < 1e-6:
        raise InputError(f"{what} {_rows(affine)} has no inverse: it flattens space; correct the header")


def is_nifti(path: Path) -> bool:
    """Return whether a file is named as NIfTI, in any case."""
    return path.name.lower().endswith(NIFTI_SUFFIXES)


def check_suffix(path: Path) -> None:
    """Raise InputError unless a file is named as NIfTI."""
    if not is_nifti(path):
        raise InputError(f"{path}: expected a file name that ends in .nii or .nii.gz; convert or rename it")


def case_name(path: Path) -> str:
    """Return the name of a study by its file: without folder and suffix. Raises InputError for the name of another format."""
    check_suffix(path)
    suffix = next(suffix for suffix in NIFTI_SUFFIXES if path.name.lower().endswith(suffix))
    return path.name[: -len(suffix)]


def find_nifti_files(folder: Path) -> dict[str, Path]:
    """Return name to file for every NIfTI file of a folder, by name; hidden files are ignored.

    Raises:
        InputError: two files of one name.
    """
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.name.startswith(".") or not is_nifti(file):
            continue
        name = case_name(file)
        if name in found:
            raise InputError(f"{folder}: got {found[name].name} and {file.name}, expected one; remove the other")
        found[name] = file
    return found


def _is_compressed(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _rows(affine: np.ndarray) -> str:
    return "[" + ", ".join("[" + " ".join(f"{x:.6g}" for x in row) + "]" for row in np.atleast_2d(affine)[:3]) + "]"
