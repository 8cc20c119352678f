"""The report of measurements: its numbers, what they refer to, and how independent programs read it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable

import numpy as np
import pytest

pytest.importorskip("highdicom", reason="needs the extra dicom")

import highdicom
from pydicom.sr.codedict import codes

from tests.datasets.convert import dicom_files as files
from tests.report.dicom.sources import classic, dciodvfy_errors, enhanced, program, result_of
from unet4d.evaluation.cardiac_function import measure_cardiac_function
from unet4d.report.dicom.write import write_dicom


@pytest.mark.parametrize("source", [classic, pytest.param(enhanced, marks=pytest.mark.slow)])
def test_a_report_holds_volumes_of_every_frame_and_the_function_of_the_heart(tmp_path, source):
    result = result_of(tmp_path / "in", source(files.AFFINE))
    seg, file = write_dicom(tmp_path / "out", "case", result, ["dicom-seg", "dicom-sr"])
    assert dciodvfy_errors(file) == []
    report = highdicom.sr.srread(file).content
    uid = highdicom.seg.segread(seg).SOPInstanceUID
    found: dict[str, list[float]] = {}
    for group in report.get_volumetric_roi_measurement_groups():
        [measured] = group.get_measurements(codes.SCT.Volume)
        name, t = group.tracking_identifier, len(found.setdefault(group.tracking_identifier, []))
        found[name].append(measured.value)
        reference, *images = (item for item in group[0].ContentSequence if item.ValueType == "IMAGE")
        assert (reference.ReferencedSOPSequence[0].ReferencedSOPInstanceUID, measured.unit.value) == (uid, "ml")
        assert reference.ReferencedSOPSequence[0].ReferencedSegmentNumber == 1 + list(result.classes).index(name)
        assert {at for image in images for at in images_of(image)} == {
            (plane.instance, plane.index + 1 if result.has_frame_numbers else 1) for plane in result.planes([t])
        }
        phases = [one.value.meaning for one in group.get_qualitative_evaluations(codes.SCT.CardiacCyclePhase)]
        volumes = result.volumes_ml[name]
        expected = ["End diastole"] if t == np.argmax(volumes) else ["End Systole"] if t == np.argmin(volumes) else []
        assert phases == (expected if "ventricle" in name else [])
    assert list(found) == list(result.classes)
    for name, values in found.items():
        np.testing.assert_allclose(values, result.volumes_ml[name], atol=6e-4)
    check_function(report, measure_cardiac_function(result.volumes_ml, 0.04, True))


def images_of(item):
    """Yield the instance and the frame number, or 1, of each image that an item refers to."""
    [reference] = item.ReferencedSOPSequence
    numbers = reference.get("ReferencedFrameNumber") or [1]
    for number in numbers if isinstance(numbers, Iterable) else [numbers]:
        yield reference.ReferencedSOPInstanceUID, int(number)


def check_function(report, function):
    """The measures of the ventricles and the myocardium are those of measures.csv."""
    by_name = {
        (group.tracking_identifier, one.name.meaning): one.value
        for group in report.get_image_measurement_groups()
        for one in group.get_measurements()
    }
    left = function["left ventricle"]
    expected = {
        ("left ventricle", "Left Ventricular ED Volume"): left["edv_ml"],
        ("left ventricle", "Left Ventricular ES Volume"): left["esv_ml"],
        ("left ventricle", "Stroke Volume"): left["sv_ml"],
        ("left ventricle", "Left ventricular ejection fraction by MR"): left["ef_percent"],
        ("myocardium", "Left Ventricle Mass"): function["myocardium"]["mass_g"],
    }
    for key, value in expected.items():
        assert by_name[key] == pytest.approx(value, abs=6e-4)
    assert len(by_name) == 9  # four of each ventricle, one mass


def test_dsrdump_prints_the_report(tmp_path):
    result = result_of(tmp_path / "in", classic(files.AFFINE))
    [file] = write_dicom(tmp_path / "out", "case", result, ["dicom-sr"])
    done = subprocess.run([program("dsrdump"), str(file)], capture_output=True, text=True)
    assert done.returncode == 0
    assert 'NUM:(,,"Left Ventricular ED Volume")' in done.stdout
    assert done.stdout.count('"Time Point Order"') == 16
