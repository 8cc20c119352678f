"""`unet4d predict`: new studies in, 4D label maps with the study's own header out; by one network, or by several together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from unet4d.config import Precision
from unet4d.data.convert import NO_OPTIONS, Options
from unet4d.data.dataset import read_dataset
from unet4d.data.image4d import Image4D
from unet4d.data.studies import AUTO, find_studies
from unet4d.data.study import Study
from unet4d.errors import InputError, Unet4DError
from unet4d.folds import load_models
from unet4d.model.checkpoint import TrainedModel
from unet4d.model.device import find_device, resolve_precision
from unet4d.prediction_folder import PredictionFolder
from unet4d.segmentation import Models, Settings, segment


def predict(
    model: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    inputs: Sequence[str | os.PathLike[str]],
    out_dir: str | os.PathLike[str],
    *,
    device: str = "auto",
    time: str | None = None,
    overlap: float | None = None,
    sw_batch_size: int | None = None,
    precision: Precision = "auto",
    cases: Sequence[str] | None = None,
    held_out: bool = False,
    kind: str = AUTO,
    options: Options = NO_OPTIONS,
) -> list[Path]:
    """Segment studies and write `out_dir/<case>.nii.gz` for each, `volumes.csv` and `prediction.json`.

    Several calls can share a folder: a case's label map and rows are replaced, those of other cases stay.

    Args:
        model: run folder or checkpoint file; several, or a folder of folds, answer together, see `segment`.
        inputs: files, folders of files (with several channels: CASE_0000.nii.gz, CASE_0001.nii.gz, ...), dataset folders, or
            any layout that `unet4d convert` knows; of the last two test cases are taken, or all cases if there are none.
        out_dir: a label map a study, made with the study's header; label maps there already are replaced if an earlier
            call wrote them, and nothing else is.
        device: "auto", "cpu", "cuda" or "cuda:N".
        time: "cyclic" or "open", for every study; None is what its dataset.json says, else what the model was trained with.
        overlap: share of a window its neighbour covers; None is what the model was trained with.
        sw_batch_size: windows at once; None is what the model was trained with.
        precision: "auto", "bf16", "fp16" or "fp32".
        cases: of the dataset folders, take the training or test cases of these names.
        held_out: of the dataset folders, take the cases that the model's run was validated on; with several models all training
            cases, each segmented by the one model that was validated on it.
        kind: layout of the inputs, of `unet4d.data.convert.KINDS`; "auto" finds it out.
        options: what the inputs do not say, where they are in such a layout.

    Returns:
        The label maps written.

    Raises:
        InputError: the models, the inputs or the folder are not usable; a case was held out by no model, or by several; or (after
            all others were done) some studies were not usable.
        Unet4DError: the same, where only the GPU's memory or the network's answer was at fault; the disk is full.
    """
    where = find_device(device)
    precision = resolve_precision(precision, where)
    Settings(time=time)  # checks it
    paths = [model] if isinstance(model, (str, os.PathLike)) else model
    models = [_with_window(one, overlap, sw_batch_size) for one in load_models(paths, where)]
    task = models[0].task
    studies = find_studies(
        inputs,
        task.channel_names,
        channel_kinds=task.channel_kinds,
        cases=cases,
        subjects=_subjects(models, inputs) if held_out else None,
        kind=kind,
        options=options,
    )
    asked = [[_unseen(study, models)] if held_out else models for study in studies]
    folder = PredictionFolder(Path(out_dir), task.labels)
    folder.check(studies)
    written: list[Path] = []
    failed: dict[str, Unet4DError] = {}
    for study, answering in tqdm(list(zip(studies, asked, strict=True)), "segmenting", unit="study", disable=None):
        order = time or study.time or ("cyclic" if task.cyclic else "open")
        done = _segmented(answering, study, order, precision)
        if isinstance(done, Unet4DError):
            failed[study.name] = done
            continue
        image, label = done
        fold = _fold(answering[0]) if held_out else None
        written.append(folder.add(study.name, label, image, order, [one.path for one in answering], fold))
    _raise_failed(failed, len(studies), folder.path)
    return written


def _subjects(models: Models, inputs: Sequence[str | os.PathLike[str]]) -> Sequence[str]:
    """Whose cases are taken as held out: those of the model; of several, everybody, for each must have been held out by one."""
    if len(models) == 1:
        return models[0].task.held_out
    return sorted({subject for given in inputs for subject in read_dataset(given).subjects})


def _unseen(study: Study, models: Models) -> TrainedModel:
    """The one model that was validated on a study's subject, and not trained on it."""
    found = [model for model in models if study.subject in model.task.held_out]
    if len(found) != 1:
        came = " and ".join(str(model.path) for model in found) or f"none of the {len(models)} models"
        raise InputError(
            f"case {study.name} (subject {study.subject}) was held out by {came}; wanted one; give all folds of one training on "
            "this dataset, each once, or leave held_out out"
        )
    return found[0]


def _fold(model: TrainedModel) -> int | None:
    """The fold whose subjects a model was validated on; None where they were named."""
    return model.config.fold if model.config.data.held_out is None else None


def _segmented(
    models: Models, study: Study, time: str, precision: Precision
) -> tuple[Image4D, np.ndarray] | Unet4DError:
    """One study read and segmented; or what went wrong with it, which holds none of its memory."""
    try:
        image = study.image()
        return image, segment(models, image, time=time, precision=precision)
    except Unet4DError as error:
        failed = type(error)(str(error))
    except torch.OutOfMemoryError as error:
        reason = str(error).split(". ")[0]
        failed = Unet4DError(f"the GPU is out of memory ({reason}); use --device cpu, or another GPU")
    torch.cuda.empty_cache()
    return failed


def _with_window(model: TrainedModel, overlap: float | None, sw_batch_size: int | None) -> TrainedModel:
    """The model with another sliding window; None leaves what it was trained with."""
    given: dict[str, Any] = {"overlap": overlap, "sw_batch_size": sw_batch_size}
    window = replace(model.config.inference, **{name: value for name, value in given.items() if value is not None})
    return replace(model, config=replace(model.config, inference=window))


def _raise_failed(failed: dict[str, Unet4DError], studies: int, out_dir: Path) -> None:
    """Say which studies failed and why, once all others are done."""
    if not failed:
        return
    errors = list(failed.values())
    kind = InputError if any(isinstance(error, InputError) for error in errors) else Unet4DError
    if studies == 1:
        raise kind(str(errors[0])) from errors[0]
    rest = f"the other {studies - len(failed)} are in {out_dir}" if len(failed) < studies else "nothing was written"
    listed = "; ".join(f"{name}: {error}" for name, error in failed.items())
    raise kind(f"{len(failed)} of {studies} studies could not be segmented, {rest}: {listed}") from errors[0]
