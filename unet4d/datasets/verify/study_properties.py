"""What a study is like: its grid, its frames, how much of each class was drawn, how bright it is."""

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
    """One study. What a header cannot tell is empty where only headers were read.

    Attributes:
        case: its name.
        subject: the person or animal.
        size: voxels (X, Y, Z) on disk.
        spacing_mm: (X, Y, Z).
        affine: (4, 4), voxel to mm (RAS), row by row.
        frames: T.
        frame_duration_s: as dataset.json says, else the header; None where neither does.
        labelled_frames: ascending.
        volumes_ml: class name to its volume in each labelled frame.
        intensities: channel name to the 0.5, 50 and 99.5 percentiles over all frames.
        voxels: digest of the image's values; the same values have the same one, whatever their file and header. Empty where every
            frame holds one value only.
        drawn: digest of the labelled frames' values, empty where nothing was drawn.
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

    @classmethod
    def of_header(cls, case: Case, header: Header, shape: tuple[int, int, int, int]) -> StudyProperties:
        """What the header of the first image file and dataset.json tell; `shape` is (T, X, Y, Z)."""
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
        """Plain values, fit for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StudyProperties:
        """The inverse of `as_dict`, also after JSON has made lists of tuples."""
        return cls(**{one.name: _tuples(values[one.name]) for one in fields(cls)})

    @property
    def matrix(self) -> np.ndarray:
        """The affine (4, 4) as an array."""
        return np.array(self.affine)


def read_study_properties(case: Case) -> StudyProperties:
    """What the header of a study's first image file tells. Raises InputError as `read_header`."""
    return StudyProperties.of_header(case, *read_header(case.images[0]))


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return {key: _tuples(item) for key, item in value.items()} if isinstance(value, dict) else value
