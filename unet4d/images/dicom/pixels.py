"""The voxels of a stack: decoded by pydicom (and GDCM where they are compressed), rescaled plane by plane."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unet4d.errors import InputError
from unet4d.images.dicom.volume4d import SliceStack
from unet4d.system.memory import check_fits
from unet4d.system.signals import check_stop

if TYPE_CHECKING:
    from pydicom.uid import UID


_WORKING_BYTES = 12  # per voxel: in float32, turned, and resampled


def read_dicom_voxels(stack: SliceStack) -> np.ndarray:
    """(T, X, Y, Z) float32, RescaleSlope and RescaleIntercept of each plane applied; X counts columns and Y rows.

    Values are those stored, also under MONOCHROME1, which only says that low values are to be shown bright.

    Raises:
        InputError: pixel data cut off, damaged, or compressed in a way that nothing installed decodes. Names the file.
    """
    voxels = None
    places: dict[Path, dict[int, tuple[int, int]]] = {}
    for t, frame in enumerate(stack.planes):
        for z, plane in enumerate(frame):
            places.setdefault(plane.file, {})[plane.index] = (t, z)
    for file, at in places.items():
        check_stop()
        for pixels, (t, z) in zip(_decoded(file, list(at)), at.values(), strict=True):
            plane = stack.planes[t][z]
            if pixels.shape != stack.shape[2:0:-1]:
                raise InputError(
                    f"{file}: its pixels are {pixels.shape}, its header says {stack.shape[2:0:-1]} (rows, columns)"
                )
            if voxels is None:  # now that one plane is known to be as large as it says
                voxels = _empty(stack, file)
            voxels[t, :, :, z] = pixels.T * plane.slope + plane.intercept
    assert voxels is not None
    return voxels


def _empty(stack: SliceStack, file: Path) -> np.ndarray:
    check_fits(_WORKING_BYTES * math.prod(stack.shape), file)
    return np.empty(stack.shape, dtype=np.float32)


def _decoded(file: Path, indices: Sequence[int]) -> list[np.ndarray]:
    """These frames of a file, each (rows, columns)."""
    from pydicom import dcmread
    from pydicom.pixels import iter_pixels

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's, of pixel data longer than it need be
            dataset = dcmread(file, force=True)  # the scan has seen that it is DICOM, with or without a preamble
            if "TransferSyntaxUID" not in dataset.file_meta:
                dataset.file_meta.TransferSyntaxUID = _as_read(dataset)
            return list(iter_pixels(dataset, indices=indices))
    except Exception as error:  # decoders let through whatever a damaged file leads to
        raise InputError(_refusal(file, error)) from error


def _as_read(dataset: Any) -> UID:
    """The transfer syntax of a file that names none, by its header; its pixels are not compressed."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian

    _, is_little_endian = dataset.original_encoding
    return ExplicitVRLittleEndian if is_little_endian else ExplicitVRBigEndian


def _refusal(file: Path, error: Exception) -> str:
    """Why the pixels cannot be had: no decoder, or damaged."""
    from pydicom import dcmread
    from pydicom.pixels import get_decoder

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            syntax = dcmread(file, stop_before_pixels=True, specific_tags=[]).file_meta.TransferSyntaxUID
        available = get_decoder(syntax).is_available
    except Exception:
        available = True
    reason = " ".join(str(error).split())
    if available:
        return f"{file}: its pixel data is cut off or damaged ({reason}); export it again"
    return (
        f"{file}: nothing installed decodes its pixel data ({syntax.name}); pip install python-gdcm, or export the "
        "series uncompressed"
    )
