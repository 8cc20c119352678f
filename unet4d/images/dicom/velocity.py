"""Velocity encoding of phase contrast images: direction, venc and scale, as the standard, Siemens, Philips and GE state them.

standard   MR Velocity Encoding Sequence: direction (a vector) and velocities of the ends of the range, cm/s (multi-frame)
Siemens    SequenceName or (0051,1014), such as fl3d1_v150fh: venc in cm/s; rl, ap, fh, or in and through for the slice's normal
Philips    (2001,101A): three velocities in cm/s along right-left, anterior-posterior and foot-head, one of which is not 0
GE         (0019,10CC): venc in mm/s; (0043,1030): 3, 4, 5 or 9, 10, 11 for R/L, A/P, S/I; (0043,1032) & 2: times the magnitude

Only the standard states the sign. Else a velocity counts as positive in the direction that its name says: rl from right to left.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from unet4d.images.dicom.instance import Plane

VELOCITY_ELEMENTS = (
    0x001910CC, 0x00430010, 0x00431030, 0x00431032, 0x00510010, 0x00511014, 0x20010010, 0x2001101A,
)  # fmt: skip
"""Private elements to read of a file before its pixels."""
_NAMED = {
    "rl": (1.0, 0.0, 0.0), "lr": (-1.0, 0.0, 0.0), "ap": (0.0, 1.0, 0.0), "pa": (0.0, -1.0, 0.0), "fh": (0.0, 0.0, 1.0),
    "hf": (0.0, 0.0, -1.0),
}  # fmt: skip
_SIEMENS = re.compile(r"v(\d+)_?(through|in|rl|lr|ap|pa|fh|hf)", re.IGNORECASE)
_GE = {3: "rl", 9: "rl", 4: "ap", 10: "ap", 5: "hf", 11: "hf"}
_GE_WEIGHTED = 2
_TEXTS = ("right-left", "anterior-posterior", "foot-head")

Lookup = Callable[[str], Any]


@dataclass(frozen=True)
class Velocity:
    """The velocity that a phase image shows.

    Attributes:
        direction: of positive velocity, unit vector (LPS).
        venc_cm_s: the velocity at the end of the range; None if unknown.
        stated: whether the header gives the sign.
        unit_cm_s: of stored values, where a vendor stores velocities; None where the venc gives the scale.
        middle: stored value of velocity 0, where the values have no sign and no intercept; else None.
        is_weighted: multiplied by the magnitude, which cannot be undone.
    """

    direction: tuple[float, ...]
    venc_cm_s: float | None
    stated: bool = False
    unit_cm_s: float | None = None
    middle: float | None = None
    is_weighted: bool = False

    @property
    def text(self) -> str:
        """Return direction and venc for messages."""
        name = _TEXTS[int(np.argmax(np.abs(self.direction)))]
        return f"{name}, venc {self.venc_cm_s:g} cm/s" if self.venc_cm_s else f"{name}, venc unknown"


def read_velocity(value: Lookup, private: Callable[..., Any], is_phase: bool, axes: Sequence[float]) -> Velocity | None:
    """Return the velocity encoding of an image by its header; None where nothing states one.

    Args:
        value: looks a keyword up.
        private: looks an element up by group, creator and element.
        is_phase: whether the image says that it shows phases or velocities.
        axes: directions of X and Y.
    """
    flag, mm_s = private(0x0043, "GEMS_PARM_01", 0x30), private(0x0019, "GEMS_ACQU_01", 0xCC)
    if _number(mm_s) and _number(flag) in _GE:
        flags = int(_number(private(0x0043, "GEMS_PARM_01", 0x32)) or 0)
        direction = _NAMED[_GE[int(_number(flag) or 0)]]
        return Velocity(direction, (_number(mm_s) or 0) / 10, unit_cm_s=0.1, is_weighted=bool(flags & _GE_WEIGHTED))
    if not is_phase:
        return None
    is_signed = int(_number(value("PixelRepresentation")) or 0) == 1
    stored = int(_number(value("BitsStored")) or 0)
    middle = None if is_signed or not stored or _number(value("RescaleIntercept")) else 2.0 ** (stored - 1)
    direction, ends = value("VelocityEncodingDirection"), value("VelocityEncodingMaximumValue")
    if direction is not None and len(direction) == 3 and any(direction):
        vector = np.array([float(one) for one in direction])
        return Velocity(_unit(vector), abs(_number(ends) or 0) or None, True, None, middle)
    for text in (value("SequenceName"), private(0x0051, "SIEMENS MR HEADER", 0x14)):
        if found := _SIEMENS.search(str(text or "")):
            name = found[2].lower()
            through = np.cross(axes[:3], axes[3:])
            return Velocity(_NAMED[name] if name in _NAMED else _unit(through), float(found[1]), middle=middle)
    velocities = private(0x2001, "Philips Imaging DD 001", 0x1A)
    if velocities is not None and not isinstance(velocities, str | bytes | float) and len(velocities) == 3:
        cm_s = np.array([_number(one) or 0.0 for one in velocities])
        if np.count_nonzero(cm_s) == 1:
            at = int(np.argmax(np.abs(cm_s)))
            return Velocity(tuple(np.eye(3)[at]), float(abs(cm_s[at])), middle=middle)
    return None


def in_cm_s(plane: Plane, sign: int) -> Plane:
    """Return a plane with a rescaling to cm/s, times a sign; unchanged but for the sign where the scale is unknown."""
    velocity = plane.velocity
    assert velocity is not None
    slope, intercept = plane.slope, plane.intercept
    if not has_scale(plane):
        factor = 1.0
    elif velocity.unit_cm_s:
        factor = velocity.unit_cm_s
    else:
        if velocity.middle and not intercept:
            intercept = -velocity.middle * slope
        factor = (velocity.venc_cm_s or 0) / abs(intercept)
    return replace(plane, slope=slope * factor * sign, intercept=intercept * factor * sign)


def has_scale(plane: Plane) -> bool:
    """Return whether the header gives the scale from the values of a velocity image to cm/s.

    Phases are stored with an offset: the intercept is the value at -venc. So the venc and the intercept give the scale.
    """
    velocity = plane.velocity
    if velocity is None:
        return False
    return bool(velocity.unit_cm_s or (velocity.venc_cm_s and (plane.intercept < 0 or velocity.middle)))


def _unit(vector: np.ndarray) -> tuple[float, ...]:
    """Return a vector of length 1, rounded, so that it is the same in all images of a series."""
    return tuple(round(float(one), 4) for one in vector / np.linalg.norm(vector))


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
