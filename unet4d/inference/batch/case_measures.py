"""Measures of one case, as a row of measures.csv and as a line for the terminal.

Ventricles have volumes, ejection fraction and cardiac output, a myocardium its mass, every other class its largest and smallest
volume. With height and weight all but the ejection fraction are indexed by body surface area, see metrics/vitals.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unet4d.evaluation.cardiac_function import measure_cardiac_function
from unet4d.inference.batch.case_records import CaseRecord
from unet4d.metrics.cardiac_structures import (
    LEFT_ATRIUM,
    LEFT_VENTRICLE,
    MYOCARDIA,
    MYOCARDIUM,
    RIGHT_ATRIUM,
    RIGHT_MYOCARDIUM,
    RIGHT_VENTRICLE,
    VENTRICLES,
    Roles,
)
from unet4d.metrics.vitals import Vitals
from unet4d.system.csv_file import Table
from unet4d.system.text import printable

PREFIXES = {
    LEFT_VENTRICLE: "lv", MYOCARDIUM: "lv", RIGHT_VENTRICLE: "rv", RIGHT_MYOCARDIUM: "rv", LEFT_ATRIUM: "la", RIGHT_ATRIUM: "ra",
}  # fmt: skip
"""First part of a column's name by structure; of any other class it is the class's name."""
MEASURES = Table(
    "measures.csv",
    "case",
    {
        "case": "name of the study",
        "frames": "number of frames",
        "heart_rate_bpm": "beats per minute; with a ventricle only",
        "height_cm": "body height, cm",
        "weight_kg": "body weight, kg",
        "bsa_m2": "body surface area (Mosteller 1987), square metres",
        "SIDE_ed_frame": "of a ventricle (lv, rv): frame of its largest volume",
        "SIDE_es_frame": "of a ventricle: frame of its smallest volume",
        "SIDE_edv_ml": "of a ventricle: end-diastolic volume, mL",
        "SIDE_esv_ml": "of a ventricle: end-systolic volume, mL",
        "SIDE_sv_ml": "of a ventricle: stroke volume, mL",
        "SIDE_ef_percent": "of a ventricle: ejection fraction, %",
        "SIDE_cardiac_output_l_per_min": "of a ventricle: stroke volume times heart rate, L/min",
        "SIDE_mass_g": "of a myocardium (lv, rv): mass at end-diastole of its ventricle, g",
        "CLASS_max_ml": "of an atrium (la, ra) or any other class: largest volume, mL",
        "CLASS_min_ml": "of an atrium or any other class: smallest volume, mL",
        "..._per_m2": "each of these but frames and ejection fraction over the body surface area, per square metre",
        "flags": "what is implausible, a key each, parted by semicolons",
    },
)
"""SIDE and CLASS stand for the structures and classes that the network knows."""
_SHORT = {
    "edv_ml": "EDV", "esv_ml": "ESV", "sv_ml": "SV", "ef_percent": "EF", "cardiac_output_l_per_min": "CO", "mass_g": "mass",
    "max_ml": "max", "min_ml": "min",
}  # fmt: skip
_UNITS = {"ml": "mL", "percent": "%", "min": "L/min", "g": "g"}
_NOT_INDEXED = ("ed_frame", "es_frame", "ef_percent")


def measure_case(record: CaseRecord, classes: Sequence[str], roles: Roles) -> dict[str, Any]:
    """Return a row of measures.csv: column to value, None where undefined or unknown.

    Args:
        record: of the case, see case_records.py.
        classes: foreground classes.
        roles: the structure of a heart that each class is, see `find_roles`. Classes and roles alone decide the columns.
    """
    vitals = Vitals(**record.get("vitals", {}))
    measured = _measure_classes(record, classes, roles, vitals)
    pumps = any(structure in VENTRICLES for structure in roles.values())  # else a cycle is no heart beat
    row = {
        "case": record.get("case"),
        "frames": record.get("frames"),
        **({"heart_rate_bpm": _heart_rate(record, vitals)} if pumps else {}),
        "height_cm": vitals.height_cm,
        "weight_kg": vitals.weight_kg,
        "bsa_m2": vitals.bsa_m2,
    }
    for name, values in measured.items():
        prefix = PREFIXES.get(roles.get(name, ""), name)
        row |= {f"{prefix}_{key}": value for key, value in values.items()}
        for key, value in values.items():
            if key not in _NOT_INDEXED:
                row[f"{prefix}_{key}_per_m2"] = value / vitals.bsa_m2 if vitals.bsa_m2 and value is not None else None
    row["flags"] = ";".join(_flag_keys(record, vitals)) or None
    return {key: round(value, 6) if isinstance(value, float) else value for key, value in row.items()}


def describe_case(record: CaseRecord, classes: Sequence[str], roles: Roles) -> str:
    """Return the measures of a case in one line: "patient001: LVC EDV 160 mL (84.2/m2), ESV ..., EF 55 %; MLV mass 104 g"."""
    vitals = Vitals(**record.get("vitals", {}))
    parts = []
    for name, values in _measure_classes(record, classes, roles, vitals).items():
        shown = [_describe_value(key, value, vitals.bsa_m2) for key, value in values.items() if key in _SHORT]
        if any(shown):
            parts.append(f"{printable(name)} {', '.join(filter(None, shown))}")
    if keys := _flag_keys(record, vitals):
        parts.append(f"{'flag' if len(keys) == 1 else 'flags'} {', '.join(map(printable, keys))}")
    return f"{printable(str(record.get('case')))}: {'; '.join(parts)}"


def _describe_value(key: str, value: float | None, bsa_m2: float | None) -> str:
    if value is None:
        return ""
    unit, indexed = _UNITS[key.rpartition("_")[2]], bsa_m2 and key not in _NOT_INDEXED
    per_m2 = f" ({_short(value / bsa_m2)}/m2)" if bsa_m2 and indexed else ""
    return f"{_SHORT[key]} {f'{value:.1f}' if unit == '%' else _short(value)} {unit}{per_m2}"


def _short(value: float) -> str:
    """Return a number with three digits, or more where it is larger."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _measure_classes(
    record: CaseRecord, classes: Sequence[str], roles: Roles, vitals: Vitals
) -> dict[str, dict[str, float | None]]:
    """Return the measures of each class by name, None where undefined."""
    curves = {name: np.array(record.get("volumes_ml", {}).get(name, ()), np.float64) for name in classes}
    known = {name: curve for name, curve in curves.items() if len(curve)}
    cardiac = measure_cardiac_function(known, record.get("frame_duration_s"), _is_cyclic(record), roles)
    rate = _heart_rate(record, vitals)
    found: dict[str, dict[str, float | None]] = {}
    for name, curve in curves.items():
        structure, measures = roles.get(name, ""), cardiac.get(name, {})
        if structure in VENTRICLES:
            found[name] = {
                key: measures.get(key) for key in ("ed_frame", "es_frame", "edv_ml", "esv_ml", "sv_ml", "ef_percent")
            }
            stroke = measures.get("sv_ml")
            found[name]["cardiac_output_l_per_min"] = stroke * rate / 1000 if rate and stroke is not None else None
        elif structure in MYOCARDIA:
            found[name] = {"mass_g": measures.get("mass_g")}
        else:
            extremes = (float(curve.max()), float(curve.min())) if len(curve) else (None, None)
            found[name] = dict(zip(("max_ml", "min_ml"), extremes, strict=True))
    return found


def _flag_keys(record: CaseRecord, vitals: Vitals) -> list[str]:
    """Return a key for each flag, see docs/reference/metrics.md; a record of an earlier version has sentences alone."""
    keys: list[str] = record["flag_keys"] if "flag_keys" in record else record.get("flags", [])
    unlike = vitals.is_unlike_cycle(record.get("frames", 0), record.get("frame_duration_s"), _is_cyclic(record))
    return [*keys, "heart_rate"] if unlike else keys


def _heart_rate(record: CaseRecord, vitals: Vitals) -> float | None:
    return vitals.heart_rate(record.get("frames", 0), record.get("frame_duration_s"), _is_cyclic(record))


def _is_cyclic(record: Mapping[str, Any]) -> bool:
    return bool(record.get("entry", {}).get("time") == "cyclic")
