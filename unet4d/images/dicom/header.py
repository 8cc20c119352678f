"""The planes of a file, from its header.

A multi-frame file (Enhanced MR and the legacy converted ones) says of each frame in functional groups what a single-frame
file says at its top (DICOM PS3.3 C.7.6.16). Both are read by keyword: the frame's groups first, then the groups that all
frames share, then the top.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unet4d.images.dicom.instance import Plane, Series

if TYPE_CHECKING:
    from pydicom.tag import BaseTag

_GROUPS = (
    "FrameContentSequence",
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelMeasuresSequence",
    "PixelValueTransformationSequence",
    "CardiacSynchronizationSequence",
    "TemporalPositionSequence",
    "MRImageFrameTypeSequence",
    "MREchoSequence",
    "MRModifierSequence",
    "MRDiffusionSequence",
    "UnassignedPerFrameConvertedAttributesSequence",
    "UnassignedSharedConvertedAttributesSequence",
)
_XA_TYPES = tuple(0x00210075 + 0x100 * block for block in range(0x10, 0x18))  # Siemens' own ImageType in the XA line
_XA_FRAMES = tuple(0x002100FE + 0x100 * block for block in range(0x10, 0x18))  # Siemens' own groups of one frame
_IMAGE_TYPES = (0x00080008, 0x00089007, *_XA_TYPES)  # ImageType, FrameType
_TILES, _TILES_CREATOR = 0x0019100A, 0x00190010  # NumberOfImagesInMosaic, and who defines the elements (0019,10xx)
_ELEMENTS: tuple[str | int, ...] = (
    "SOPClassUID", "PatientID", "PatientName", "StudyInstanceUID", "SeriesInstanceUID", "StudyDate", "StudyTime",
    "SeriesNumber", "SeriesDescription", "ProtocolName", "SequenceName", "PulseSequenceName", "FrameOfReferenceUID",
    "Modality", "ImageType", "ComplexImageComponent", "PhotometricInterpretation", "SamplesPerPixel", "Rows", "Columns",
    "PixelSpacing", "SliceThickness", "SpacingBetweenSlices", "ImagePositionPatient", "ImageOrientationPatient",
    "RescaleSlope", "RescaleIntercept", "TriggerTime", "TemporalPositionIdentifier", "AcquisitionDate",
    "AcquisitionTime", "AcquisitionDateTime", "ContentDate", "ContentTime", "InstanceNumber", "NominalInterval",
    "CardiacNumberOfImages", "CardiacSynchronizationTechnique", "TemporalResolution", "FrameTime", "NumberOfFrames",
    "EchoTime", "InversionTime", "DiffusionBValue",
    "DimensionIndexSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    *_XA_TYPES, *_XA_FRAMES, _TILES, _TILES_CREATOR,
)  # fmt: skip

_TIME_DIMENSIONS = (
    "TemporalPositionIndex",
    "TemporalPositionIdentifier",
    "TemporalPositionTimeOffset",
    "NominalCardiacTriggerDelayTime",
    "TriggerTime",
    "FrameAcquisitionDateTime",
    "FrameReferenceDateTime",
)
_COMPONENTS = {
    "P": "phase", "PHASE": "phase", "R": "real", "REAL": "real", "I": "imaginary", "IMAGINARY": "imaginary",
    "W": "water", "WATER": "water", "F": "fat", "FAT": "fat", "IP": "in phase", "IN_PHASE": "in phase",
    "OP": "opposed phase", "OPP_PHASE": "opposed phase", "OUT_PHASE": "opposed phase",
}  # fmt: skip

_NO_DATE = "19700101"

_Lookup = Callable[[str], Any]


class OtherObject(Exception):
    """A DICOM object that is no plane of a volume of scalars, such as a screenshot; says why."""


@functools.cache
def tags() -> list[BaseTag]:
    """Return the elements that are read of a file before its pixels."""
    from pydicom.tag import Tag

    return [Tag(element) for element in _ELEMENTS]


def series_of(dataset: Any) -> Series:
    """The series a dataset belongs to; what is missing is empty."""

    def text(keyword: str) -> str:
        return str(dataset.get(keyword) or "").strip()

    named = (text("SeriesDescription"), text("ProtocolName"), text("SequenceName") or text("PulseSequenceName"))
    return Series(
        patient=text("PatientID") or text("PatientName") or text("StudyInstanceUID"),
        study=text("StudyInstanceUID"),
        started=text("StudyDate") + text("StudyTime"),
        number=int(_number(text("SeriesNumber")) or 0),
        uid=text("SeriesInstanceUID"),
        description=" ".join(text("SeriesDescription").split()),
        label="|".join(re.sub(r"[\d\W_]+", " ", name.lower()).strip() for name in named),
        frame_of_reference=text("FrameOfReferenceUID"),
        modality=text("Modality"),
    )


def planes_of(dataset: Any, file: Path) -> list[Plane]:
    """The planes of a file, from its header.

    Args:
        dataset: pydicom's, of the `tags`.
        file: where it lies.

    Raises:
        OtherObject: it is in colour, or does not say where it lies in space.
        ValueError, TypeError, AttributeError, KeyError: a damaged header; a Siemens MOSAIC.
    """
    series = series_of(dataset)
    photometric = str(dataset.get("PhotometricInterpretation") or "")
    if int(dataset.get("SamplesPerPixel") or 1) != 1 or not photometric.startswith("MONOCHROME"):
        raise OtherObject(f"its PhotometricInterpretation is {photometric or 'missing'}, wanted MONOCHROME2")
    frames = int(dataset.get("NumberOfFrames") or 1)
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
    items = [*(dataset.get("SharedFunctionalGroupsSequence") or []), *groups]
    _check_mosaic(dataset, *items, *(item for of in items for item in of.get("MRImageFrameTypeSequence") or []))
    if not groups and frames == 1:
        return [_plane(_value(dataset), series, file, 0, None)]
    if not groups:
        raise OtherObject(f"it holds {frames} frames and does not say where each of them lies")
    if len(groups) != frames:
        raise ValueError(f"it holds {frames} frames and describes {len(groups)}")
    shared = [_flat(item) for item in dataset.get("SharedFunctionalGroupsSequence") or []]
    dimensions = _time_dimensions(dataset.get("DimensionIndexSequence") or [])
    planes = []
    for index, group in enumerate(groups):
        value = _value(_flat(group), *shared, dataset)
        indices = value("DimensionIndexValues")
        at = tuple(int(_several(indices)[i]) for i in dimensions) if dimensions and indices is not None else None
        planes.append(_plane(value, series, file, index, at))
    return planes


def _check_mosaic(*layers: Any) -> None:
    """Raise ValueError for a Siemens MOSAIC: one plane that holds many slices side by side, as tiles.

    Args:
        layers: the dataset, the functional groups of its frames, and their groups of the type of image.
    """
    private = [item for layer in layers for tag in _XA_FRAMES if tag in layer for item in _items(layer[tag].value)]
    types = [layer[tag].value for layer in (*layers, *private) for tag in _IMAGE_TYPES if tag in layer]
    counts = [
        layer[_TILES].value for layer in layers if _TILES in layer and "SIEMENS" in str(layer.get(_TILES_CREATOR))
    ]
    if any("MOSAIC" in str(kind).upper() for kind in types) or any(count not in (None, "", 0, 1) for count in counts):
        raise ValueError(
            "it is a Siemens MOSAIC, all slices side by side in one image, expected one slice per image; convert the series to "
            "NIfTI with dcm2niix, and give that"
        )


def _items(value: Any) -> list[Any]:
    """Return the datasets of a sequence; none where a private element is no sequence."""
    return [item for item in value if hasattr(item, "iterall")] if isinstance(value, Sequence) else []


def _plane(value: _Lookup, series: Series, file: Path, index: int, at: tuple[int, ...] | None) -> Plane:
    missing = [
        keyword
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
        if value(keyword) is None
    ]
    if missing:
        raise OtherObject(f"it has no {' and no '.join(missing)}")
    row_mm, column_mm = _numbers(value, "PixelSpacing", 2)
    kinds = [str(kind).upper() for kind in _several(value("FrameType") or value("ImageType"))]
    component = str(value("ComplexImageComponent") or "").upper()
    number = _number(value("InstanceNumber"))
    return Plane(
        series=series,
        file=file,
        index=index,
        component=next((_COMPONENTS[kind] for kind in (component, *kinds[2:]) if kind in _COMPONENTS), "magnitude"),
        size=(int(_numbers(value, "Columns", 1)[0]), int(_numbers(value, "Rows", 1)[0])),
        spacing_mm=(column_mm, row_mm),
        position_mm=_numbers(value, "ImagePositionPatient", 3),
        axes=_axes(value),
        thickness_mm=_number(value("SpacingBetweenSlices")) or _number(value("SliceThickness")),
        slope=1.0 if value("RescaleSlope") is None else _numbers(value, "RescaleSlope", 1)[0],
        intercept=0.0 if value("RescaleIntercept") is None else _numbers(value, "RescaleIntercept", 1)[0],
        times={
            "dimension": at,
            "trigger": _number(value("NominalCardiacTriggerDelayTime"), value("TriggerTime")),
            "temporal": _number(value("TemporalPositionIndex"), value("TemporalPositionIdentifier")),
            "acquisition": _acquired_s(value),
            "content": _seconds(value("ContentDate") or _NO_DATE, value("ContentTime")),
            "instance": None if number is None else (number, index),
        },
        offset_s=_number(value("TemporalPositionTimeOffset")),
        beat_ms=_number(value("RRIntervalTimeNominal"), value("NominalInterval")),
        frames_per_beat=_number(value("CardiacNumberOfImages")),
        step_ms=_number(value("TemporalResolution"), value("FrameTime")),
        retrospective="RETRO" in kinds or value("CardiacSynchronizationTechnique") == "RETROSPECTIVE",
        echo_ms=_number(value("EffectiveEchoTime"), value("EchoTime")),
        inversion_ms=_number(*_several(value("InversionTimes"))[:1], value("InversionTime")),
        b_value=_number(value("DiffusionBValue")),
    )


def _value(*layers: Any) -> _Lookup:
    """Look a keyword up in the first layer that says something."""

    def value(keyword: str) -> Any:
        for layer in layers:
            found = layer.get(keyword)
            if found is not None and found != "":
                return found
        return None

    return value


def _flat(item: Any) -> dict[str, Any]:
    """Keyword to value of all functional groups of one frame, or of those that the frames share."""
    groups = [item.get(group) for group in _GROUPS]
    return {element.keyword: element.value for group in groups if group for element in group[0]}


def _time_dimensions(dimensions: Sequence[Any]) -> list[int]:
    """Which of the DimensionIndexValues count time."""
    from pydicom.datadict import keyword_for_tag

    pointers = [keyword_for_tag(dimension.DimensionIndexPointer) for dimension in dimensions]
    return [i for i, pointer in enumerate(pointers) if pointer in _TIME_DIMENSIONS]


def _axes(value: _Lookup) -> tuple[float, ...]:
    axes = _numbers(value, "ImageOrientationPatient", 6)
    x, y = axes[:3], axes[3:]
    if max(abs(math.hypot(*x) - 1), abs(math.hypot(*y) - 1), abs(float(np.dot(x, y)))) > 1e-2:
        raise ValueError(f"its ImageOrientationPatient {axes} is not two unit vectors at a right angle")
    return axes


def _numbers(value: _Lookup, keyword: str, count: int) -> tuple[float, ...]:
    """Exactly `count` finite numbers."""
    came = tuple(float(one) for one in _several(value(keyword)))
    if len(came) != count or not all(map(math.isfinite, came)) or (keyword == "PixelSpacing" and min(came) <= 0):
        raise ValueError(f"its {keyword} is {came}")
    return came


def _several(value: Any) -> list[Any]:
    """One value or many, as a list."""
    if value is None:
        return []
    return [value] if isinstance(value, str | int | float) else list(value)


def _number(*values: Any) -> float | None:
    """The first of the values that is a finite number."""
    for value in values:
        try:
            number = float(value)
        except (TypeError, ValueError):
            continue
        if math.isfinite(number):
            return number
    return None


def _acquired_s(value: _Lookup) -> float | None:
    for keyword in ("FrameAcquisitionDateTime", "FrameReferenceDateTime"):
        if value(keyword) is not None:
            return _seconds("", value(keyword))
    if value("AcquisitionTime") is not None:
        return _seconds(value("AcquisitionDate") or _NO_DATE, value("AcquisitionTime"))
    return _seconds("", value("AcquisitionDateTime"))


def _seconds(date: str, time: Any) -> float | None:
    """Seconds since 1970 of a date and a time, or of a text that has both; None for what is no time."""
    from pydicom.valuerep import DT

    if time is None:
        return None
    try:
        at = DT(f"{date}{str(time).replace(':', '')}")
    except ValueError:
        return None
    days = at.toordinal() - 719163  # 1970-01-01
    return days * 86400.0 + at.hour * 3600 + at.minute * 60 + at.second + at.microsecond / 1e6
