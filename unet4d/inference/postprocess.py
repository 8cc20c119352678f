"""`unet4d postprocess`: choose post-processing on the subjects that a run held out, and record in the run what helped."""

from __future__ import annotations

import datetime
import os
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
from unet4d.inference.batch.case_records import Records, digest
from unet4d.inference.checks import check_postprocess
from unet4d.inference.postprocessing_search import (
    FLICKER,
    RULE,
    Choice,
    Flicker,
    HeldOutPrediction,
    Score,
    Trial,
    choose,
)
from unet4d.inference.postprocessing_steps import write_steps
from unet4d.inference.predict import predict
from unet4d.models.checkpoint import TrainedModel
from unet4d.models.folds import load_models
from unet4d.system.failures import failure_of_study
from unet4d.system.files import read_json
from unet4d.system.progress_bar import ProgressBar
from unet4d.system.signals import stop_signals
from unet4d.system.text import count, format_number
from unet4d.system.version import VERSION

FEW_SUBJECTS = 3
_AGAIN = "predict with --held_out --postprocess off, or leave --predictions out"
OPTIMISTIC = (
    "The steps were chosen on the subjects that they are scored on here, so for these the gain is optimistic; judge it on subjects "
    "that were neither trained on nor tuned on."
)


@stop_signals("nothing was recorded; run the same command again")
def postprocess(
    run: str | os.PathLike[str],
    dataset: str | os.PathLike[str],
    *,
    predictions: str | os.PathLike[str] | None = None,
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
        What RUN/postprocessing.json holds; its "steps" may be empty: then nothing helped.

    Raises:
        InputError: `run` is no folder with checkpoints, or held nobody out; the dataset has none of these subjects, no label of
            theirs or other classes; `predictions` lacks a case, or was not made by this run as it stands.
        Unet4DError: the run may not be written to.
    """
    run = Path(run)
    check_postprocess(run, dataset, predictions, device, dry_run)
    models = load_models([run], "cpu")
    data = read_dataset(dataset)
    model_of = _held_out(models, data, run)
    cases = [case for case in data.training if case.subject in model_of and case.label is not None]
    if not cases:
        raise InputError(f"{data.root} has no label of the subjects that {run} held out; wanted one or more")
    if predictions is not None:
        judged, settings = _judged(cases, data, model_of, Path(predictions))
    else:
        with tempfile.TemporaryDirectory(prefix="unet4d-postprocess-") as folder:
            predict(run, [dataset], folder, device=device, held_out=True, postprocess="off")
            judged, settings = _judged(cases, data, model_of, Path(folder))
    choice = choose(judged, dict(data.labels))
    about = _about(choice, judged, data) | {"predicted_with": settings}
    print(table(choice, about))
    checkpoints = [model.path for model in models]
    if dry_run:
        print("\na dry run: nothing is recorded")
        return {"steps": [step.as_dict() for step in choice.steps], **about}
    path = write_steps(run, choice.steps, checkpoints, about)
    print(f"\nrecorded: {path}")
    return read_json(path)


def table(choice: Choice, about: Mapping[str, Any]) -> str:
    """The choice for a terminal: a line a candidate, what it would change in the round that decided on it, and what was chosen."""
    last = {trial.step: trial for trial in choice.trials}  # of a step that was kept: the round in which it was
    width = max(len(step.class_name) for step in last)
    lines = [
        f"{count(about['cases'], 'held-out case')} of {count(about['subjects'], 'subject')}, "
        f"{count(about['labelled_frames'], 'labelled frame')}; "
        f"mean foreground Dice {format_number(choice.before.mean, 4)}",
        "",
        f"{'operation':<30}  {'class':<{width}}  {'Dice':>8}  {'worst class':>11}  better  worse  ",
    ]
    for trial in last.values():
        verdict = f"kept, number {trial.number}" if trial.kept else f"no: {trial.why_not}"
        if trial.flicker is not None:
            verdict += f"; live one frame: {' -> '.join(str(_components(one)) for one in trial.flicker)}"
        lines.append(
            f"{trial.step.operation:<30}  {trial.step.class_name:<{width}}  {trial.change:>+8.4f}  "
            f"{min(trial.changes.values()):>+11.4f}  {len(trial.improved):>6}  {len(trial.worsened):>5}  {verdict}"
        )
    lines += ["better, worse: subjects by their mean foreground Dice; live one frame: components, in all frames", ""]
    lines.append(_result(choice))
    if choice.steps:
        lines += [*_class_lines(choice), about["note"]]
    if "warning" in about:
        lines.append(about["warning"])
    return "\n".join(lines)


def _result(choice: Choice) -> str:
    if not choice.steps:
        return "nothing helped: label maps stay as the network gives them"
    told = ", ".join(f"{step.operation} ({step.class_name})" for step in choice.steps)
    return (
        f"{told}: mean foreground Dice {format_number(choice.before.mean, 4)} -> {format_number(choice.after.mean, 4)}"
    )


def _components(flicker: Flicker) -> int:
    return sum(one["components"] for one in flicker.values())


def _class_lines(choice: Choice) -> list[str]:
    """A line a class: Dice and flicker, before and after."""
    return [
        f"  {name}: Dice {format_number(before['mean'], 4)} -> {format_number(choice.after.dice[name]['mean'], 4)}, "
        f"components that live one frame {choice.flicker[0][name]['components']} -> {choice.flicker[1][name]['components']}"
        for name, before in choice.before.dice.items()
    ]


def _held_out(models: Sequence[TrainedModel], data: Dataset, run: Path) -> dict[str, TrainedModel]:
    """The subjects of the dataset that were held out, each with the model that did; the classes are seen to be the model's."""
    found = {subject: model for model in models for subject in model.task.held_out}
    if not found:
        raise InputError(
            f"{run} held no subject out, so there is nobody to choose on; wanted a run with validation subjects"
        )
    if not data.subjects:
        raise InputError(
            f"{data.root} has no labelled training case; wanted the dataset that {run} was trained on; give that one"
        )
    here = {subject: model for subject, model in found.items() if subject in data.subjects}
    if not here:
        raise InputError(
            f"{data.root} has none of the {count(len(found), 'subject')} that {run} held out "
            f"({next(iter(found))}, ...); wanted the "
            "dataset that it was trained on; give that one"
        )
    labels, wanted = dict(data.labels), models[0].task.labels
    if labels != wanted:
        raise InputError(
            f"{data.root} has the labels {labels}, {run} {wanted}; wanted the same; give the dataset of the run"
        )
    return here


def _judged(
    cases: Sequence[Case], data: Dataset, model_of: Mapping[str, TrainedModel], folder: Path
) -> tuple[list[HeldOutPrediction], list[Any]]:
    """The predictions of the cases in a folder that `predict` wrote, each with its reference; and what settings they had."""
    files, records = find_label_maps(folder), Records(folder)
    known = {case.name: records.read(records.path(case.name)) for case in cases}
    made = {name: record["made"] for name, record in known.items() if record is not None and name in files}
    missing = [case.name for case in cases if case.name not in made]
    if missing:
        raise InputError(
            f"{folder} has no label map of {len(missing)} of the {len(cases)} held-out cases ({missing[0]}, ...) with predict's "
            f"record of how it was made; wanted all; {_AGAIN}"
        )
    digests = {model.path: digest(model.path) for model in model_of.values()}
    for case in cases:
        model = model_of[case.subject].path
        if made[case.name].get("models") != [digests[model]]:
            raise InputError(
                f"{files[case.name]} was not made by {model} as it is now, which held {case.name} out; {_AGAIN}"
            )
        if made[case.name].get("postprocessing"):
            raise InputError(f"{files[case.name]} is post-processed already; wanted the network's own answer; {_AGAIN}")
    settings = [made[case.name].get("settings") for case in cases]
    progress = ProgressBar(cases, "reading", unit="study")
    judged, failed = [], {}
    for case in progress:
        try:
            judged.append(_read(case, data, files[case.name], made[case.name].get("time") == "cyclic"))
        except Exception as error:
            failed[case.name] = str(failure_of_study(error))
    if failed:  # a choice on the others alone would be another one than was asked for
        raise InputError("; ".join(f"{name}: {reason}" for name, reason in failed.items()))
    return judged, [one for i, one in enumerate(settings) if one not in settings[:i]]


def _read(case: Case, data: Dataset, file: Path, cyclic: bool) -> HeldOutPrediction:
    """One prediction with its reference. Raises InputError where they do not fit."""
    reference, labelled, like = read_reference(Reference(case.name, case.subject, case.images[0], case), data)
    header, shape = read_header(file)
    check_same_grid(file, header, shape, case.images[0], like.header, (like.frames, *like.grid))
    label = read_label(file)
    unknown = sorted(set(np.unique(label).tolist()) - set(data.label_values))
    if unknown:
        raise InputError(
            f"{file}: label value {unknown[0]} came; wanted one of {list(data.label_values)}; predict again"
        )
    return HeldOutPrediction.of(case.name, case.subject, label, reference, labelled, cyclic)


def _about(choice: Choice, judged: Sequence[HeldOutPrediction], data: Dataset) -> dict[str, Any]:
    """What is recorded beside the steps."""
    subjects = sorted({case.subject for case in judged})
    weak = {}
    if len(subjects) < FEW_SUBJECTS:
        weak["warning"] = (
            f"{len(subjects)} held-out subject{'s' * (len(subjects) > 1)}: weak evidence; folds would give more"
        )
    return {
        "version": VERSION,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "dataset": data.name,
        "cases": len(judged),
        "subjects": len(subjects),
        "subject_names": subjects,
        "labelled_frames": sum(len(case.frames) for case in judged),
        "frames": sum(len(case.label) for case in judged),
        "note": OPTIMISTIC,
        **weak,
        "rule": RULE,
        "before": _scored(choice.before),
        "after": _scored(choice.after),
        "flicker": {"about": FLICKER, **_flickers(choice.flicker)},
        "candidates": [_trial(trial) for trial in choice.trials],
    }


def _scored(score: Score) -> dict[str, Any]:
    return {"mean_foreground_dice": score.mean, "dice": score.dice, "subjects": score.subjects}


def _flickers(pair: tuple[Flicker, Flicker]) -> dict[str, Any]:
    return {"before": pair[0], "after": pair[1]}


def _trial(trial: Trial) -> dict[str, Any]:
    """A candidate in a round, as it is recorded."""
    return {
        "round": trial.number,
        **trial.step.as_dict(),
        "change_of_mean_foreground_dice": trial.change,
        "change_of_dice": trial.changes,
        "improved": list(trial.improved),
        "worsened": list(trial.worsened),
        **({"flicker": _flickers(trial.flicker)} if trial.flicker is not None else {}),
        "kept": trial.kept,
        "why_not": trial.why_not,
    }
