"""`unet4d postprocess`: post-processing chosen on the subjects that a run held out, and recorded in the run if it helped."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unet4d.datasets.cases import Case, Dataset
from unet4d.datasets.dataset import read_dataset
from unet4d.datasets.label_maps import Reference, find_ignored, find_label_maps, read_reference
from unet4d.errors import InputError, Unet4DError
from unet4d.evaluation.case_scores import read_prediction
from unet4d.inference.batch.case_records import CaseRecords
from unet4d.inference.checks import check_postprocess
from unet4d.inference.postprocessing_search import HeldOutPrediction, choose_steps
from unet4d.inference.postprocessing_steps import OtherCheckpoints, describe_steps, read_steps, write_steps
from unet4d.inference.predict import predict
from unet4d.models.checkpoint import TrainedModel
from unet4d.models.folds import load_models
from unet4d.system.digests import file_sha256
from unet4d.system.environment import VERSION
from unet4d.system.files import PathLike, read_json
from unet4d.system.progress_bar import RESULT, ProgressBar
from unet4d.system.signals import stop_signals
from unet4d.system.text import count, format_number

logger = logging.getLogger(__name__)

FEW_SUBJECTS = 3
_OPTIMISTIC = (
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
    """Choose post-processing steps on held-out cases by the rule of postprocessing_search.py; print them; record them in the run.

    Args:
        run: run folder, or a folder of folds, each case of which is judged by the fold that held it out.
        dataset: the dataset that the run was trained on: folder or dataset.json.
        predictions: folder that `predict` wrote of this run with `held_out` and `postprocess="off"`; nothing is segmented again.
            None: the held-out cases are segmented into a temporary folder.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps", to segment on.
        dry_run: record nothing.

    Returns:
        The content of RUN/postprocessing.json; its "steps" may be empty: then nothing helped.

    Raises:
        InputError: `run` is no folder with checkpoints; the dataset has no labelled case of a subject that it held out, no
            wholly drawn frame of these, or other classes; `predictions` lacks a case, or was not made by this run as it is.
        Unet4DError: the run may not be written to.
    """
    run = Path(run)
    check_postprocess(run, dataset, predictions, device, dry_run)
    models, data = load_models([run], "cpu"), read_dataset(dataset)
    path_of = {subject: model.path for model in models for subject in model.task.held_out}
    cases = _judged_cases(run, models, data)
    digests = {model.path: file_sha256(model.path) for model in models}
    with tempfile.TemporaryDirectory(prefix="unet4d-postprocess-") as temporary:
        if predictions is None:
            predict(run, [dataset], temporary, device=device, held_out=True, postprocess="off")
        found = [
            _read_case(case, data, Path(predictions or temporary), digests[path_of[case.subject]])
            for case in ProgressBar(cases, "reading", unit="study")
        ]
    found = [case for case in found if len(case.frames)]
    if not found:
        raise InputError(_partly_drawn_message(run, data, len(cases)))
    steps, scores = choose_steps(found, data.classes)
    subjects, frames = scores[0].subjects, sum(len(case.frames) for case in found)
    dice = [format_number(score.mean_foreground_dice, 4) for score in scores]
    lines = [
        f"{count(len(found), 'held-out case')} of {count(len(subjects), 'subject')}, {count(frames, 'labelled frame')}; "
        f"mean foreground Dice {dice[0]}",
        *[f"{describe_steps([step])}: mean foreground Dice {dice[i]} -> {dice[i + 1]}" for i, step in enumerate(steps)],
        _OPTIMISTIC if steps else "nothing helped: label maps stay as the network predicts them",
    ]
    if len(subjects) < FEW_SUBJECTS:
        lines.append(f"{count(len(subjects), 'held-out subject')}: weak evidence; folds would give more")
    logger.log(RESULT, "\n".join(lines))
    about = {"version": VERSION, "dataset": data.name, "cases": len(found), "labelled_frames": frames}
    about |= {"before": asdict(scores[0]), "after": asdict(scores[-1])}
    if dry_run:
        logger.info("a dry run: nothing is recorded")
        return {"steps": [step.as_dict() for step in steps], **about}
    path = write_steps(run, steps, list(digests), about)
    logger.info(f"recorded: {path}")
    return read_json(path)


def postprocess_trained(run: PathLike, dataset: PathLike, device: str = "auto") -> None:
    """Choose post-processing at the end of a training, of a run or folds; where that is not possible, warn.

    Nothing is done where no subject was held out, or steps are recorded for the checkpoints as they are.
    """
    run = Path(run)
    try:
        with contextlib.suppress(OtherCheckpoints):
            if read_steps(run) is not None:
                return
        if any(model.task.held_out for model in load_models([run], "cpu")):
            logger.info(
                "choosing post-processing on held-out subjects, outside of a time budget; --postprocess off skips it"
            )
            postprocess(run, dataset, device=device)
    except Unet4DError as error:
        logger.warning(f"no post-processing was chosen: {error}")


def _judged_cases(run: Path, models: Sequence[TrainedModel], data: Dataset) -> list[Case]:
    """Return the held-out cases that may have a wholly drawn frame; raise InputError where there is none, or for other classes."""
    task, held_out = models[0].task, {subject for model in models for subject in model.task.held_out}
    labels, labelled = dict(data.labels), [c for c in data.training if c.subject in held_out and c.has_drawn_frame]
    if not labelled or (labels, data.regions) != (task.labels, task.regions):
        raise InputError(
            f"{data.root} has the labels {labels} and {count(len(labelled), 'labelled case')} of the "
            f"{count(len(held_out), 'subject')} that {run} held out, expected the labels {task.labels} and one case or more; give "
            "the dataset of the run"
        )
    cases = [case for case in labelled if _may_be_whole(case)]
    if not cases:
        raise InputError(_partly_drawn_message(run, data, len(labelled)))
    return cases


def _may_be_whole(case: Case) -> bool:
    """Return whether a frame of a labelled case may be wholly drawn, as far as dataset.json knows."""
    if case.partial.annotated is not None:
        return False
    if case.labelled_frames is None:
        return case.partial.every_frame is None
    return any(case.partial.drawn_slices(t) is None for t in case.labelled_frames)


def _partly_drawn_message(run: Path, data: Dataset, cases: int) -> str:
    """Return the message about held-out cases of which no frame can be judged."""
    return (
        f"{data.root} has no wholly drawn frame of {count(cases, 'labelled case')} that {run} held out, expected one or more, of "
        "every class, to judge steps on; draw one, or leave label maps as they are"
    )


def _read_case(case: Case, data: Dataset, folder: Path, model_sha256: str) -> HeldOutPrediction:
    """Read a case's reference and prediction; raise InputError unless the one model of this digest made it, and nothing else."""
    file, record = find_label_maps(folder).get(case.name), CaseRecords(folder).read(case.name)
    made = record["made"] if record else {}
    if file is None or made.get("models") != [model_sha256] or made.get("postprocessing"):
        raise InputError(
            f"{folder} has no plain label map of {case.name} by the checkpoint that held it out, as it is now; predict again with "
            "--held_out --postprocess off, or leave --predictions out"
        )
    reference = Reference(case.name, case.subject, case.images[0], case)
    label, labelled, like = read_reference(reference, data)
    if (ignored := find_ignored(reference, data, label)) is not None:
        labelled &= ~ignored.any(axis=(1, 2, 3))
    prediction = read_prediction(file, reference, like, data.classes.values())
    return HeldOutPrediction.crop(case.subject, prediction, label, labelled, made.get("time") == "cyclic")
