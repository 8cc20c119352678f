"""`unet4d evaluate`: score label maps against reference labels, per case, frame and class, and over time.

Predictions of any program are taken. Nothing is written before every study has been tried; a study that fails is listed in the end.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unet4d.datasets.dataset import Dataset
from unet4d.datasets.label_maps import (
    Reference,
    chosen,
    find_references,
    matched,
    named_classes,
    recorded_folds,
    recorded_times,
    with_prediction,
)
from unet4d.errors import InputError
from unet4d.evaluation import tables
from unet4d.evaluation.case_scores import CaseScores, score_case
from unet4d.evaluation.summary import summarize_cases, summarize_cases_by_fold
from unet4d.images.image4d import read_label
from unet4d.metrics.surface import TOLERANCE_MM
from unet4d.system.csv_file import csv_text
from unet4d.system.failures import failure_of_study, raise_failed
from unet4d.system.files import check_writable, write_json, write_text
from unet4d.system.progress_bar import ProgressBar
from unet4d.system.signals import check_stop, stop_signals
from unet4d.system.text import count
from unet4d.system.version import VERSION

MOST_MM = 10_000


@stop_signals()
def evaluate(
    reference: str | os.PathLike[str],
    prediction: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    cases: Sequence[str] | None = None,
    *,
    predicted_only: bool = False,
    tolerance_mm: float = TOLERANCE_MM,
) -> dict[str, Any]:
    """Score a folder of label maps; write what `docs/metrics.md` defines, and print a table.

    metrics.csv has a row a labelled frame and class, volumes_compared.csv a row a frame and class, measures.csv a row a case and
    class of a heart, temporal.csv a row a case and class, and summary.json what they come to.

    Args:
        reference: a dataset (folder or dataset.json), whose labelled frames count; or a folder of label files, every
            frame of which counts, unless a dataset.json above them lists these very files.
        prediction: folder of `<case>.nii.gz` or `<case>.nii`; where its prediction.json says which fold held a case out, the scores
            of each fold, and mean and deviation over folds, stand beside those of all cases.
        out_dir: made where it is missing.
        cases: score these alone; left out, every reference must have a prediction.
        predicted_only: score the references that have a prediction, and say which have none; not together with `cases`.
        tolerance_mm: how far two surfaces may lie apart and count as the same, for the normalised surface Dice.

    Returns:
        The summary, as in summary.json.

    Raises:
        InputError: a reference without prediction (with `predicted_only`: every one); or, after all others were scored and
            written, studies with another grid or number of frames, a label value that the dataset does not name, or a file that
            cannot be read.
    """
    if cases is not None and predicted_only:
        raise InputError("cases and predicted_only came together; wanted one of them; leave the other out")
    if not 0 <= tolerance_mm <= MOST_MM:
        raise InputError(f"tolerance_mm is {tolerance_mm}; wanted a distance in mm, 0 or more, at most {MOST_MM}")
    check_writable(out_dir)
    references, dataset = find_references(Path(reference))
    if dataset is not None and not (Path(reference).is_file() or (Path(reference) / "dataset.json").is_file()):
        print(f"{reference} holds labels of the dataset {dataset.root}: only its labelled frames are scored")
    references, missing = with_prediction(chosen(references, cases), Path(prediction), predicted_only)
    files, unmatched = matched(references, Path(prediction), whole=cases is None)
    classes = _classes(references, files, dataset, Path(prediction))
    folds, times = recorded_folds(Path(prediction)), recorded_times(Path(prediction))
    progress = ProgressBar(list(zip(references, files, strict=True)), "evaluating", unit="study")
    scored: list[CaseScores] = []
    failed: dict[str, str] = {}
    for one, file in progress:
        time = (dataset.time if dataset else None) or times.get(one.name, "open")
        try:
            scored.append(score_case(one, file, classes, dataset, cyclic=time == "cyclic", tolerance_mm=tolerance_mm))
        except Exception as error:
            failed[one.name] = str(failure_of_study(error))
    if not scored:
        raise_failed(failed, len(references), "scored", Path(out_dir))
    about = {"version": VERSION, "reference": str(reference), "prediction": str(prediction)}
    summary = {
        **about,
        "not_scored": unmatched,
        "without_prediction": missing,
        "failed": failed,
        "tolerance_mm": tolerance_mm,
    }
    summary |= summarize_cases(scored, classes) | summarize_cases_by_fold(scored, classes, folds)
    out = Path(out_dir)
    for file_name, rows in (
        (tables.METRICS_CSV, tables.metric_rows(scored, classes)),
        (tables.VOLUMES_CSV, tables.volume_rows(scored, classes)),
        (tables.MEASURES_CSV, tables.measure_rows(scored)),
        (tables.TEMPORAL_CSV, tables.temporal_rows(scored, classes)),
    ):
        write_text(out / file_name, csv_text(rows))
    write_json(out / tables.SUMMARY_JSON, summary)
    print(tables.format_summary(summary))
    if missing:
        have, are = ("has", "is") if len(missing) == 1 else ("have", "are")
        print(
            f"{len(missing)} of {count(len(missing) + len(scored), 'reference')} {have} no prediction and {are} left out"
        )
    print("", *(f"{out / file_name}   {what}" for file_name, what in tables.OUTPUT_FILES.items()), sep="\n")
    raise_failed(failed, len(references), "scored", out)
    return summary


def _classes(
    references: Sequence[Reference], files: Sequence[Path], dataset: Dataset | None, folder: Path
) -> dict[str, int]:
    """Foreground class name to value: the dataset's, else whatever occurs, named by prediction.json where it is."""
    named = named_classes(dataset, [folder])
    if dataset is not None and named:
        return named
    paths = [*(one.path for one in references), *files]
    found = sorted({value for path in paths for value in _values(path)})
    names = {value: name for name, value in (named or {}).items()}
    if not found and not names:
        raise InputError(f"{folder} and its references hold nothing but background; wanted a class to score")
    return {names.get(value, f"class {value}"): value for value in sorted({*found, *names})}


def _values(path: Path) -> list[int]:
    """Return the foreground values of a label map; none of one that cannot be read, which `score_case` reports."""
    check_stop()
    try:
        return [int(value) for value in np.unique(read_label(path)) if value]
    except Exception as error:
        failure_of_study(error)
        return []
