"""NRRD files of 3D Slicer, ITK and teem: three axes of space, and at most one that lists frames or layers.

pynrrd parses the header; this module interprets its fields. Format: https://teem.sourceforge.net/nrrd/format.html;
sequences: https://slicer.readthedocs.io/en/latest/developer_guide/modules/sequences.html.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO
from urllib.parse import unquote

import numpy as np

from unet4d.errors import InputError, Unet4DError
from unet4d.images.image4d import Image4D
from unet4d.images.nifti import check_affine
from unet4d.images.nrrd_voxels import data_file_of, read_nrrd_voxels
from unet4d.system.memory import check_fits
from unet4d.system.regular_files import open_regular

NRRD_SUFFIXES = (".nrrd", ".nhdr")

_WORKING_BYTES = 12  # per voxel: read and reoriented, in float32, and resampled
_LONGEST_HEADER = 2**26  # bytes; 3D Slicer describes every frame of a sequence in a few hundred
_SHORT = {"ras": "right-anterior-superior", "las": "left-anterior-superior", "lps": "left-posterior-superior"}
_TO_RAS = {
    "right-anterior-superior": (1.0, 1.0, 1.0),
    "left-anterior-superior": (-1.0, 1.0, 1.0),
    "left-posterior-superior": (-1.0, -1.0, 1.0),
}
_SPATIAL, _LISTED = ("domain", "space"), ("list", "time")
_MM_PER_UNIT = {"": 1.0, "mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 1e-3, "µm": 1e-3}
_UNITS_PER_SECOND = {"s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e3, "msec": 1e3, "us": 1e6, "µs": 1e6}
_UNEVEN = 0.05  # a step may differ from the mean step by this part of it: scanners round trigger times to whole ms


@dataclass(frozen=True, eq=False)
class NrrdHeader:
    """An interpreted header; the voxels are still on disk.

    Attributes:
        path: the file.
        fields: as pynrrd parses them; key/value pairs are text.
        list_axis: the axis along which volumes are listed (frames or layers); None for a single volume.
        items: N, the number of listed volumes; 1 for a single volume.
        grid: (X, Y, Z).
        affine: (4, 4), voxel to mm (RAS).
    """

    path: Path
    fields: Mapping[str, Any]
    list_axis: int | None
    items: int
    grid: tuple[int, int, int]
    affine: np.ndarray

    def frame_duration_s(self) -> float | None:
        """Return the seconds from frame to frame; None for one frame, an unknown unit, or unevenly spaced frames.

        Raises:
            InputError: the header's times are not one per frame, or do not grow.
        """
        times = _times_s(self)
        if times is None or self.items < 2:
            return None
        if len(times) != self.items or not (np.diff(times) > 0).all():
            listed = " ".join(f"{time:g}" for time in times)
            raise InputError(f"{self.path}: got {self.items} frames at {listed} s, expected growing times; correct it")
        mean = float(times[-1] - times[0]) / (self.items - 1)
        return mean if (np.abs(np.diff(times) - mean) <= _UNEVEN * mean).all() else None

    def read(self) -> np.ndarray:
        """Read the voxels (N, X, Y, Z) in their own dtype. Raises InputError: truncated, or voxels that are no real numbers."""
        with _open(self.path) as (file, _):
            voxels = read_nrrd_voxels(self.path, self.fields, file)
        return voxels[None] if self.list_axis is None else np.moveaxis(voxels, self.list_axis, 0)


def read_nrrd_header(path: Path) -> NrrdHeader:
    """Read and interpret a header.

    Raises:
        InputError: pynrrd is not installed; the file is missing or no NRRD; other axes than three of space and at most
            one list; no orientation in space. Names the file.
    """
    with _open(path) as (_, fields):
        missing = [field for field in ("type", "encoding", "sizes") if field not in fields]
        if missing or min(fields["sizes"]) < 1:
            raise InputError(f"{path}: its header lacks {missing or 'voxels'}, expected a whole one; export it again")
        sizes = [int(size) for size in fields["sizes"]]
        steps = _steps(fields, len(sizes), path)
        kinds = _kinds(fields, steps, len(sizes))
        spatial = [axis for axis, kind in enumerate(kinds) if kind in _SPATIAL]
        listed = [axis for axis, kind in enumerate(kinds) if kind in _LISTED]
        if len(spatial) != 3 or len(listed) > 1 or len(spatial) + len(listed) != len(sizes):
            raise InputError(
                f"{path}: got {len(sizes)} axes {' x '.join(map(str, sizes))} of the kinds {' '.join(kinds)}, expected three of "
                "kind domain, and at most one of kind list for the frames; correct 'kinds', or 'space' to "
                "left-posterior-superior-time"
            )
        affine = _affine(fields, steps, spatial, path)
        x, y, z = (sizes[axis] for axis in spatial)
        list_axis = listed[0] if listed else None
        return NrrdHeader(path, fields, list_axis, 1 if list_axis is None else sizes[list_axis], (x, y, z), affine)


def read_nrrd_image(path: Path) -> Image4D:
    """Read a volume, or a sequence of volumes, as an image of one channel.

    Raises:
        InputError: as `read_nrrd_header`; a truncated file; NaN or infinite voxels. Names the file.
    """
    header = read_nrrd_header(path)
    check_fits(_WORKING_BYTES * header.items * math.prod(header.grid), path)
    with np.errstate(over="ignore", invalid="ignore"):
        array = np.ascontiguousarray(header.read(), dtype=np.float32)
    bad = array.size - int(np.count_nonzero(np.isfinite(array)))
    if bad:
        raise InputError(f"{path}: {bad} of {array.size} voxels are NaN or infinite, expected finite; replace them")
    image = Image4D.from_array(array, header.affine, header.frame_duration_s())
    return dataclasses.replace(image, source=path)


def nrrd_files(path: Path) -> tuple[Path, ...]:
    """Return a file, and the file of its voxels where that is another one by its name and its header, if it is readable."""
    if path.suffix.lower() == ".nhdr":
        with contextlib.suppress(InputError):
            data_file = data_file_of(path, read_nrrd_header(path).fields)
            return (path,) if data_file is None else (path, data_file)
    return (path,)


def import_pynrrd(path: Path) -> ModuleType:
    """Return pynrrd. Raises InputError, with what to install, where it is missing."""
    try:
        import nrrd
    except ImportError as error:
        raise InputError(f"{path} is NRRD, which needs pynrrd; install it: pip install pynrrd") from error
    return nrrd


def nrrd_dimension(path: Path) -> int | None:
    """Return the number of axes in a file's header; None where it is no NRRD. Needs no pynrrd."""
    with contextlib.suppress(OSError, ValueError), open_regular(path) as file:
        if file.read(4) == b"NRRD":
            for line in _lines(file):
                if line.startswith("dimension:"):
                    return int(line.partition(":")[2])
    return None


@contextlib.contextmanager
def _open(path: Path) -> Iterator[tuple[BinaryIO, dict[str, Any]]]:
    """Open a file; yield it, positioned behind its header, and the fields. Every failure inside names the file."""
    nrrd = import_pynrrd(path)
    try:
        with open_regular(path) as file:
            if file.read(4) != b"NRRD":
                raise InputError(f"{path} is no NRRD file: it does not begin with NRRD; give one, or export it again")
            file.seek(0)
            with np.errstate(all="ignore"):
                fields = dict(nrrd.read_header(_lines(file)))  # pynrrd would drop what is not ASCII in names
            yield file, fields
    except Unet4DError:
        raise
    except FileNotFoundError as error:
        role = "" if str(error.filename) == str(path) else f", and holds the voxels of {path}"
        raise InputError(f"{error.filename} is missing{role}; give an existing file, or export it again") from error
    except Exception as error:  # whatever a damaged header leads to in pynrrd
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} cannot be read as NRRD ({reason}): truncated or damaged; export it again") from error


def _lines(file: BinaryIO) -> Iterator[str]:
    """Yield the lines of a header, to the empty one that ends it. Raises ValueError: no header is so long."""
    length = 0
    while line := file.readline(_LONGEST_HEADER):
        length += len(line)
        if length >= _LONGEST_HEADER:
            raise ValueError(f"its header does not end within {_LONGEST_HEADER} bytes")
        yield line.decode("utf-8", "replace")
        if not line.strip():
            return


def _steps(fields: Mapping[str, Any], axes: int, path: Path) -> np.ndarray:
    """Return (axes, space dimension): the step along each axis in the file's space; NaN for an axis that is not in space."""
    directions = fields.get("space directions")
    if directions is None:
        return np.diag(np.asarray(fields.get("spacings", [np.nan] * axes), dtype=np.float64))
    width = max(len(row) for row in directions if row is not None)
    steps = np.array([[np.nan] * width if row is None else row for row in directions], dtype=np.float64)
    if width not in (3, 4):
        raise InputError(f"{path}: got space directions of {width} numbers, expected three each; correct them")
    return steps


def _kinds(fields: Mapping[str, Any], steps: np.ndarray, axes: int) -> list[str]:
    """Return the kind of every axis; where the file leaves it open, an axis without direction in space is a list."""
    kinds = [str(kind).lower() for kind in fields.get("kinds", [])] or ["???"] * axes
    if len(kinds) != axes or len(steps) != axes:
        raise ValueError(f"its header gives {len(kinds)} kinds and {len(steps)} directions to {axes} axes")
    _, with_time = _space(fields)
    for axis, (kind, step) in enumerate(zip(kinds, steps, strict=True)):
        if with_time and kind in (*_SPATIAL, "???", "none") and not step[:3].any():
            kinds[axis] = "time"
        elif kind in ("???", "none"):
            kinds[axis] = "list" if "space directions" in fields and np.isnan(step).all() else "domain"
    return kinds


def _space(fields: Mapping[str, Any]) -> tuple[str, bool]:
    """Return the full name of the space without time, and whether time belongs to it."""
    given = str(fields.get("space", "")).lower()
    space = given.removesuffix("-time")
    space = _SHORT.get(space) or _SHORT.get(space.removesuffix("t")) or space
    return space, given.endswith("-time") or (given.removesuffix("t") in _SHORT and given not in _SHORT)


def _affine(fields: Mapping[str, Any], steps: np.ndarray, spatial: list[int], path: Path) -> np.ndarray:
    """Return (4, 4), voxel to mm (RAS); of a file with nothing but its spacing, that spacing along the axes."""
    affine = np.eye(4)
    if "space directions" not in fields and not {"space", "space dimension"} & set(fields) and "spacings" in fields:
        affine[:3, :3] = np.diag(np.diag(steps)[spatial])
        check_affine(affine, f"{path}: its spacing, as an affine,")
        return affine
    space, _ = _space(fields)
    if space not in _TO_RAS or "space directions" not in fields:
        given = f"the space {space!r}" if space else "no space"
        given += "" if "space directions" in fields else " and no space directions"
        raise InputError(
            f"{path}: got {given}, expected the directions of its axes in the body; add 'space: left-posterior-superior' "
            "(or right-, left-anterior-superior) and 'space directions' to its header, or export it from 3D Slicer"
        )
    units = [str(unit) for unit in fields.get("space units", ["mm"] * 3)[:3]]
    if any(unit not in _MM_PER_UNIT for unit in units):
        raise InputError(f"{path}: got space units {units}, expected mm (or cm, m, um); correct them")
    to_ras = np.diag([sign * _MM_PER_UNIT[unit] for sign, unit in zip(_TO_RAS[space], units, strict=True)])
    affine[:3, :3] = to_ras @ steps[spatial, :3].T
    affine[:3, 3] = to_ras @ np.asarray(fields.get("space origin", [0.0] * 3), dtype=np.float64)[:3]
    check_affine(affine, f"{path}: its affine")
    return affine


def _times_s(header: NrrdHeader) -> np.ndarray | None:
    """Return the time of each frame in s, from 3D Slicer's index values, else from a space with time; None if unknown."""
    fields, axis = header.fields, header.list_axis
    if axis is None:
        return None
    values = next((fields[f"axis {i} index values"] for i in (axis, 3, 0) if f"axis {i} index values" in fields), None)
    if values is not None:
        per_second = _units_per_second(fields.get("units", []), axis)
        try:
            times = np.array([float(unquote(value)) for value in values.split()])
        except ValueError:
            return None  # an index of texts
        return times / per_second if per_second and np.isfinite(times).all() else None
    per_second = _units_per_second(fields.get("space units", []), 3)
    directions = fields.get("space directions")
    row = directions[axis] if directions is not None else None
    if per_second is None or row is None or len(row) < 4 or not math.isfinite(row[3]):
        return None
    return np.arange(header.items) * abs(float(row[3])) / per_second


def _units_per_second(units: list[str], axis: int) -> float | None:
    return _UNITS_PER_SECOND.get(units[axis].strip().lower()) if len(units) > axis else None
