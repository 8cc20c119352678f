"""`DicomResult`: a label map, the DICOM study that it is of, and what made it; UIDs and what else all objects have in common."""

from __future__ import annotations

import hashlib
import json
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from unet4d.errors import InputError
from unet4d.images.dicom.instance import Plane, Series
from unet4d.images.dicom.volume4d import SliceStack
from unet4d.metrics.cardiac_structures import Roles, find_roles
from unet4d.metrics.regions import ClassValue, painted_value
from unet4d.metrics.volume_curves import volumes_ml, voxel_volume_ml
from unet4d.report.dicom.terms import CODING_SCHEME, Term, check_highdicom, find_term, without_controls
from unet4d.system.environment import VERSION
from unet4d.system.text import shorten_list

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

KINDS = ("segmentation", "segmentation per frame", "measurements", "pictures")
"""Content of a series of results; its place here gives the last two digits of its number."""
_GROUPS = (0x0008, 0x0010, 0x0012, 0x0018, 0x0020, 0x0028)  # of a header, as far as results repeat it
_EMPTY_IF_UNKNOWN = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime",
    "ReferringPhysicianName",
)  # fmt: skip
_LINES, _PARAGRAPHS = ("LO", "SH", "PN", "UC", "AE"), ("ST", "LT", "UT")
_CHECKED = ("AS", "CS", "DA", "DT", "TM", "UI")
_MOST_SERIES_NUMBER = 2**31 - 1


@dataclass(frozen=True)
class Algorithm:
    """Program and models that made a label map.

    Attributes:
        parameters: all that decides the result beside the images, such as digests of models and settings; UIDs derive from it.
        name: of the program.
        version: of the program.
    """

    parameters: Mapping[str, Any]
    name: str = "unet4d"
    version: str = VERSION

    @property
    def texts(self) -> dict[str, str]:
        """Return the parameters as texts."""
        return {key: value if isinstance(value, str) else json.dumps(value) for key, value in self.parameters.items()}

    @property
    def digest(self) -> str:
        """Return a digest of name, version and parameters."""
        return _digest(self.name, self.version, json.dumps(self.texts, sort_keys=True))

    @property
    def uid(self) -> str:
        """Return the UID of the algorithm as a device."""
        return _uid("device", self.digest)


@dataclass(frozen=True, eq=False)
class DicomResult:
    """A label map and the DICOM study that it is of.

    Attributes:
        label: (T, X, Y, Z) uint8, label values, on the grid of `source`.
        source: the image of each frame and slice, as `Study.dicom` of a study found by `unet4d.datasets.find_studies`.
        labels: class name to label value, background at 0, or to region; regions may overlap.
        algorithm: what made it.
        terms: codes and colors of classes that the user gave, see `read_terms`.
        roles: the structure of a heart that each class is; None goes by the names.
        cyclic: whether the last frame leads into the first.
        made_at: the time that the objects bear.

    Raises:
        InputError: highdicom is not installed; the source lacks what the objects must refer to; the grids differ.
    """

    label: np.ndarray
    source: SliceStack
    labels: Mapping[str, ClassValue]
    algorithm: Algorithm
    terms: Mapping[str, Term] = field(default_factory=dict)
    roles: Roles | None = None
    cyclic: bool = False
    made_at: datetime = field(default_factory=datetime.now)

    def __post_init__(self) -> None:
        check_source(self.source)
        if self.label.shape != self.source.shape or self.label.dtype != np.uint8:
            raise InputError(
                f"got a label map {self.label.shape} of {self.label.dtype}, expected {self.source.shape} uint8 as of the DICOM "
                "series; give the label map of this study"
            )

    @cached_property
    def classes(self) -> dict[str, ClassValue]:
        """Return the classes but the background, in order of their values; the n-th is segment n."""
        return {
            name: value for name, value in sorted(self.labels.items(), key=lambda item: painted_value(item[1])) if value
        }

    @cached_property
    def structures(self) -> dict[str, str]:
        """Return the structure of a heart that each class is, of those that are one."""
        return find_roles(self.classes, self.roles)

    @cached_property
    def term_of(self) -> dict[str, Term]:
        """Return the codes and the color of each class."""
        return {name: self.terms.get(name) or find_term(name, self.structures.get(name)) for name in self.classes}

    @property
    def series(self) -> Series:
        """Return the first series of the source."""
        return self.source.planes[0][0].series

    def planes(self, frames: Sequence[int] | None = None) -> Iterator[Plane]:
        """Yield the source planes of some frames, or of all."""
        for t in range(len(self.source.planes)) if frames is None else frames:
            yield from self.source.planes[t]

    def uid(self, *parts: object) -> str:
        """Return a UID that depends on the source, the algorithm, the classes and these words alone (PS3.5 B.2)."""
        return _uid(self._identity, *map(str, parts))

    @cached_property
    def volumes_ml(self) -> dict[str, np.ndarray]:
        """Return the volume of each class (T,) in mL."""
        volumes = volumes_ml(self.label, list(self.classes.values()), voxel_volume_ml(self.source.affine))
        return dict(zip(self.classes, volumes.T, strict=True))

    @cached_property
    def _identity(self) -> str:
        sources = [f"{plane.instance} {plane.index}" for plane in self.planes()]
        terms = [f"{name} {value} {self.term_of[name]}" for name, value in self.classes.items()]
        return _digest(self.algorithm.digest, *sources, *terms)

    @cached_property
    def header(self) -> Dataset:
        """Return the header of the first source image, without control characters and without values that are not valid."""
        from pydicom import dcmread
        from pydicom.uid import UID, MRImageStorage

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pydicom, for every value that deviates from the standard
            read = dcmread(self.source.planes[0][0].file, stop_before_pixels=True, force=True)
            cleaned = _clean(read, _GROUPS)
        for keyword in _EMPTY_IF_UNKNOWN:
            if keyword not in cleaned:
                setattr(cleaned, keyword, None)
        if cleaned.PatientSex not in ("M", "F", "O"):
            cleaned.PatientSex = None
        if UID(cleaned.get("SOPClassUID") or "1").is_private:  # of a vendor; only the modules to copy depend on it
            cleaned.SOPClassUID = MRImageStorage
        return cleaned

    @property
    def has_frame_numbers(self) -> bool:
        """Return whether a reference to a source image needs the number of a frame."""
        return int(self.header.get("NumberOfFrames") or 1) > 1

    def head(self, kind: str, number: int = 1) -> dict[str, Any]:
        """Return the arguments that highdicom's classes share: series, instance, equipment and time.

        Args:
            kind: of the series, of `KINDS`.
            number: of the instance in its series, from 1.
        """
        from highdicom.coding_schemes import CodingSchemeIdentificationItem

        scheme = CodingSchemeIdentificationItem(CODING_SCHEME, responsible_organization="The unet4d developers")
        place, digest = KINDS.index(kind) + 1, self.algorithm.digest
        series_number = self.series.number * 100 + place
        return {
            "series_instance_uid": self.uid("series", kind),
            "series_number": series_number if 0 < series_number <= _MOST_SERIES_NUMBER else place,
            "sop_instance_uid": self.uid("instance", kind, number),
            "instance_number": number,
            "manufacturer": self.algorithm.name,
            "manufacturer_model_name": "CLSTM-UNet",
            "software_versions": self.algorithm.version,
            "device_serial_number": digest[:16],
            "series_description": f"{kind} by {self.algorithm.name}",
            "content_date": self.made_at.date(),
            "content_time": self.made_at.time(),
            "specific_character_set": "ISO_IR 192",
            "coding_schemes": [scheme] if kind == "measurements" or self._has_private_terms else None,
        }

    @property
    def _has_private_terms(self) -> bool:
        return any(term.type.scheme == CODING_SCHEME for term in self.term_of.values())


def check_source(source: SliceStack) -> None:
    """Check, before any work, that objects can refer to a study.

    Raises:
        InputError: highdicom is not installed; images have no UIDs, or share one; they are of several studies or patients; an image
            holds several slices (Siemens MOSAIC).
    """
    planes = [plane for frame in source.planes for plane in frame]
    series = planes[0].series
    check_highdicom(series.title)
    alike = {
        "StudyInstanceUID": {plane.series.study for plane in planes},
        "FrameOfReferenceUID": {plane.series.frame_of_reference for plane in planes},
        "PatientID": {plane.series.patient for plane in planes},
    }
    for keyword, values in alike.items():
        if len(values) > 1 or not all(values):
            got = f"{len(values)} values of {keyword}" if len(values) > 1 else f"no {keyword}"
            raise InputError(f"{series.title}: got {got}, expected one for DICOM output; export the series again")
    if any(plane.tile for plane in planes):
        raise InputError(
            f"{series.title}: got images that hold several slices (Siemens MOSAIC), expected one for each; choose NIfTI"
        )
    nameless = [str(plane.file) for plane in planes if not (plane.instance and plane.sop_class)]
    if nameless:
        raise InputError(f"{shorten_list(nameless)}: got no SOPInstanceUID or SOPClassUID; export the series again")
    if len({(plane.instance, plane.index) for plane in planes}) < len(planes):
        raise InputError(f"{series.title}: got two images with one SOPInstanceUID; export the series again")


def _clean(dataset: Dataset, groups: Sequence[int] = ()) -> Dataset:
    """Return a copy without control characters, and without values that cannot be read; of these groups, or of all."""
    from pydicom.dataset import Dataset

    cleaned = Dataset()
    for tag in sorted(dataset.keys()):
        if tag.is_private or (groups and tag.group not in groups):
            continue
        try:
            element = dataset[tag]
            if element.VR == "SQ":
                setattr(cleaned, element.keyword, [_clean(item) for item in element.value])
            else:
                cleaned.add_new(tag, element.VR, _clean_value(element.VR, element.value))
        except Exception:  # any exception of pydicom, for a value that is none of its type
            continue
    return cleaned


def _clean_value(vr: str, value: Any) -> Any:
    from pydicom.config import RAISE
    from pydicom.multival import MultiValue
    from pydicom.valuerep import validate_value

    if isinstance(value, MultiValue | list):
        return [_clean_value(vr, one) for one in value]
    if vr in _LINES and value is not None:
        return " ".join(without_controls(str(value)).split())
    if vr in _PARAGRAPHS and value is not None:
        return without_controls(str(value), "\n\r\f\t")
    if value and vr in _CHECKED:
        validate_value(vr, value, RAISE)
    return value


def _uid(*parts: str) -> str:
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, _digest(*parts)).int}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
