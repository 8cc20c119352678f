"""The bytes of a NIfTI file: header as it lies on disk, voxels frame by frame, geometry and time read from the header.

nibabel repairs odd header fields on the way in and on the way out. So the header is read and written here, unrepaired,
and nibabel interprets it. Frames come one at a time: a study is never held in float64.
"""

from __future__ import annotations

import contextlib
import gzip
import itertools
import math
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel as nib
import numpy as np

from unet4d.errors import InputError

Header = nib.Nifti1Header | nib.Nifti2Header
PathLike = str | os.PathLike[str]

SUFFIXES = (".nii.gz", ".nii")
_MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # unknown (taken as mm), metre, mm, micrometre
_UNITS_PER_SECOND = {8: 1.0, 16: 1e3, 24: 1e6}  # s, ms, µs; other units (Hz, ppm, rad/s) are no time
_GRID_TOLERANCE = 0.01  # how far a corner of two grids may lie apart, in voxels of the finest axis
_GZIP_MAX_RATIO = 1040  # deflate cannot expand further, so a header that promises more lies
_BLOCK = 2**20
_GZIP_LEVEL = 4  # label maps are nearly as small as at 9, and written several times faster


def read_header(path: PathLike) -> tuple[Header, tuple[int, int, int, int]]:
    """Read and check the header alone; gives it as it lay on disk, and (T, X, Y, Z). Raises InputError."""
    with opened(Path(path)) as (header, shape, _):
        return header, shape


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[Header, tuple[int, int, int, int], Iterator[np.ndarray]]]:
    """Give header, (T, X, Y, Z), and the frames (X, Y, Z) one by one, scaled; what goes wrong names the file."""
    check_suffix(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is missing"
        raise InputError(f"{path} {what}; give the path of an existing .nii or .nii.gz file")
    compressed = path.name.lower().endswith(".gz")
    try:
        with gzip.open(path) if compressed else open(path, "rb") as file:
            header = _parse_header(file.read(540), path)
            shape = _check_header(header, path)
            size = math.prod(shape) * header.get_data_dtype().itemsize
            if size > path.stat().st_size * (_GZIP_MAX_RATIO if compressed else 1):  # before memory is asked for it
                raise EOFError(f"its header announces {size} bytes of voxels")
            yield header, shape, _volumes(cast(BinaryIO, file), header, shape)
    except EOFError as error:
        raise InputError(f"{path} is truncated ({error}); copy or export it again") from error
    except (OSError, zlib.error) as error:
        raise InputError(f"{path} cannot be read as NIfTI ({error}); copy or export it again") from error


def _parse_header(block: bytes, path: Path) -> Header:
    """The header of the first 540 bytes of a file, unrepaired."""
    for size, kind, magic in ((348, nib.Nifti1Header, slice(344, 348)), (540, nib.Nifti2Header, slice(4, 8))):
        for endianness, order in (("<", "little"), (">", "big")):
            if block[:4] == size.to_bytes(4, cast(Any, order)) and block[magic].startswith(b"n+"):
                if len(block) < size:
                    raise EOFError("it ends within the header")
                return kind(block[:size], endianness=endianness, check=False)
    if not block:
        raise EOFError("it is empty")
    hint = "it is gzip-compressed: name it .nii.gz" if block[:2] == b"\x1f\x8b" else "export the study as NIfTI"
    raise InputError(f"{path} is not a NIfTI-1 or NIfTI-2 file (its first bytes are {block[:4]!r}); {hint}")


def _check_header(header: Header, path: Path) -> tuple[int, int, int, int]:
    """Give (T, X, Y, Z), or raise InputError for a header that no study of ours can have."""
    rank = int(header["dim"][0])
    shape = tuple(int(n) for n in header["dim"][1 : rank + 1]) if 1 <= rank <= 7 else ()
    if not 3 <= rank <= 7 or any(n != 1 for n in shape[4:]):
        raise InputError(
            f"{path}: {rank} axes {shape} came; wanted 3 axes (X, Y, Z) or 4 (X, Y, Z, T); save one such file"
        )
    if any(n < 1 for n in shape):
        raise InputError(f"{path}: its shape {shape} has an empty axis; wanted 1 or more along each; export it again")
    try:
        dtype = header.get_data_dtype()
    except KeyError:
        dtype = np.dtype("V")
    if dtype.kind not in "iuf":
        label = f"{dtype.name} (code {int(header['datatype'])})"
        raise InputError(f"{path}: its voxels are {label}; wanted real numbers (integer or float); convert it first")
    spacing = tuple(float(n) for n in header["pixdim"][1:4])
    if not all(n > 0 and math.isfinite(n) for n in spacing):
        raise InputError(f"{path}: its header gives the spacing {spacing}; wanted three sizes above 0; correct pixdim")
    try:
        affine = affine_of(header)
        header.get_slope_inter()
        if not 0 <= int(header["vox_offset"]) <= path.stat().st_size * _GZIP_MAX_RATIO:
            raise ValueError(f"its voxels start at byte {header['vox_offset']}")
    except (ValueError, OverflowError) as error:  # nibabel's HeaderDataError among them
        raise InputError(f"{path}: its header is damaged ({error}); export it again") from error
    check_affine(affine, f"{path}: affine")
    return (shape[3] if rank > 3 else 1, shape[0], shape[1], shape[2])


def _volumes(file: BinaryIO, header: Header, shape: tuple[int, int, int, int]) -> Iterator[np.ndarray]:
    """The frames (X, Y, Z) in the order of the file: as stored, or float64 where a scale slope applies."""
    dtype = header.get_data_dtype()
    slope, inter = header.get_slope_inter()
    plain = slope is None or (slope, inter) == (1.0, 0.0)
    file.seek(int(header["vox_offset"]) or header.single_vox_offset)
    size = math.prod(shape[1:]) * dtype.itemsize
    for t in range(shape[0]):
        block = file.read(size)
        if len(block) < size:
            raise EOFError(f"it ends within frame {t} of {shape[0]}")
        volume = np.frombuffer(block, dtype=dtype).reshape(shape[1:], order="F")
        with np.errstate(over="ignore", invalid="ignore"):  # who asked for the values judges them
            scaled = volume if plain else volume.astype(np.float64) * slope + inter
        yield scaled
    while file.read(_BLOCK):  # a gzip stream checks its checksum at its end, which damage may have moved
        pass


def affine_of(header: Header) -> np.ndarray:
    """(4, 4) float64, voxel to mm (RAS), by nibabel's order: sform, qform, spacing about the volume's centre."""
    header = header.copy()
    header["pixdim"][0] = -1.0 if header["pixdim"][0] < 0 else 1.0  # NIfTI: a qfac of 0 means 1
    affine = np.array(header.get_best_affine(), dtype=np.float64)
    affine[:3] *= _MM_PER_UNIT.get(int(header["xyzt_units"]) & 0x07, 1.0)
    return affine


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """Voxel size in mm along X, Y and Z."""
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0)
    return float(x), float(y), float(z)


def frame_duration_s_of(header: Header) -> float | None:
    """Seconds from frame to frame; None for a 3D file, an unknown unit, a unit that is not time, or a value <= 0."""
    units_per_second = _UNITS_PER_SECOND.get(int(header["xyzt_units"]) & 0x38)
    step = float(str(header["pixdim"][4]))  # the shortest decimal: 0.04, where float32 widened is 0.0399999991
    if units_per_second is None or header["dim"][0] < 4 or not (step > 0 and math.isfinite(step)):
        return None
    return step / units_per_second


def header_for(source: Header, shape: tuple[int, ...], dtype: np.dtype) -> Header:
    """A copy of `source` for other voxels: geometry, time and text stay; type, scale, window and meaning go."""
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
    """Write `header` as it is and the frames (X, Y, Z) in its dtype and byte order; the same input, the same bytes.

    By hand, for nibabel repairs a header before it writes it (a qfac of 0 becomes 1).
    """
    compressed = path.name.lower().endswith(".gz")
    with contextlib.ExitStack() as stack:
        file: Any = stack.enter_context(open(path, "wb"))
        if compressed:
            file = stack.enter_context(gzip.GzipFile("", "wb", _GZIP_LEVEL, file, mtime=0))
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
    """Raise InputError unless both shapes are the same and no corner of the grids lies apart."""
    if tuple(shape) != tuple(other_shape):
        axes = "(T, X, Y, Z)" if len(shape) == 4 else "(X, Y, Z)"
        raise InputError(f"{path}: {axes} is {tuple(shape)}, in {other} {tuple(other_shape)}; bring both to one grid")
    ours, theirs = affine_of(header), affine_of(other_header)
    corners = np.array([(*c, 1) for c in itertools.product(*((-0.5, n - 0.5) for n in shape[-3:]))], dtype=np.float64)
    apart_mm = float(np.linalg.norm(corners @ (ours - theirs).T, axis=1).max())
    if not apart_mm <= _GRID_TOLERANCE * min(spacing_of(theirs)):
        raise InputError(
            f"{path}: its affine {_rows(ours)} is not {_rows(theirs)}, that of {other} (corners up to "
            f"{apart_mm:.3g} mm apart); resample one onto the other's grid, or correct the header"
        )


def check_affine(affine: np.ndarray, what: str) -> None:
    """Raise InputError unless `affine` is a finite (4, 4) that spans space; `what` begins the message."""
    columns = np.linalg.norm(affine[:3, :3], axis=0) if affine.shape == (4, 4) else np.zeros(3)
    if not np.isfinite(affine).all() or not columns.all():
        raise InputError(f"{what} is {_rows(affine)}; wanted finite numbers and an inverse; correct the header")
    if abs(np.linalg.det(affine[:3, :3] / columns)) < 1e-6:
        raise InputError(f"{what} {_rows(affine)} has no inverse: it flattens space; correct the header")


def check_suffix(path: Path) -> None:
    """Raise InputError unless `path` is named as a NIfTI file."""
    if not path.name.lower().endswith(SUFFIXES):
        raise InputError(f"{path}: wanted a file name that ends in .nii or .nii.gz; convert or rename it")


def case_name(path: Path) -> str:
    """The name of a study by its file: without folder and suffix, in whatever case the suffix is written.

    Raises:
        InputError: it is not named as a NIfTI file.
    """
    check_suffix(path)
    suffix = next(suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix))
    return path.name[: -len(suffix)]


def studies_in(folder: Path) -> dict[str, Path]:
    """Name to file for every NIfTI file of a folder, by name; hidden files are passed by.

    Raises:
        InputError: two files of one name.
    """
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.name.startswith(".") or not file.name.lower().endswith(SUFFIXES):
            continue
        name = case_name(file)
        if name in found:
            raise InputError(f"{folder} holds {found[name].name} and {file.name}; wanted one of them; remove the other")
        found[name] = file
    return found


def _rows(affine: np.ndarray) -> str:
    return "[" + ", ".join("[" + " ".join(f"{x:.6g}" for x in row) + "]" for row in np.atleast_2d(affine)[:3]) + "]"
