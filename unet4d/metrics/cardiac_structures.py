"""What a class is, by its name: the one home of that. A heart's cavity has an ejection fraction, its myocardium a mass.

A name counts where every one of its words is known here, so that "left ventricular septum", "third ventricle" or "myocardial
scar" are neither. Capitals, spaces, underscores and hyphens do not matter: "LV_cavity", "LeftVentricle", "heart_ventricle_left".
"""

from __future__ import annotations

import re
from collections.abc import Sequence

MYOCARDIAL_DENSITY_G_PER_ML = 1.05

_SIDES = {"left": "left", "l": "left", "right": "right", "r": "right"}
_CHAMBERS = {"lv": "left", "la": "left", "rv": "right", "ra": "right", "lvc": "left", "rvc": "right"}
_CHAMBER_WORDS = {*_CHAMBERS, "ventricle", "ventricles", "ventricular", "atrium", "atria", "atrial"}
_BLOOD = {
    "cavity",
    "cavities",
    "chamber",
    "blood",
    "bloodpool",
    "pool",
    "bp",
    "lumen",
    "endo",
    "endocardium",
    "endocardial",
}
_MUSCLE = {"myocardium", "myocardial", "myo", "lvm", "rvm"}
_WALL = {"wall", "muscle"}
_PLAIN = {*_SIDES, "heart", "cardiac", "of", "the", "and", "both", "volume", "mass", "healthy", "normal"}


def is_cavity(name: str) -> bool:
    """Whether a class is a ventricle's or an atrium's blood: "left ventricle", "RV", "LV cavity", "left atrium"."""
    words = _words(name)
    return words <= _CHAMBER_WORDS | _BLOOD | _PLAIN and bool(words & _CHAMBER_WORDS)


def is_myocardium(name: str) -> bool:
    """Whether a class is the muscle of the heart's wall: "myocardium", "LV myocardium", "myo", "left ventricular wall"."""
    words = _words(name)
    if not words <= _CHAMBER_WORDS | _MUSCLE | _WALL | _PLAIN:
        return False
    return bool(words & _MUSCLE) or bool(words & _WALL and words & (_CHAMBER_WORDS | {"heart", "cardiac"}))


def cavity_within(myocardium: str, names: Sequence[str]) -> str | None:
    """The ventricle that a myocardium surrounds, whose end-diastole is when its mass is taken; None where there is none.

    The left one, unless the myocardium's name says right.

    Args:
        myocardium: its name.
        names: of all classes.
    """
    side = _side(myocardium) or "left"
    for name in names:
        if is_cavity(name) and not _words(name) & {"la", "ra", "atrium", "atria", "atrial"} and _side(name) == side:
            return name
    return None


def _side(name: str) -> str | None:
    sides = {**_SIDES, **_CHAMBERS, "lvm": "left", "rvm": "right"}
    found = {sides[word] for word in _words(name) if word in sides}
    return found.pop() if len(found) == 1 else None


def _words(name: str) -> set[str]:
    """Its words in small letters; "LVmyo" and "LVcavity" are two each."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words: set[str] = set()
    for word in re.findall(r"[^\W_]+", apart.lower()):
        rest = word[2:]
        if word[:2] in _CHAMBERS and rest in _BLOOD | _MUSCLE | _WALL:
            words |= {word[:2], rest}
        else:
            words.add(word)
    return words
