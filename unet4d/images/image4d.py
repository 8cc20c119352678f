"""One 4D study: NIfTI (X, Y, Z, T) on disk, (C, T, X, Y, Z) in memory, written back under the header it came with."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Iterator, Sequence
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

INTEGER_TOLERANCE = 1e-3  # a label stored with a scale slope may come back as 0.9999


class _Placed:
    """Where voxels lie, as a header says."""

    header: Header

    @property
    def affine(self) -> np.ndarray:
        """(4, 4) float64, voxel index to mm (RAS): the sform, else the qform, else nibabel's guess from the spacing."""
        return affine_of(self.header)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along X, Y and Z."""
        return spacing_of(self.affine)


@dataclass(frozen=True, eq=False)
class ImageInfo(_Placed):
    """What a study is like, without its voxels.

    Attributes:
        header: of the first channel's file, as it lies on disk.
        channels: C.
        frames: T.
        grid: (X, Y, Z).
        frame_duration_s: seconds from frame to frame; None where the header does not say.
        source: the first channel's file.
        kinds: what each channel holds, see data/channels.py; empty where nobody says.
    """

    header: Header
    channels: int
    frames: int
    grid: tuple[int, int, int]
    frame_duration_s: float | None
    source: Path | None
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Image4D(_Placed):
    """A study, in memory, with the header it came with.

    Attributes:
        array: (C, T, X, Y, Z) float32, scale slope applied.
        header: of the first channel's file, as it lay on disk.
        frame_duration_s: seconds from frame to frame; None where the header does not say.
        source: the first channel's file; None for an image made in memory.
        kinds: what each channel holds, see data/channels.py; empty where nobody says.
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
            array: any real dtype; kept as float32.
            affine: (4, 4), voxel to mm (RAS).
            frame_duration_s: seconds; None leaves the time unit of the header unknown.

        Raises:
            InputError: another number of axes, an axis of size zero, an affine without inverse.
        """
        array = np.asarray(array, dtype=np.float32)
        array = array[None] if array.ndim == 4 else array
        if array.ndim != 5 or 0 in array.shape:
            raise InputError(f"an image of shape {array.shape} came; wanted (C, T, X, Y, Z) or (T, X, Y, Z), no axis 0")
        if frame_duration_s is not None and not (frame_duration_s > 0 and math.isfinite(frame_duration_s)):
            raise InputError(f"frame_duration_s is {frame_duration_s}; give seconds above 0, or None if unknown")
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
        """What it is like, without its voxels."""
        return ImageInfo(
            self.header, self.channels, self.frames, self.grid, self.frame_duration_s, self.source, self.kinds
        )

    @property
    def channels(self) -> int:
        """C."""
        return self.array.shape[0]

    @property
    def frames(self) -> int:
        """T."""
        return self.array.shape[1]

    @property
    def grid(self) -> tuple[int, int, int]:
        """(X, Y, Z)."""
        return cast(tuple[int, int, int], self.array.shape[2:])


def read_image(
    path: PathLike | Sequence[PathLike], *, channels_last: bool = False, kinds: Sequence[str] = ()
) -> Image4D:
    """Read a 3D (one frame) or 4D NIfTI study, .nii or .nii.gz.

    Args:
        path: one file, or one file a channel on the same grid.
        channels_last: the 4th axis of the single file holds channels, and there is one frame
            (as in the multi-modality files of the Medical Segmentation Decathlon).
        kinds: what each channel holds, see data/channels.py: a "map" is one frame, held for all frames of the first channel. Empty:
            all are signal, and have as many frames.

    Raises:
        InputError: missing, truncated or not a real-valued NIfTI of 3 or 4 axes; NaN or infinite voxels; an unusable
            affine or spacing; channels on different grids or with other frames. Names the file.
    """
    paths = [Path(path)] if isinstance(path, str | os.PathLike) else [Path(one) for one in path]
    if not paths or (channels_last and len(paths) > 1):
        raise InputError(f"{len(paths)} image files came; wanted one, or (without channels_last) one a channel")
    header, frames = read_header(paths[0])
    check_fits(4 * len(paths) * math.prod(frames), paths[0])
    volumes = np.empty((len(paths), *frames), dtype=np.float32)  # (files, T, X, Y, Z)
    maps = [] if channels_last else channels_of_kind(kinds, MAP)
    for channel, (one, out) in enumerate(zip(paths, volumes, strict=True)):
        if channel in maps:
            _read_floats(one, out[:1], header, is_map=True)
            out[1:] = out[0]
        else:
            _read_floats(one, out, header)
    array = volumes.swapaxes(0, 1) if channels_last else volumes
    duration = None if channels_last else frame_duration_s_of(header)
    return Image4D(array, header, duration, paths[0], tuple(kinds))


def read_image_info(path: PathLike | Sequence[PathLike], *, kinds: Sequence[str] = ()) -> ImageInfo:
    """What a study is like, from the header of its first channel's file; the arguments are those of `read_image`."""
    paths = [Path(path)] if isinstance(path, str | os.PathLike) else [Path(one) for one in path]
    header, (frames, *grid) = read_header(paths[0])
    return ImageInfo(
        header,
        len(paths),
        frames,
        cast(tuple[int, int, int], tuple(grid)),
        frame_duration_s_of(header),
        paths[0],
        tuple(kinds),
    )


def read_frames(path: PathLike | Sequence[PathLike], *, kinds: Sequence[str] = ()) -> Iterator[np.ndarray]:
    """The frames of a study, each (C, X, Y, Z) float32, one after the other; what `read_image` reads, without ever holding it all.

    Raises:
        InputError: as `read_image`, once the fault is come upon.
    """
    paths = [Path(path)] if isinstance(path, str | os.PathLike) else [Path(one) for one in path]
    first, shape = read_header(paths[0])
    maps = channels_of_kind(kinds, MAP)
    with contextlib.ExitStack() as stack:
        channels = []
        for channel, one in enumerate(paths):
            header, size, volumes = stack.enter_context(open_nifti(one))
            _check_channel(one, header, size, first, shape, channel in maps)
            channels.append(itertools.cycle(list(volumes)) if channel in maps else volumes)
        for t in range(shape[0]):
            frame = np.empty((len(paths), *shape[1:]), np.float32)
            for one, out, volumes in zip(paths, frame, channels, strict=True):
                with np.errstate(over="ignore", invalid="ignore"):
                    out[...] = next(volumes)
                finite = np.isfinite(out)
                if not finite.all():
                    where = f"frame {t}, voxel {_first(~finite)}"
                    raise _not_finite(one, f"{np.count_nonzero(~finite)} of {out.size} voxels of frame {t}", where)
            yield frame
        for volumes in channels:
            next(volumes, None)  # a gzip stream checks its checksum at its end


def read_label(path: PathLike, *, like: Image4D | None = None) -> np.ndarray:
    """Read a label map (T, X, Y, Z) uint8; a 3D file is one frame. The number of frames is the caller's to check.

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
            whole = np.rint(volume) if volume.dtype.kind == "f" else volume
            wrong = ~((whole >= 0) & (whole <= 255))
            if volume.dtype.kind == "f":
                with np.errstate(invalid="ignore"):  # inf - inf
                    wrong |= ~(np.abs(volume - whole) <= INTEGER_TOLERANCE)
            if wrong.any():
                voxel = _first(wrong)
                raise InputError(
                    f"{path}: label value {volume[voxel]:g} at frame {t}, voxel {voxel} ({np.count_nonzero(wrong)} "
                    "such in this frame); wanted whole numbers from 0 to 255; correct the label map"
                )
            label[t] = whole
    return label


def write_image(path: PathLike, label: np.ndarray, *, like: Image4D | ImageInfo) -> None:
    """Write a label map (or any map) on the grid of `like`, whole or not at all.

    Every field of geometry and time (affine, qform and sform with their codes, spacing, units, offsets, slice timing)
    is that of `like.header` to the bit, as are its byte order and NIfTI version. Integers are stored as uint8 or the
    smallest signed type that holds them, without a scale slope; floating point as float32. A 3D source gives a 3D file.

    Args:
        path: .nii or .nii.gz.
        label: (T, X, Y, Z), or (X, Y, Z) for one frame.
        like: the image that was segmented.

    Raises:
        InputError: another file name, dtype or shape.
        Unet4DError: the disk is full or the folder cannot be written to.
    """
    path = Path(path)
    check_suffix(path)
    label = np.asarray(label)
    label = label[None] if label.ndim == 3 else label
    wanted = (like.frames, *like.grid)
    if label.shape != wanted:
        raise InputError(f"{path}: an array of shape {label.shape} came; wanted (T, X, Y, Z) = {wanted} as the image")
    dtype = _storage_dtype(label, path)
    dim = like.header["dim"]
    flat = like.frames == 1 and not (dim[0] >= 4 and dim[4] == 1)
    header = header_for(like.header, like.grid if flat else (*like.grid, like.frames), dtype)
    with replacing(path) as temporary:
        write_nifti(temporary, header, label)


def _read_floats(path: Path, out: np.ndarray, first: Header, is_map: bool = False) -> None:
    """Fill `out` (T, X, Y, Z) float32 from `path`, whose grid must be that of `first`; refuse what is not finite."""
    bad, where = 0, ""
    with open_nifti(path) as (header, shape, volumes):
        _check_channel(path, header, shape, first, out.shape, is_map)
        for t, volume in enumerate(volumes):
            with np.errstate(over="ignore", invalid="ignore"):
                out[t] = volume
            finite = np.isfinite(out[t])
            if not finite.all():
                where = where or f"frame {t}, voxel {_first(~finite)}"
                bad += int(np.count_nonzero(~finite))
    if bad:
        raise _not_finite(path, f"{bad} of {out.size} voxels", where)


def _check_channel(
    path: Path, header: Header, shape: tuple[int, ...], first: Header, wanted: tuple[int, ...], is_map: bool
) -> None:
    """Raise InputError unless a channel's file lies on the grid of the first and has as many frames, or one if it is a map."""
    if is_map and shape[0] > 1:
        raise InputError(
            f'{path}: {count(shape[0], "frame")} came for a channel of the kind "map"; wanted one, which holds for all frames; '
            "give a 3D file, or leave the channel out of channel_kinds"
        )
    if not is_map and shape[0] == 1 < wanted[0]:
        raise InputError(
            f"{path}: 1 frame came, the first channel has {wanted[0]}; wanted as many; if it holds for all frames, such as a T1 "
            'map, say so: "map" in channel_kinds of dataset.json'
        )
    check_same_grid(path, header, shape, "the first channel", first, (1, *wanted[1:]) if is_map else wanted)


def _not_finite(path: Path, what: str, where: str) -> InputError:
    return InputError(
        f"{path}: {what} are NaN or infinite, the first at {where}; wanted finite "
        "values; replace them (by 0 outside the body, say) or export the study again"
    )


def _storage_dtype(array: np.ndarray, path: Path) -> np.dtype:
    """uint8, or the smallest signed integer type that holds the values; float32 for floating point."""
    if array.dtype.kind == "f":
        return np.dtype(np.float32)
    if array.dtype.kind not in "biu":
        raise InputError(f"{path}: an array of {array.dtype} came; wanted integers or floating point")
    low, high = int(array.min()), int(array.max())
    for dtype in (np.uint8, np.int16, np.int32, np.int64):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return np.dtype(dtype)
    raise InputError(f"{path}: the values {low} to {high} came; wanted them to fit 64-bit signed integers")


def _first(mask: np.ndarray) -> tuple[int, ...]:
    """Index of the first True."""
    return tuple(int(i) for i in np.argwhere(mask)[0])
