"""Private elements of vendors: the tiles of a Siemens MOSAIC, the scale of Philips, times of GE, b-values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from unet4d.images.dicom.instance import Plane

_XA_TYPES = tuple(0x00210075 + 0x100 * block for block in range(0x10, 0x18))  # Siemens' own ImageType in the XA line
_XA_FRAMES = tuple(0x002100FE + 0x100 * block for block in range(0x10, 0x18))  # Siemens' own groups of one frame
_IMAGE_TYPES = (0x00080008, 0x00089007, *_XA_TYPES)  # ImageType, FrameType
_TILES = 0x0019100A  # NumberOfImagesInMosaic
_PHILIPS_FRAME = 0x2005140F  # a sequence with the elements of one frame of a multi-frame file
VENDOR_ELEMENTS = (
    *_XA_TYPES, *_XA_FRAMES, 0x00190010, _TILES, 0x0019100C, 0x0019105A, 0x00290010, 0x00290011, 0x00291010, 0x00291110, 0x20050010,
    0x2005100E,
)  # fmt: skip
"""Elements to read of a file before its pixels."""
_SAME_REPETITION = 0.05  # greatest relative difference of two statements of the time of a volume
_SCALED = ("M", "R", "I")


def private_layers(dataset: Any, *groups: Any) -> tuple[Any, ...]:
    """Return the datasets in which the private elements of a frame may lie: in its functional groups, or at the top."""
    inner = (group.get(_PHILIPS_FRAME) for group in groups)
    return (*(item for element in inner if element is not None for item in _items(element.value)), *groups, dataset)


def private_value(layers: Sequence[Any], group: int, creator: str, element: int) -> Any:
    """Return the value of a private element in the first layer that has it; None where it is missing."""
    for layer in layers:
        try:
            return layer.private_block(group, creator)[element].value
        except KeyError:
            continue
    return None


def private_number(layers: Sequence[Any], group: int, creator: str, element: int) -> float | None:
    """Return a private element that holds a finite number; None where it is missing."""
    try:
        number = float(private_value(layers, group, creator, element))
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def philips_scale(layers: Sequence[Any], slope: float, intercept: float, kinds: Sequence[str]) -> tuple[float, float]:
    """Return the slope and intercept of a plane; Philips keeps those of the signal apart from those of the display.

    RescaleSlope makes values to display, which are scaled anew for each series and may be for each image. The signal is
    (stored * RescaleSlope + RescaleIntercept) / (RescaleSlope * scale slope) (Chenevert et al. 2014). Phase images and maps keep
    RescaleSlope, because it gives their units.
    """
    scale = private_number(layers, 0x2005, "Philips MR Imaging DD 001", 0x0E)
    is_signal = any(kind in _SCALED or kind.startswith(tuple(f"{one}_" for one in _SCALED)) for kind in kinds)
    if not scale or not slope or not is_signal:
        return slope, intercept
    return 1 / scale, intercept / (slope * scale)


def siemens_b_value(layers: Sequence[Any]) -> float | None:
    """Return the b-value of a Siemens image in s/mm2, which lacks DiffusionBValue; None where it has none."""
    return private_number(layers, 0x0019, "SIEMENS MR HEADER", 0x0C)


def volume_time_ms(layers: Sequence[Any], repetition_ms: float | None, volumes: float | None) -> float | None:
    """Return the ms of one volume of an echo-planar 2D series: its repetition time, unless GE's duration of the series differs."""
    duration_us = private_number(layers, 0x0019, "GEMS_ACQU_01", 0x5A)
    each_ms = duration_us / volumes / 1e3 if duration_us and volumes else None
    if each_ms and not (repetition_ms and abs(each_ms - repetition_ms) <= _SAME_REPETITION * each_ms):
        return each_ms
    return repetition_ms


def is_mosaic(*layers: Any) -> bool:
    """Return whether an image is a Siemens MOSAIC: one plane that holds many slices side by side, as tiles.

    Args:
        layers: the dataset, the functional groups of its frames, and their groups of the type of image.
    """
    private = [item for layer in layers for tag in _XA_FRAMES if tag in layer for item in _items(layer[tag].value)]
    types = [layer[tag].value for layer in (*layers, *private) for tag in _IMAGE_TYPES if tag in layer]
    siemens = [layer for layer in layers if _TILES in layer and "SIEMENS" in str(layer.get(0x00190010))]
    has_tiles = any(layer[_TILES].value not in (None, "", 0, 1) for layer in siemens)
    return has_tiles or any("MOSAIC" in str(kind).upper() for kind in types)


def mosaic_error() -> ValueError:
    """Return the error of a MOSAIC that cannot be split."""
    return ValueError(
        "it is a Siemens MOSAIC, all slices side by side in one image, without the number and the direction of its slices; convert "
        "the series to NIfTI with dcm2niix, and give that"
    )


def split_mosaic(whole: Plane, dataset: Any) -> list[Plane]:
    """Return the slices of a MOSAIC.

    The tiles lie row by row in a square. The position in the header is that of a slice as large as the whole mosaic around the
    center of the first tile. The slices follow one another along the normal in the CSA header, which may run against axis X
    cross axis Y.

    Raises:
        ValueError: no number of tiles, no normal or no spacing of slices.
    """
    from nibabel.nicom.csareader import get_csa_header

    header = get_csa_header(dataset, "image") or {"tags": {}}
    tags = {name: tag["items"] for name, tag in header["tags"].items()}
    numbers, direction = tags.get("NumberOfImagesInMosaic") or [], tags.get("SliceNormalVector") or []
    spacing_mm = dataset.get("SpacingBetweenSlices")
    if not numbers or int(numbers[0]) < 1 or len(direction) != 3 or not spacing_mm:
        raise mosaic_error()
    tiles = int(numbers[0])
    along = math.isqrt(tiles - 1) + 1
    if whole.size[0] % along or whole.size[1] % along:
        raise ValueError(
            f"it is a Siemens MOSAIC of {whole.size[0]} x {whole.size[1]} pixels, which {tiles} tiles do not divide"
        )
    size = (whole.size[0] // along, whole.size[1] // along)
    x, y = np.array(whole.axes[:3]), np.array(whole.axes[3:])
    normal = np.cross(x, y)
    normal *= np.sign(normal @ np.array(direction, dtype=float)) or 1.0
    first = np.array(whole.position_mm)
    for axis, many, few, pixel_mm in zip((x, y), whole.size, size, whole.spacing_mm, strict=True):
        first = first + axis * pixel_mm * (many - few) / 2
    return [
        replace(
            whole,
            size=size,
            tile=(n % along * size[0], n // along * size[1]),
            position_mm=tuple(first + n * float(spacing_mm) * normal),
            thickness_mm=float(spacing_mm),
        )
        for n in range(tiles)
    ]


def _items(value: Any) -> list[Any]:
    """Return the datasets of a sequence; none where a private element is no sequence."""
    return [item for item in value if hasattr(item, "iterall")] if isinstance(value, Sequence) else []
