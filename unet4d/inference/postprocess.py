"""`unet4d postprocess`: post-processing chosen on the subjects that a run held out, and recorded in the run if it helped."""

from __future__ import annotations

import datetime
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unet4d.datasets.cases import Case, Dataset
from unet4d.datasets.dataset import read_dataset
from unet4d.datasets.label_maps import Reference, find_label_maps, read_reference
from unet4d.errors import InputError
from unet4d.images.image4d import read_label
from unet4d.images.nifti import check_same_grid, read_header
from unet4d.inference.batch.case_records import CaseRecords
from unet4d.inference.checks import check_postprocess
from unet4d.inference.postprocessing_search import RULE, ChosenSteps, HeldOutPrediction, choose_steps
from unet4d.inference.postprocessing_steps import Step, describe_steps, write_steps
from unet4d.inference.predict import predict
from unet4d.models.checkpoint import TrainedModel
from unet4d.models.folds import load_models
from unet4d.system.digests import file_sha256
from unet4d.system.environment import VERSION
from unet4d.system.failures import failure_of_study, raise_failed
from unet4d.system.files import PathLike, read_json
from unet4d.system.progress_bar import RESULT, ProgressBar
from unet4d.system.signals import stop_signals
from unet4d.system.text import count, format_number

logger = logging.getLogger(__name__)

FEW_SUBJECTS = 3
_PREDICT_AGAIN = "predict with --held_out --postprocess off, or leave --predictions out"
OPTIMISTIC = (
    "The steps were chosen on the subjects that they are scored on here, so for these the gain is optimistic; judge it on subjects "
    "that were neither trained on nor tuned on."
)


@stop_signals("nothing was recorded; run the same command again")
def postprocess(
    run: PathLike,
    dataset: PathLike,
    *,
    predictions: PathLike | None = None,
    device: str = "auto",
    dry_run: bool = False,
) -> dict[str, Any]:
    """Choose post-processing steps on held-out cases by `unet4d.inference.postprocessing_search.RULE`; print a table;
    record it in the run.

    Args:
        run: run folder, or a folder of folds, each case of which is judged by the fold that held it out.
        dataset: the dataset that the run was trained on: folder or dataset.json.
        predictions: folder that `predict` wrote of this run with `held_out` and `postprocess="off"`; nothing is segmented again.
            None: the held-out cases are segmented into a temporary folder.
        device: "auto", "cpu", "cuda" or "cuda:N", to segment on.
        dry_run: record nothing.

    Returns:
        The content of RUN/postprocessing.json; its "steps" may be empty: then nothing helped.

    Raises:
        InputError: `run` is no folder with checkpoints, or held no subject out; the dataset has none of these subjects, no label
            of theirs or other classes; `predictions` lacks a case, or was not made by this run as it is.
        Unet4DError: the run may not be written to.
    """
    run = Path(run)
    check_postprocess(run, dataset, predictions, device, dry_run)
    models = load_models([run], "cpu")
    data = read_dataset(dataset)
    model_of = _models_by_subject(models, data, run)
    cases = [case for case in data.training if case.subject in model_of and case.label is not None]
    if not cases:
        raise InputError(
            f"{data.root} has no label of the subjects that {run} held out, expected one or more; give the dataset of the run"
        )
    with tempfile.TemporaryDirectory(prefix="unet4d-postprocess-") as temporary:
        if predictions is None:
            predict(run, [dataset], temporary, device=device, held_out=True, postprocess="off")
        found, settings = _read_predictions(cases, data, model_of, Path(predictions or temporary))
    chosen = choose_steps(found, dict(data.labels))
    record = _record(chosen, found, data) | {"predicted_with": settings}
    logger.log(RESULT, format_table(record))
    if dry_run:
        logger.info("\na dry run: nothing is recorded")
        return record
    path = write_steps(run, chosen.steps, [model.path for model in models], record)
    logger.info(f"\nrecorded: {path}")
    return read_json(path)


def format_table(record: Mapping[str, Any]) -> str:
    """Return the choice for a terminal: one line per candidate with its changes in its last round, and the result."""
    last = {(trial["operation"], trial["class"]): trial for trial in record["candidates"]}
    width = max(len(name) for _, name in last)
    before, after = (format_number(record[when]["mean_foreground_dice"], 4) for when in ("before", "after"))
    lines = [
        f"{count(record['cases'], 'held-out case')} of {count(record['subjects'], 'subject')}, "
        f"{count(record['labelled_frames'], 'labelled frame')}; mean foreground Dice {before}",
        "",
        f"{'operation':<30}  {'class':<{width}}  {'Dice':>8}  {'worst class':>11}  better  worse  ",
    ]
    for (operation, name), trial in last.items():
        verdict = f"kept, number {trial['round']}" if trial["kept"] else f"no: {trial['why_not']}"
        lines.append(
            f"{operation:<30}  {name:<{width}}  {trial['change_of_mean_foreground_dice']:>+8.4f}  "
            f"{min(trial['change_of_dice'].values()):>+11.4f}  {len(trial['improved']):>6}  {len(trial['worsened']):>5}  {verdict}"
        )
    lines += ["better, worse: subjects by their mean foreground Dice", ""]
    if record["steps"]:
        steps = describe_steps([Step.from_dict(step) for step in record["steps"]])
        lines += [f"{steps}: mean foreground Dice {before} -> {after}", record["note"]]
    else:
        lines.append("nothing helped: label maps stay as the network predicts them")
    return "\n".join([*lines, *filter(None, [record.get("warning")])])


def _models_by_subject(models: Sequence[TrainedModel], data: Dataset, run: Path) -> dict[str, TrainedModel]:
    """Return the held-out subjects of the dataset, each with the model that held it out; check that the classes are the model's."""
    known = {subject: model for model in models for subject in model.task.held_out}
    if not known:
        raise InputError(f"{run} held no subject out, expected a run with validation subjects; give another run")
    found = {subject: model for subject, model in known.items() if subject in data.subjects}
    if not found:
        lacks = (
            f"none of the {count(len(known), 'subject')} that {run} held out ({next(iter(known))}, ...)"
            if data.subjects
            else "no labelled training case"
        )
        raise InputError(f"{data.root} has {lacks}, expected the dataset that {run} was trained on; give that one")
    labels, expected = dict(data.labels), models[0].task.labels
    if labels != expected:
        raise InputError(
            f"{data.root} has the labels {labels}, expected {expected} as {run}; give the dataset of the run"
        )
    return found


def _read_predictions(
    cases: Sequence[Case], data: Dataset, model_of: Mapping[str, TrainedModel], folder: Path
) -> tuple[list[HeldOutPrediction], list[Any]]:
    """Read the predictions of the cases in a folder that `predict` wrote, each with its reference, and their settings."""
    files, records = find_label_maps(folder), CaseRecords(folder)
    digests = {model.path: file_sha256(model.path) for model in model_of.values()}
    found, settings, failed = list[HeldOutPrediction](), list[Any](), dict[str, str]()
    for case in ProgressBar(cases, "reading", unit="study"):
        try:
            record = records.read(case.name)
            if record is None or case.name not in files:
                raise InputError(f"{folder} has no label map of predict with its record; {_PREDICT_AGAIN}")
            made, file, model = record["made"], files[case.name], model_of[case.subject].path
            if made.get("models") != [digests[model]]:
                raise InputError(f"{file} was not made by {model} as it is now, which held it out; {_PREDICT_AGAIN}")
            if made.get("postprocessing"):
                raise InputError(f"{file} is post-processed already, expected it plain; {_PREDICT_AGAIN}")
            found.append(_read_prediction(case, data, file, made.get("time") == "cyclic"))
            if made.get("settings") not in settings:
                settings.append(made.get("settings"))
        except Exception as error:
            failed[case.name] = str(failure_of_study(error))
    # A choice on the others alone would be another one than was asked for.
    raise_failed(failed, len(cases), "read", folder)
    return found, settings


def _read_prediction(case: Case, data: Dataset, file: Path, cyclic: bool) -> HeldOutPrediction:
    """Read one prediction with its reference. Raise InputError where they do not fit."""
    reference, labelled, like = read_reference(Reference(case.name, case.subject, case.images[0], case), data)
    header, shape = read_header(file)
    check_same_grid(file, header, shape, case.images[0], like.header, (like.frames, *like.grid))
    label, known = read_label(file), list(data.label_values)
    if unknown := sorted(set(np.unique(label).tolist()) - set(known)):
        raise InputError(f"{file}: got label value {unknown[0]}, expected one of {known}; predict again")
    return HeldOutPrediction.crop(case.subject, label, reference, labelled, cyclic)


def _record(chosen: ChosenSteps, cases: Sequence[HeldOutPrediction], data: Dataset) -> dict[str, Any]:
    """Return what is recorded beside the steps."""
    subjects = sorted({case.subject for case in cases})
    few = f"{count(len(subjects), 'held-out subject')}: weak evidence; folds would give more"
    return {
        "steps": [step.as_dict() for step in chosen.steps],
        "version": VERSION,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "dataset": data.name,
        "cases": len(cases),
        "subjects": len(subjects),
        "subject_names": subjects,
        "labelled_frames": sum(len(case.frames) for case in cases),
        "frames": sum(len(case.label) for case in cases),
        "note": OPTIMISTIC,
        **({"warning": few} if len(subjects) < FEW_SUBJECTS else {}),
        "rule": RULE,
        "before": chosen.before,
        "after": chosen.after,
        "candidates": chosen.trials,
    }
