"""What many scored studies come to: means with their n and intervals, and the agreement of volumes and measures."""

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
    """Means over studies with their n, and how many were left out of each: the content of summary.json."""
    subjects = _repeated([s.subject for s in scored], [len(s.labelled) for s in scored])
    overlap = {
        name: np.concatenate([_per_frame(s)[name] for s in scored]) for name in ("dice", "hd95_mm", "asd_mm", "nsd")
    }
    per_class: dict[str, Any] = {}
    for k, (name, value) in enumerate(classes.items()):
        both, one = (
            sum(int(np.count_nonzero(getattr(s.counts, empty)[s.labelled, k])) for s in scored)
            for empty in ("both_empty", "one_empty")
        )
        volumes = np.concatenate([s.volume_pairs(k) for s in scored])
        whose = _repeated([s.subject for s in scored], [len(s.volume_pairs(k)) for s in scored])
        agreement = _agreement(volumes, whose)
        per_class[name] = {
            "value": value,
            **{quantity: summary_statistics(array[:, k]) for quantity, array in overlap.items()},
            "n_both_empty": both,
            "n_one_empty": one,
            "volume_error_ml": {
                "bias": agreement["bias"],
                "mean_absolute": agreement["mean_absolute"],
                "n": agreement["n"],
            },
            "volume_agreement_ml": agreement,
            "ci95": {quantity: interval95(array[:, k], subjects) for quantity, array in overlap.items()},
            "temporal": _temporal(scored, k),
        }
    means = [entry["dice"]["mean"] for entry in per_class.values() if entry["dice"]["mean"] is not None]
    return {
        "convention": EMPTY_CONVENTION,
        "averaging": AVERAGING,
        "intervals": INTERVALS,
        "cases": len(scored),
        "subjects": len({s.subject for s in scored}),
        "frames": sum(len(s.labelled) for s in scored),
        "labelled_frames": sum(int(s.labelled.sum()) for s in scored),
        "mean_foreground_dice": float(np.mean(means)) if means else None,
        "mean_foreground_dice_ci95": interval95(overlap["dice"], subjects),
        "classes": per_class,
        "heart": {name: _heart(scored, name) for name in classes if cardiac_role(name)},
        "per_case": {s.name: _case_summary(s) for s in scored},
    }


def summarize_cases_by_fold(
    scored: Sequence[CaseScores], classes: Mapping[str, int], folds: Mapping[str, int]
) -> dict[str, Any]:
    """The means of each of several folds, and over them; nothing where the cases are not of several folds."""
    members: dict[int, list[CaseScores]] = {}
    for one in scored:
        if one.name in folds:
            members.setdefault(folds[one.name], []).append(one)
    if len(members) < 2:
        return {}
    values = {}
    for fold, of_fold in members.items():
        found = summarize_cases(of_fold, classes)
        measured = {
            name: {c: entry[name]["mean"] for c, entry in found["classes"].items()} for name in ("dice", "hd95_mm")
        }
        values[fold] = {"mean_foreground_dice": found["mean_foreground_dice"], **measured}
    cases = {str(fold): [one.name for one in members[fold]] for fold in sorted(members)}
    without = [one.name for one in scored if one.name not in folds]
    return {"folds": summarize_folds(values) | {"cases": cases, "without_fold": without}}


def _per_frame(scores: CaseScores) -> dict[str, np.ndarray]:
    return {"dice": scores.dice, **vars(scores.surface)}


def _temporal(scored: Sequence[CaseScores], k: int) -> dict[str, Any]:
    """Each quantity over time of a class: its description over cases, and the interval of its mean."""
    found = {}
    for name in TEMPORAL_QUANTITIES:
        values = np.array([getattr(s.over_time, name)[k] for s in scored])
        interval = interval95(values, [s.subject for s in scored])
        found[name] = {**summary_statistics(values), "ci95": interval}
    return found


def _heart(scored: Sequence[CaseScores], name: str) -> dict[str, Any]:
    """Agreement of a heart's class, a pair a case: at the reference's frames, and with the prediction's own."""
    measured = [(s, one) for s in scored for one in s.heart if one.name == name]
    subjects = [s.subject for s, _ in measured]
    at_reference = {
        key: _agreement([(getattr(one.reference, key), getattr(one.matched, key)) for _, one in measured], subjects)
        for key in AT_REFERENCE_FRAMES
    }
    own = {key: _agreement([_own_pair(s, one, key) for s, one in measured], subjects) for key in MEASURES}
    return {
        "role": cardiac_role(name),
        "at_reference_frames": _measured(at_reference),
        "own_frames": _measured(own),
    }


def _measured(agreement: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Those that any reference has."""
    return {key: entry for key, entry in agreement.items() if entry["n"] or entry["n_undefined"]}


def _own_pair(scores: CaseScores, one: CardiacScores, key: str) -> tuple[float | None, float | None]:
    """Reference and prediction; a frame of a cyclic study counts from the reference's by the shorter way round."""
    reference, prediction = getattr(one.reference, key), getattr(one.prediction, key)
    if key.endswith("_frame") and scores.cyclic and None not in (reference, prediction):
        half = len(scores.labelled) // 2
        prediction = reference + (prediction - reference + half) % len(scores.labelled) - half
    return reference, prediction


def _agreement(pairs: Any, subjects: Sequence[str]) -> dict[str, Any]:
    """Bland-Altman of pairs (N, 2) of reference and prediction, and the interval of the bias."""
    found = np.array(pairs, np.float64).reshape(-1, 2)  # None becomes NaN
    interval = interval95(found[:, 1] - found[:, 0], subjects)
    return {**bland_altman(found[:, 0], found[:, 1]), "ci95": interval}


def _repeated(names: Sequence[str], times: Sequence[int]) -> list[str]:
    return [name for name, count in zip(names, times, strict=True) for _ in range(count)]


def _case_summary(scores: CaseScores) -> dict[str, Any]:
    means = [summary_statistics(column)["mean"] for column in scores.dice.T]
    defined = [mean for mean in means if mean is not None]
    return {
        "subject": scores.subject,
        "labelled_frames": int(scores.labelled.sum()),
        "mean_foreground_dice": float(np.mean(defined)) if defined else None,
    }
