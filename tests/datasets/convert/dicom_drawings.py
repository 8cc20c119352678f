"""Segmentations (SEG) and structure sets (RTSTRUCT) for tests, of images that dicom_files.py made."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import pack_bits
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, SegmentationStorage, generate_uid

from tests.datasets.convert import dicom_files as files
from tests.datasets.convert.dicom_files import attributes


def reference(image: Dataset, frame: int | None = None) -> Dataset:
    """An item that refers to an image; `frame` counts from 1."""
    item = attributes({"ReferencedSOPClassUID": image.SOPClassUID, "ReferencedSOPInstanceUID": image.SOPInstanceUID})
    if frame is not None:
        item.ReferencedFrameNumber = frame
    return item


def segmentation(
    names: Sequence[str], parts: Sequence[tuple[int, np.ndarray, Dataset, int | None]], **more: object
) -> Dataset:
    """A binary segmentation.

    Args:
        names: labels of the segments 1, 2, ...
        parts: segment number, pixels (X, Y), the image and its frame from 1; one per frame of the segmentation.
        more: further attributes.
    """
    dataset = _common(SegmentationStorage, "SEG")
    dataset.SegmentationType = "BINARY"
    dataset.SegmentSequence = [
        attributes({"SegmentNumber": n, "SegmentLabel": name, "SegmentAlgorithmType": "MANUAL"})
        for n, name in enumerate(names, 1)
    ]
    groups = []
    for number, _, image, frame in parts:
        group = attributes({"SegmentIdentificationSequence": [attributes({"ReferencedSegmentNumber": number})]})
        group.DerivationImageSequence = [attributes({"SourceImageSequence": [reference(image, frame)]})]
        if "ImagePositionPatient" in image:
            for sequence, keyword in (
                ("PlanePositionSequence", "ImagePositionPatient"),
                ("PlaneOrientationSequence", "ImageOrientationPatient"),
                ("PixelMeasuresSequence", "PixelSpacing"),
            ):
                setattr(group, sequence, [attributes({keyword: image[keyword].value})])
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = groups
    dataset.NumberOfFrames = len(parts)
    dataset.Columns, dataset.Rows = parts[0][1].shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 1
    dataset.HighBit = dataset.PixelRepresentation = 0
    dataset.PixelData = pack_bits(np.stack([mask.T for _, mask, _, _ in parts]).astype(np.uint8))
    dataset.update(attributes(more))
    return dataset


def structure_set(
    names: Sequence[str], parts: Sequence[tuple[int, np.ndarray, Dataset, int | None]], kind: str = "CLOSED_PLANAR"
) -> Dataset:
    """A structure set.

    Args:
        names: of the ROIs 1, 2, ...
        parts: ROI number, corners (N, 2) as columns and rows, the image and its frame from 1; one per contour.
        kind: of the contours.
    """
    dataset = _common(RTStructureSetStorage, "RTSTRUCT")
    dataset.StructureSetROISequence = [attributes({"ROINumber": n, "ROIName": name}) for n, name in enumerate(names, 1)]
    dataset.ROIContourSequence = []
    for n in range(1, len(names) + 1):
        contours = []
        for number, corners, image, frame in parts:
            if number == n:
                axes, (row_mm, column_mm) = (
                    np.array(image.ImageOrientationPatient, float),
                    map(float, image.PixelSpacing),
                )
                points = np.array(image.ImagePositionPatient, float) + np.outer(corners[:, 0] * column_mm, axes[:3])
                points = points + np.outer(corners[:, 1] * row_mm, axes[3:])
                contour = attributes({"ContourGeometricType": kind, "NumberOfContourPoints": len(points)})
                contour.ContourData = [f"{value:.6f}" for value in points.ravel()]
                contour.ContourImageSequence = [reference(image, frame)]
                contours.append(contour)
        dataset.ROIContourSequence.append(attributes({"ReferencedROINumber": n, "ContourSequence": contours}))
    return dataset


def _common(sop_class: str, modality: str) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = sop_class, generate_uid(), modality
    dataset.PatientName, dataset.PatientID, dataset.StudyInstanceUID = files.NAME, files.PATIENT, files.STUDY
    dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = generate_uid(), files.FRAME_OF_REFERENCE
    dataset.SeriesNumber, dataset.StudyDate, dataset.StudyTime = 99, "20240305", "101500"
    return dataset
