"""A DICOM structured report (SR) of measurements, template TID 1500: volumes per frame, and function and mass of the heart.

The volume of each class in each frame is a volumetric measurement group (TID 1411) with the frame as its time point; it refers to
the segment and to the source images of the frame. Ventricles and myocardium have a further group (TID 1501) with end-diastolic and
end-systolic volume, stroke volume and ejection fraction, or mass. A ventricle's frames at end-diastole and end-systole are marked.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from unet4d.evaluation.cardiac_function import Measures, measure_cardiac_function
from unet4d.metrics.cardiac_structures import LEFT_VENTRICLE, MYOCARDIUM, RIGHT_VENTRICLE
from unet4d.report.dicom.result import DicomResult
from unet4d.report.dicom.terms import CodedTerm, private_term, standard_term, text_line

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MEASURE_TERMS = {
    (LEFT_VENTRICLE, "edv_ml"): ("LN", "LeftVentricularEDVolume"),
    (LEFT_VENTRICLE, "esv_ml"): ("LN", "LeftVentricularESVolume"),
    (RIGHT_VENTRICLE, "edv_ml"): ("LN", "RightVentricularEDVolume"),
    (RIGHT_VENTRICLE, "esv_ml"): ("LN", "RightVentricularESVolume"),
    (MYOCARDIUM, "mass_g"): ("LN", "LeftVentricleMass"),
}
"""pydicom's coding scheme and keyword of a measure of one structure."""
ANY_MEASURE_TERMS = {"sv_ml": ("SCT", "StrokeVolume"), "mass_g": ("SCT", "MassQuantity")}
"""The same of a measure of any structure, which the site of the finding names."""
EJECTION_FRACTIONS = {
    ("MR", LEFT_VENTRICLE): "LeftVentricularEjectionFractionByMR",
    ("MR", RIGHT_VENTRICLE): "RightVentricularEjectionFractionByMR",
    ("CT", LEFT_VENTRICLE): "LeftVentricularEjectionFractionByCT",
    ("CT", RIGHT_VENTRICLE): "RightVentricularEjectionFractionByCT",
}
"""pydicom's keyword of LOINC's code, by modality and structure."""
PRIVATE_MEASURES = {
    "edv_ml": "End diastolic volume", "esv_ml": "End systolic volume", "ef_percent": "Ejection fraction",
}  # fmt: skip
"""Meaning of a private code, for a measure without a code of the standard."""
UNITS = {"ml": ("ml", "milliliter"), "g": ("g", "gram"), "percent": ("%", "Percent")}
"""Code of UCUM and its meaning, by the end of a measure's name."""
PROCEDURES = {"MR": "MRIUnspecifiedBodyRegion", "CT": "CTUnspecifiedBodyRegion"}
"""pydicom's keyword in CID 100 of the procedure by modality; of another one an imaging procedure."""
_MEASURES = ("edv_ml", "esv_ml", "sv_ml", "ef_percent", "mass_g")
_DIGITS = 3


def make_report(result: DicomResult, segmentation: Dataset) -> Dataset:
    """Return the report; `segmentation` is that of all frames, to which it refers."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    function = measure_cardiac_function(
        result.volumes_ml, result.source.frame_duration_s, result.cyclic, result.structures
    )
    groups = [_function_group(result, name, measures) for name, measures in function.items() if any(measures.values())]
    for number, name in enumerate(result.classes, 1):
        phases = [_phase(t, function.get(name, {})) for t in range(len(result.label))]
        groups += [_frame_group(result, segmentation, number, name, t, phase) for t, phase in enumerate(phases)]
    algorithm, modality = result.algorithm, result.series.modality
    device = sr.DeviceObserverIdentifyingAttributes(
        algorithm.uid, algorithm.name, algorithm.name, serial_number=algorithm.digest[:16]
    )
    report = sr.MeasurementReport(
        sr.ObservationContext(observer_device_context=sr.ObserverContext(codes.DCM.Device, device)),
        _code(standard_term("cid100", PROCEDURES.get(modality, "ImagingProcedure"))),
        groups,
    )
    evidence = [segmentation, *_source_images(result)]
    return sr.Comprehensive3DSR(evidence, report, is_complete=True, **result.head("measurements"))


def _function_group(result: DicomResult, name: str, measures: Measures) -> Any:
    """Return the measurements of a ventricle or a myocardium over the whole cycle."""
    from highdicom import sr

    structure, term = result.structures[name], result.term_of[name]
    found = {key: float(value) for key in _MEASURES if (value := measures.get(key)) is not None}
    measurements = [
        sr.Measurement(_measure_code(key, structure, result.series.modality), round(value, _DIGITS), _unit(key))
        for key, value in found.items()
    ]
    return sr.MeasurementsAndQualitativeEvaluations(
        **_about(result, name), finding_sites=[sr.FindingSite(_code(term.type))], measurements=measurements
    )


def _frame_group(result: DicomResult, segmentation: Dataset, number: int, name: str, t: int, phase: str | None) -> Any:
    """Return the volume of a class in a frame, its segment and the source images of the frame."""
    from highdicom import sr

    duration_s = result.source.frame_duration_s
    at = f" at {t * duration_s:.4g} s" if duration_s is not None else ""
    evaluations = None
    if phase is not None:
        codes = (_code(standard_term("SCT", keyword)) for keyword in ("CardiacCyclePhase", phase))
        evaluations = [sr.QualitativeEvaluation(*codes)]
    files: dict[str, list[Any]] = {}
    for plane in result.planes([t]):
        files.setdefault(plane.instance, []).append(plane)
    sources = [
        sr.SourceImageForSegmentation(
            planes[0].sop_class, uid, [plane.index + 1 for plane in planes] if result.has_frame_numbers else None
        )
        for uid, planes in files.items()
    ]
    volume = round(float(result.volumes_ml[name][t]), _DIGITS)
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        **_about(result, name),
        referenced_segment=sr.ReferencedSegment(
            segmentation.SOPClassUID, segmentation.SOPInstanceUID, number, source_images=sources
        ),
        time_point_context=sr.TimePointContext(f"frame {t}{at}", time_point_order=t + 1),
        measurements=[sr.Measurement(_code(standard_term("SCT", "Volume")), volume, _unit("ml"))],
        qualitative_evaluations=evaluations,
    )


def _phase(t: int, measures: Measures) -> str | None:
    """Return pydicom's keyword of the phase that a frame of a ventricle is; None for all others."""
    if measures.get("edv_ml") is None:
        return None
    return {measures["es_frame"]: "EndSystole", measures["ed_frame"]: "EndDiastole"}.get(t)


def _about(result: DicomResult, name: str) -> dict[str, Any]:
    """Return the description of a class in every group: how it is tracked, its codes, and the algorithm."""
    from highdicom import sr

    term = result.term_of[name]
    return {
        "tracking_identifier": sr.TrackingIdentifier(result.uid("class", name), text_line(name) or "class"),
        "finding_category": _code(term.category),
        "finding_type": _code(term.type),
        "algorithm_id": sr.AlgorithmIdentification(result.algorithm.name, result.algorithm.version),
    }


def measure_term(key: str, structure: str, modality: str) -> CodedTerm:
    """Return the code of a measure of a structure, from the standard's tables where it is there, else a private one."""
    keyword = EJECTION_FRACTIONS.get((modality, structure)) if key == "ef_percent" else None
    found = ("LN", keyword) if keyword else MEASURE_TERMS.get((structure, key)) or ANY_MEASURE_TERMS.get(key)
    return standard_term(*found) if found else private_term(PRIVATE_MEASURES[key])


def _measure_code(key: str, structure: str, modality: str) -> Any:
    return _code(measure_term(key, structure, modality))


def _unit(key: str) -> Any:
    code, meaning = UNITS[key.rpartition("_")[2]]
    return _code(CodedTerm(code, "UCUM", meaning))


@cache
def _code(term: CodedTerm) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(term.code, term.scheme, term.meaning)


def _source_images(result: DicomResult) -> list[Dataset]:
    """Return the references to the source images in the evidence of a report."""
    from pydicom.dataset import Dataset

    found: dict[str, Dataset] = {}
    for plane in result.planes():
        if plane.instance not in found:
            image = found[plane.instance] = Dataset()
            image.StudyInstanceUID, image.SeriesInstanceUID = plane.series.study, plane.series.uid
            image.SOPClassUID, image.SOPInstanceUID = plane.sop_class, plane.instance
    return list(found.values())
