"""Summary of many scored studies: means with their n and intervals, and the agreement of volumes and measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unet4d.evaluation.cardiac_function import AT_REFERENCE_FRAMES, MEASURES, CardiacScores, cardiac_role
from unet4d.evaluation.case_scores import CaseScores
from unet4d.evaluation.fold_summary import summarize_folds
from unet4d.evaluation.temporal import TEMPORAL_QUANTITIES
from unet4d.metrics.overlap import EMPTY_CONVENTION
from unet4d.metrics.statistics import INTERVALS, bland_altman, interval95, summary_statistics

AVERAGING = (
    "The mean of a class runs over every labelled frame of every case where the quantity is defined. "
    "mean_foreground_dice is the mean of the classes' mean Dice, each class weighing the same; a class that is defined "
    "nowhere is left out. For one case it is the same within that case. std is over n - 1. Volume error is prediction "
    "minus reference, over the labelled frames where either has the class. Measures of a heart and those over time count each "
    "case once."
)


def summarize_cases(scored: Sequence[CaseScores], classes: Mapping[str, int]) -> dict[str, Any]:
    """Compute the means over studies, with their n and how many values each leaves out: the contents of summary.json.

    Args:
        scored: the studies.
        classes: foreground class name to label value.
    """
    subjects = [s.subject for s in scored for _ in s.labelled]
    overlap = {
        name: np.concatenate([{"dice": s.dice, **vars(s.surface)}[name] for s in scored])
        for name in ("dice", "hd95_mm", "asd_mm", "nsd")
    }
    per_class = {
        name: {"value": value, **_summarize_class(scored, k, overlap, subjects)}
        for k, (name, value) in enumerate(classes.items())
    }
    return {
        "convention": EMPTY_CONVENTION,
        "averaging": AVERAGING,
        "intervals": INTERVALS,
        "cases": len(scored),
        "subjects": len({s.subject for s in scored}),
        "frames": sum(len(s.labelled) for s in scored),
        "labelled_frames": sum(int(s.labelled.sum()) for s in scored),
        "mean_foreground_dice": _mean([entry["dice"]["mean"] for entry in per_class.values()]),
        "mean_foreground_dice_ci95": interval95(overlap["dice"], subjects),
        "classes": per_class,
        "heart": {name: _summarize_heart(scored, name) for name in classes if cardiac_role(name)},
        "per_case": {
            s.name: {
                "subject": s.subject,
                "labelled_frames": int(s.labelled.sum()),
                "mean_foreground_dice": _mean([summary_statistics(column)["mean"] for column in s.dice.T]),
            }
            for s in scored
        },
    }


def summarize_cases_by_fold(
    scored: Sequence[CaseScores], classes: Mapping[str, int], folds: Mapping[str, int]
) -> dict[str, Any]:
    """Compute the means of each fold, and over folds; return nothing where the cases are not of several folds.

    Args:
        scored: the studies.
        classes: foreground class name to label value.
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
        summary = summarize_cases(of_fold, classes)
        means = {
            name: {c: entry[name]["mean"] for c, entry in summary["classes"].items()} for name in ("dice", "hd95_mm")
        }
        values[fold] = {"mean_foreground_dice": summary["mean_foreground_dice"], **means}
    cases = {str(fold): [case.name for case in members[fold]] for fold in sorted(members)}
    without = [case.name for case in scored if case.name not in folds]
    return {"folds": summarize_folds(values) | {"cases": cases, "without_fold": without}}


def _summarize_class(
    scored: Sequence[CaseScores], k: int, overlap: Mapping[str, np.ndarray], subjects: Sequence[str]
) -> dict[str, Any]:
    """Compute the entry of class `k`, from `overlap` (frames of all studies, K) and the subject of each of these frames."""
    pairs = [s.volume_pairs(k) for s in scored]
    owners = [s.subject for s, own in zip(scored, pairs, strict=True) for _ in own]
    agreement = _agreement(np.concatenate(pairs), owners)
    empty = {
        f"n_{kind}": sum(int(np.count_nonzero(getattr(s.counts, kind)[s.labelled, k])) for s in scored)
        for kind in ("both_empty", "one_empty")
    }
    return {
        **{quantity: summary_statistics(array[:, k]) for quantity, array in overlap.items()},
        **empty,
        "volume_error_ml": {key: agreement[key] for key in ("bias", "mean_absolute", "n")},
        "volume_agreement_ml": agreement,
        "ci95": {quantity: interval95(array[:, k], subjects) for quantity, array in overlap.items()},
        "temporal": _summarize_temporal(scored, k),
    }


def _summarize_temporal(scored: Sequence[CaseScores], k: int) -> dict[str, Any]:
    """Describe each temporal metric of class `k` over cases, with the interval of its mean."""
    found = {}
    for name in TEMPORAL_QUANTITIES:
        values = np.array([s.over_time[name][k] for s in scored])
        found[name] = {**summary_statistics(values), "ci95": interval95(values, [s.subject for s in scored])}
    return found


def _summarize_heart(scored: Sequence[CaseScores], name: str) -> dict[str, Any]:
    """Compute the agreement of the cardiac measures of a class, one pair per case: at the reference's frames and at own ones."""
    measured = [(s, scores) for s in scored for scores in s.heart if scores.name == name]
    subjects = [s.subject for s, _ in measured]

    def agreements(pairs: Mapping[str, list[Any]]) -> dict[str, Any]:
        entries = {key: _agreement(values, subjects) for key, values in pairs.items()}
        return {key: entry for key, entry in entries.items() if entry["n"] or entry["n_undefined"]}

    matched = {
        key: [(scores.reference.get(key), scores.matched.get(key)) for _, scores in measured]
        for key in AT_REFERENCE_FRAMES
    }
    own = {key: [_own_pair(s, scores, key) for s, scores in measured] for key in MEASURES}
    return {"role": cardiac_role(name), "at_reference_frames": agreements(matched), "own_frames": agreements(own)}


def _own_pair(case: CaseScores, scores: CardiacScores, key: str) -> tuple[float | None, float | None]:
    """Return reference and prediction; a frame of a cyclic study is counted from the reference's frame in the shorter direction."""
    reference, prediction = scores.reference.get(key), scores.prediction.get(key)
    if key.endswith("_frame") and case.cyclic and reference is not None and prediction is not None:
        frames = len(case.labelled)
        prediction = reference + (prediction - reference + frames // 2) % frames - frames // 2
    return reference, prediction


def _agreement(pairs: Any, subjects: Sequence[str]) -> dict[str, Any]:
    """Compute Bland-Altman agreement of pairs (N, 2) of reference and prediction, and the interval of the bias."""
    found = np.array(pairs, np.float64).reshape(-1, 2)  # None becomes NaN
    interval = interval95(found[:, 1] - found[:, 0], subjects)
    return {**bland_altman(found[:, 0], found[:, 1]), "ci95": interval}


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
