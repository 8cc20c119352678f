"""Measures of a study from its volume curves, as tables: extremes of every class, ejection of ventricles, mass of myocardium."""

from __future__ import annotations

import numpy as np

from unet4d.evaluation.cardiac_function import Measures, measure_cardiac_function
from unet4d.metrics.cardiac_structures import MYOCARDIA, MYOCARDIAL_DENSITY_G_PER_ML, VENTRICLES, cavity_within
from unet4d.report.pages.study import SegmentedStudy
from unet4d.report.pages.template import PageTable
from unet4d.report.pictures.render import class_color
from unet4d.system.text import format_number


def measure_tables(study: SegmentedStudy) -> list[PageTable]:
    """Return the tables of measures of the page of a study, that of all classes last."""
    cavities = [
        [name, *(_ml(found.get(key)) for key in ("edv_ml", "esv_ml", "sv_ml")), format_number(found["ef_percent"], 1),
         _ml(found["peak_filling_ml_per_s"]), format_number(found["time_to_peak_filling_s"], 2)]
        for name, found in _cardiac(study).items() if study.roles[name] in VENTRICLES
    ]  # fmt: skip
    muscles = []
    for name, found in _cardiac(study).items():
        if study.roles[name] in MYOCARDIA:
            mass, cavity = found["mass_g"] or 0, cavity_within(study.roles[name], study.roles)
            when = f"ED of {cavity}, frame {found['ed_frame']}" if cavity else "mean over all frames"
            muscles.append([name, _ml(mass), _ml(mass / MYOCARDIAL_DENSITY_G_PER_ML), when])
    every = []
    for name, curve in study.curves_ml.items():
        change = f"{100 * (curve.max() - curve.min()) / curve.max():.0f} %" if curve.any() else "-"
        every.append([name, _ml(curve.max()), str(curve.argmax()), _ml(curve.min()), str(curve.argmin()), change])
    tables = (
        (["ventricle", "EDV mL", "ESV mL", "SV mL", "EF %", "filling mL/s", "at ES + s"], cavities),
        (["myocardium", "mass g", "volume mL", "at"], muscles),
        (["class", "largest mL", "in frame", "smallest mL", "in frame", "change"], every),
    )
    return [
        PageTable(head, rows, [class_color(study.classes[row[0]]) for row in rows])
        for head, rows in tables
        if rows or rows is every
    ]


def short_measures(study: SegmentedStudy) -> list[tuple[str, str]]:
    """Return (class name, its measures in a few words) for the index."""
    measures, cardiac = [], _cardiac(study)
    for name, curve in study.curves_ml.items():
        found, largest, smallest = cardiac.get(name, {}), _short(curve.max()), _short(curve.min())
        if not curve.any():
            text = "nothing found"
        elif "ef_percent" in found:
            text = f"EDV {largest}, ESV {smallest} mL, EF {format_number(found['ef_percent'], 0)} %"
        elif "mass_g" in found:
            text = f"{_short(found['mass_g'] or 0)} g"
        else:
            text = f"{smallest}{f' to {largest}' if np.ptp(curve) else ''} mL"
        measures.append((name, text))
    return measures


def _cardiac(study: SegmentedStudy) -> dict[str, Measures]:
    """Return the measures of the ventricles and the myocardium that were found."""
    found = measure_cardiac_function(study.curves_ml, study.image.frame_duration_s, bool(study.cyclic), study.roles)
    return {name: measures for name, measures in found.items() if measures and study.curves_ml[name].any()}


def _ml(volume: float | None) -> str:
    """Return a volume with one decimal, none from 1,000 on, and three digits below 10, as hearts of mice need."""
    if volume is None:
        return "-"
    return f"{volume:.0f}" if volume >= 1000 else f"{volume:.1f}" if volume >= 10 or volume == 0 else f"{volume:.3g}"


def _short(volume: float) -> str:
    return f"{volume:.0f}" if volume >= 10 else f"{volume:.3g}"
