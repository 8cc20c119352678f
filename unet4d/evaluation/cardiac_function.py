"""Cardiac function of one study, reference against prediction: volumes, ejection fraction, filling rate, mass.

The class name decides what is a cavity and what is myocardium. The extremes of the reference are those among its labelled frames.
The prediction is measured twice: at the frames of the reference, which compares the same moments, and at its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from unet4d.metrics.cardiac_structures import MYOCARDIAL_DENSITY_G_PER_ML, cavity_within, is_cavity, is_myocardium
from unet4d.metrics.volume_curves import CurveMeasures, curve_measures

CAVITY, MYOCARDIUM = "cavity", "myocardium"
MEASURES = (*CurveMeasures.__dataclass_fields__, "mass_g")
AT_REFERENCE_FRAMES = ("edv_ml", "esv_ml", "sv_ml", "ef_percent", "mass_g")
Measures = Mapping[str, float | None]
"""Some of MEASURES of one volume curve; None or missing where undefined, or where the class has no such measure."""


def cardiac_role(name: str) -> str | None:
    """Return "cavity" or "myocardium" for the name of a class; None for any other class."""
    if is_cavity(name):
        return CAVITY
    return MYOCARDIUM if is_myocardium(name) else None


def measure_cardiac_function(
    curves_ml: Mapping[str, np.ndarray], frame_duration_s: float | None, cyclic: bool
) -> dict[str, Measures]:
    """Measure the cavities and the myocardium of one label map.

    Args:
        curves_ml: class name to `(T,)` mL, NaN in unlabelled frames.
        frame_duration_s: seconds from frame to frame; None where unknown.
        cyclic: whether the last frame leads into the first.
    """
    found: dict[str, Measures] = {}
    for name, curve in curves_ml.items():
        if is_cavity(name):
            has_extremes = np.count_nonzero(np.isfinite(curve)) > 1
            found[name] = vars(curve_measures(curve, frame_duration_s, cyclic)) if has_extremes else {}
        elif is_myocardium(name):
            cavity = cavity_within(name, list(curves_ml))
            has_ed = cavity is not None and np.isfinite(curves_ml[cavity]).any()
            found[name] = _measure_mass(curve, int(np.nanargmax(curves_ml[cavity])) if cavity and has_ed else None)
    return found


def score_cardiac_function(
    reference_ml: Mapping[str, np.ndarray],
    prediction_ml: Mapping[str, np.ndarray],
    frame_duration_s: float | None,
    cyclic: bool,
) -> list[dict[str, Any]]:
    """Measure reference and prediction; the arguments are those of `measure_cardiac_function`.

    Returns:
        One row per cavity or myocardium: class, role, and the measures of the reference, of the prediction "matched" at
        end-diastole and end-systole of the reference, and of the prediction over all its frames.
    """
    of_reference, own = (
        measure_cardiac_function(curves, frame_duration_s, cyclic) for curves in (reference_ml, prediction_ml)
    )
    rows = []
    for name, measures in of_reference.items():
        ed, es = measures.get("ed_frame"), measures.get("es_frame")
        if is_cavity(name):
            matched = _measure_at(prediction_ml[name], ed, es)
        else:
            labelled = np.isfinite(reference_ml[name])
            matched = _measure_mass(np.where(labelled, prediction_ml[name], np.nan), ed)
        row: dict[str, Any] = {"class": name, "role": cardiac_role(name)}
        for part, found in (("reference", measures), ("matched", matched), ("prediction", own[name])):
            row |= {f"{part}_{key}": found.get(key) for key in MEASURES}
        rows.append(row)
    return rows


def _measure_at(curve_ml: np.ndarray, ed: float | None, es: float | None) -> Measures:
    """Measure a cavity at given frames; the ejection fraction is negative where the cavity grows from `ed` to `es`."""
    if ed is None or es is None:
        return {}
    edv, esv = float(curve_ml[int(ed)]), float(curve_ml[int(es)])
    sv = edv - esv
    return {"edv_ml": edv, "esv_ml": esv, "sv_ml": sv, "ef_percent": 100.0 * sv / edv if edv else None}


def _measure_mass(curve_ml: np.ndarray, ed: float | None) -> Measures:
    """Measure the mass at end-diastole of the cavity; without a cavity, the mean over the frames with a volume."""
    defined = curve_ml[np.isfinite(curve_ml)]
    if not len(defined):
        return {}
    volume = float(defined.mean() if ed is None else curve_ml[int(ed)])
    return {"ed_frame": ed, "mass_g": volume * MYOCARDIAL_DENSITY_G_PER_ML}
