"""`Series`, a DICOM series by its header, and `Plane`, one 2D image of it: a file, or a frame of a multi-frame file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unet4d.images.dicom.velocity import Velocity


@dataclass(frozen=True)
class Series:
    """A DICOM series, by its header.

    Attributes:
        patient: PatientID, where it is empty PatientName, where that is empty too the StudyInstanceUID.
        study: StudyInstanceUID.
        started: date and time of the study, for the order.
        uid: SeriesInstanceUID.
        label: description, protocol and sequence without digits and punctuation: the same in the slices of one stack.
    """

    patient: str
    study: str
    started: str
    number: int
    uid: str
    description: str
    label: str
    frame_of_reference: str
    modality: str

    @property
    def title(self) -> str:
        """Return the name of the series for messages."""
        return f"series {self.number}" + (f" ({self.description})" if self.description else "")

    @property
    def sort_key(self) -> tuple[str, str, int, str]:
        """Return patient, time of the study, series number and UID."""
        return self.patient, self.started, self.number, self.uid


@dataclass(frozen=True, eq=False)
class Plane:
    """One 2D image at one place and time; its pixels lie in frame `index` of `file`.

    Attributes:
        sop_class, instance: SOPClassUID and SOPInstanceUID of the file; "" where it lacks them.
        component: "magnitude", "phase", "real", "imaginary", "water", "fat", "in phase" or "opposed phase"; with the echo time
            where a series holds several echoes (grouping.py).
        size: pixels along a row (X: the columns) and along a column (Y: the rows).
        spacing_mm: along X and along Y; PixelSpacing has them the other way round.
        position_mm: center of the first pixel, patient coordinates (LPS).
        axes: direction of X and of Y, unit vectors (LPS), as six numbers.
        thickness_mm: SpacingBetweenSlices, else SliceThickness: the step of a single slice.
        slope, intercept: of the rescaling, see vendors.py for Philips; 1 and 0 with a Modality LUT.
        times: values that may order the frames of a slice, by the names in frame_order.py; None if unknown.
        offset_s: TemporalPositionTimeOffset.
        beat_ms, frames_per_beat: NominalInterval (RR), else that of HeartRate, and CardiacNumberOfImages.
        step_ms: TemporalResolution, else FrameTime, else the time of an echo-planar volume.
        retrospective: gated afterwards, so that the frames cover the whole beat.
        echo_ms, inversion_ms: EchoTime and InversionTime.
        b_value: DiffusionBValue, s/mm2.
        velocity: of a phase contrast image, the velocity that it shows.
        settings: FlipAngle and RepetitionTime, which the frames of one acquisition share.
        tile: column and row of its first pixel in the image of the file, where that holds several slices (Siemens MOSAIC).
    """

    series: Series
    file: Path
    index: int
    sop_class: str
    instance: str
    component: str
    size: tuple[int, int]
    spacing_mm: tuple[float, ...]
    position_mm: tuple[float, ...]
    axes: tuple[float, ...]
    thickness_mm: float | None
    slope: float
    intercept: float
    times: Mapping[str, Any]
    offset_s: float | None
    beat_ms: float | None
    frames_per_beat: float | None
    step_ms: float | None
    retrospective: bool
    echo_ms: float | None
    inversion_ms: float | None
    b_value: float | None
    velocity: Velocity | None = None
    settings: tuple[float | None, ...] = ()
    tile: tuple[int, int] | None = None
