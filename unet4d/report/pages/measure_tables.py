"""Measures of a study from its volume curves, as tables: extremes of every class, ejection of cavities, mass of myocardium."""

from __future__ import annotations

from unet4d.metrics.cardiac_structures import MYOCARDIAL_DENSITY_G_PER_ML, cavity_within, is_cavity, is_myocardium
from unet4d.metrics.volume_curves import CurveMeasures, curve_measures
from unet4d.report.pages.study import SegmentedStudy
from unet4d.report.pages.template import PageTable
from unet4d.report.pictures.render import class_color
from unet4d.system.text import format_number


def measure_tables(study: SegmentedStudy) -> list[PageTable]:
    """Return the tables of measures of the page of a study, that of all classes last."""
    found, classes = _measure_curves(study), study.classes
    tables = []
    cavities = [name for name in classes if is_cavity(name) and found[name].edv_ml and study.image.frames > 1]
    if cavities:
        head = ["cavity", "EDV mL", "ESV mL", "SV mL", "EF %", "filling mL/s", "at ES + s"]
        tables.append((head, [_cavity_row(name, found[name]) for name in cavities]))
    muscles = [name for name in classes if is_myocardium(name) and found[name].edv_ml]
    if muscles:
        tables.append((["myocardium", "mass g", "volume mL", "at"], [_muscle_row(study, name) for name in muscles]))
    rows = []
    for name, one in found.items():
        change = f"{100 * one.sv_ml / one.edv_ml:.0f} %" if one.edv_ml else "-"
        rows.append([name, _ml(one.edv_ml), str(one.ed_frame), _ml(one.esv_ml), str(one.es_frame), change])
    tables.append((["class", "largest mL", "in frame", "smallest mL", "in frame", "change"], rows))
    return [PageTable(head, rows, [class_color(classes[row[0]]) for row in rows]) for head, rows in tables]


def short_measures(study: SegmentedStudy) -> list[tuple[str, str]]:
    """Return (class name, its measures in a few words) for the index."""
    measures = []
    for name, one in _measure_curves(study).items():
        if not one.edv_ml:
            text = "nothing found"
        elif is_cavity(name) and study.image.frames > 1:
            text = f"EDV {_short(one.edv_ml)}, ESV {_short(one.esv_ml)} mL, EF {format_number(one.ef_percent, 0)} %"
        elif is_myocardium(name):
            text = f"{_short(_muscle(study, name)[1])} g"
        else:
            text = f"{_short(one.esv_ml)}{f' to {_short(one.edv_ml)}' if one.sv_ml else ''} mL"
        measures.append((name, text))
    return measures


def _measure_curves(study: SegmentedStudy) -> dict[str, CurveMeasures]:
    seconds, cyclic = study.image.frame_duration_s, bool(study.cyclic)
    return {name: curve_measures(curve, seconds, cyclic) for name, curve in study.curves_ml.items()}


def _cavity_row(name: str, one: CurveMeasures) -> list[str]:
    filling = "-" if one.peak_filling_ml_per_s is None else _ml(one.peak_filling_ml_per_s)
    ef, time = format_number(one.ef_percent, 1), format_number(one.time_to_peak_filling_s, 2)
    return [name, _ml(one.edv_ml), _ml(one.esv_ml), _ml(one.sv_ml), ef, filling, time]


def _muscle(study: SegmentedStudy, name: str) -> tuple[float, float, str]:
    """Return volume in mL, mass in g, and when: at end-diastole of its ventricle; without one the mean, as `evaluate` does."""
    cavity, curve = cavity_within(name, list(study.classes)), study.curves_ml[name]
    if cavity is None:
        volume, when = float(curve.mean()), "mean over all frames"
    else:
        frame = int(study.curves_ml[cavity].argmax())
        volume, when = float(curve[frame]), f"ED of {cavity}, frame {frame}"
    return volume, volume * MYOCARDIAL_DENSITY_G_PER_ML, when


def _muscle_row(study: SegmentedStudy, name: str) -> list[str]:
    volume, mass, when = _muscle(study, name)
    return [name, _ml(mass), _ml(volume), when]


def _ml(volume: float) -> str:
    """Return a volume with one decimal, none from 1,000 on, and three digits below 10, as hearts of mice need."""
    return f"{volume:.0f}" if volume >= 1000 else f"{volume:.1f}" if volume >= 10 or volume == 0 else f"{volume:.3g}"


def _short(volume: float) -> str:
    return f"{volume:.0f}" if volume >= 10 else f"{volume:.3g}"
