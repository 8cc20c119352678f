"""Summary of many scored studies: means with their n and intervals, and the agreement of volumes and measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unet4d.evaluation.cardiac_function import AT_REFERENCE_FRAMES, MEASURES, has_measures
from unet4d.evaluation.case_scores import CaseScores
from unet4d.evaluation.curve_comparison import CURVE_QUANTITIES, compared_values
from unet4d.evaluation.fold_summary import summarize_folds
from unet4d.evaluation.tables import MEASURES_CSV, METRICS_CSV, TEMPORAL_CSV
from unet4d.evaluation.temporal import TEMPORAL_QUANTITIES
from unet4d.metrics.cardiac_structures import Roles
from unet4d.metrics.overlap import EMPTY_CONVENTION
from unet4d.metrics.regions import ClassValue, Region, painted_value
from unet4d.metrics.statistics import INTERVALS, bland_altman, interval95, summary_statistics

AVERAGING = (
    "The mean of a class runs over every labelled frame of every case where the quantity is defined. "
    "mean_foreground_dice is the mean of the classes' mean Dice, each class weighing the same; a class that is defined "
    "nowhere is left out. For one case it is the same within that case. std is over n - 1. Volume error is prediction "
    "minus reference, over the labelled frames where either has the class. Measures of a heart and those over time count each "
    "case once."
)

PARTIAL_CONVENTION = (
    "Ignored voxels are of no class in reference and prediction: they are in no Dice, distance or count. A surface is only where a "
    "known voxel lies outside the class. A frame with ignored voxels has no reference volume, because part of a structure has "
    "none; the volume of the prediction is that of the whole frame. A class that was not annotated in a case has no score there. "
    "Propagated frames are no reference."
)


def summarize_cases(scored: Sequence[CaseScores], classes: Mapping[str, ClassValue], roles: Roles) -> dict[str, Any]:
    """Compute the means over studies, with their n and how many values each leaves out: the contents of summary.json.

    Args:
        scored: the studies.
        classes: foreground class name to label value, or region.
        roles: the structure of the heart that each class is, see `find_roles`.
    """
    per_class = {name: {**_describe_class(value), **_summarize_class(scored, name)} for name, value in classes.items()}
    rows = [row for s in scored for row in s.rows[METRICS_CSV]]
    dice = np.array([row["dice"] for row in rows]).reshape(-1, len(classes))
    return {
        "convention": EMPTY_CONVENTION,
        "averaging": AVERAGING,
        "intervals": INTERVALS,
        "cases": len(scored),
        "subjects": len({s.subject for s in scored}),
        "frames": sum(s.frames for s in scored),
        "labelled_frames": sum(s.labelled_frames for s in scored),
        **_summarize_partial(scored),
        "mean_foreground_dice": _mean([entry["dice"]["mean"] for entry in per_class.values()]),
        "mean_foreground_dice_ci95": interval95(dice, [row["subject"] for row in rows[:: len(classes)]]),
        "classes": per_class,
        "roles": dict(roles),
        "heart": {
            name: _summarize_heart(scored, name, roles[name]) for name in classes if has_measures(roles.get(name))
        },
        **_summarize_curves(scored, classes),
        "per_case": {
            s.name: {
                "subject": s.subject,
                "labelled_frames": s.labelled_frames,
                "mean_foreground_dice": _mean(
                    [summary_statistics(_column(_rows([s], METRICS_CSV, c), "dice"))["mean"] for c in classes]
                ),
            }
            for s in scored
        },
    }


def summarize_cases_by_fold(
    scored: Sequence[CaseScores], classes: Mapping[str, ClassValue], roles: Roles, folds: Mapping[str, int]
) -> dict[str, Any]:
    """Compute the means of each fold, and over folds; return nothing where the cases are not of several folds.

    Args:
        scored: the studies.
        classes: foreground class name to label value, or region.
        roles: the structure of the heart that each class is.
        folds: case to the fold that held it out.
    """
    members: dict[int, list[CaseScores]] = {}
    for case in scored:
        if case.name in folds:
            members.setdefault(folds[case.name], []).append(case)
    if len(members) < 2:
        return {}
    values = {}
    for fold, of_fold in members.items():
        summary = summarize_cases(of_fold, classes, roles)
        means = {
            name: {c: entry[name]["mean"] for c, entry in summary["classes"].items()} for name in ("dice", "hd95_mm")
        }
        values[fold] = {"mean_foreground_dice": summary["mean_foreground_dice"], **means}
    cases = {str(fold): [case.name for case in members[fold]] for fold in sorted(members)}
    without = [case.name for case in scored if case.name not in folds]
    return {"folds": summarize_folds(values) | {"cases": cases, "without_fold": without}}


def _describe_class(value: ClassValue) -> dict[str, Any]:
    """Return the label value of a class; of a region the one that a prediction gets, and all."""
    return {"value": painted_value(value), **({"values": list(value.values)} if isinstance(value, Region) else {})}


def _summarize_class(scored: Sequence[CaseScores], name: str) -> dict[str, Any]:
    rows, over_time = _rows(scored, METRICS_CSV, name), _rows(scored, TEMPORAL_CSV, name)
    rows = [row for row in rows if row["tp"] is not None]  # of cases in which the class was drawn
    overlap = {key: _column(rows, key) for key in ("dice", "hd95_mm", "asd_mm", "nsd")}
    in_reference, in_prediction = (_column(rows, "tp") + _column(rows, key) > 0 for key in ("fn", "fp"))
    either = [row for row, used in zip(rows, in_reference | in_prediction, strict=True) if used]
    agreement = _agreement([(row["reference_ml"], row["prediction_ml"]) for row in either], _subjects(either))
    return {
        **{key: summary_statistics(values) for key, values in overlap.items()},
        "n_both_empty": len(rows) - len(either),
        "n_one_empty": int(np.count_nonzero(in_reference != in_prediction)),
        "volume_error_ml": {key: agreement[key] for key in ("bias", "mean_absolute", "n")},
        "volume_agreement_ml": agreement,
        "ci95": {key: interval95(values, _subjects(rows)) for key, values in overlap.items()},
        "temporal": {
            key: {**summary_statistics(values), "ci95": interval95(values, _subjects(over_time))}
            for key, values in ((key, _column(over_time, key)) for key in TEMPORAL_QUANTITIES)
        },
    }


def _summarize_partial(scored: Sequence[CaseScores]) -> dict[str, Any]:
    """Return what was not drawn of the references, and so is not scored; nothing where all was drawn."""
    partial = [s for s in scored if s.partial_frames]
    missing = {s.name: list(s.not_annotated) for s in scored if s.not_annotated}
    propagated = sum(s.propagated_frames for s in scored)
    found: dict[str, Any] = {}
    if partial:
        found["ignored"] = {
            "voxels": sum(s.ignored_voxels for s in partial),
            "frames": sum(s.partial_frames for s in partial),
            "per_case": {s.name: s.ignored_voxels for s in partial},
        }
    if missing:
        found["not_annotated"] = missing
    if propagated:
        found["propagated_frames"] = propagated
    return found and {"partial_labels": {"convention": PARTIAL_CONVENTION, **found}}


def _summarize_heart(scored: Sequence[CaseScores], name: str, structure: str) -> dict[str, Any]:
    """Compute the agreement of the cardiac measures of a class, one pair per case: at the reference's frames and at own ones."""
    rows = _rows(scored, MEASURES_CSV, name)

    def agreements(part: str, keys: Sequence[str]) -> dict[str, Any]:
        entries = {key: _agreement([_pair(row, part, key) for row in rows], _subjects(rows)) for key in keys}
        return {key: entry for key, entry in entries.items() if entry["n"] or entry["n_undefined"]}

    return {
        "role": structure,
        "at_reference_frames": agreements("matched", AT_REFERENCE_FRAMES),
        "own_frames": agreements("prediction", MEASURES),
    }


def _summarize_curves(scored: Sequence[CaseScores], classes: Mapping[str, ClassValue]) -> dict[str, Any]:
    """Compute the agreement of curves, one entry for each table, quantity, class and channel; nothing where none was measured."""
    found = []
    for file, (_, quantities) in CURVE_QUANTITIES.items():
        for name in classes:
            rows = [row for s in scored for row in s.rows.get(file, ()) if row["class"] == name]
            for channel in dict.fromkeys(row.get("channel") for row in rows):
                own = [row for row in rows if row.get("channel") == channel]
                about = {"table": file, "class": name, **({} if channel is None else {"channel": channel})}
                for quantity in quantities:
                    agreement = _agreement(compared_values(own, file, quantity), _subjects(own))
                    if agreement["n"] or agreement["n_undefined"]:
                        found.append({**about, "quantity": quantity, **agreement})
    return {"curves": found} if found else {}


def _pair(row: Mapping[str, Any], part: str, key: str) -> tuple[float | None, float | None]:
    """Return reference and prediction; a frame of a cyclic study is counted from the reference's frame in the shorter direction."""
    reference, prediction = row[f"reference_{key}"], row[f"{part}_{key}"]
    if key.endswith("_frame") and row["time"] == "cyclic" and reference is not None and prediction is not None:
        frames = row["frames"]
        prediction = reference + (prediction - reference + frames // 2) % frames - frames // 2
    return reference, prediction


def _rows(scored: Sequence[CaseScores], file: str, name: str) -> list[dict[str, Any]]:
    """Return the rows of one class of a table."""
    return [row for s in scored for row in s.rows[file] if row["class"] == name]


def _column(rows: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    return np.array([row[key] for row in rows], np.float64)


def _subjects(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [row["subject"] for row in rows]


def _agreement(pairs: Any, subjects: Sequence[str]) -> dict[str, Any]:
    """Compute Bland-Altman agreement of pairs (N, 2) of reference and prediction, and the interval of the bias."""
    found = np.array(pairs, np.float64).reshape(-1, 2)  # None becomes NaN
    interval = interval95(found[:, 1] - found[:, 0], subjects)
    return {**bland_altman(found[:, 0], found[:, 1]), "ci95": interval}


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
