"""4D studies in NIfTI: (X, Y, Z, T) on disk, (C, T, X, Y, Z) in memory, written back under the header of the study."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np

from unet4d.errors import InputError
from unet4d.images.channels import MAP, channels_of_kind
from unet4d.images.nifti import (
    Header,
    affine_of,
    check_affine,
    check_same_grid,
    check_suffix,
    frame_duration_s_of,
    header_for,
    open_nifti,
    read_header,
    spacing_of,
    write_nifti,
)
from unet4d.system.files import PathLike, replacing
from unet4d.system.memory import check_fits
from unet4d.system.text import count

_INTEGER_TOLERANCE = 1e-3  # a label stored with a scale slope may come back as 0.9999


class _Geometry:
    """The place of voxels, by the header."""

    header: Header

    @property
    def affine(self) -> np.ndarray:
        """Return (4, 4) float64, voxel index to mm (RAS): the sform, else the qform, else nibabel's guess from the spacing."""
        return affine_of(self.header)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Return the voxel size in mm along X, Y and Z."""
        return spacing_of(self.affine)


@dataclass(frozen=True, eq=False)
class ImageInfo(_Geometry):
    """A study without its voxels.

    Attributes:
        header: of the first channel's file, as it lies on disk.
        channels: C.
        frames: T.
        grid: (X, Y, Z).
        frame_duration_s: seconds from frame to frame; None if unknown.
        source: the first channel's file.
        kinds: of the channels, see images/channels.py; empty if unknown.
    """

    header: Header
    channels: int
    frames: int
    grid: tuple[int, int, int]
    frame_duration_s: float | None
    source: Path | None
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Image4D(_Geometry):
    """A study in memory, with the header of its file.

    Attributes:
        array: (C, T, X, Y, Z) float32, scale slope applied.
        header: of the first channel's file, as it lay on disk.
        frame_duration_s: seconds from frame to frame; None if unknown.
        source: the first channel's file; None for an image made in memory.
        kinds: of the channels, see images/channels.py; empty if unknown.
    """

    array: np.ndarray
    header: Header
    frame_duration_s: float | None = None
    source: Path | None = None
    kinds: tuple[str, ...] = ()

    @classmethod
    def from_array(cls, array: np.ndarray, affine: np.ndarray, frame_duration_s: float | None = None) -> Image4D:
        """Make an image of (C, T, X, Y, Z), or of one channel (T, X, Y, Z), with a scanner-space header in mm and s.

        Args:
            array: any real dtype; stored as float32.
            affine: (4, 4), voxel to mm (RAS).
            frame_duration_s: seconds; None leaves the time unit of the header unknown.

        Raises:
            InputError: another number of axes, an axis of size zero, an affine without inverse.
        """
        array = np.asarray(array, dtype=np.float32)
        array = array[None] if array.ndim == 4 else array
        if array.ndim != 5 or 0 in array.shape:
            raise InputError(f"got an image {array.shape}, expected (C, T, X, Y, Z) or (T, X, Y, Z), no axis 0")
        if frame_duration_s is not None and not (frame_duration_s > 0 and math.isfinite(frame_duration_s)):
            raise InputError(f"frame_duration_s is {frame_duration_s}, expected seconds above 0, or None if unknown")
        affine = np.asarray(affine, dtype=np.float64)
        check_affine(affine, "affine")
        header = nib.Nifti1Header()
        header.set_data_dtype(np.float32)
        header.set_data_shape((*array.shape[2:], array.shape[1]))
        header.set_qform(affine, code=1, strip_shears=True)
        header.set_sform(affine, code=1)
        header["pixdim"][4] = frame_duration_s or 1.0
        header.set_xyzt_units("mm", "sec" if frame_duration_s else None)
        return cls(array, header, frame_duration_s)

    @property
    def info(self) -> ImageInfo:
        """Return the study without its voxels."""
        shape = (self.channels, self.frames, self.grid)
        return ImageInfo(self.header, *shape, self.frame_duration_s, self.source, self.kinds)

    @property
    def channels(self) -> int:
        """Return C."""
        return self.array.shape[0]

    @property
    def frames(self) -> int:
        """Return T."""
        return self.array.shape[1]

    @property
    def grid(self) -> tuple[int, int, int]:
        """Return (X, Y, Z)."""
        return cast(tuple[int, int, int], self.array.shape[2:])


def read_image(
    path: PathLike | Sequence[PathLike], *, channels_last: bool = False, kinds: Sequence[str] = ()
) -> Image4D:
    """Read a 3D (one frame) or 4D NIfTI study, .nii or .nii.gz.

    Args:
        path: one file, or one file per channel on the same grid.
        channels_last: the 4th axis of the single file holds channels, and there is one frame
            (as in the multi-modality files of the Medical Segmentation Decathlon).
        kinds: of the channels, see images/channels.py: a "map" is one frame, which holds for all frames of the first channel.
            Empty: all are signal, and have equally many frames.

    Raises:
        InputError: missing, truncated or not a real-valued NIfTI of 3 or 4 axes; NaN or infinite voxels; an unusable
            affine or spacing; channels on different grids or with other frames. Names the file.
    """
    files = _files(path)
    if not files or (channels_last and len(files) > 1):
        raise InputError(f"got {len(files)} image files, expected one, or (without channels_last) one per channel")
    header, shape = read_header(files[0])
    check_fits(4 * len(files) * math.prod(shape), files[0])
    array = np.empty((len(files), *shape), dtype=np.float32)  # (files, T, X, Y, Z)
    for _ in _read_frames(files, (header, shape), () if channels_last else kinds, array.swapaxes(0, 1)):
        pass
    array = array.swapaxes(0, 1) if channels_last else array
    return Image4D(array, header, None if channels_last else frame_duration_s_of(header), files[0], tuple(kinds))


def read_image_info(path: PathLike | Sequence[PathLike], *, kinds: Sequence[str] = ()) -> ImageInfo:
    """Read a study without its voxels, from the header of its first channel's file; the arguments are those of `read_image`."""
    files = _files(path)
    header, (frames, x, y, z) = read_header(files[0])
    return ImageInfo(header, len(files), frames, (x, y, z), frame_duration_s_of(header), files[0], tuple(kinds))


def read_frames(path: PathLike | Sequence[PathLike], *, kinds: Sequence[str] = ()) -> Iterator[np.ndarray]:
    """Yield the frames of a study, each (C, X, Y, Z) float32, as `read_image` reads them, without the whole study in memory.

    Raises:
        InputError: as `read_image`, as soon as the damage is reached.
    """
    files = _files(path)
    first, shape = read_header(files[0])
    empty = (np.empty((len(files), *shape[1:]), np.float32) for _ in range(shape[0]))
    yield from _read_frames(files, (first, shape), kinds, empty)


def read_label(path: PathLike, *, like: Image4D | None = None) -> np.ndarray:
    """Read a label map (T, X, Y, Z) uint8; a 3D file is one frame. The caller checks the number of frames.

    Args:
        path: .nii or .nii.gz with whole numbers from 0 to 255, in any dtype.
        like: the image; its (X, Y, Z) and affine must be the label's.

    Raises:
        InputError: as `read_image`, and for other values or another grid.
    """
    path = Path(path)
    with open_nifti(path) as (header, shape, volumes):
        if like is not None:
            check_same_grid(path, header, shape[1:], like.source or "the image", like.header, like.grid)
        check_fits(math.prod(shape), path)
        label = np.empty(shape, dtype=np.uint8)
        for t, volume in enumerate(volumes):
            whole, wrong = round_labels(volume)
            if wrong.any():
                voxel = _first(wrong)
                raise InputError(
                    f"{path}: got label value {volume[voxel]:g} at frame {t}, voxel {voxel} ({np.count_nonzero(wrong)} "
                    "such in this frame), expected whole numbers from 0 to 255; correct the label map"
                )
            label[t] = whole
    return label


def round_labels(volume: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of a label map rounded, and where they are no label value, a whole number from 0 to 255."""
    if volume.dtype.kind != "f":
        return volume, ~((volume >= 0) & (volume <= 255))
    whole = np.rint(volume)
    with np.errstate(invalid="ignore"):  # inf - inf
        return whole, ~((whole >= 0) & (whole <= 255)) | ~(np.abs(volume - whole) <= _INTEGER_TOLERANCE)


def write_image(path: PathLike, label: np.ndarray, *, like: Image4D | ImageInfo, dtype: np.dtype | None = None) -> None:
    """Write a label map (or any map) on the grid of `like`, whole or not at all.

    Every field of geometry and time (affine, qform and sform with their codes, spacing, units, offsets, slice timing)
    is that of `like.header` to the bit, as are its byte order and NIfTI version. Integers are stored as uint8 or the
    smallest signed type that holds them, without a scale slope; floating point as float32. A 3D source gives a 3D file.

    Args:
        path: .nii or .nii.gz.
        label: (T, X, Y, Z), or (X, Y, Z) for one frame.
        like: the image that was segmented.
        dtype: of the voxels in the file, which must hold all values; None: as above.

    Raises:
        InputError: another file name, dtype or shape.
        Unet4DError: the disk is full or the folder cannot be written to.
    """
    path = Path(path)
    check_suffix(path)
    label = np.asarray(label)
    label = label[None] if label.ndim == 3 else label
    expected = (like.frames, *like.grid)
    if label.shape != expected:
        raise InputError(f"{path}: got an array {label.shape}, expected (T, X, Y, Z) {expected} as the image")
    dtype = dtype or _storage_dtype(label, path)
    dim = like.header["dim"]
    is_3d = like.frames == 1 and not (dim[0] >= 4 and dim[4] == 1)
    header = header_for(like.header, like.grid if is_3d else (*like.grid, like.frames), dtype)
    with replacing(path) as temporary:
        write_nifti(temporary, header, label)


def _files(path: PathLike | Sequence[PathLike]) -> list[Path]:
    return [Path(path)] if isinstance(path, str | os.PathLike) else [Path(file) for file in path]


def _read_frames(
    files: Sequence[Path], head: tuple[Header, tuple[int, ...]], kinds: Sequence[str], frames: Iterable[np.ndarray]
) -> Iterator[np.ndarray]:
    """Fill frames (C, X, Y, Z) float32, one by one, and yield each; `head` is header and (T, X, Y, Z) of the first file."""
    first, shape = head
    maps = channels_of_kind(kinds, MAP)
    with contextlib.ExitStack() as stack:
        channels = []
        for channel, file in enumerate(files):
            header, size, volumes = stack.enter_context(open_nifti(file))
            _check_channel(file, header, size, first, shape, channel in maps)
            channels.append(itertools.cycle(list(volumes)) if channel in maps else volumes)
        for t, frame in enumerate(frames):
            for file, out, volumes in zip(files, frame, channels, strict=True):
                with np.errstate(over="ignore", invalid="ignore"):
                    out[...] = next(volumes)
                finite = np.isfinite(out)
                if not finite.all():
                    raise InputError(
                        f"{file}: {np.count_nonzero(~finite)} of {out.size} voxels of frame {t} are NaN or infinite, the first "
                        f"at frame {t}, voxel {_first(~finite)}, expected finite values; replace them (by 0 outside the body, say)"
                    )
            yield frame
        for volumes in channels:
            next(volumes, None)  # a gzip stream checks its checksum at its end


def _check_channel(
    path: Path, header: Header, shape: tuple[int, ...], first: Header, expected: tuple[int, ...], is_map: bool
) -> None:
    """Raise InputError unless a channel's file lies on the grid of the first and has as many frames, or one if it is a map."""
    if is_map and shape[0] > 1:
        raise InputError(
            f'{path}: got {count(shape[0], "frame")} for a channel of the kind "map", expected one, which holds for all frames; '
            "give a 3D file, or leave the channel out of channel_kinds"
        )
    if not is_map and shape[0] == 1 < expected[0]:
        raise InputError(
            f"{path}: got 1 frame, expected {expected[0]} as in the first channel; if it holds for all frames, such as a T1 map, "
            'declare it: "map" in channel_kinds of dataset.json'
        )
    check_same_grid(path, header, shape, "the first channel", first, (1, *expected[1:]) if is_map else expected)


def _storage_dtype(array: np.ndarray, path: Path) -> np.dtype:
    """Return uint8, or the smallest signed integer type that holds the values; float32 for floating point."""
    if array.dtype.kind == "f":
        return np.dtype(np.float32)
    if array.dtype.kind not in "biu":
        raise InputError(f"{path}: got an array of {array.dtype}, expected integers or floating point")
    low, high = int(array.min()), int(array.max())
    for dtype in (np.uint8, np.int16, np.int32, np.int64):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return np.dtype(dtype)
    raise InputError(f"{path}: got values from {low} to {high}, expected them to fit 64-bit signed integers")


def _first(mask: np.ndarray) -> tuple[int, ...]:
    """Return the index of the first True."""
    return tuple(int(i) for i in np.argwhere(mask)[0])
