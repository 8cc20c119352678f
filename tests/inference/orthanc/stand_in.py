"""Series of a few images, and a stand-in for the network: the UIDs and texts of its results follow from the images alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

RESULTS = 2
"""Objects in each answer."""


def cine(name: str, frames: int = 2, series: str = "cine sax", **more: object) -> list[pydicom.Dataset]:
    """Return the images of a study with one cine of two slices; the same name gives the same UIDs."""
    from tests.datasets.convert.dicom_files import (
        AFFINE,
        single_frames,
    )  # takes torch, which processes of tests do without

    array = np.random.default_rng(len(name)).integers(0, 999, (frames, 6, 5, 2), dtype=np.uint16)

    def place(dataset: pydicom.Dataset, t: int, z: int) -> None:
        dataset.TriggerTime = 40 * t
        dataset.SOPInstanceUID = uid(name, series, t, z)

    uids = {
        "StudyInstanceUID": uid(name),
        "SeriesInstanceUID": uid(name, series),
        "FrameOfReferenceUID": uid(name, "f"),
    }
    given = {"PatientID": f"PID-{name}", "PatientName": f"Secret^{name}", "SeriesDescription": series, **uids, **more}
    return single_frames(array, AFFINE, place, **given)


def uid(*parts: object) -> str:
    """Return a UID that follows from texts."""
    return generate_uid(entropy_srcs=[str(part) for part in parts])


def digest_of(uids: Sequence[str]) -> str:
    """Return a text that follows from the images of a series."""
    return hashlib.sha256(" ".join(sorted(uids)).encode()).hexdigest()[:16]


def stand_in(folder: Path, out: Path, models: Sequence[Path]) -> list[Path]:
    """Write `RESULTS` secondary captures; their ImageComments say from which images."""
    images = [pydicom.dcmread(file) for file in sorted(folder.iterdir())]
    first = images[0]
    digest = digest_of([image.SOPInstanceUID for image in images])
    written = []
    for number in range(RESULTS):
        result = pydicom.Dataset()
        result.file_meta = pydicom.dataset.FileMetaDataset()
        result.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        result.SOPClassUID, result.Modality = SecondaryCaptureImageStorage, "OT"
        result.SOPInstanceUID, result.SeriesInstanceUID = uid(digest, number), uid(digest, "series")
        for keyword in ("PatientID", "PatientName", "StudyInstanceUID"):
            setattr(result, keyword, first[keyword].value)
        result.SeriesDescription, result.ImageComments, result.InstanceNumber = "unet4d", digest, number + 1
        result.PhotometricInterpretation, result.SamplesPerPixel = "MONOCHROME2", 1
        result.BitsAllocated = result.BitsStored = 16
        result.HighBit, result.PixelRepresentation = 15, 0
        result.Rows, result.Columns, result.PixelData = 4, 4, bytes(32)
        written.append(out / f"result{number}.dcm")
        result.save_as(written[-1], enforce_file_format=True)
    return written
