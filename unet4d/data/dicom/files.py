"""The DICOM images under a folder, by their headers alone."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from unet4d.data.dicom.header import KEYWORDS, OtherObject, planes_of, series_of
from unet4d.data.dicom.plane import Plane, Series
from unet4d.errors import InputError

_MAGIC = b"DICM"
_MAGIC_AT = 128


@dataclass(frozen=True)
class Fault:
    """A file that gives no plane; `series` is None where its header ends before it says."""

    file: Path
    reason: str
    series: Series | None

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


@dataclass(frozen=True)
class Found:
    """What lies under a folder.

    Attributes:
        planes: of the images.
        damaged: images that should be there, and cannot be read.
        others: images that are no plane of a volume of scalars, such as screenshots.
    """

    planes: list[Plane] = field(default_factory=list)
    damaged: list[Fault] = field(default_factory=list)
    others: list[Fault] = field(default_factory=list)


def is_dicom(file: Path) -> bool:
    """Whether a file has the preamble of a DICOM file (PS3.10), whatever its name."""
    try:
        with open(file, "rb") as stream:
            stream.seek(_MAGIC_AT)
            return stream.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def files_under(root: Path) -> Iterator[Path]:
    """The files of a folder and of all folders in it, in order of their names; a file is itself."""
    if root.is_file():
        yield root
        return
    for folder, folders, names in os.walk(root):
        folders.sort()
        yield from (path for name in sorted(names) if (path := Path(folder, name)).is_file())


def scan(root: Path) -> Found:
    """Read the headers of all DICOM images under a folder. Other objects (DICOMDIR, reports, presentation states,
    segmentations, doses) are passed by.

    Raises:
        InputError: pydicom is not installed.
    """
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise InputError(f"{root}: DICOM needs pydicom; pip install 'unet4d[dicom]'") from error
    found = Found()
    for file in tqdm(list(files_under(root)), "reading headers", unit="file", leave=False, disable=None):
        if is_dicom(file):
            _read(file, found)
    return found


def _read(file: Path, found: Found) -> None:
    """Add what one file holds to what was found."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    series = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of every value that is not quite as the standard wants it
        try:
            with open(file, "rb") as stream:
                dataset = dcmread(stream, stop_before_pixels=True, specific_tags=list(KEYWORDS))
                has_pixels = stream.read(1) != b"" or _is_deflated(dataset)
            if not _is_image(dataset):
                return
            series = series_of(dataset) if dataset.get("SeriesInstanceUID") else None
            if not has_pixels:
                raise ValueError("it has no pixel data; it was cut off, or exported without; export it again")
            found.planes.extend(planes_of(dataset, file))
        except OtherObject as other:
            found.others.append(Fault(file, str(other), series))
        except (InvalidDicomError, ArithmeticError, AttributeError, EOFError, LookupError, NotImplementedError, OSError,
                TypeError, ValueError) as error:  # fmt: skip
            found.damaged.append(Fault(file, " ".join(str(error).split()) or "its header is damaged", series))


def _is_deflated(dataset: Any) -> bool:
    """Whether the header was inflated from the file, so that the file's end says nothing of the pixels."""
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    return dataset.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian


def _is_image(dataset: Any) -> bool:
    """By the class of the object; by its size where the class is a vendor's own.

    Raises:
        ValueError: there is no class.
    """
    from pydicom.uid import UID

    uid = UID(dataset.file_meta.get("MediaStorageSOPClassUID") or dataset.get("SOPClassUID") or "")
    if not uid:
        raise ValueError("it does not say what it is; it was cut off; export it again")
    return "Image Storage" in uid.name or (uid.name == uid and "Rows" in dataset)
