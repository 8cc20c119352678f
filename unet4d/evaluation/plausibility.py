"""What a volume curve cannot be: each flag is a sentence that sends somebody to look. No flag says that a curve is right.

Thresholds lie well outside of what hearts do and of what few frames make of them, so that a flag is worth a look.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from unet4d.metrics.cardiac_structures import is_cavity, is_myocardium
from unet4d.metrics.volume_curves import closure, curve_measures
from unet4d.system.text import describe_frames

OUT_OF_LINE, OUT_OF_LINE_FRAMES = 0.15, 3.75
"""Share of the largest volume by which one frame may lie beyond both of its neighbours, and the same times the number of frames: of
few frames end-systole is one alone, with 16 it may lie 23 % below both. Exact labels of phantoms of the usual size, 6 to 30 frames,
stay below; with 5 or 6 slices a basal one that is there in one frame alone may not."""
SUDDEN, SUDDEN_STEPS = 0.5, 3.0
"""Share of the largest volume, and times the upper quartile of a curve's steps, from which a step is sudden. Less is none: where a
thick basal slice is drawn in one frame and not in the next, a ventricle loses up to a third at once."""
OPEN_GAP, OPEN_STEPS, OPEN_SHARE = 0.25, 1.5, 0.15
"""`closure`, times the largest step within, and share of the largest volume above all of which a cyclic curve is not closed: gated
cine returns to its beginning, to a step of the curve's own."""
MYOCARDIAL_CHANGE = 0.30
"""(largest - smallest) / mean of a myocardium's volume over a cycle. Muscle is nearly incompressible; what contours make of it is
less so: end-systole over end-diastole 0.87 (SD 0.04) in 115 healthy adults (Kumar et al., "Cardiac MRI demonstrates
compressibility in healthy myocardium but not in myocardium with reduced ejection fraction", International Journal of Cardiology).
Three deviations beyond that are 0.75, a change of 29 % of the mean."""
EJECTION_FRACTION = (5.0, 90.0)
"""In per cent, of a cavity: below, the heart does not pump; above, it would be all but empty."""
SMALLEST_CURVE = 8
"""Frames from which on a curve's steps say what is usual for it."""

Kind = Literal["missing", "jump", "not closed", "myocardium", "ejection fraction"]


@dataclass(frozen=True)
class Flag:
    """One thing to look at.

    Attributes:
        kind: what is implausible.
        class_name: of which class.
        frames: where, from 0; empty where the whole curve is meant.
        sentence: the same in words.
    """

    kind: Kind
    class_name: str
    frames: tuple[int, ...]
    sentence: str


def find_flags(curves_ml: Mapping[str, np.ndarray], cyclic: bool | None) -> list[Flag]:
    """What is implausible in the curves of one study, class by class. Of a class that is missing in a frame no cycle is judged.

    Args:
        curves_ml: foreground class name to `(T,)` mL, every frame segmented.
        cyclic: whether the last frame leads into the first; None where nobody says: then nothing that needs a whole cycle
            (closure, myocardium, ejection fraction) is judged.
    """
    found: list[Flag] = []
    for name, curve in curves_ml.items():
        curve = np.asarray(curve, np.float64)
        found += _missing(name, curve)
        if curve.any():
            found += _jumps(name, curve, bool(cyclic))
            found += _cycle(name, curve) if cyclic and curve.all() else []
    return found


def describe_checks(cyclic: bool | None) -> str:
    """What `find_flags` looks for, in words."""
    always = "every class in every frame; no sudden jump between frames"
    if cyclic:
        low, high = EJECTION_FRACTION
        return (
            f"{always}; curves closed over the cycle; the myocardium's volume within {100 * MYOCARDIAL_CHANGE:.0f} %; ejection "
            f"fractions from {low:.0f} to {high:.0f} %."
        )
    return f"{always}. Closure, myocardial volume and ejection fraction are judged for cyclic studies only."


def _missing(name: str, curve: np.ndarray) -> list[Flag]:
    absent = tuple(int(t) for t in np.flatnonzero(curve == 0))
    if not absent:
        return []
    where = "every frame" if len(absent) == len(curve) else describe_frames(absent)
    return [Flag("missing", name, absent, f"{name}: nothing found in {where}.")]


def _jumps(name: str, curve: np.ndarray, cyclic: bool) -> list[Flag]:
    """Frames that lie beyond both neighbours, and steps out of all proportion; where a class is missing, that is said already."""
    if len(curve) < SMALLEST_CURVE:
        return []
    before, after = np.roll(curve, 1), np.roll(curve, -1)
    there = (before > 0) & (curve > 0) & (after > 0)
    there[[0, -1]] &= cyclic
    beyond = np.maximum(curve - np.maximum(before, after), np.minimum(before, after) - curve)  # (T,)
    alone = there & (beyond > max(OUT_OF_LINE, OUT_OF_LINE_FRAMES / len(curve)) * curve.max())
    step = np.where((curve[1:] > 0) & (curve[:-1] > 0), np.abs(np.diff(curve)), 0)  # (T - 1,)
    sudden = step > max(SUDDEN * curve.max(), SUDDEN_STEPS * _usual(step))
    found = []
    if alone.any():
        frames = tuple(int(t) for t in np.flatnonzero(alone))
        said = f"{name}: jumps by {beyond[alone].max():.1f} mL there and back at {describe_frames(frames)}."
        found.append(Flag("jump", name, frames, said))
    others = tuple(
        int(t) + 1 for t in np.flatnonzero(sudden) if not (found and {int(t), int(t) + 1} & set(found[0].frames))
    )
    if others:
        said = f"{name}: jumps by {step[[t - 1 for t in others]].max():.1f} mL from the frame before at {describe_frames(others)}."
        found.append(Flag("jump", name, others, said))
    return found


def _usual(values: np.ndarray) -> float:
    """The upper quartile, which a few outliers among few values leave as it is."""
    return float(np.quantile(values, 0.75, method="lower"))


def _cycle(name: str, curve: np.ndarray) -> list[Flag]:
    """What holds for a whole cycle of a heart."""
    found = []
    gap, open_by = abs(float(curve[0] - curve[-1])), closure(curve)
    steps = np.abs(np.diff(curve))
    large = len(curve) >= SMALLEST_CURVE and gap > max(OPEN_SHARE * curve.max(), OPEN_STEPS * float(steps.max()))
    if open_by is not None and open_by > OPEN_GAP and large:
        said = f"{name}: the cycle is not closed; the last frame is {gap:.1f} mL from the first."
        found.append(Flag("not closed", name, (0, len(curve) - 1), said))
    change = float(np.ptp(curve) / curve.mean())
    if is_myocardium(name) and change > MYOCARDIAL_CHANGE:
        said = f"{name}: its volume changes by {100 * change:.0f} % over the cycle, where muscle keeps its volume."
        found.append(Flag("myocardium", name, (int(curve.argmin()), int(curve.argmax())), said))
    if is_cavity(name) and len(curve) > 1:
        ef = curve_measures(curve, None, True).ef_percent
        low, high = EJECTION_FRACTION
        if ef is not None and not low <= ef <= high:
            said = f"{name}: an ejection fraction of {ef:.0f} %, where {low:.0f} to {high:.0f} % is plausible."
            found.append(Flag("ejection fraction", name, (), said))
    return found
