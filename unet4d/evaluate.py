"""`unet4d evaluate`: score label maps against reference labels, per case, frame and class.

The predictions may be anybody's. Nothing is written before every study has been scored.
"""

from __future__ import annotations

import csv
import io
import os
import sys
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
from unet4d.data.references import Reference, find_references, label_maps, named_classes, read_reference
from unet4d.errors import InputError
from unet4d.files import check_writable, write_json, write_text

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
        prediction: folder of `<case>.nii.gz` or `<case>.nii`.
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
    references, missing = _predicted(_chosen(references, cases), Path(prediction), predicted_only)
    files, unmatched = _match(references, Path(prediction), whole=cases is None)
    classes = _classes(references, files, dataset, Path(prediction))
    progress = tqdm(list(zip(references, files, strict=True)), "evaluating", unit="study", disable=None)
    scored = [_score(one, file, classes, dataset) for one, file in progress]
    about = {"version": unet4d.__version__, "reference": str(reference), "prediction": str(prediction)}
    summary = {**about, "not_scored": unmatched, "without_prediction": missing, **summarise(scored, classes)}
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
    return "\n".join(lines)


def _chosen(references: list[Reference], cases: Sequence[str] | None) -> list[Reference]:
    if cases is None:
        return references
    known = {one.name: one for one in references}
    unknown = [name for name in cases if name not in known]
    if unknown or not cases:
        came = f"cases {', '.join(unknown)} came, without a reference" if unknown else "an empty list of cases came"
        raise InputError(f"{came}; wanted some of {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(cases)]


def _predicted(references: list[Reference], folder: Path, predicted_only: bool) -> tuple[list[Reference], list[str]]:
    """The references to score, and the names of those left out since they have no prediction."""
    if not predicted_only:
        return references, []
    maps = label_maps(folder)
    missing = [one.name for one in references if one.name not in maps]
    if len(missing) == len(references):
        raise InputError(
            f"{folder} has a prediction for none of the {len(references)} references ({missing[0]}, ...); wanted "
            "<case>.nii.gz for one or more"
        )
    return [one for one in references if one.name in maps], missing


def _match(references: Sequence[Reference], folder: Path, whole: bool) -> tuple[list[Path], list[str]]:
    """The prediction of each reference, and the names of predictions that have none (a warning tells them)."""
    maps = label_maps(folder)
    missing = [one.name for one in references if one.name not in maps]
    if missing:
        raise InputError(
            f"{folder} has no prediction for {len(missing)} of {len(references)} references: {', '.join(missing)}; add "
            "<case>.nii.gz for each, name the cases to score (--cases), or score what is there (--predicted_only)"
        )
    unmatched = [name for name in maps if name not in {one.name for one in references}]
    if unmatched and whole:
        print(
            f"warning: {len(unmatched)} predictions match no reference and are not scored: {', '.join(unmatched)}",
            file=sys.stderr,
        )
    return [maps[one.name] for one in references], unmatched


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
