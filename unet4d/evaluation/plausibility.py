"""Plausibility checks of label maps: each flag asks the user to look at the segmentation. No flag proves a label map right.

The thresholds lie well outside of what hearts do and of what few frames make of them, so that a flag is worth a look. Those of
volumes and mass hold for hearts of humans, newborns included; smaller animals raise them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from unet4d.evaluation.cardiac_function import measure_cardiac_function
from unet4d.metrics.cardiac_structures import (
    LEFT_ATRIUM,
    LEFT_VENTRICLE,
    MYOCARDIA,
    MYOCARDIUM,
    RIGHT_ATRIUM,
    RIGHT_MYOCARDIUM,
    RIGHT_VENTRICLE,
    VENTRICLE,
    VENTRICLES,
    Roles,
    class_of,
    find_roles,
)
from unet4d.metrics.components import contact_share, count_components
from unet4d.metrics.regions import ClassValue, class_mask
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
"""Range in percent for a ventricle: below, the heart does not pump; above, it would be nearly empty."""
LARGEST_ML = {
    LEFT_VENTRICLE: (5.0, 600.0),
    RIGHT_VENTRICLE: (5.0, 600.0),
    VENTRICLE: (5.0, 1200.0),
    LEFT_ATRIUM: (1.0, 600.0),
    RIGHT_ATRIUM: (1.0, 600.0),
}
"""Range of the largest volume of a chamber over the frames, in mL, from newborns to the most dilated adults; both
ventricles may be one class.

Rounded far beyond the reference ranges, which are of healthy people: adults of 45 to 74 years (Petersen et al., "Reference ranges
for cardiac structure and function using CMR in Caucasians from the UK Biobank population cohort", J Cardiovasc Magn Reson 19:18,
2017); adults and children (Kawel-Boehm et al., "Reference ranges for CMR in adults and children: 2020 update", J Cardiovasc Magn
Reson 22:87, 2020); children from 7 kg on (Buechel et al., J Cardiovasc Magn Reson 11:19, 2009). The bounds are ours."""
MASS_G = {MYOCARDIUM: (5.0, 700.0), RIGHT_MYOCARDIUM: (1.0, 300.0)}
"""Range of the mass of a myocardium, in g, as wide. Healthy men of the UK Biobank have 53 g/m2 (SD 9), women 42 (SD 7)."""
STROKE_FACTOR = 3.0
"""Factor between the stroke volumes of both ventricles, which pump the same blood.

Leaking valves and shunts set them apart, and so do stacks that end below the base: drawn labels of such differ by more than 2."""
LEAST_SHARE_OF_PIECE, MOST_PIECES = 0.8, 20
"""Share of its largest component in a structure of a heart, and number of its components: it is one piece but for its tips."""
SCATTERED_VOXELS = 8
"""Any class in more components than `MOST_PIECES`, of fewer voxels than this on average, is noise or a checkerboard."""
MOST_OF_FIELD = 0.7
"""Share of the field of view that a heart fills, at most. Drawn labels of images that are cut close to it fill up to 0.43."""
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

    kind: Literal[
        "missing",
        "jump",
        "not closed",
        "myocardium",
        "ejection fraction",
        "volume",
        "mass",
        "stroke volume",
        "sides",
        "pieces",
        "field",
    ]
    class_name: str
    frames: tuple[int, ...]
    sentence: str

    @property
    def key(self) -> str:
        """Return the flag as a short key for tables, "ejection_fraction:LVC"."""
        return ":".join(filter(None, (self.kind.replace(" ", "_"), self.class_name)))


@dataclass(frozen=True, eq=False)
class LabelShape:
    """Pieces and sizes of the K foreground classes of a label map.

    Attributes:
        frames: (F,) the frames that were measured.
        pieces: (F, K) number of components.
        largest_share: (F, K) share of a class in its largest component.
        voxels: (F, K) number of voxels.
        field_voxels: number of voxels of a frame.
        label: (F, X, Y, Z) these frames.
        values: (K,) the classes' values.
    """

    frames: np.ndarray
    pieces: np.ndarray
    largest_share: np.ndarray
    voxels: np.ndarray
    field_voxels: int
    label: np.ndarray
    values: Sequence[ClassValue]

    @classmethod
    def measure(cls, label: np.ndarray, values: Sequence[ClassValue], most_frames: int | None = None) -> LabelShape:
        """Measure K classes, or regions, of a label map (T, X, Y, Z) in every frame, or in `most_frames` evenly spread ones.

        A frame of 256 x 256 x 12 voxels takes 7 ms where it is a heart, 40 ms where it is noise.
        """
        total = len(label)
        frames = np.unique(np.linspace(0, total - 1, min(most_frames or total, total)).round().astype(int))
        measured = label[frames]
        pieces, largest = count_components(measured, values)
        voxels = np.array([[np.count_nonzero(class_mask(frame, value)) for value in values] for frame in measured])
        return cls(frames, pieces, largest, voxels, label[0].size, measured, values)


def find_flags(
    curves_ml: Mapping[str, np.ndarray],
    cyclic: bool | None,
    roles: Roles | None = None,
    shape: LabelShape | None = None,
) -> list[Flag]:
    """Return what is implausible in the label map of one study, class by class.

    Closure, myocardium, ejection fraction and stroke volume need a whole cycle: they are checked in cyclic studies, for classes
    present in every frame.

    Args:
        curves_ml: foreground class name to `(T,)` mL, every frame segmented.
        cyclic: whether the last frame leads into the first; None where unknown.
        roles: the structure of a heart that each class is, see `find_roles`; None goes by their names.
        shape: of the same classes in the same order; None checks the curves alone.
    """
    curves = {name: np.asarray(curve, np.float64) for name, curve in curves_ml.items()}
    roles = find_roles(curves) if roles is None else roles
    found: list[Flag] = []
    for k, (name, curve) in enumerate(curves.items()):
        structure = roles.get(name, "")
        found += _check_present(name, curve)
        if curve.any():
            found += _check_jumps(name, curve, bool(cyclic))
            found += _check_cycle(name, curve, structure) if cyclic and curve.all() else []
            found += _check_volume(name, curve, structure)
            found += _check_pieces(name, shape, k, structure) if shape else []
    found += _check_hearts(curves, bool(cyclic), roles)
    found += _check_sides(shape, list(curves), roles) if shape else []
    return found + (_check_field(shape, [k for k, name in enumerate(curves) if name in roles]) if shape else [])


def describe_checks(cyclic: bool | None, frames: int = 2) -> str:
    """Return what `find_flags` checks, as text for the user."""
    always = "every class in every frame" + "; no sudden jump between frames" * (frames > 1)
    low, high = LARGEST_ML[LEFT_VENTRICLE]
    always += (
        "; no class in scattered pieces; of a heart: each structure in one piece, the myocardium around the left ventricle, "
        f"ventricles of {low:.0f} to {high:.0f} mL, mass, "
        "share of the field of view"
    )
    if cyclic:
        low, high = EJECTION_FRACTION
        return (
            f"{always}; curves closed over the cycle; myocardial volume within {100 * MYOCARDIAL_CHANGE:.0f} %; ejection "
            f"fractions from {low:.0f} to {high:.0f} %; stroke volumes of both ventricles within a factor of {STROKE_FACTOR:.0f}."
        )
    if frames == 1:
        return f"{always}."
    return f"{always}. Closure, myocardial volume, ejection fraction and stroke volumes are judged for cyclic studies only."


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


def _check_cycle(name: str, curve: np.ndarray, structure: str) -> list[Flag]:
    """Flag an open cycle, myocardium that changes its volume, and an impossible ejection fraction."""
    found = []
    gap, open_by = abs(float(curve[0] - curve[-1])), closure(curve)
    steps = np.abs(np.diff(curve))
    large = len(curve) >= FEWEST_FRAMES and gap > max(OPEN_SHARE * curve.max(), OPEN_STEPS * float(steps.max()))
    if open_by is not None and open_by > OPEN_GAP and large:
        text = f"{name}: the cycle is not closed; the last frame is {gap:.1f} mL from the first."
        found.append(Flag("not closed", name, (0, len(curve) - 1), text))
    change = float(np.ptp(curve) / curve.mean())
    if structure in MYOCARDIA and change > MYOCARDIAL_CHANGE:
        text = f"{name}: its volume changes by {100 * change:.0f} % over the cycle, where muscle keeps its volume."
        found.append(Flag("myocardium", name, (int(curve.argmin()), int(curve.argmax())), text))
    if structure in VENTRICLES and len(curve) > 1:
        ef = curve_measures(curve, None, True).ef_percent
        low, high = EJECTION_FRACTION
        if ef is not None and not low <= ef <= high:
            text = f"{name}: an ejection fraction of {ef:.3g} %, where {low:.0f} to {high:.0f} % is plausible."
            found.append(Flag("ejection fraction", name, (), text))
    return found


def _check_volume(name: str, curve: np.ndarray, structure: str) -> list[Flag]:
    """Flag a chamber larger or smaller than any; a single frame may be end-systole, so that it has no lower bound."""
    low, high = LARGEST_ML.get(structure, (0.0, np.inf))
    largest = float(curve.max())
    if largest <= high and (largest >= low or len(curve) == 1):
        return []
    text = f"{name}: {largest:.3g} mL at its largest, where {low:.0f} to {high:.0f} mL is plausible for a {structure}."
    return [Flag("volume", name, (int(curve.argmax()),), text)]


def _check_hearts(curves: Mapping[str, np.ndarray], cyclic: bool, roles: Roles) -> list[Flag]:
    """Flag masses that no heart has, and ventricles that pump different volumes."""
    found = []
    measures = measure_cardiac_function(curves, None, cyclic, roles)
    for name, structure in roles.items():
        low, high = MASS_G.get(structure, (0.0, np.inf))
        mass = measures.get(name, {}).get("mass_g")
        if mass and not low <= mass <= high:
            text = f"{name}: a mass of {mass:.3g} g, where {low:.0f} to {high:.0f} g is plausible."
            found.append(Flag("mass", name, (), text))
    sides = [class_of(side, roles) for side in (LEFT_VENTRICLE, RIGHT_VENTRICLE)]
    pumped = {name: measures[name].get("sv_ml") for name in sides if name and curves[name].all()}
    left, right, *_ = [*(volume for volume in pumped.values() if volume is not None), None, None]
    if cyclic and left is not None and right is not None and max(left, right) > STROKE_FACTOR * min(left, right):
        text = f"stroke volumes of {left:.3g} mL ({sides[0]}) and {right:.3g} mL ({sides[1]}), where both pump the same blood."
        found.append(Flag("stroke volume", str(sides[1]), (), text))
    return found


def _check_sides(shape: LabelShape, names: Sequence[str], roles: Roles) -> list[Flag]:
    """Flag ventricles with roles that may be swapped: the left myocardium surrounds the left one, and touches the right one."""
    left, right, wall = (class_of(structure, roles) for structure in (LEFT_VENTRICLE, RIGHT_VENTRICLE, MYOCARDIUM))
    if left is None or right is None or wall is None:
        return []
    masks = {name: class_mask(shape.label, value) for name, value in zip(names, shape.values, strict=True)}
    of_left, of_right = (contact_share(masks[name], masks[wall]) for name in (left, right))
    if of_right <= of_left:
        return []
    text = (
        f"{wall} covers {100 * of_right:.0f} % of {right} and {100 * of_left:.0f} % of {left}: left and right ventricle may be "
        "swapped in the roles."
    )
    return [Flag("sides", right, (), text)]


def _check_pieces(name: str, shape: LabelShape, k: int, structure: str) -> list[Flag]:
    """Flag a structure of a heart that is not one piece, and any class that is scattered."""
    pieces, voxels, share = shape.pieces[:, k], shape.voxels[:, k], shape.largest_share[:, k]
    scattered = (pieces > MOST_PIECES) & (voxels < SCATTERED_VOXELS * pieces)
    if structure:
        scattered |= (pieces > 1) & ((share < LEAST_SHARE_OF_PIECE) | (pieces > MOST_PIECES))
    frames = tuple(int(t) for t in shape.frames[scattered])
    if not frames:
        return []
    row = max(np.flatnonzero(scattered), key=lambda row: (pieces[row], -share[row]))
    worst = int(shape.frames[row])
    text = f"{name}: in {pieces[row]} pieces in frame {worst}, the largest with {100 * share[row]:.0f} % of it"
    more = f"; likewise in {describe_frames([t for t in frames if t != worst])}" if len(frames) > 1 else ""
    return [Flag("pieces", name, frames, f"{text}{more}.")]


def _check_field(shape: LabelShape, of_heart: Sequence[int]) -> list[Flag]:
    """Flag a heart, of these classes, that fills the field of view; images that are cut close to it leave more."""
    share = shape.voxels[:, of_heart].sum(axis=1) / shape.field_voxels
    frames = tuple(int(t) for t in shape.frames[share > MOST_OF_FIELD])
    if not frames:
        return []
    text = f"the heart fills {100 * share.max():.0f} % of the field of view in {describe_frames(frames)}."
    return [Flag("field", "", frames, text)]
