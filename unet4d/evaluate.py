"""`unet4d evaluate`: score label maps against reference labels, per case, frame and class.

The predictions may be anybody's. Nothing is written before every study has been scored.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import unet4d
from unet4d import metrics
from unet4d.data.dataset import Dataset
from unet4d.data.image4d import read_label
from unet4d.data.nifti import check_same_grid, read_header
from unet4d.data.references import (
    Reference,
    chosen,
    find_references,
    matched,
    named_classes,
    read_reference,
    recorded_folds,
    with_prediction,
)
from unet4d.errors import InputError
from unet4d.files import check_writable, write_json, write_text
from unet4d.over_folds import over_folds
from unet4d.over_folds import table as table_of_folds

METRICS, VOLUMES, SUMMARY = "metrics.csv", "volumes_compared.csv", "summary.json"
AVERAGING = (
    "The mean of a class runs over every labelled frame of every case where the quantity is defined. "
    "mean_foreground_dice is the mean of the classes' mean Dice, each class weighing the same; a class that is defined "
    "nowhere is left out. For one case it is the same within that case. std is over n - 1. Volume error is prediction "
    "minus reference, over the labelled frames where either has the class."
)


@dataclass(frozen=True)
class Scores:
    """One scored study: arrays `(T, K)` over all frames and the K foreground classes, NaN where undefined."""

    reference: Reference
    labelled: np.ndarray  # (T,) bool
    frame_duration_s: float | None
    counts: metrics.Counts
    dice: np.ndarray
    hd95_mm: np.ndarray
    reference_ml: np.ndarray
    prediction_ml: np.ndarray


def evaluate(
    reference: str | os.PathLike[str],
    prediction: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    cases: Sequence[str] | None = None,
    *,
    predicted_only: bool = False,
) -> dict[str, Any]:
    """Score a folder of label maps; write metrics.csv, volumes_compared.csv and summary.json, and print a table.

    Args:
        reference: a dataset (folder or dataset.json), whose labelled frames count; or a folder of label files, every
            frame of which counts, unless a dataset.json above them lists these very files.
        prediction: folder of `<case>.nii.gz` or `<case>.nii`; where its prediction.json says which fold held a case out, the scores
            of each fold, and mean and deviation over folds, stand beside those of all cases.
        out_dir: made where it is missing.
        cases: score these alone; left out, every reference must have a prediction.
        predicted_only: score the references that have a prediction, and say which have none; not together with `cases`.

    Returns:
        The summary, as in summary.json.

    Raises:
        InputError: a reference without prediction (with `predicted_only`: every one); another grid or number of frames; a
            label value that the dataset does not name; a file that cannot be read.
    """
    if cases is not None and predicted_only:
        raise InputError("cases and predicted_only came together; wanted one of them; leave the other out")
    check_writable(out_dir)
    references, dataset = find_references(Path(reference))
    if dataset is not None and not (Path(reference).is_file() or (Path(reference) / "dataset.json").is_file()):
        print(f"{reference} holds labels of the dataset {dataset.root}: only its labelled frames are scored")
    references, missing = with_prediction(chosen(references, cases), Path(prediction), predicted_only)
    files, unmatched = matched(references, Path(prediction), whole=cases is None)
    classes = _classes(references, files, dataset, Path(prediction))
    folds = recorded_folds(Path(prediction))
    progress = tqdm(list(zip(references, files, strict=True)), "evaluating", unit="study", disable=None)
    scored = [_score(one, file, classes, dataset) for one, file in progress]
    about = {"version": unet4d.__version__, "reference": str(reference), "prediction": str(prediction)}
    summary = {**about, "not_scored": unmatched, "without_prediction": missing, **summarise(scored, classes)}
    summary |= _of_folds(scored, classes, folds)
    out = Path(out_dir)
    write_text(out / METRICS, _csv(_metric_rows(scored, classes)))
    write_text(out / VOLUMES, _csv(_volume_rows(scored, classes)))
    write_json(out / SUMMARY, summary)
    print(table(summary))
    if missing:
        print(f"{len(missing)} of {len(missing) + len(scored)} references have no prediction and are left out")
    print(f"\n{out / METRICS}   every labelled frame\n{out / VOLUMES}   every frame\n{out / SUMMARY}   this summary")
    return summary


def summarise(scored: Sequence[Scores], classes: Mapping[str, int]) -> dict[str, Any]:
    """Means over studies with their n, and how many were left out of each: the content of summary.json."""
    per_class: dict[str, Any] = {}
    for k, (name, value) in enumerate(classes.items()):
        both, one = (
            sum(int(np.count_nonzero(getattr(s.counts, empty)[s.labelled, k])) for s in scored)
            for empty in ("both_empty", "one_empty")
        )
        error = np.concatenate([_volume_error(s, k) for s in scored])
        per_class[name] = {
            "value": value,
            "dice": metrics.describe(np.concatenate([s.dice[:, k] for s in scored])),
            "hd95_mm": metrics.describe(np.concatenate([s.hd95_mm[:, k] for s in scored])),
            "n_both_empty": both,
            "n_one_empty": one,
            "volume_error_ml": {
                "bias": metrics.describe(error)["mean"],
                "mean_absolute": metrics.describe(np.abs(error))["mean"],
                "n": len(error),
            },
        }
    means = [entry["dice"]["mean"] for entry in per_class.values() if entry["dice"]["mean"] is not None]
    return {
        "convention": metrics.EMPTY_CONVENTION,
        "averaging": AVERAGING,
        "cases": len(scored),
        "subjects": len({s.reference.subject for s in scored}),
        "frames": sum(len(s.labelled) for s in scored),
        "labelled_frames": sum(int(s.labelled.sum()) for s in scored),
        "mean_foreground_dice": float(np.mean(means)) if means else None,
        "classes": per_class,
        "per_case": {s.reference.name: _case_summary(s) for s in scored},
    }


def _of_folds(scored: Sequence[Scores], classes: Mapping[str, int], folds: Mapping[str, int]) -> dict[str, Any]:
    """The means of each of several folds, and over them; nothing where the cases are not of several folds."""
    members: dict[int, list[Scores]] = {}
    for one in scored:
        if one.reference.name in folds:
            members.setdefault(folds[one.reference.name], []).append(one)
    if len(members) < 2:
        return {}
    values = {}
    for fold, of_fold in members.items():
        found = summarise(of_fold, classes)
        measured = {
            name: {c: entry[name]["mean"] for c, entry in found["classes"].items()} for name in ("dice", "hd95_mm")
        }
        values[fold] = {"mean_foreground_dice": found["mean_foreground_dice"], **measured}
    cases = {str(fold): [one.reference.name for one in members[fold]] for fold in sorted(members)}
    without = [one.reference.name for one in scored if one.reference.name not in folds]
    return {"folds": over_folds(values) | {"cases": cases, "without_fold": without}}


def table(summary: Mapping[str, Any]) -> str:
    """The summary for a terminal: one line a class, n beside each mean."""
    width = max(len(name) for name in ("mean over classes", *summary["classes"]))
    lines = [
        f"{summary['cases']} cases of {summary['subjects']} subjects, {summary['labelled_frames']} labelled frames",
        "",
        f"{'class':<{width}}  {'Dice':>6} {'n':>5}  {'HD95 mm':>8} {'n':>5}  {'bias mL':>8} {'n':>5}  one empty  both empty",
    ]
    for name, entry in summary["classes"].items():
        dice, distance, error = entry["dice"], entry["hd95_mm"], entry["volume_error_ml"]
        lines.append(
            f"{name:<{width}}  {metrics.shown(dice['mean'], 3):>6} {dice['n']:>5}  {metrics.shown(distance['mean'], 2):>8} "
            f"{distance['n']:>5}  {metrics.shown(error['bias'], 2):>8} {error['n']:>5}  {entry['n_one_empty']:>9}  "
            f"{entry['n_both_empty']:>10}"
        )
    mean = metrics.shown(summary["mean_foreground_dice"], 3)
    lines += [f"{'mean over classes':<{width}}  {mean:>6}", "", "one empty: Dice 0, no HD95; both empty: left out"]
    if folds := summary.get("folds"):
        lines += ["", table_of_folds(folds)]
        if folds["without_fold"]:
            lines.append(f"cases held out by no fold, in none of these: {len(folds['without_fold'])}")
    return "\n".join(lines)


def _classes(
    references: Sequence[Reference], files: Sequence[Path], dataset: Dataset | None, folder: Path
) -> dict[str, int]:
    """Foreground class name to value: the dataset's, else whatever occurs, named by prediction.json where it is."""
    named = named_classes(dataset, [folder])
    if dataset is not None and named:
        return named
    paths = [*(one.path for one in references), *files]
    found = sorted({int(value) for path in paths for value in np.unique(read_label(path)) if value})
    names = {value: name for name, value in (named or {}).items()}
    if not found and not names:
        raise InputError(f"{folder} and its references hold nothing but background; wanted a class to score")
    return {names.get(value, f"class {value}"): value for value in sorted({*found, *names})}


def _score(reference: Reference, file: Path, classes: Mapping[str, int], dataset: Dataset | None) -> Scores:
    """Score one prediction. Raises InputError where it does not fit its reference."""
    label, labelled, like = read_reference(reference, dataset)
    header, shape = read_header(file)
    check_same_grid(file, header, shape, reference.path, like.header, (like.frames, *like.grid))
    prediction = read_label(file)
    values = list(classes.values())
    unknown = sorted(set(np.unique(prediction).tolist()) - {0, *values})
    if unknown:
        raise InputError(f"{file}: label value {unknown[0]} came; wanted one of {[0, *values]}; correct the label map")
    counts = metrics.count_voxels(label, prediction, values)
    distance = np.full(counts.tp.shape, np.nan)
    distance[labelled] = metrics.hausdorff95_mm(label[labelled], prediction[labelled], values, like.spacing)
    voxel_ml = metrics.voxel_volume_ml(like.affine)
    drawn = labelled[:, None]
    return Scores(
        reference,
        labelled,
        like.frame_duration_s,
        counts,
        dice=np.where(drawn, metrics.dice(counts), np.nan),
        hd95_mm=distance,
        reference_ml=np.where(drawn, metrics.volumes_ml(label, values, voxel_ml), np.nan),
        prediction_ml=metrics.volumes_ml(prediction, values, voxel_ml),
    )


def _volume_error(scores: Scores, k: int) -> np.ndarray:
    kept = scores.labelled & ~scores.counts.both_empty[:, k]
    return (scores.prediction_ml - scores.reference_ml)[kept, k]


def _case_summary(scores: Scores) -> dict[str, Any]:
    means = [metrics.describe(column)["mean"] for column in scores.dice.T]
    defined = [mean for mean in means if mean is not None]
    return {
        "subject": scores.reference.subject,
        "labelled_frames": int(scores.labelled.sum()),
        "mean_foreground_dice": float(np.mean(defined)) if defined else None,
    }


def _metric_rows(scored: Sequence[Scores], classes: Mapping[str, int]) -> Iterator[list[Any]]:
    measured = ["dice", "hd95_mm", "reference_ml", "prediction_ml", "tp", "fp", "fn"]
    yield ["case", "subject", "frame", "class", "value", *measured]
    for s in scored:
        for t in np.flatnonzero(s.labelled):
            for k, (name, value) in enumerate(classes.items()):
                ratios = [_number(array[t, k]) for array in (s.dice, s.hd95_mm, s.reference_ml, s.prediction_ml)]
                counts = [int(array[t, k]) for array in (s.counts.tp, s.counts.fp, s.counts.fn)]
                yield [s.reference.name, s.reference.subject, int(t), name, value, *ratios, *counts]


def _volume_rows(scored: Sequence[Scores], classes: Mapping[str, int]) -> Iterator[list[Any]]:
    yield ["case", "frame", "time_s", "class", "reference_ml", "prediction_ml"]
    for s in scored:
        for t in range(len(s.labelled)):
            time = "" if s.frame_duration_s is None else round(t * s.frame_duration_s, 6)
            for k, name in enumerate(classes):
                volumes = (_number(s.reference_ml[t, k]), _number(s.prediction_ml[t, k]))
                yield [s.reference.name, t, time, name, *volumes]


def _csv(rows: Iterator[list[Any]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def _number(value: float) -> float | str:
    """A number for a table; blank where it is undefined."""
    return round(float(value), 6) if np.isfinite(value) else ""
