"""Structures of a heart: which class of a label map is which, as the roles in dataset.json say, else by its name.

A name counts where all its words are known here, so that "left ventricular septum", "third ventricle" or "myocardial scar" are
none. Capitals, spaces, underscores and hyphens do not matter: "LV_cavity", "LVC", "MLV", "heart_ventricle_left".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from unet4d.errors import InputError
from unet4d.system.text import short_repr, suggest_names

LEFT_VENTRICLE, RIGHT_VENTRICLE, VENTRICLE = "left ventricle", "right ventricle", "ventricle"
LEFT_ATRIUM, RIGHT_ATRIUM = "left atrium", "right atrium"
MYOCARDIUM, RIGHT_MYOCARDIUM = "myocardium", "right ventricular myocardium"
VENTRICLES = (LEFT_VENTRICLE, RIGHT_VENTRICLE, VENTRICLE)
"""Structures with an ejection fraction; the last one is a ventricle of unknown side, or both as one class."""
MYOCARDIA = {MYOCARDIUM: LEFT_VENTRICLE, RIGHT_MYOCARDIUM: RIGHT_VENTRICLE}
"""Structures with a mass, and the ventricle inside each: the mass is measured at its end-diastole."""
STRUCTURES = (*VENTRICLES, LEFT_ATRIUM, RIGHT_ATRIUM, *MYOCARDIA)
NO_STRUCTURE = "other"
"""Role of a class that is none of these, whatever its name."""
MYOCARDIAL_DENSITY_G_PER_ML = 1.05
Roles = Mapping[str, str]
"""Class name to the structure of the heart that it is."""

_SIDES = {"left": "left", "l": "left", "right": "right", "r": "right"}
_CHAMBERS = {"lv": "left", "la": "left", "rv": "right", "ra": "right", "lvc": "left", "rvc": "right"}
_ATRIA = {"la", "ra", "atrium", "atria", "atrial"}
_CHAMBER_WORDS = {*_CHAMBERS, *_ATRIA, "ventricle", "ventricles", "ventricular"}
_BLOOD = {
    "cavity", "cavities", "chamber", "blood", "bloodpool", "pool", "bp", "lumen", "endo", "endocardium", "endocardial",
}  # fmt: skip
_MUSCLES = {"lvm": "left", "rvm": "right", "mlv": "left", "mrv": "right"}
_MUSCLE = {*_MUSCLES, "myocardium", "myocardial", "myo"}
_WALL = {"wall", "muscle"}
_PLAIN = {*_SIDES, "heart", "cardiac", "of", "the", "and", "both", "volume", "mass", "healthy", "normal"}


def structure_of(name: str) -> str | None:
    """Return the structure that a class is by its name; None where it is none of a heart, or an atrium of unknown side."""
    words = _words(name)
    side, is_atrial = _side(words), bool(words & _ATRIA)
    if words & _CHAMBER_WORDS and words <= _CHAMBER_WORDS | _BLOOD | _PLAIN:
        if is_atrial:
            is_mixed = bool(words & _CHAMBER_WORDS - _ATRIA)
            return None if is_mixed else {"left": LEFT_ATRIUM, "right": RIGHT_ATRIUM}.get(side or "")
        return {"left": LEFT_VENTRICLE, "right": RIGHT_VENTRICLE}.get(side or "", VENTRICLE)
    is_wall = bool(words & _WALL and words & (_CHAMBER_WORDS | {"heart", "cardiac"}))
    if is_atrial or not words <= _CHAMBER_WORDS | _MUSCLE | _WALL | _PLAIN or not (words & _MUSCLE or is_wall):
        return None
    return RIGHT_MYOCARDIUM if side == "right" else MYOCARDIUM


def find_roles(names: Iterable[str], given: Roles | None = None) -> dict[str, str]:
    """Return the structures of those classes that are one: as `given`, the others by their names.

    Where the names of several classes mean one structure, the first is it.

    Args:
        names: foreground classes, in order.
        given: of some classes, from dataset.json; may have "other".
    """
    names, found = list(names), dict(given or {})
    for name in names:
        structure = None if name in found else structure_of(name)
        if structure and structure not in found.values():
            found[name] = structure
    return {name: found[name] for name in names if found.get(name, NO_STRUCTURE) != NO_STRUCTURE}


def cavity_within(structure: str, roles: Roles) -> str | None:
    """Return the class of the ventricle inside a myocardium; None where no class is it."""
    return class_of(MYOCARDIA[structure], roles)


def class_of(structure: str, roles: Roles) -> str | None:
    """Return the class that is a structure; None where none is."""
    return next((name for name, known in roles.items() if known == structure), None)


def describe_roles(roles: Roles, names: Iterable[str]) -> str:
    """Return what each class was taken for, as text: "myocardium, LVC as left ventricle; scar as none"."""
    names = list(names)
    taken = [name if name == roles[name] else f"{name} as {roles[name]}" for name in names if name in roles]
    others = ", ".join(name for name in names if name not in roles)
    return "; ".join(filter(None, (", ".join(taken), others and f"{others} as none")))


def has_other_names(roles: Roles) -> bool:
    """Return whether a class has another name than the structure it is, so that people should see which it is."""
    return any(name != structure for name, structure in roles.items())


def parse_roles(roles: Any, classes: Sequence[str], what: str) -> dict[str, str]:
    """Return roles as they stand in a file: a structure, or "other", by foreground class.

    Raises:
        InputError: they are no object, name an unknown class or structure, or one structure twice; begins with `what`.
    """
    if not isinstance(roles, dict):
        raise InputError(
            f'{what} is {short_repr(roles)}, expected structures by class, {{"LVC": "{LEFT_VENTRICLE}"}}; correct it'
        )
    known = (*STRUCTURES, NO_STRUCTURE)
    for name, structure in roles.items():
        if name not in classes:
            near = suggest_names(str(name), classes)
            raise InputError(
                f"{what} names the class {short_repr(name)}{near}, expected some of {', '.join(classes)}; correct it"
            )
        if structure not in known:
            near = suggest_names(str(structure), known)
            raise InputError(
                f"{what} has {short_repr(structure)}{near} for {name}, expected one of {', '.join(known)}; correct it"
            )
    twice = [s for s in STRUCTURES if list(roles.values()).count(s) > 1]
    if twice:
        raise InputError(
            f"{what} has {twice[0]} for {' and '.join(n for n in roles if roles[n] == twice[0])}, expected one class; correct it"
        )
    return dict(roles)


def _side(parts: set[str]) -> str | None:
    sides = {**_SIDES, **_CHAMBERS, **_MUSCLES}
    found = {sides[word] for word in parts if word in sides}
    return found.pop() if len(found) == 1 else None


def _words(name: str) -> set[str]:
    """Return the words of a name in small letters; "LVmyo" and "LVcavity" are two each."""
    words: set[str] = set()
    for word in re.findall(r"[^\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()):
        chamber, rest = word[:2], word[2:]
        words |= {chamber, rest} if chamber in _CHAMBERS and rest in _BLOOD | _MUSCLE | _WALL else {word}
    return words
