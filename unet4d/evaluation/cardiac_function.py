"""Clinical measures of a heart's classes, of reference and prediction: volumes, ejection fraction, filling, mass.

Which class is a cavity or a myocardium is told by its name. The reference's extremes are those among its labelled frames. The
prediction is measured twice: at the reference's frames, so that the same moments are compared, and at its own, as one would
without a reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from unet4d.metrics.cardiac_structures import MYOCARDIAL_DENSITY_G_PER_ML, cavity_within, is_cavity, is_myocardium
from unet4d.metrics.volume_curves import curve_measures

CAVITY, MYOCARDIUM = "cavity", "myocardium"
Frame = int | None


@dataclass(frozen=True)
class CardiacMeasures:
    """What one curve says; None where it is undefined or no measure of the class."""

    ed_frame: int | None = None
    es_frame: int | None = None
    edv_ml: float | None = None
    esv_ml: float | None = None
    sv_ml: float | None = None
    ef_percent: float | None = None
    peak_filling_ml_per_s: float | None = None
    time_to_peak_filling_s: float | None = None
    mass_g: float | None = None


MEASURES = tuple(field.name for field in fields(CardiacMeasures))
AT_REFERENCE_FRAMES = ("edv_ml", "esv_ml", "sv_ml", "ef_percent", "mass_g")


@dataclass(frozen=True)
class CardiacScores:
    """Of one class of one study.

    Attributes:
        name: of the class.
        role: "cavity" or "myocardium".
        reference: over its labelled frames.
        matched: the prediction at the reference's end-diastole and end-systole.
        prediction: over all its frames.
    """

    name: str
    role: str
    reference: CardiacMeasures
    matched: CardiacMeasures
    prediction: CardiacMeasures


def cardiac_role(name: str) -> str | None:
    """What a class of this name is of a heart."""
    if is_cavity(name):
        return CAVITY
    return MYOCARDIUM if is_myocardium(name) else None


def score_cardiac_function(
    reference_ml: Mapping[str, np.ndarray],
    prediction_ml: Mapping[str, np.ndarray],
    frame_duration_s: float | None,
    cyclic: bool,
) -> list[CardiacScores]:
    """Measure the classes that are a heart's.

    Args:
        reference_ml: class name to `(T,)` mL, NaN in frames that nobody labelled.
        prediction_ml: the same classes, `(T,)` mL of every frame.
        frame_duration_s: seconds from frame to frame; None where unknown.
        cyclic: whether the last frame leads into the first.
    """
    found = []
    for name, reference in reference_ml.items():
        role, prediction = cardiac_role(name), prediction_ml[name]
        if role == CAVITY:
            drawn = _cavity(reference, frame_duration_s, cyclic)
            matched = _at(prediction, drawn.ed_frame, drawn.es_frame)
            found.append(CardiacScores(name, role, drawn, matched, _cavity(prediction, frame_duration_s, cyclic)))
        elif role == MYOCARDIUM:
            cavity = cavity_within(name, list(reference_ml))
            ed = _largest(reference_ml[cavity]) if cavity else None
            own = _largest(prediction_ml[cavity]) if cavity else None
            labelled = np.where(np.isfinite(reference), prediction, np.nan)
            masses = (_mass(reference, ed), _mass(labelled, ed), _mass(prediction, own))
            found.append(CardiacScores(name, role, *masses))
    return found


def _cavity(curve_ml: np.ndarray, frame_duration_s: float | None, cyclic: bool) -> CardiacMeasures:
    """Fewer than two frames with a volume have no end-diastole and no end-systole."""
    if np.count_nonzero(np.isfinite(curve_ml)) < 2:
        return CardiacMeasures()
    return CardiacMeasures(**vars(curve_measures(curve_ml, frame_duration_s, cyclic)))


def _at(curve_ml: np.ndarray, ed: Frame, es: Frame) -> CardiacMeasures:
    """A cavity's volumes at given frames: its fraction may be negative there, where it grows while the reference shrinks."""
    if ed is None or es is None:
        return CardiacMeasures()
    edv, esv = float(curve_ml[ed]), float(curve_ml[es])
    return CardiacMeasures(ed, es, edv, esv, edv - esv, 100.0 * (edv - esv) / edv if edv else None)


def _mass(curve_ml: np.ndarray, ed: Frame) -> CardiacMeasures:
    """A myocardium's mass at its cavity's end-diastole; where it has no cavity, the mean over the frames with a volume."""
    defined = curve_ml[np.isfinite(curve_ml)]
    if not len(defined):
        return CardiacMeasures()
    volume = float(defined.mean() if ed is None else curve_ml[ed])
    return CardiacMeasures(ed_frame=ed, mass_g=volume * MYOCARDIAL_DENSITY_G_PER_ML)


def _largest(curve_ml: np.ndarray) -> Frame:
    return int(np.nanargmax(curve_ml)) if np.isfinite(curve_ml).any() else None
