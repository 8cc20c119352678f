"""Stacks of slices x frames, complete and on one grid, and their voxels, decoded by pydicom and rescaled plane by plane."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unet4d.errors import InputError
from unet4d.images.dicom import frame_order, geometry
from unet4d.images.dicom.instance import Plane
from unet4d.images.time_axis import TimeAxis
from unet4d.system.memory import check_fits
from unet4d.system.signals import check_stop
from unet4d.system.text import shorten_list

_WORKING_BYTES = 12  # per voxel: in float32, reoriented, and resampled


@dataclass(frozen=True, eq=False)
class SliceStack:
    """A 4D study with its voxels still in its files.

    Attributes:
        planes: of frame t and slice z, [t][z].
        affine: (4, 4), voxel to mm (RAS).
        frame_duration_s: seconds from frame to frame; None if unknown.
        time: "cyclic", or None if unknown.
    """

    planes: tuple[tuple[Plane, ...], ...]
    affine: np.ndarray
    frame_duration_s: float | None
    time: TimeAxis | None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Return (T, X, Y, Z)."""
        return (len(self.planes), *self.planes[0][0].size, len(self.planes[0]))


def stack_planes(planes: Sequence[Plane], title: str) -> SliceStack:
    """Sort the planes of one study into slices and frames; `title` begins the message.

    Raises:
        InputError: the planes are of several patients; orientation, spacing or matrix differ; the b-value or inversion time varies
            at one place; slices lie unevenly; a slice has another number of frames than most; two planes lie at one place and time;
            nothing orders the frames. Lists all reasons.
    """
    patients = len({plane.series.patient for plane in planes})
    _refuse(title, [f"images of {patients} patients have one SeriesInstanceUID"] if patients > 1 else [])
    _refuse(title, geometry.describe_mixed_planes(planes))
    slices = geometry.group_into_slices(planes)
    _refuse(title, frame_order.describe_other_variation(slices))
    key = frame_order.time_key(slices)
    if key is None:
        raise stack_error(title, ["no time orders the frames of a slice, not even an InstanceNumber"])
    slices = frame_order.sort_in_time(slices, key)
    reasons = [*frame_order.describe_duplicates(slices, key), *frame_order.describe_gaps(slices, key)]
    _refuse(title, [*reasons, *geometry.describe_uneven_slices(slices)])
    affine = geometry.slices_affine(slices)
    if affine is None:
        raise stack_error(title, ["a single slice without SpacingBetweenSlices and SliceThickness"])
    duration_s = frame_order.frame_duration_s(slices)
    frames = tuple(zip(*slices, strict=True))
    return SliceStack(frames, affine, duration_s, frame_order.gated_time_axis(slices, duration_s))


def _refuse(title: str, reasons: Sequence[str]) -> None:
    """Raise InputError if there are reasons against a stack."""
    if reasons:
        raise stack_error(title, reasons)


def stack_error(title: str, reasons: Sequence[str]) -> InputError:
    """Return the error that lists the reasons against a stack in one line."""
    return InputError(f"{title}: {shorten_list(reasons, 8, '; ')}; export the series again, or leave it out")


def read_dicom_voxels(stack: SliceStack) -> np.ndarray:
    """Read (T, X, Y, Z) float32, RescaleSlope and RescaleIntercept of each plane applied; X counts columns and Y rows.

    Values are those stored, also under MONOCHROME1, which is a hint to display low values bright.

    Raises:
        InputError: pixel data cut off, damaged, or compressed in a way that nothing installed decodes. Names the file.
    """
    voxels = None
    places: dict[Path, dict[int, list[tuple[int, int]]]] = {}
    for t, frame in enumerate(stack.planes):
        for z, plane in enumerate(frame):
            places.setdefault(plane.file, {}).setdefault(plane.index, []).append((t, z))
    for file, at in places.items():
        check_stop()
        for whole, of_frame in zip(decode_frames(file, list(at)), at.values(), strict=True):
            for t, z in of_frame:
                plane = stack.planes[t][z]
                pixels = whole if plane.tile is None else _cut_tile(whole, plane)
                expected = stack.shape[2:0:-1]
                if pixels.shape != expected:
                    raise InputError(f"{file}: got pixels {pixels.shape}, expected {expected}; export it again")
                if voxels is None:  # now that one plane is known to have the size of its header
                    check_fits(_WORKING_BYTES * math.prod(stack.shape), file)
                    voxels = np.empty(stack.shape, dtype=np.float32)
                voxels[t, :, :, z] = pixels.T * plane.slope + plane.intercept
    assert voxels is not None
    return voxels


def _cut_tile(pixels: np.ndarray, plane: Plane) -> np.ndarray:
    """Return the pixels of one slice of a MOSAIC."""
    assert plane.tile is not None
    column, row = plane.tile
    return pixels[row : row + plane.size[1], column : column + plane.size[0]]


def decode_frames(file: Path, indices: Sequence[int]) -> list[np.ndarray]:
    """Decode these frames of a file, each (rows, columns), through its Modality LUT if it has one.

    Raises:
        InputError: pixel data cut off, damaged, or compressed in a way that nothing installed decodes. Names the file.
    """
    from pydicom import dcmread
    from pydicom.pixels import apply_modality_lut, iter_pixels
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian

    dataset: Any = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pydicom, for pixel data longer than necessary
            dataset = dcmread(file, force=True)  # known to be DICOM, with or without a preamble
            if "TransferSyntaxUID" not in dataset.file_meta:  # then the pixels are not compressed
                _, is_little_endian = dataset.original_encoding
                syntax = ExplicitVRLittleEndian if is_little_endian else ExplicitVRBigEndian
                dataset.file_meta.TransferSyntaxUID = syntax
            if (
                dataset.get("BitsAllocated") == 1
            ):  # then a frame may begin within a byte, which iter_pixels does not know
                every = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
                return [every[index] for index in indices]
            frames = list(iter_pixels(dataset, indices=indices))
            has_table = bool(dataset.get("ModalityLUTSequence"))
            return [apply_modality_lut(frame, dataset) for frame in frames] if has_table else frames
    except Exception as error:  # whatever a damaged file leads to in a decoder
        raise InputError(f"{file}: {_decode_failure(dataset, error)}") from error


def _decode_failure(dataset: Any, error: Exception) -> str:
    """Describe why the pixels of a dataset cannot be decoded: no decoder, or damaged."""
    from pydicom.pixels import get_decoder

    with contextlib.suppress(Exception):  # of a damaged header
        syntax = dataset.file_meta.TransferSyntaxUID
        if not get_decoder(syntax).is_available:
            return (
                f"nothing installed decodes its pixel data ({syntax.name}); pip install python-gdcm, or export the series "
                "uncompressed"
            )
    return f"its pixel data is cut off or damaged ({' '.join(str(error).split())}); export it again"
