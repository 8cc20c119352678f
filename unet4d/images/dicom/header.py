"""Headers of DICOM images: the series of a file and its planes.

A multi-frame file (Enhanced MR and the legacy converted ones) describes each frame in functional groups as a single-frame file
describes itself at its top (DICOM PS3.3 C.7.6.16). Both are read by keyword: the frame's groups first, then the groups that all
frames share, then the top.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unet4d.images.dicom.instance import Plane, Series
from unet4d.images.dicom.velocity import VELOCITY_ELEMENTS, read_velocity
from unet4d.images.dicom.vendors import (
    VENDOR_ELEMENTS,
    is_mosaic,
    mosaic_error,
    philips_scale,
    private_layers,
    private_value,
    siemens_b_value,
    split_mosaic,
    volume_time_ms,
)

if TYPE_CHECKING:
    from pydicom.tag import BaseTag

_GROUPS = (
    "FrameContentSequence", "PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence",
    "PixelValueTransformationSequence", "CardiacSynchronizationSequence", "TemporalPositionSequence",
    "MRImageFrameTypeSequence", "MREchoSequence", "MRModifierSequence", "MRDiffusionSequence", "MRVelocityEncodingSequence",
    "UnassignedPerFrameConvertedAttributesSequence", "UnassignedSharedConvertedAttributesSequence",
)  # fmt: skip
_ELEMENTS: tuple[str | int, ...] = (
    "SOPClassUID", "SOPInstanceUID", "PatientID", "PatientName", "StudyInstanceUID", "SeriesInstanceUID", "StudyDate", "StudyTime",
    "SeriesNumber", "SeriesDescription", "ProtocolName", "SequenceName", "PulseSequenceName", "FrameOfReferenceUID",
    "Modality", "ImageType", "ComplexImageComponent", "PhotometricInterpretation", "SamplesPerPixel", "Rows", "Columns",
    "PixelSpacing", "SliceThickness", "SpacingBetweenSlices", "ImagePositionPatient", "ImageOrientationPatient",
    "RescaleSlope", "RescaleIntercept", "TriggerTime", "TemporalPositionIdentifier", "AcquisitionDate",
    "AcquisitionTime", "AcquisitionDateTime", "ContentDate", "ContentTime", "InstanceNumber", "NominalInterval",
    "CardiacNumberOfImages", "CardiacSynchronizationTechnique", "TemporalResolution", "FrameTime", "NumberOfFrames",
    "EchoTime", "InversionTime", "DiffusionBValue", "HeartRate", "SeriesDate", "SeriesTime", "FlipAngle", "RepetitionTime",
    "ScanningSequence", "MRAcquisitionType", "NumberOfTemporalPositions", "ModalityLUTSequence",
    "DimensionIndexSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "PixelRepresentation", "BitsStored", *VENDOR_ELEMENTS, *VELOCITY_ELEMENTS,
)  # fmt: skip
_TIME_DIMENSIONS = (
    "TemporalPositionIndex", "TemporalPositionIdentifier", "TemporalPositionTimeOffset", "NominalCardiacTriggerDelayTime",
    "TriggerTime", "FrameAcquisitionDateTime", "FrameReferenceDateTime",
)  # fmt: skip
_COMPONENTS = {
    "P": "phase", "PHASE": "phase", "VELOCITY": "phase", "R": "real", "REAL": "real", "I": "imaginary", "IMAGINARY": "imaginary",
    "W": "water", "WATER": "water", "F": "fat", "FAT": "fat", "IP": "in phase", "IN_PHASE": "in phase",
    "OP": "opposed phase", "OPP_PHASE": "opposed phase", "OUT_PHASE": "opposed phase",
}  # fmt: skip
_NO_DATE = "19700101"

_Lookup = Callable[[str], Any]


class OtherObject(Exception):
    """A DICOM object that is no plane of a volume of scalars, such as a screenshot; the message is the reason."""


@functools.cache
def header_tags() -> list[BaseTag]:
    """Return the elements to read of a file before its pixels."""
    from pydicom.tag import Tag

    return [Tag(element) for element in _ELEMENTS]


def read_series(dataset: Any) -> Series:
    """Return the series of a dataset; missing values are empty."""

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


def read_planes(dataset: Any, file: Path) -> list[Plane]:
    """Return the planes of a file, from its header: of a Siemens MOSAIC one for each slice.

    Raises:
        OtherObject: it is in color, or has no place in space.
        ValueError, TypeError, AttributeError, KeyError: a damaged header; a MOSAIC that cannot be split.
    """
    series = read_series(dataset)
    photometric = str(dataset.get("PhotometricInterpretation") or "")
    if int(dataset.get("SamplesPerPixel") or 1) != 1 or not photometric.startswith("MONOCHROME"):
        raise OtherObject(f"its PhotometricInterpretation is {photometric or 'missing'}, expected MONOCHROME2")
    frames = int(dataset.get("NumberOfFrames") or 1)
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    items = [*shared, *groups]
    mosaic = is_mosaic(
        dataset, *items, *(kind for item in items for kind in item.get("MRImageFrameTypeSequence") or [])
    )
    if not groups and frames == 1:
        plane = _plane(_lookup(dataset), series, file, 0, None, private_layers(dataset))
        return split_mosaic(plane, dataset) if mosaic else [plane]
    if mosaic:
        raise mosaic_error()
    if not groups:
        raise OtherObject(f"it holds {frames} frames without a place for each of them")
    if len(groups) != frames:
        raise ValueError(f"it holds {frames} frames and describes {len(groups)}")
    common = [_flatten_groups(item) for item in shared]
    dimensions = _time_dimensions(dataset.get("DimensionIndexSequence") or [])
    planes = []
    for index, group in enumerate(groups):
        value = _lookup(_flatten_groups(group), *common, dataset)
        indices = value("DimensionIndexValues")
        at = tuple(int(_several(indices)[i]) for i in dimensions) if dimensions and indices is not None else None
        planes.append(_plane(value, series, file, index, at, private_layers(dataset, group, *shared)))
    return planes


def _plane(
    value: _Lookup, series: Series, file: Path, index: int, at: tuple[int, ...] | None, private: Sequence[Any]
) -> Plane:
    required = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
    missing = [keyword for keyword in required if value(keyword) is None]
    if missing:
        raise OtherObject(f"it has no {' and no '.join(missing)}")
    row_mm, column_mm = _numbers(value, "PixelSpacing", 2)
    kinds = [str(kind).upper() for kind in _several(value("FrameType") or value("ImageType"))]
    component = str(value("ComplexImageComponent") or "").upper()
    number = _number(value("InstanceNumber"))
    shown = next((_COMPONENTS[kind] for kind in (component, *kinds[2:]) if kind in _COMPONENTS), "magnitude")
    velocity = read_velocity(value, partial(private_value, private), shown == "phase", _axes(value))
    slope, intercept = philips_scale(private, *_rescaling(value), [component[:1], *kinds[2:]])
    return Plane(
        series=series,
        file=file,
        index=index,
        sop_class=str(value("SOPClassUID") or ""),
        instance=str(value("SOPInstanceUID") or ""),
        component="phase" if velocity else shown,
        size=(int(_numbers(value, "Columns", 1)[0]), int(_numbers(value, "Rows", 1)[0])),
        spacing_mm=(column_mm, row_mm),
        position_mm=_numbers(value, "ImagePositionPatient", 3),
        axes=_axes(value),
        thickness_mm=_number(value("SpacingBetweenSlices")) or _number(value("SliceThickness")),
        slope=slope,
        intercept=intercept,
        times={
            "dimension": at,
            "trigger": _number(value("NominalCardiacTriggerDelayTime"), value("TriggerTime")),
            "temporal": _number(value("TemporalPositionIndex"), value("TemporalPositionIdentifier")),
            "acquisition": _acquired_s(value),
            "content": _seconds(value("ContentDate") or _NO_DATE, value("ContentTime")),
            "series": (_seconds(value("SeriesDate") or _NO_DATE, value("SeriesTime")) or 0.0, series.number),
            "instance": None if number is None else (number, index),
        },
        offset_s=_number(value("TemporalPositionTimeOffset")),
        beat_ms=_beat_ms(value),
        frames_per_beat=_number(value("CardiacNumberOfImages")),
        step_ms=_number(value("TemporalResolution"), value("FrameTime"), _volume_ms(value, private)),
        retrospective="RETRO" in kinds or value("CardiacSynchronizationTechnique") == "RETROSPECTIVE",
        echo_ms=_number(value("EffectiveEchoTime"), value("EchoTime")),
        inversion_ms=_number(*_several(value("InversionTimes"))[:1], value("InversionTime")),
        b_value=_number(value("DiffusionBValue"), siemens_b_value(private)),
        velocity=velocity,
        settings=(_number(value("FlipAngle")), _number(value("RepetitionTime"))),
    )


def _rescaling(value: _Lookup) -> tuple[float, float]:
    """Return slope and intercept; 1 and 0 where a Modality LUT takes their place."""
    if value("ModalityLUTSequence"):
        return 1.0, 0.0
    slope = 1.0 if value("RescaleSlope") is None else _numbers(value, "RescaleSlope", 1)[0]
    return slope, 0.0 if value("RescaleIntercept") is None else _numbers(value, "RescaleIntercept", 1)[0]


def _beat_ms(value: _Lookup) -> float | None:
    """Return the length of a heartbeat in ms; None if unknown."""
    rate = _number(value("HeartRate"))
    known = _number(value("RRIntervalTimeNominal"), value("NominalInterval"))
    return known or (60e3 / rate if rate and rate > 0 else None)


def _volume_ms(value: _Lookup, private: Sequence[Any]) -> float | None:
    """Return the time of one volume of an ungated echo-planar 2D series; None for others."""
    if "EP" not in _several(value("ScanningSequence")) or value("MRAcquisitionType") != "2D" or value("TriggerTime"):
        return None
    return volume_time_ms(private, _number(value("RepetitionTime")), _number(value("NumberOfTemporalPositions")))


def _lookup(*layers: Any) -> _Lookup:
    """Return a function that looks a keyword up in the first layer with a value."""

    def value(keyword: str) -> Any:
        values = (layer.get(keyword) for layer in layers)
        return next((found for found in values if found is not None and found != ""), None)

    return value


def _flatten_groups(item: Any) -> dict[str, Any]:
    """Return keyword to value of all functional groups of one frame, or of those that the frames share."""
    groups = [item.get(group) for group in _GROUPS]
    return {element.keyword: element.value for group in groups if group for element in group[0]}


def _time_dimensions(dimensions: Sequence[Any]) -> list[int]:
    """Return which of the DimensionIndexValues count time."""
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
    """Return exactly `count` finite numbers."""
    found = tuple(float(number) for number in _several(value(keyword)))
    if len(found) != count or not all(map(math.isfinite, found)) or (keyword == "PixelSpacing" and min(found) <= 0):
        raise ValueError(f"its {keyword} is {found}")
    return found


def _several(value: Any) -> list[Any]:
    """Return one value or many, as a list."""
    if value is None:
        return []
    return [value] if isinstance(value, str | int | float) else list(value)


def _number(*values: Any) -> float | None:
    """Return the first of the values that is a finite number."""
    for value in values:
        try:
            number = float(value)
        except (TypeError, ValueError):
            continue
        if math.isfinite(number):
            return number
    return None


def _acquired_s(value: _Lookup) -> float | None:
    frame = value("FrameAcquisitionDateTime") or value("FrameReferenceDateTime")
    if frame is None and value("AcquisitionTime") is not None:
        return _seconds(value("AcquisitionDate") or _NO_DATE, value("AcquisitionTime"))
    return _seconds("", frame or value("AcquisitionDateTime"))


def _seconds(date: str, time: Any) -> float | None:
    """Return the seconds since 1970 of a date and a time, or of a text with both; None for another text."""
    from pydicom.valuerep import DT

    if time is None:
        return None
    try:
        at = DT(f"{date}{str(time).replace(':', '')}")
    except ValueError:
        return None
    days = at.toordinal() - 719163  # 1970-01-01
    return days * 86400.0 + at.hour * 3600 + at.minute * 60 + at.second + at.microsecond / 1e6
