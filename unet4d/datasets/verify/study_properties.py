"""`StudyProperties`: grid, frames, class volumes and intensities of one study, and digests of its voxels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from unet4d.config import Size, triple
from unet4d.datasets.cases import Case
from unet4d.images.nifti import Header, affine_of, frame_duration_s_of, read_header, spacing_of

INTENSITY_PERCENTILES = (0.5, 50.0, 99.5)


@dataclass(frozen=True)
class StudyProperties:
    """The properties of one study. Those that need voxels are empty where only headers were read.

    Attributes:
        case: its name.
        subject: the person or animal.
        size: voxels (X, Y, Z) on disk.
        spacing_mm: (X, Y, Z).
        affine: (4, 4), voxel to mm (RAS), row by row.
        frames: T.
        frame_duration_s: of dataset.json, else of the header; None where neither has it.
        labelled_frames: ascending.
        volumes_ml: class name to its volume in each labelled frame; without classes that were not drawn in the case.
        intensities: channel name to the 0.5, 50 and 99.5 percentiles over all frames.
        voxels: digest of the image's values, independent of file and header. Empty where every frame has one value only.
        drawn: digest of the labelled frames' values, empty where these have no label.
        partial_frames: labelled frames with ignored voxels; their volumes are those of the drawn part.
    """

    case: str
    subject: str
    size: Size
    spacing_mm: tuple[float, float, float]
    affine: tuple[tuple[float, ...], ...]
    frames: int
    frame_duration_s: float | None = None
    labelled_frames: tuple[int, ...] = ()
    volumes_ml: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    intensities: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    voxels: str = ""
    drawn: str = ""
    partial_frames: tuple[int, ...] = ()

    @classmethod
    def from_header(cls, case: Case, header: Header, shape: tuple[int, int, int, int]) -> StudyProperties:
        """Take what the header of the first image file and dataset.json have; `shape` is (T, X, Y, Z)."""
        affine = affine_of(header)
        return cls(
            case.name,
            case.subject,
            triple(shape[1:]),
            spacing_of(affine),
            tuple(tuple(float(x) for x in row) for row in affine),
            1 if case.channels_last else shape[0],
            case.frame_duration_s or (None if case.channels_last else frame_duration_s_of(header)),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, fit for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StudyProperties:
        """Undo `as_dict`, also after JSON has made lists of tuples."""
        return cls(**{entry.name: _tuples(values[entry.name]) for entry in fields(cls)})

    def whole_volumes_ml(self, name: str) -> list[float]:
        """Return the volumes of a class in the labelled frames that were drawn whole."""
        volumes = zip(self.labelled_frames, self.volumes_ml.get(name, ()), strict=False)
        return [ml for t, ml in volumes if t not in self.partial_frames]

    @property
    def matrix(self) -> np.ndarray:
        """Return the affine (4, 4) as an array."""
        return np.array(self.affine)


def read_study_properties(case: Case) -> StudyProperties:
    """Read the header of a study's first image file. Raises InputError as `read_header`."""
    return StudyProperties.from_header(case, *read_header(case.images[0]))


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return {key: _tuples(item) for key, item in value.items()} if isinstance(value, dict) else value
