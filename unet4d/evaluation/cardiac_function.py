"""Cardiac function of one study, reference against prediction: volumes, ejection fraction, filling rate, mass.

The class name decides what is a cavity and what is myocardium. The extremes of the reference are those among its labelled frames.
The prediction is measured twice: at the frames of the reference, which compares the same moments, and at its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from unet4d.metrics.cardiac_structures import MYOCARDIAL_DENSITY_G_PER_ML, cavity_within, is_cavity, is_myocardium
from unet4d.metrics.volume_curves import CurveMeasures, curve_measures

CAVITY, MYOCARDIUM = "cavity", "myocardium"
MEASURES = (*CurveMeasures.__dataclass_fields__, "mass_g")
AT_REFERENCE_FRAMES = ("edv_ml", "esv_ml", "sv_ml", "ef_percent", "mass_g")
Measures = Mapping[str, float | None]
"""Some of MEASURES of one volume curve; None or missing where undefined, or where the class has no such measure."""


class CardiacScores(NamedTuple):
    """Measures of one class of one study.

    Attributes:
        name: class name.
        role: "cavity" or "myocardium".
        reference: over the labelled frames of the reference.
        matched: of the prediction, at end-diastole and end-systole of the reference.
        prediction: of the prediction, over all its frames.
    """

    name: str
    role: str
    reference: Measures
    matched: Measures
    prediction: Measures


def cardiac_role(name: str) -> str | None:
    """Return "cavity" or "myocardium" for the name of a class; None for any other class."""
    if is_cavity(name):
        return CAVITY
    return MYOCARDIUM if is_myocardium(name) else None


def score_cardiac_function(
    reference_ml: Mapping[str, np.ndarray],
    prediction_ml: Mapping[str, np.ndarray],
    frame_duration_s: float | None,
    cyclic: bool,
) -> list[CardiacScores]:
    """Measure the classes that are cavities or myocardium.

    Args:
        reference_ml: class name to `(T,)` mL, NaN in unlabelled frames.
        prediction_ml: the same classes, `(T,)` mL of every frame.
        frame_duration_s: seconds from frame to frame; None where unknown.
        cyclic: whether the last frame leads into the first.
    """
    found = []
    for name, reference in reference_ml.items():
        role, prediction = cardiac_role(name), prediction_ml[name]
        if role == CAVITY:
            of_reference = _measure_cavity(reference, frame_duration_s, cyclic)
            matched = _measure_at(prediction, of_reference.get("ed_frame"), of_reference.get("es_frame"))
            own = _measure_cavity(prediction, frame_duration_s, cyclic)
            found.append(CardiacScores(name, role, of_reference, matched, own))
        elif role == MYOCARDIUM:
            cavity = cavity_within(name, list(reference_ml))
            ed = _largest_frame(reference_ml[cavity]) if cavity else None
            own_ed = _largest_frame(prediction_ml[cavity]) if cavity else None
            labelled = np.where(np.isfinite(reference), prediction, np.nan)
            masses = (_measure_mass(reference, ed), _measure_mass(labelled, ed), _measure_mass(prediction, own_ed))
            found.append(CardiacScores(name, role, *masses))
    return found


def _measure_cavity(curve_ml: np.ndarray, frame_duration_s: float | None, cyclic: bool) -> Measures:
    if np.count_nonzero(np.isfinite(curve_ml)) < 2:  # no end-diastole, no end-systole
        return {}
    return vars(curve_measures(curve_ml, frame_duration_s, cyclic))


def _measure_at(curve_ml: np.ndarray, ed: float | None, es: float | None) -> Measures:
    """Measure a cavity at given frames; the ejection fraction is negative where the cavity grows from `ed` to `es`."""
    if ed is None or es is None:
        return {}
    edv, esv = float(curve_ml[int(ed)]), float(curve_ml[int(es)])
    sv = edv - esv
    return {"edv_ml": edv, "esv_ml": esv, "sv_ml": sv, "ef_percent": 100.0 * sv / edv if edv else None}


def _measure_mass(curve_ml: np.ndarray, ed: int | None) -> Measures:
    """Measure the mass at end-diastole of the cavity; without a cavity, the mean over the frames with a volume."""
    defined = curve_ml[np.isfinite(curve_ml)]
    if not len(defined):
        return {}
    volume = float(defined.mean() if ed is None else curve_ml[ed])
    return {"ed_frame": ed, "mass_g": volume * MYOCARDIAL_DENSITY_G_PER_ML}


def _largest_frame(curve_ml: np.ndarray) -> int | None:
    return int(np.nanargmax(curve_ml)) if np.isfinite(curve_ml).any() else None
