"""Drawings in DICOM: segmentations (SEG) and structure sets (RTSTRUCT), with the images that their parts refer to.

A part of a segmentation is one of its frames, a part of a structure set one contour. Both name the image that they were drawn
on by its SOPInstanceUID, and by a frame number where that file holds several (DICOM PS3.3 C.7.6.16.2.6 and C.8.8.6).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unet4d.images.dicom.header import read_series
from unet4d.images.dicom.instance import Series
from unet4d.system.text import short_repr

DRAWING_KINDS = {
    "1.2.840.10008.5.1.4.1.1.66.4": "Segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation",
    "1.2.840.10008.5.1.4.1.1.481.3": "RT Structure Set",
}
"""Kind of an object by its SOPClassUID."""
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_LONGEST_NAME = 64  # characters of a name; the standard has as many

Reference = tuple[str, int | None]
"""An image: SOPInstanceUID, and the frame from 0 where one is named."""


@dataclass(frozen=True)
class Place:
    """The grid of a segmentation's frame, as of a `Plane`: LPS, X along the columns."""

    position_mm: tuple[float, ...]
    axes: tuple[float, ...]
    spacing_mm: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Part:
    """One frame of a segmentation, or one contour of a structure set.

    Attributes:
        segment: of `Drawing.names`; None for a frame of a label map, which holds all of them.
        references: the images that it was drawn on; empty where it names none.
        index: the frame in the file, from 0; of a contour its number.
        place: of a frame; None for a contour, and where the file does not tell.
        time: TemporalPositionIndex, from 1; None where the file does not tell.
        points_mm: (N, 3) corners of a contour, LPS; None for a frame.
    """

    segment: int | None
    references: tuple[Reference, ...]
    index: int
    place: Place | None = None
    time: int | None = None
    points_mm: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Drawing:
    """A segmentation or structure set by its header; pixels are not read, contours are.

    Attributes:
        names: of each segment, the texts that may name its class, the best first.
        numbers: of each segment, as the file counts them.
        parts: its frames or contours.
        instances: SOPInstanceUIDs of all images that it says it is of.
        algorithm: the program that made it; "" where people drew it.
        skipped: number of contours that are no closed curves.
    """

    series: Series
    file: Path
    kind: str
    names: tuple[tuple[str, ...], ...]
    numbers: tuple[int, ...]
    parts: tuple[Part, ...]
    instances: frozenset[str]
    algorithm: str = ""
    skipped: int = 0

    @property
    def title(self) -> str:
        """Return its name for messages."""
        return f"{self.kind} {self.file}"


def read_drawing(file: Path, kind: str) -> Drawing:
    """Read a segmentation or a structure set without its pixels.

    Raises:
        ValueError, or any other exception of a damaged file: it cannot be used; the message is the reason.
    """
    from pydicom import dcmread

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pydicom, for values that deviate from the standard
        dataset = dcmread(file, force=True, stop_before_pixels=True)
        return (
            _read_structures(dataset, file, kind) if kind == "RT Structure Set" else _read_frames(dataset, file, kind)
        )


def _read_frames(dataset: Any, file: Path, kind: str) -> Drawing:
    """Return a segmentation."""
    segments = list(dataset.get("SegmentSequence") or [])
    groups = list(dataset.get("PerFrameFunctionalGroupsSequence") or [])
    if not segments or not groups:
        raise ValueError(f"it has no {'frames' if segments else 'SegmentSequence'}; export it again")
    kinds = str(dataset.get("SegmentationType") or "BINARY")
    if kinds not in ("BINARY", "LABELMAP"):
        raise ValueError(f"it is a {short_repr(kinds)} segmentation, expected BINARY or LABELMAP; export it as binary")
    if int(dataset.get("NumberOfFrames") or 1) != len(groups):
        raise ValueError(f"it holds {dataset.get('NumberOfFrames')} frames and describes {len(groups)}")
    numbers = tuple(int(segment.get("SegmentNumber") or n) for n, segment in enumerate(segments, 1))
    at = {number: n for n, number in enumerate(numbers)}
    shared = list(dataset.get("SharedFunctionalGroupsSequence") or [])
    parts = []
    for index, group in enumerate(groups):
        layers = (group, *shared)
        number = _of_group(layers, "SegmentIdentificationSequence", "ReferencedSegmentNumber")
        if kinds == "BINARY" and number not in at:
            raise ValueError(
                f"its frame {index} is of segment {number}, expected one of {list(numbers)}; export it again"
            )
        time = _of_group(layers, "FrameContentSequence", "TemporalPositionIndex")
        parts.append(
            Part(
                segment=at[number] if kinds == "BINARY" else None,
                references=tuple(_source_images(layers)),
                index=index,
                place=_place(layers),
                time=None if time is None else int(time),
            )
        )
    automatic = [str(segment.get("SegmentAlgorithmType") or "") == "AUTOMATIC" for segment in segments]
    programs = [_text(segment.get("SegmentAlgorithmName")) for segment in segments]
    return Drawing(
        series=read_series(dataset),
        file=file,
        kind=kind,
        names=tuple(_segment_names(segment) for segment in segments),
        numbers=numbers,
        parts=tuple(parts),
        instances=frozenset(_listed_instances(dataset)),
        algorithm=(programs[0] or "a program") if all(automatic) else "",
    )


def _read_structures(dataset: Any, file: Path, kind: str) -> Drawing:
    """Return a structure set."""
    regions = list(dataset.get("StructureSetROISequence") or [])
    if not regions:
        raise ValueError("it has no StructureSetROISequence; export it again")
    numbers = tuple(int(region.ROINumber) for region in regions)
    at = {number: n for n, number in enumerate(numbers)}
    parts: list[Part] = []
    skipped = 0
    for item in dataset.get("ROIContourSequence") or []:
        segment = at.get(int(item.ReferencedROINumber))
        for contour in item.get("ContourSequence") or []:
            if segment is None:
                raise ValueError(f"its contours are of ROI {item.ReferencedROINumber}, which it does not list")
            if str(contour.get("ContourGeometricType") or "") not in _CLOSED:
                skipped += 1
                continue
            references = tuple(_references(contour.get("ContourImageSequence") or []))
            parts.append(Part(segment, references, len(parts), points_mm=_points(contour, len(parts))))
    return Drawing(
        series=read_series(dataset),
        file=file,
        kind=kind,
        names=tuple((_text(region.get("ROIName")), _text(region.get("ROIDescription"))) for region in regions),
        numbers=numbers,
        parts=tuple(parts),
        instances=frozenset(_listed_instances(dataset)),
        skipped=skipped,
    )


def _points(contour: Any, number: int) -> np.ndarray:
    """Return (N, 3) finite numbers."""
    values = np.array([float(value) for value in contour.get("ContourData") or []])
    if len(values) == 0 or len(values) % 3 or not np.isfinite(values).all():
        raise ValueError(
            f"its contour {number} has {len(values)} coordinates, expected three finite ones for each point"
        )
    return values.reshape(-1, 3)


def _segment_names(segment: Any) -> tuple[str, ...]:
    """Return the label of a segment, its description, and the meaning of its code."""
    types = list(segment.get("SegmentedPropertyTypeCodeSequence") or [])
    texts = [
        segment.get("SegmentLabel"),
        segment.get("SegmentDescription"),
        *(code.get("CodeMeaning") for code in types),
    ]
    return tuple(_text(text) for text in texts)


def _text(value: Any) -> str:
    """Return a text without control characters, on one line and of a bounded length."""
    plain = "".join(letter if letter.isprintable() else " " for letter in str(value or ""))
    return " ".join(plain.split())[:_LONGEST_NAME].strip()


def _of_group(layers: tuple[Any, ...], group: str, keyword: str) -> Any:
    """Return a value of a functional group of a frame, or of those that the frames share; None where there is none."""
    for layer in layers:
        for item in layer.get(group) or []:
            if item.get(keyword) is not None:
                return item.get(keyword)
    return None


def _source_images(layers: tuple[Any, ...]) -> Iterator[Reference]:
    for layer in layers:
        for derivation in layer.get("DerivationImageSequence") or []:
            yield from _references(derivation.get("SourceImageSequence") or [])


def _references(items: Any) -> Iterator[Reference]:
    """Yield the images that a sequence refers to."""
    for item in items:
        uid = str(item.get("ReferencedSOPInstanceUID") or "")
        numbers = item.get("ReferencedFrameNumber")
        several = [numbers] if isinstance(numbers, int | str) else list(numbers or [])
        if uid:
            yield from ((uid, int(number) - 1) for number in several)
            if not several:
                yield uid, None


def _place(layers: tuple[Any, ...]) -> Place | None:
    position = _of_group(layers, "PlanePositionSequence", "ImagePositionPatient")
    axes = _of_group(layers, "PlaneOrientationSequence", "ImageOrientationPatient")
    spacing = _of_group(layers, "PixelMeasuresSequence", "PixelSpacing")
    if position is None or axes is None or spacing is None:
        return None
    row_mm, column_mm = (float(value) for value in spacing)
    place = Place(tuple(map(float, position)), tuple(map(float, axes)), (column_mm, row_mm))
    if (len(place.position_mm), len(place.axes)) != (3, 6) or min(row_mm, column_mm) <= 0:
        raise ValueError("its frames have no possible place in space; export it again")
    return place


def _listed_instances(dataset: Any) -> Iterator[str]:
    """Yield the images that an object lists for all of its parts."""
    for series in dataset.get("ReferencedSeriesSequence") or []:
        yield from (uid for uid, _ in _references(series.get("ReferencedInstanceSequence") or []))
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or []:
        for study in frame.get("RTReferencedStudySequence") or []:
            for series in study.get("RTReferencedSeriesSequence") or []:
                yield from (uid for uid, _ in _references(series.get("ContourImageSequence") or []))
