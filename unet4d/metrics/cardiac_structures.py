"""Classes of a heart, recognized by their names: a cavity has an ejection fraction, a myocardium a mass.

A name counts where all its words are known here, so that "left ventricular septum", "third ventricle" or "myocardial scar" are
neither. Capitals, spaces, underscores and hyphens do not matter: "LV_cavity", "LeftVentricle", "heart_ventricle_left".
"""

from __future__ import annotations

import re
from collections.abc import Sequence

MYOCARDIAL_DENSITY_G_PER_ML = 1.05

_SIDES = {"left": "left", "l": "left", "right": "right", "r": "right"}
_CHAMBERS = {"lv": "left", "la": "left", "rv": "right", "ra": "right", "lvc": "left", "rvc": "right"}
_ATRIA = {"la", "ra", "atrium", "atria", "atrial"}
_CHAMBER_WORDS = {*_CHAMBERS, *_ATRIA, "ventricle", "ventricles", "ventricular"}
_BLOOD = {
    "cavity", "cavities", "chamber", "blood", "bloodpool", "pool", "bp", "lumen", "endo", "endocardium", "endocardial",
}  # fmt: skip
_MUSCLE = {"myocardium", "myocardial", "myo", "lvm", "rvm"}
_WALL = {"wall", "muscle"}
_PLAIN = {*_SIDES, "heart", "cardiac", "of", "the", "and", "both", "volume", "mass", "healthy", "normal"}


def is_cavity(name: str) -> bool:
    """Return whether a class is the blood of a ventricle or an atrium: "left ventricle", "RV", "LV cavity", "left atrium"."""
    words = _words(name)
    return words <= _CHAMBER_WORDS | _BLOOD | _PLAIN and bool(words & _CHAMBER_WORDS)


def is_myocardium(name: str) -> bool:
    """Return whether a class is the muscle of the heart's wall: "myocardium", "LV myocardium", "myo", "left ventricular wall"."""
    words = _words(name)
    if not words <= _CHAMBER_WORDS | _MUSCLE | _WALL | _PLAIN:
        return False
    return bool(words & _MUSCLE) or bool(words & _WALL and words & (_CHAMBER_WORDS | {"heart", "cardiac"}))


def cavity_within(myocardium: str, names: Sequence[str]) -> str | None:
    """Return the ventricle inside a myocardium: the mass is measured at its end-diastole. None where no class is it.

    It is the left ventricle, unless the name of the myocardium says right.
    """
    side = _side(myocardium) or "left"
    ventricles = (name for name in names if is_cavity(name) and not _words(name) & _ATRIA)
    return next((name for name in ventricles if _side(name) == side), None)


def _side(name: str) -> str | None:
    sides = {**_SIDES, **_CHAMBERS, "lvm": "left", "rvm": "right"}
    found = {sides[word] for word in _words(name) if word in sides}
    return found.pop() if len(found) == 1 else None


def _words(name: str) -> set[str]:
    """Return the words of a name in small letters; "LVmyo" and "LVcavity" are two each."""
    words: set[str] = set()
    for word in re.findall(r"[^\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()):
        chamber, rest = word[:2], word[2:]
        words |= {chamber, rest} if chamber in _CHAMBERS and rest in _BLOOD | _MUSCLE | _WALL else {word}
    return words
