"""Plausibility checks of volume curves: each flag asks the user to look at the segmentation. No flag proves a curve right.

The thresholds lie well outside of what hearts do and of what few frames make of them, so that a flag is worth a look.
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
"""Share of the largest volume by which one frame may lie beyond both of its neighbors, and the same times the number of frames.

With few frames end-systole may be one frame: with 16 frames it may lie 23 % below both. Exact labels of phantoms of the usual
size, 6 to 30 frames, stay below. With 5 or 6 slices, a basal slice that is present in one frame only may not."""
SUDDEN, SUDDEN_STEPS = 0.5, 3.0
"""Share of the largest volume, and multiple of the upper quartile of the steps of a curve, above which a step is sudden.

A ventricle may lose up to a third at once where a thick basal slice is labelled in one frame and not in the next."""
OPEN_GAP, OPEN_STEPS, OPEN_SHARE = 0.25, 1.5, 0.15
"""`closure`, multiple of the largest step within, and share of the largest volume above all of which a cyclic curve is not closed.

Gated cine returns to its beginning to within a step of the curve."""
MYOCARDIAL_CHANGE = 0.30
"""(largest - smallest) / mean of the myocardial volume over a cycle.

Muscle is nearly incompressible; contours are less so: end-systole over end-diastole 0.87 (SD 0.04) in 115 healthy adults (Kumar et
al., "Cardiac MRI demonstrates compressibility in healthy myocardium but not in myocardium with reduced ejection fraction",
International Journal of Cardiology). Three deviations below that are 0.75, a change of 29 % of the mean."""
EJECTION_FRACTION = (5.0, 90.0)
"""Range in percent for a cavity: below, the heart does not pump; above, it would be nearly empty."""
FEWEST_FRAMES = 8
"""Number of frames from which the steps of a curve show what is usual for it."""


@dataclass(frozen=True)
class Flag:
    """One implausible property of a curve.

    Attributes:
        kind: what is implausible.
        class_name: name of the class.
        frames: frames concerned, from 0; empty for the whole curve.
        sentence: text for the user.
    """

    kind: Literal["missing", "jump", "not closed", "myocardium", "ejection fraction"]
    class_name: str
    frames: tuple[int, ...]
    sentence: str


def find_flags(curves_ml: Mapping[str, np.ndarray], cyclic: bool | None) -> list[Flag]:
    """Return what is implausible in the curves of one study, class by class.

    Closure, myocardium and ejection fraction need a whole cycle: they are checked in cyclic studies, for classes present in every
    frame.

    Args:
        curves_ml: foreground class name to `(T,)` mL, every frame segmented.
        cyclic: whether the last frame leads into the first; None where unknown.
    """
    found: list[Flag] = []
    for name, curve in curves_ml.items():
        curve = np.asarray(curve, np.float64)
        found += _check_present(name, curve)
        if curve.any():
            found += _check_jumps(name, curve, bool(cyclic))
            found += _check_cycle(name, curve) if cyclic and curve.all() else []
    return found


def describe_checks(cyclic: bool | None) -> str:
    """Return what `find_flags` checks, as text for the user."""
    always = "every class in every frame; no sudden jump between frames"
    if cyclic:
        low, high = EJECTION_FRACTION
        return (
            f"{always}; curves closed over the cycle; myocardial volume within {100 * MYOCARDIAL_CHANGE:.0f} %; ejection "
            f"fractions from {low:.0f} to {high:.0f} %."
        )
    return f"{always}. Closure, myocardial volume and ejection fraction are judged for cyclic studies only."


def _check_present(name: str, curve: np.ndarray) -> list[Flag]:
    absent = tuple(int(t) for t in np.flatnonzero(curve == 0))
    if not absent:
        return []
    frames = "every frame" if len(absent) == len(curve) else describe_frames(absent)
    return [Flag("missing", name, absent, f"{name}: nothing found in {frames}.")]


def _check_jumps(name: str, curve: np.ndarray, cyclic: bool) -> list[Flag]:
    """Flag frames beyond both neighbors, and sudden steps; frames without the class are left to `_check_present`."""
    if len(curve) < FEWEST_FRAMES:
        return []
    before, after = np.roll(curve, 1), np.roll(curve, -1)
    present = (before > 0) & (curve > 0) & (after > 0)
    present[[0, -1]] &= cyclic
    beyond = np.maximum(curve - np.maximum(before, after), np.minimum(before, after) - curve)  # (T,)
    alone = present & (beyond > max(OUT_OF_LINE, OUT_OF_LINE_FRAMES / len(curve)) * curve.max())
    step = np.where((curve[1:] > 0) & (curve[:-1] > 0), np.abs(np.diff(curve)), 0)  # (T - 1,)
    usual = float(np.quantile(step, 0.75, method="lower"))  # a few outliers leave it as it is
    sudden = step > max(SUDDEN * curve.max(), SUDDEN_STEPS * usual)
    found = []
    frames = tuple(int(t) for t in np.flatnonzero(alone))
    if frames:
        text = f"{name}: jumps by {beyond[alone].max():.1f} mL there and back at {describe_frames(frames)}."
        found.append(Flag("jump", name, frames, text))
    others = tuple(int(t) + 1 for t in np.flatnonzero(sudden) if not {int(t), int(t) + 1} & set(frames))
    if others:
        largest = step[[t - 1 for t in others]].max()
        text = f"{name}: jumps by {largest:.1f} mL from the frame before at {describe_frames(others)}."
        found.append(Flag("jump", name, others, text))
    return found


def _check_cycle(name: str, curve: np.ndarray) -> list[Flag]:
    """Flag an open cycle, myocardium that changes its volume, and an impossible ejection fraction."""
    found = []
    gap, open_by = abs(float(curve[0] - curve[-1])), closure(curve)
    steps = np.abs(np.diff(curve))
    large = len(curve) >= FEWEST_FRAMES and gap > max(OPEN_SHARE * curve.max(), OPEN_STEPS * float(steps.max()))
    if open_by is not None and open_by > OPEN_GAP and large:
        text = f"{name}: the cycle is not closed; the last frame is {gap:.1f} mL from the first."
        found.append(Flag("not closed", name, (0, len(curve) - 1), text))
    change = float(np.ptp(curve) / curve.mean())
    if is_myocardium(name) and change > MYOCARDIAL_CHANGE:
        text = f"{name}: its volume changes by {100 * change:.0f} % over the cycle, where muscle keeps its volume."
        found.append(Flag("myocardium", name, (int(curve.argmin()), int(curve.argmax())), text))
    if is_cavity(name) and len(curve) > 1:
        ef = curve_measures(curve, None, True).ef_percent
        low, high = EJECTION_FRACTION
        if ef is not None and not low <= ef <= high:
            text = f"{name}: an ejection fraction of {ef:.0f} %, where {low:.0f} to {high:.0f} % is plausible."
            found.append(Flag("ejection fraction", name, (), text))
    return found
