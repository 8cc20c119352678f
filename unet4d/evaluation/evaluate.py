"""Evaluation of label maps against reference labels, per case, frame and class, and over time (`unet4d evaluate`).

Label maps of any program are scored. Every study is tried before anything is written; studies that fail are listed at the end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unet4d.datasets import label_maps
from unet4d.datasets.cases import Dataset
from unet4d.errors import InputError
from unet4d.evaluation import tables
from unet4d.evaluation.case_scores import CaseScores, score_case
from unet4d.evaluation.conditions import summarize_conditions
from unet4d.evaluation.curve_comparison import COMPARED_CURVES
from unet4d.evaluation.curve_tables import curve_text
from unet4d.evaluation.signal_curves import CurveOptions, recorded_options
from unet4d.evaluation.summary import summarize_cases, summarize_cases_by_fold
from unet4d.images.image4d import read_label
from unet4d.metrics.cardiac_structures import describe_roles, has_other_names
from unet4d.metrics.regions import ClassValue, Region
from unet4d.metrics.surface import TOLERANCE_MM
from unet4d.system.csv_file import csv_text
from unet4d.system.documents import write_document
from unet4d.system.environment import VERSION
from unet4d.system.failures import failure_of_study, raise_failed
from unet4d.system.files import PathLike, check_writable, write_text
from unet4d.system.progress_bar import RESULT, ProgressBar
from unet4d.system.signals import check_stop, stop_signals
from unet4d.system.text import count

logger = logging.getLogger(__name__)

MAX_TOLERANCE_MM = 10_000


def log_summary(summary: Mapping[str, Any]) -> None:
    """Log the summary of an evaluation for a terminal."""
    logger.log(RESULT, tables.format_summary(summary))


@stop_signals()
def evaluate(
    reference: PathLike,
    prediction: PathLike,
    out_dir: PathLike,
    cases: Sequence[str] | None = None,
    *,
    predicted_only: bool = False,
    tolerance_mm: float = TOLERANCE_MM,
    curves: CurveOptions | None = None,
    show: Callable[[Mapping[str, Any]], None] = log_summary,
) -> dict[str, Any]:
    """Score a folder of label maps; write the tables that `docs/reference/metrics.md` defines, and show the summary.

    Args:
        reference: a dataset (folder or dataset.json), of which the labelled frames count; or a folder of label files, of which
            every frame counts, unless a dataset.json above them lists these very files.
        prediction: folder of `<case>.nii.gz` or `<case>.nii`. Where its prediction.json names the fold that held a case out, the
            summary also has the scores of each fold, and mean and deviation over folds.
        out_dir: created where it is missing.
        cases: score only these; None expects a prediction for every reference.
        predicted_only: score the references that have a prediction, and list the others; not together with `cases`.
        tolerance_mm: distance up to which two surfaces count as the same, for the normalized surface Dice.
        curves: curves that are measured on the images over references and predictions, and compared; None: those that `predict`
            recorded of each case, where `reference` is a dataset.
        show: gets the contents of summary.json once all files are written, also where studies failed.

    Returns:
        The contents of summary.json.

    Raises:
        InputError: a reference without prediction (with `predicted_only`: all of them); curves without images, or of flow without
            velocities; or, after the others were scored and
            written, studies with another grid or number of frames, a label value that the dataset does not name, or a file that
            cannot be read.
    """
    if cases is not None and predicted_only:
        raise InputError("got both cases and predicted_only, expected one of them; leave the other out")
    if not 0 <= tolerance_mm <= MAX_TOLERANCE_MM:
        raise InputError(f"tolerance_mm is {tolerance_mm}, expected a distance in mm from 0 to {MAX_TOLERANCE_MM}")
    check_writable(out_dir)
    folder, out = Path(prediction), Path(out_dir)
    references, dataset = label_maps.find_references(Path(reference))
    if dataset is not None and not (Path(reference).is_file() or (Path(reference) / "dataset.json").is_file()):
        logger.info(f"{reference} holds labels of the dataset {dataset.root}: only its labelled frames are scored")
    references, missing = label_maps.drop_unpredicted(
        label_maps.select_references(references, cases), folder, predicted_only
    )
    files, unmatched = label_maps.match_predictions(references, folder, whole=cases is None)
    classes = _find_classes(references, files, dataset, folder)
    wanted = _find_curves(references, dataset, folder, curves)
    roles = label_maps.read_class_roles(list(classes), dataset.roles if dataset else {}, [folder])
    folds, times = label_maps.read_recorded_folds(folder), label_maps.read_recorded_times(folder)
    scored: list[CaseScores] = []
    failed: dict[str, str] = {}
    for study, file in ProgressBar(list(zip(references, files, strict=True)), "evaluating", unit="study"):
        cyclic = ((dataset.time if dataset else None) or times.get(study.name)) == "cyclic"
        try:
            curve_options = wanted.get(study.name)
            scored.append(
                score_case(
                    study,
                    file,
                    classes,
                    dataset,
                    roles=roles,
                    cyclic=cyclic,
                    tolerance_mm=tolerance_mm,
                    curves=curve_options,
                )
            )
        except Exception as error:
            failed[study.name] = str(failure_of_study(error))
    if not scored:
        raise_failed(failed, len(references), "scored", out)
    summary: dict[str, Any] = {"version": VERSION, "reference": str(reference), "prediction": str(prediction)}
    summary |= {"not_scored": unmatched, "without_prediction": missing, "failed": failed, "tolerance_mm": tolerance_mm}
    conditions = label_maps.read_recorded_conditions(folder)
    summary["conditions"] = summarize_conditions(conditions.get(case.name, {}) for case in scored)
    summary |= summarize_cases(scored, classes, roles) | summarize_cases_by_fold(scored, classes, roles, folds)
    summary = _write(out, scored, summary)
    show(summary)
    _log_files(out, summary)
    raise_failed(failed, len(references), "scored", out)
    return summary


def _find_curves(
    references: Sequence[label_maps.Reference], dataset: Dataset | None, folder: Path, given: CurveOptions | None
) -> dict[str, CurveOptions]:
    """Return the curves to measure of each case: those given, else those that `predict` recorded."""
    if dataset is None:
        if given is not None and given.kinds:
            raise InputError(
                "got --curves and references without images, expected a dataset; give its folder, or leave curves out"
            )
        return {}
    if given is not None:
        given.check(dataset.channel_kinds, {study.name: dataset.velocity_unit for study in references})
        return dict.fromkeys((study.name for study in references), given)
    recorded = label_maps.read_recorded_curves(folder)
    return {
        study.name: recorded_options(recorded.get(study.name), dataset.channel_kinds, dataset.velocity_unit)
        for study in references
    }


def _find_classes(
    references: Sequence[label_maps.Reference], files: Sequence[Path], dataset: Dataset | None, folder: Path
) -> dict[str, ClassValue]:
    """Return foreground class name to value: of the dataset, else every value in the files, named by prediction.json.

    Regions are those of the dataset or of prediction.json.
    """
    named = label_maps.read_class_values(dataset, [folder]) or {}
    if named and (dataset is not None or any(isinstance(value, Region) for value in named.values())):
        return named
    values = sorted({value for path in (*(one.path for one in references), *files) for value in _values(path)})
    names = {value: name for name, value in named.items() if isinstance(value, int)}
    if not values and not names:
        raise InputError(f"{folder} and its references hold only background, expected a class to score")
    return {names.get(value, f"class {value}"): value for value in sorted({*values, *names})}


def _values(path: Path) -> list[int]:
    """Return the foreground values of a label map; none where it cannot be read, which `score_case` reports."""
    check_stop()
    try:
        return [int(value) for value in np.unique(read_label(path)) if value]
    except Exception as error:
        failure_of_study(error)
        return []


def _write(out: Path, scored: Sequence[CaseScores], summary: Mapping[str, Any]) -> dict[str, Any]:
    """Write the tables and the summary; return the contents of summary.json."""
    for name in tables.TABLE_COLUMNS:
        write_text(out / name, csv_text(tables.csv_rows(name, (row for case in scored for row in case.rows[name]))))
    for table in COMPARED_CURVES.values():
        if rows := [row for case in scored for row in case.rows.get(table.file, ())]:
            write_text(out / table.file, curve_text(table, rows))
        else:
            (out / table.file).unlink(missing_ok=True)  # of an earlier evaluation
    return write_document(out / tables.SUMMARY_JSON, "evaluation", summary)


def _log_files(out: Path, summary: Mapping[str, Any]) -> None:
    """Log what classes were taken for, what was left out, and the files that were written."""
    if has_other_names(summary["roles"]):
        logger.info(f"structures of a heart: {describe_roles(summary['roles'], summary['classes'])}")
    if missing := summary["without_prediction"]:
        total = count(len(missing) + summary["cases"], "reference")
        logger.info(f"left out, without a prediction: {len(missing)} of {total}")
    tables_of_curves = [table for table in COMPARED_CURVES.values() if (out / table.file).exists()]
    curves = {table.file: f"curves, a row per {table.row}" for table in tables_of_curves}
    files = {**tables.OUTPUT_FILES, **curves}
    logger.info("\n".join(["", *(f"{out / name}   {contents}" for name, contents in files.items())]))
