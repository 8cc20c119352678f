"""DICOM pictures (secondary capture) of a segmented study, which any viewer shows: volume curves, then contours frame by frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from unet4d.evaluation.cardiac_function import measure_cardiac_function
from unet4d.images.dicom.volume4d import read_dicom_voxels
from unet4d.report.dicom.result import DicomResult
from unet4d.report.pictures.contour_sheet import draw_frames
from unet4d.report.pictures.curve_plot import draw_curves
from unet4d.report.pictures.render import class_color

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


def make_pictures(result: DicomResult) -> Iterator[Dataset]:
    """Yield the instances of the series: the volume curves, then a picture per frame with up to nine slices.

    The pictures bear numbers of frames and names of classes, and nothing of the patient.

    Raises:
        InputError: the voxels of the study cannot be read.
    """
    moments = _moments(result)
    colors = {name: class_color(value) for name, value in result.classes.items()}
    duration_s = result.source.frame_duration_s
    curves = draw_curves(result.volumes_ml, colors=colors, frame_duration_s=duration_s, moments=moments)
    yield _capture(result, curves, 1, range(len(result.label)))
    names = {value: name for name, value in result.classes.items()}
    at = {t: f" ({moment})" for moment, t in moments.items()}
    captions = [f"frame {t}{at.get(t, '')}" for t in range(len(result.label))]
    voxels = read_dicom_voxels(result.source)
    pictures = draw_frames(voxels, result.label, result.source.affine, class_names=names, captions=captions)
    for t, picture in enumerate(pictures):
        yield _capture(result, picture, t + 2, [t])


def _moments(result: DicomResult) -> dict[str, int]:
    """Return the frames of end-diastole and end-systole, of the first ventricle that has them."""
    measured = measure_cardiac_function(result.volumes_ml, None, result.cyclic, result.structures)
    for measures in measured.values():
        if measures.get("sv_ml"):
            return {name: int(measures[key] or 0) for name, key in (("ED", "ed_frame"), ("ES", "es_frame"))}
    return {}


def _capture(result: DicomResult, picture: np.ndarray, number: int, frames: Sequence[int]) -> Dataset:
    """Return a picture (H, W, 3) uint8 as an instance of the series, with the source images of its frames."""
    from highdicom.sc import SCImage
    from pydicom.dataset import Dataset

    made = SCImage(
        pixel_array=picture,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),
        study_instance_uid=result.series.study,
        **result.head("pictures", number),
    )
    made.copy_patient_and_study_information(result.header)
    for keyword in ("PatientOrientation", "Laterality"):  # unknown, and of several slices
        setattr(made, keyword, None)
    made.BurnedInAnnotation = "NO"  # nothing that identifies the patient
    made.SourceImageSequence = []
    for plane in result.planes(frames):
        source = Dataset()
        source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = plane.sop_class, plane.instance
        if result.has_frame_numbers:
            source.ReferencedFrameNumber = plane.index + 1
        made.SourceImageSequence.append(source)
    return made
