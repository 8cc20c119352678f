"""Coded terms of classes: SNOMED CT where a class is a structure that is known here, the user's table, else a private code.

No code stands in this file: names are looked up in the tables of DICOM PS3.16 that pydicom ships (`pydicom.__dicom_version__`).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from unet4d.errors import InputError
from unet4d.metrics.cardiac_structures import (
    LEFT_ATRIUM,
    LEFT_VENTRICLE,
    MYOCARDIUM,
    RIGHT_ATRIUM,
    RIGHT_VENTRICLE,
    VENTRICLE,
)
from unet4d.system.csv_file import Row, read_table
from unet4d.system.text import short_repr

CODING_SCHEME = "99UNET4D"
"""Designator of the codes that this package makes, for what the standard has no code for."""
COLUMNS = ("class", "code", "scheme", "meaning")
"""Columns of a table of terms; further ones: `category_code`, `category_scheme`, `category_meaning`, `color`."""
STRUCTURE_TERMS = {
    LEFT_VENTRICLE: "LeftVentricle", RIGHT_VENTRICLE: "RightVentricle", VENTRICLE: "Ventricle", LEFT_ATRIUM: "LeftAtrium",
    RIGHT_ATRIUM: "RightAtrium", MYOCARDIUM: "LeftVentricleMyocardium",
}  # fmt: skip
"""Keywords of pydicom's table for SNOMED CT, by the structure of a heart that a class is."""
NAME_TERMS = {
    "aorta": "Aorta", "ascending aorta": "AscendingAorta", "descending aorta": "DescendingAorta", "heart": "Heart",
    "pulmonary artery": "PulmonaryArtery", "pericardium": "Pericardium", "atrium": "Atrium", "airway": "AirwayStructure",
    "trachea": "Trachea", "lung": "Lung", "liver": "Liver", "spleen": "Spleen", "kidney": "Kidney", "brain": "Brain",
    "tongue": "Tongue", "soft palate": "SoftPalate", "velum": "SoftPalate", "pharynx": "Pharynx", "larynx": "Larynx",
    "mandible": "Mandible", "lip": "Lip",
}  # fmt: skip
"""The same by the name of a class."""
LESION_TERMS = dict.fromkeys(("tumor", "tumour", "neoplasm"), "Neoplasm")
"""The same of morphologically abnormal structures."""
_MOST = {"code": 16, "scheme": 16, "meaning": 64}
"""Most characters of each part (PS3.3 8.1 and 8.2; VR SH and LO)."""
_COLOR = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True)
class CodedTerm:
    """A code of a coding scheme, with its meaning; empty parts are none."""

    code: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class Term:
    """Category and type of a class, and the color that it is recommended to be shown in.

    Attributes:
        category: of CID 7150, such as anatomical structure.
        type: of CID 7151, such as left ventricle.
        color: "#rrggbb"; None takes that of the package's pictures.
    """

    category: CodedTerm
    type: CodedTerm
    color: str | None = None


def find_term(name: str, structure: str | None = None) -> Term:
    """Return the term of a class by the structure of a heart that it is, else by its name, else a private one."""
    plain = " ".join(re.findall(r"[^\W_]+", name.lower()))
    lesion = LESION_TERMS.get(plain)
    keyword = lesion or STRUCTURE_TERMS.get(structure or "") or NAME_TERMS.get(plain)
    if keyword is None:
        return Term(
            standard_term("cid7150", "Tissue"), private_term(name)
        )  # the category as in 3D Slicer, for any class
    category = "MorphologicallyAbnormalStructure" if lesion else "AnatomicalStructure"
    return Term(standard_term("cid7150", category), standard_term("SCT", keyword))


def standard_term(table: str, keyword: str) -> CodedTerm:
    """Return a term of the standard by pydicom's name of its coding scheme, or of its context group, and its keyword."""
    from pydicom.sr.codedict import codes

    found = getattr(getattr(codes, table), keyword)
    return CodedTerm(found.value, found.scheme_designator, found.meaning)


def private_term(meaning: str) -> CodedTerm:
    """Return a term of this package: equal meanings have equal codes."""
    digest = hashlib.sha256(meaning.encode()).hexdigest()
    return CodedTerm(f"u{digest[:12]}", CODING_SCHEME, text_line(meaning) or "class")


def check_highdicom(what: object) -> None:
    """Raise InputError, with what to install, where the packages that write DICOM are missing; `what` needs them."""
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise InputError(f"{what}: DICOM output needs highdicom; pip install 'unet4d[dicom]'") from error


def read_terms(path: Path) -> dict[str, Term]:
    """Read a table of terms, class by class; classes that a model does not have are of no effect.

    Raises:
        InputError: highdicom is not installed; it is no such table; a code, scheme or meaning is empty, too long or has control
            characters; a color is none; a class comes twice. Names the class.
    """
    check_highdicom(path)
    found: dict[str, Term] = {}
    for row in read_table(path, COLUMNS, "correct it", written_whole=False):
        name = row["class"]
        if name in found:
            raise InputError(f"{path} has the class {short_repr(name)} twice, expected one row per class; remove one")
        color = row.get("color") or None
        if color is not None and not _COLOR.fullmatch(color):
            raise InputError(f"{path}: {name} has the color {short_repr(color)}, expected #rrggbb; correct it")
        category = standard_term("cid7150", "Tissue")
        if row.get("category_code"):
            category = _coded_term(path, row, "category_")
        found[name] = Term(category, _coded_term(path, row, ""), color)
    return found


def _coded_term(path: Path, row: Row, prefix: str) -> CodedTerm:
    """Return the code in some columns of a row."""
    parts: dict[str, str] = {}
    for part, most in _MOST.items():
        text = row.get(f"{prefix}{part}", "")
        if not 0 < len(text) <= most or not text.isprintable() or "\\" in text:
            raise InputError(
                f"{path}: {row['class']} has the {prefix}{part} {short_repr(text)}, expected 1 to {most} printable characters "
                "without backslash; correct it"
            )
        parts[part] = text
    return CodedTerm(**parts)


def text_line(text: str, most: int = 64) -> str:
    """Return a text as one line without control characters and backslashes, of at most `most` characters."""
    return " ".join(without_controls(text).replace("\\", "/").split())[:most].strip()


def without_controls(text: str, keep: str = "") -> str:
    """Return a text with a space for each control character but those to keep."""
    return "".join(" " if unicodedata.category(one) == "Cc" and one not in keep else one for one in text)
