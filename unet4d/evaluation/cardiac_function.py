"""Cardiac function of one study, reference against prediction: volumes, ejection fraction, filling rate, mass.

The role of a class decides what is a ventricle and what is myocardium. The extremes of the reference are those among its labelled
frames. The prediction is measured twice: at the frames of the reference, which compares the same moments, and at its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from unet4d.metrics.cardiac_structures import (
    MYOCARDIA,
    MYOCARDIAL_DENSITY_G_PER_ML,
    VENTRICLES,
    Roles,
    cavity_within,
    find_roles,
)
from unet4d.metrics.volume_curves import CurveMeasures, curve_measures

MEASURES = (*CurveMeasures.__dataclass_fields__, "mass_g")
AT_REFERENCE_FRAMES = ("edv_ml", "esv_ml", "sv_ml", "ef_percent", "mass_g")
Measures = Mapping[str, float | None]
"""Some of MEASURES of one volume curve; None or missing where undefined, or where the class has no such measure."""


def has_measures(structure: str | None) -> bool:
    """Return whether a structure of the heart has measures here: a ventricle or a myocardium; an atrium has its volume only."""
    return structure in VENTRICLES or structure in MYOCARDIA


def measure_cardiac_function(
    curves_ml: Mapping[str, np.ndarray], frame_duration_s: float | None, cyclic: bool, roles: Roles | None = None
) -> dict[str, Measures]:
    """Measure the ventricles and the myocardium of one label map.

    Args:
        curves_ml: class name to `(T,)` mL, NaN in unlabelled frames.
        frame_duration_s: seconds from frame to frame; None where unknown.
        cyclic: whether the last frame leads into the first.
        roles: the structure of each class, see `find_roles`; None goes by their names.
    """
    roles = find_roles(curves_ml) if roles is None else roles
    found: dict[str, Measures] = {}
    for name, curve in curves_ml.items():
        structure = roles.get(name, "")
        if structure in VENTRICLES:
            has_extremes = np.count_nonzero(np.isfinite(curve)) > 1
            found[name] = vars(curve_measures(curve, frame_duration_s, cyclic)) if has_extremes else {}
        elif structure in MYOCARDIA:
            cavity = curves_ml.get(cavity_within(structure, roles) or "")
            has_ed = cavity is not None and np.isfinite(cavity).any()
            found[name] = _measure_mass(curve, int(np.nanargmax(cavity)) if cavity is not None and has_ed else None)
    return found


def score_cardiac_function(
    reference_ml: Mapping[str, np.ndarray],
    prediction_ml: Mapping[str, np.ndarray],
    frame_duration_s: float | None,
    cyclic: bool,
    roles: Roles | None = None,
) -> list[dict[str, Any]]:
    """Measure reference and prediction; the arguments are those of `measure_cardiac_function`.

    Returns:
        One row per ventricle or myocardium: class, role, and the measures of the reference, of the prediction "matched" at
        end-diastole and end-systole of the reference, and of the prediction over all its frames.
    """
    roles = find_roles(reference_ml) if roles is None else roles
    of_reference, own = (
        measure_cardiac_function(curves, frame_duration_s, cyclic, roles) for curves in (reference_ml, prediction_ml)
    )
    rows = []
    for name, measures in of_reference.items():
        ed, es = measures.get("ed_frame"), measures.get("es_frame")
        if roles[name] in VENTRICLES:
            matched = _measure_at(prediction_ml[name], ed, es)
        else:
            labelled = np.isfinite(reference_ml[name])
            matched = _measure_mass(np.where(labelled, prediction_ml[name], np.nan), ed)
        row: dict[str, Any] = {"class": name, "role": roles[name]}
        for part, found in (("reference", measures), ("matched", matched), ("prediction", own[name])):
            row |= {f"{part}_{key}": found.get(key) for key in MEASURES}
        rows.append(row)
    return rows


def _measure_at(curve_ml: np.ndarray, ed: float | None, es: float | None) -> Measures:
    """Measure a ventricle at given frames; the ejection fraction is negative where it grows from `ed` to `es`."""
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
