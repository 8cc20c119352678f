"""The voxels of a stack: decoded by pydicom (and GDCM where they are compressed), rescaled plane by plane."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unet4d.data.dicom.stack import Stack
from unet4d.errors import InputError


def read_voxels(stack: Stack) -> np.ndarray:
    """(T, X, Y, Z) float32, RescaleSlope and RescaleIntercept of each plane applied; X counts columns and Y rows.

    Values are those stored, also under MONOCHROME1, which only says that low values are to be shown bright.

    Raises:
        InputError: pixel data cut off, damaged, or compressed in a way that nothing installed decodes. Names the file.
    """
    voxels = np.empty(stack.shape, dtype=np.float32)
    places: dict[Path, dict[int, tuple[int, int]]] = {}
    for t, frame in enumerate(stack.planes):
        for z, plane in enumerate(frame):
            places.setdefault(plane.file, {})[plane.index] = (t, z)
    for file, at in places.items():
        for pixels, (t, z) in zip(_decoded(file, list(at)), at.values(), strict=True):
            plane = stack.planes[t][z]
            if pixels.shape != stack.shape[2:0:-1]:
                raise InputError(
                    f"{file}: its pixels are {pixels.shape}, its header says {stack.shape[2:0:-1]} (rows, columns)"
                )
            voxels[t, :, :, z] = pixels.T * plane.slope + plane.intercept
    return voxels


def _decoded(file: Path, indices: Sequence[int]) -> list[np.ndarray]:
    """These frames of a file, each (rows, columns)."""
    from pydicom import dcmread
    from pydicom.pixels import iter_pixels

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's, of pixel data longer than it need be
            return list(iter_pixels(dcmread(file), indices=indices))
    except (ArithmeticError, AttributeError, EOFError, LookupError, NotImplementedError, OSError, RuntimeError, TypeError,
            ValueError) as error:  # fmt: skip
        raise InputError(_refusal(file, error)) from error


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
        f"{file}: nothing installed decodes its pixel data ({syntax.name}); pip install 'unet4d[dicom]', or export the "
        "series uncompressed"
    )
