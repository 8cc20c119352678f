"""DICOM segmentations (SEG): one of all frames, with the temporal position as a dimension, or one per frame.

A class is a segment; each plane of it that has a voxel is one binary frame, which refers to the source image that it lies on. A
class without any voxel has one empty frame, because readers expect one of every segment. highdicom's own class refuses two
frames at one place, so the functional groups are made here (PS3.3 A.51, C.8.20, C.7.6.16).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from unet4d.errors import InputError
from unet4d.images.dicom.instance import Plane
from unet4d.metrics.regions import ClassValue, Region, class_mask
from unet4d.report.dicom.result import DicomResult
from unet4d.report.dicom.terms import standard_term, text_line
from unet4d.report.pictures.render import class_color

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_Place = tuple[int, int, int]
"""Segment from 1, frame t and slice z."""
_SEGMENT, _TIME, _POSITION = (
    (0x0062000B, 0x0062000A, "Segment"),
    (0x00209128, 0x00209111, "Temporal Position Index"),
    (0x00200032, 0x00209113, "Image Position Patient"),
)
"""Dimensions: the attribute, the functional group it is in, and its name."""
_MOST_BYTES = 2**32 - 2
_AT_ONCE = 8
"""Planes packed at once: their bits fill whole bytes, whatever their size."""


def make_segmentation(result: DicomResult, frame: int | None = None) -> Dataset:
    """Return the segmentation of all frames, or of one.

    Raises:
        InputError: the label map has no class; its bits are more than a DICOM file holds.
    """
    from highdicom import SOPClass
    from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage

    if not result.classes:
        raise InputError("got no class but the background, expected one or more for a DICOM segmentation; leave it out")
    frames = range(len(result.label)) if frame is None else [frame]
    kind, number = ("segmentation", 1) if frame is None else ("segmentation per frame", frame + 1)
    made = SOPClass(
        study_instance_uid=result.series.study,
        sop_class_uid=SegmentationStorage,
        modality="SEG",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **result.head(kind, number),
    )
    made.copy_patient_and_study_information(result.header)
    _describe_image(made, result)
    made.SegmentSequence = [_segment(result, n, name) for n, name in enumerate(result.classes, 1)]
    made.ReferencedSeriesSequence = _referenced_series(result, frames)
    dimensions = (_SEGMENT, _TIME, _POSITION) if frame is None else (_SEGMENT, _POSITION)
    _describe_dimensions(made, dimensions, result.uid("dimensions", kind))
    places = _places(result.label, list(result.classes.values()), frames)
    made.SharedFunctionalGroupsSequence = [_shared_groups(result)]
    made.PerFrameFunctionalGroupsSequence = [_frame_groups(result, place, dimensions) for place in places]
    made.NumberOfFrames = len(places)
    made.PixelData = _packed(result.label, list(result.classes.values()), places)
    return made


def _describe_image(made: Dataset, result: DicomResult) -> None:
    """Set the attributes of a binary image, its frame of reference and its content."""
    made.ImageType = ["DERIVED", "PRIMARY"]
    made.FrameOfReferenceUID = result.series.frame_of_reference
    made.PositionReferenceIndicator = None
    made.Columns, made.Rows = result.source.planes[0][0].size
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 1, 1, 0, 0
    made.LossyImageCompression = "00"
    if result.header.get("LossyImageCompression") == "01":  # of the source
        for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            if result.header.get(keyword):
                setattr(made, keyword, result.header[keyword].value)
    overlap = any(isinstance(value, Region) for value in result.classes.values())
    made.SegmentationType, made.SegmentsOverlap = "BINARY", "YES" if overlap else "NO"
    made.ContentLabel, made.ContentCreatorName = "SEGMENTATION", None
    made.ContentDescription = text_line(f"segmentation by {result.algorithm.name}")


def _segment(result: DicomResult, number: int, name: str) -> Dataset:
    """Return the description of a class: its codes, its algorithm and its color."""
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    term, algorithm = result.term_of[name], result.algorithm
    color = bytes.fromhex((term.color or class_color(result.classes[name])).removeprefix("#"))
    category, kind = (Code(one.code, one.scheme, one.meaning) for one in (term.category, term.type))
    return SegmentDescription(
        segment_number=number,
        segment_label=text_line(name) or f"class {number}",
        segmented_property_category=category,
        segmented_property_type=kind,
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            algorithm.name, codes.cid7162.ArtificialIntelligence, algorithm.version, parameters=algorithm.texts or None
        ),
        tracking_uid=result.uid("class", name),
        tracking_id=text_line(name) or f"class {number}",
        display_color=CIELabColor.from_rgb(*color),
    )


def _referenced_series(result: DicomResult, frames: Sequence[int]) -> list[Dataset]:
    """Return each source series with its images."""
    series: dict[str, dict[str, Plane]] = {}
    for plane in result.planes(frames):
        series.setdefault(plane.series.uid, {})[plane.instance] = plane
    return [
        _item(
            SeriesInstanceUID=uid,
            ReferencedInstanceSequence=[
                _item(ReferencedSOPClassUID=plane.sop_class, ReferencedSOPInstanceUID=plane.instance)
                for plane in planes.values()
            ],
        )
        for uid, planes in series.items()
    ]


def _describe_dimensions(made: Dataset, dimensions: Sequence[tuple[int, int, str]], uid: str) -> None:
    made.DimensionOrganizationSequence = [_item(DimensionOrganizationUID=uid)]
    made.DimensionIndexSequence = [
        _item(
            DimensionIndexPointer=pointer,
            FunctionalGroupPointer=group,
            DimensionOrganizationUID=uid,
            DimensionDescriptionLabel=label,
        )
        for pointer, group, label in dimensions
    ]


def _places(label: np.ndarray, values: Sequence[ClassValue], frames: Sequence[int]) -> list[_Place]:
    """Return the planes with a voxel, segment by segment; of a class without one, the first plane."""
    places: list[_Place] = []
    for number, value in enumerate(values, 1):
        drawn = [
            (number, t, int(z)) for t in frames for z in np.flatnonzero(class_mask(label[t], value).any(axis=(0, 1)))
        ]
        places += drawn or [(number, frames[0], 0)]
    return places


def _shared_groups(result: DicomResult) -> Dataset:
    """Return what all frames have in common: orientation and sizes of voxels."""
    first = result.source.planes[0][0]
    step_mm = _number(float(np.linalg.norm(result.source.affine[:3, 2])))
    thickness = result.header.get("SliceThickness")
    return _item(
        PlaneOrientationSequence=[_item(ImageOrientationPatient=[_number(x) for x in first.axes])],
        PixelMeasuresSequence=[
            _item(
                PixelSpacing=[_number(mm) for mm in reversed(first.spacing_mm)],
                SliceThickness=thickness if thickness else step_mm,
                SpacingBetweenSlices=step_mm,
            )
        ],
    )


def _frame_groups(result: DicomResult, place: _Place, dimensions: Sequence[tuple[int, int, str]]) -> Dataset:
    """Return the place of one frame, in space, time and among the segments, and the source image that it lies on."""
    number, t, z = place
    plane, first = result.source.planes[t][z], result.source.planes[0][z]  # which lie in one place, up to 0.05 mm
    indices = {_SEGMENT: number, _TIME: t + 1, _POSITION: z + 1}
    content = _item(DimensionIndexValues=[indices[dimension] for dimension in dimensions])
    if _TIME in dimensions:
        content.TemporalPositionIndex = t + 1
    source = _item(
        ReferencedSOPClassUID=plane.sop_class,
        ReferencedSOPInstanceUID=plane.instance,
        PurposeOfReferenceCodeSequence=[_code("cid7202", "SourceImageForImageProcessingOperation")],
        SpatialLocationsPreserved="YES",
    )
    if result.has_frame_numbers:
        source.ReferencedFrameNumber = plane.index + 1
    derivation = _item(
        DerivationCodeSequence=[_code("cid7203", "SegmentationImageDerivation")], SourceImageSequence=[source]
    )
    return _item(
        FrameContentSequence=[content],
        PlanePositionSequence=[_item(ImagePositionPatient=[_number(x) for x in first.position_mm])],
        DerivationImageSequence=[derivation],
        SegmentIdentificationSequence=[_item(ReferencedSegmentNumber=number)],
    )


def _packed(label: np.ndarray, values: Sequence[ClassValue], places: Sequence[_Place]) -> bytes:
    """Return the bits of all frames, rows first, the lowest bit of a byte first (PS3.5 8.1.1)."""
    size = -(-len(places) * label.shape[1] * label.shape[2] // 8)
    if size > _MOST_BYTES:
        raise InputError(f"got {size} bytes of segments, expected {_MOST_BYTES} at most; ask for one file per frame")
    bits = np.empty(size + size % 2, np.uint8)
    bits[-1] = 0
    end = 0
    for start in range(0, len(places), _AT_ONCE):
        block = places[start : start + _AT_ONCE]
        masks = np.stack([class_mask(label[t, :, :, z].T, values[number - 1]) for number, t, z in block])
        packed = np.packbits(masks, bitorder="little")
        bits[end : end + len(packed)] = packed
        end += len(packed)
    return bits.tobytes()


def _code(table: str, keyword: str) -> Dataset:
    term = standard_term(table, keyword)
    return _item(CodeValue=term.code, CodingSchemeDesignator=term.scheme, CodeMeaning=term.meaning)


def _number(value: float) -> Any:
    from pydicom.valuerep import DSfloat

    return DSfloat(value, auto_format=True)


def _item(**values: Any) -> Dataset:
    """Return a dataset of keywords and values."""
    from pydicom.dataset import Dataset

    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item
