"""Files of a DICOM result, in the formats that are asked for.

CASE_seg.dcm                          dicom-seg: one segmentation of all frames
CASE_seg_frames/CASE_frame000.dcm     dicom-seg-frames: one segmentation per frame
CASE_sr.dcm                           dicom-sr: a report of measurements, which refers to the segmentation of all frames
CASE_sc/CASE_000.dcm                  dicom-sc: pictures, the volume curves first, then one per frame
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from unet4d.report.dicom.result import DicomResult
from unet4d.report.dicom.secondary_capture import make_pictures
from unet4d.report.dicom.segmentation import make_segmentation
from unet4d.report.dicom.structured_report import make_report
from unet4d.system.files import replacing

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

DicomFormat = Literal["dicom-seg", "dicom-seg-frames", "dicom-sr", "dicom-sc"]
DICOM_FORMATS: tuple[DicomFormat, ...] = get_args(DicomFormat)
DICOM_NAMES = {
    "dicom-seg": "{}_seg.dcm", "dicom-seg-frames": "{}_seg_frames", "dicom-sr": "{}_sr.dcm", "dicom-sc": "{}_sc",
}  # fmt: skip
"""File or folder of a case in each format."""


def write_dicom(out: Path, case: str, result: DicomResult, formats: Sequence[str] = ("dicom-seg",)) -> list[Path]:
    """Write a label map of a DICOM study as DICOM files, each whole or not at all; return them.

    The same images and the same algorithm give files with the same UIDs, which a server stores once.

    Args:
        out: the folder.
        case: the start of the files' names; patients' names stay out of it.
        result: the label map, the source images, the classes and the algorithm.
        formats: of `DICOM_FORMATS`. A report refers to the segmentation of all frames, also where that is not written.

    Raises:
        InputError: highdicom is not installed; the label map cannot be written in a format.
        Unet4DError: the disk is full or the folder cannot be written to.
    """
    written: list[Path] = []
    for name, made in dicom_objects(case, result, formats):
        with replacing(out / name) as temporary:
            made.InstanceCreationDate = result.made_at.strftime("%Y%m%d")
            made.InstanceCreationTime = result.made_at.strftime("%H%M%S")
            made.save_as(temporary, enforce_file_format=True)
        written.append(out / name)
    return written


def dicom_objects(case: str, result: DicomResult, formats: Sequence[str]) -> Iterator[tuple[Path, Dataset]]:
    """Yield the objects of `write_dicom`, one after another, each with its path below the folder."""
    digits = max(3, len(str(len(result.label) - 1)))
    segmentation = make_segmentation(result) if {"dicom-seg", "dicom-sr"} & set(formats) else None
    for name in formats:
        path = Path(DICOM_NAMES[name].format(case))
        if name == "dicom-seg":
            assert segmentation is not None
            yield path, segmentation
        elif name == "dicom-seg-frames":
            for t in range(len(result.label)):
                yield path / f"{case}_frame{t:0{digits}d}.dcm", make_segmentation(result, t)
        elif name == "dicom-sr":
            assert segmentation is not None
            yield path, make_report(result, segmentation)
        else:
            for number, picture in enumerate(make_pictures(result)):
                yield path / f"{case}_{number:0{digits}d}.dcm", picture
