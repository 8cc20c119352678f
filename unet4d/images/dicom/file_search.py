"""Search for DICOM images under a folder, by their headers alone.

A DICOM file begins with a preamble, whatever its name. Beside such files those without one are read too, if they begin as a data
set does and name the class of their object: an image exported without its preamble must not vanish from its stack. For the
same reason a file or folder that cannot be opened counts as a damaged image.
"""

from __future__ import annotations

import os
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from unet4d.errors import InputError
from unet4d.images.dicom.drawings import DRAWING_KINDS, Drawing, read_drawing
from unet4d.images.dicom.header import OtherObject, header_tags, read_planes, read_series
from unet4d.images.dicom.instance import Plane, Series
from unet4d.system.memory import free_memory_bytes
from unet4d.system.progress_bar import ProgressBar
from unet4d.system.regular_files import open_regular
from unet4d.system.signals import check_stop

_MAGIC, _MAGIC_AT = b"DICM", 128
_META = 4096  # bytes that the file meta information fits in
_DEFLATED = b"1.2.840.10008.1.2.1.99"  # the transfer syntax
_BLOCK = 2**20
_INDEX = "Media Storage Directory"  # DICOMDIR: it lists files and has no content
_FIRST_GROUP = (b"\x08\x00", b"\x00\x08")  # of a data set, in either byte order


@dataclass(frozen=True)
class RejectedFile:
    """A file that gives no plane; `series` is None where its header ends before that."""

    file: Path
    reason: str
    series: Series | None

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


@dataclass(frozen=True)
class FoundDicom:
    """The DICOM objects under a folder.

    Attributes:
        planes: of the images.
        damaged: images that should be there, and cannot be read.
        others: images that are no plane of a volume of scalars, such as screenshots, and drawings that cannot be used.
        drawings: segmentations and structure sets.
        ignored: number of other objects that are no images, by kind: reports, presentation states, doses, ...
    """

    planes: list[Plane] = field(default_factory=list)
    damaged: list[RejectedFile] = field(default_factory=list)
    others: list[RejectedFile] = field(default_factory=list)
    drawings: list[Drawing] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)


def is_dicom(file: Path) -> bool:
    """Return whether a file has the preamble of a DICOM file (PS3.10), whatever its name."""
    try:
        return _start(file)[_MAGIC_AT:] == _MAGIC
    except (OSError, InputError):
        return False


def _start(file: Path) -> bytes:
    with open_regular(file) as stream:
        return stream.read(_MAGIC_AT + len(_MAGIC))


def files_under(root: Path) -> Iterator[Path]:
    """Yield the files of a folder and of all folders in it, in order of their names, dangling links among them; then the folders
    that cannot be listed. A file yields itself.
    """
    if root.is_file():
        yield root
        return
    closed: list[str] = []
    for folder, folders, names in os.walk(root, onerror=lambda error: closed.append(error.filename)):
        folders.sort()
        paths = (os.path.join(folder, name) for name in sorted(names))
        yield from (Path(path) for path in paths if os.path.isfile(path) or not os.path.exists(path))
    yield from map(Path, closed)


def search_dicom_files(root: Path) -> FoundDicom:
    """Read the headers of all DICOM images under a folder. Segmentations and
    structure sets are read without their pixels. Other objects (reports, presentation states, doses) are counted by kind.

    Raises:
        InputError: pydicom is not installed.
    """
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise InputError(f"{root}: DICOM needs pydicom; pip install pydicom python-gdcm") from error
    found = FoundDicom()
    whole, bare = _dicom_files(root, found)
    folders = {file.parent for file in whole}
    files = whole + [file for file in bare if file.parent in folders and _is_bare_object(file)]
    for file in ProgressBar(files, "reading headers", unit="file", leave=False):
        _read(file, found)
    return found


def _dicom_files(root: Path, found: FoundDicom) -> tuple[list[Path], list[Path]]:
    """Return the files with a preamble, and those that may be DICOM without one; add closed files to the damaged ones."""
    whole, bare = [], []
    for file in files_under(root):
        check_stop()
        try:
            start = _start(file)
        except OSError as error:
            found.damaged.append(RejectedFile(file, f"it cannot be opened ({error.strerror or error})", None))
            continue
        if start[_MAGIC_AT:] == _MAGIC:
            whole.append(file)
        elif start.startswith(_FIRST_GROUP):
            bare.append(file)
    return whole, bare


def _is_bare_object(file: Path) -> bool:
    """Return whether the header of a file without a preamble is that of an image, or another object of a known class."""
    from pydicom import dcmread
    from pydicom.uid import UID

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = dcmread(file, force=True, stop_before_pixels=True, specific_tags=["SOPClassUID", "Rows"])
            uid = UID(dataset.get("SOPClassUID") or "")
            return bool(uid and (dataset.get("Rows") or uid.name != uid))
        except Exception:  # any exception of pydicom, for bytes that are no DICOM
            return False


def _read(file: Path, found: FoundDicom) -> None:
    """Read the header of one file, and add its planes, or the reason for none, to what was found."""
    from pydicom import dcmread

    series = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pydicom, for every value that deviates from the standard
        try:
            with open(file, "rb") as stream:
                _check_inflated(stream)
                dataset = dcmread(stream, force=True, stop_before_pixels=True, specific_tags=header_tags())
                has_pixels = stream.read(1) != b"" or _is_deflated(dataset)
            kind = _other_kind(dataset)
            if kind in DRAWING_KINDS.values():
                _read_drawing(file, str(kind), found)
                return
            if kind is not None:
                found.ignored.update([kind] if kind != _INDEX else [])
                return
            series = read_series(dataset) if dataset.get("SeriesInstanceUID") else None
            if not has_pixels:
                raise ValueError("it has no pixel data; it was cut off, or exported without; export it again")
            found.planes.extend(read_planes(dataset, file))
        except OtherObject as other:
            found.others.append(RejectedFile(file, str(other), series))
        except Exception as error:  # struct.error, zlib.error, ...: whatever a damaged header leads to in pydicom
            reason = " ".join(str(error).split()) or "its header is damaged"
            found.damaged.append(RejectedFile(file, reason, series))


def _read_drawing(file: Path, kind: str, found: FoundDicom) -> None:
    """Add the drawing in a file to what was found, or to the other objects with the reason why it cannot be used."""
    try:
        found.drawings.append(read_drawing(file, kind))
    except Exception as error:  # whatever a damaged file leads to in pydicom
        text = " ".join(str(error).split())
        reason = text if isinstance(error, ValueError) else f"it is cut off or damaged ({text}); export it again"
        found.others.append(RejectedFile(file, f"it is a {kind} that cannot be used: {reason}", None))


def _check_inflated(stream: BinaryIO) -> None:
    """Raise ValueError for a deflated file larger than memory; pydicom inflates all of it to read a header."""
    start = stream.read(_META)
    stream.seek(0)
    if _DEFLATED not in start:
        return
    stream.seek(_MAGIC_AT + 16 + int.from_bytes(start[140:144], "little"))  # behind the file meta information
    most, inflated, inflate = free_memory_bytes() / 4, 0, zlib.decompressobj(-zlib.MAX_WBITS)
    while inflated <= most and not inflate.eof:
        block = inflate.unconsumed_tail or stream.read(_META)
        part = inflate.decompress(block, _BLOCK)
        if not block and not part:  # cut off, which pydicom finds
            break
        inflated += len(part)
    if inflated > most:
        raise ValueError("its deflated content is more than memory holds; export it uncompressed")
    stream.seek(0)


def _is_deflated(dataset: Any) -> bool:
    """Return whether the header was inflated from the file: then the end of the file does not mean an end of the pixels."""
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    return dataset.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian


def _other_kind(dataset: Any) -> str | None:
    """Return the kind of an object that is no image; None for an image.

    The class of the object decides; where the class is a vendor's own, an object with rows is an image.

    Raises:
        ValueError: there is no class.
    """
    from pydicom.uid import UID

    uid = UID(dataset.file_meta.get("MediaStorageSOPClassUID") or dataset.get("SOPClassUID") or "")
    if uid in DRAWING_KINDS:
        return DRAWING_KINDS[uid]
    if not uid:
        raise ValueError("its header has no class of object; it was cut off; export it again")
    is_private = uid.name == uid
    if "Image Storage" in uid.name or (is_private and "Rows" in dataset):
        return None
    return "object of a private class" if is_private else uid.name.removesuffix(" Storage")
