"""`unet4d predict`: new studies in, 4D label maps with the study's own header out."""

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
from unet4d.data.channels import unsigned
from unet4d.data.convert import NO_OPTIONS, Options
from unet4d.data.dataset import to_values
from unet4d.data.grid import WorkingGrid
from unet4d.data.image4d import Image4D
from unet4d.data.normalisation import normalised
from unet4d.data.studies import AUTO, find_studies
from unet4d.data.study import Study
from unet4d.errors import InputError, Unet4DError
from unet4d.model.checkpoint import TrainedModel, load_model
from unet4d.model.device import find_device, resolve_precision
from unet4d.model.inference import sliding_window
from unet4d.prediction_folder import PredictionFolder


def segment(
    model: TrainedModel, image: Image4D, *, time: str | None = None, precision: Precision = "auto"
) -> np.ndarray:
    """Segment one study.

    Args:
        model: from `load_model`; computes on the device its network lies on.
        image: the study; any number of frames.
        time: "cyclic" or "open"; None is what the model was trained with.
        precision: "auto", "bf16", "fp16" or "fp32".

    Returns:
        Label values (T, X, Y, Z) uint8 on the study's own grid.

    Raises:
        InputError: the study has other channels than the model was trained with, or not every velocity that turning it needs.
        Unet4DError: the network answers with infinite numbers or NaN.
    """
    wanted = model.task.channel_names
    if image.channels != len(wanted):
        raise InputError(
            f"{image.source or 'the image'} has {image.channels} channels; the model wants {len(wanted)} ({', '.join(wanted)})"
        )
    _check_time(time)
    data = model.config.data
    device = next(model.network.parameters()).device
    grid = WorkingGrid.of(image.affine, image.grid, data.plane_spacing_mm, data.slice_spacing_mm)
    kinds = _kinds(model, image)
    values = grid.image(image.array, kinds, image.source or "the image")
    logits = sliding_window(
        model.network,
        torch.from_numpy(normalised(values, data.normalisation, kinds)),
        data.patch_size or (),
        model.config.inference,
        cyclic=model.task.cyclic if time is None else time == "cyclic",
        device=device,
        precision=resolve_precision(precision, device),
    )
    if not all(bool(frame.sum().isfinite()) for frame in logits):
        raise Unet4DError(
            f"the network's answer to {image.source or 'the image'} is not a number somewhere; wanted finite numbers; set "
            "precision fp32, or take another checkpoint"
        )
    return to_values(grid.native_label(logits), tuple(model.task.labels.values()))


def predict(
    model: str | os.PathLike[str],
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
        model: run folder or checkpoint file.
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
        held_out: of the dataset folders, take the cases that the model's run was validated on.
        kind: layout of the inputs, of `unet4d.data.convert.KINDS`; "auto" finds it out.
        options: what the inputs do not say, where they are in such a layout.

    Returns:
        The label maps written.

    Raises:
        InputError: the model, the inputs or the folder are not usable, or (after all others were done) some studies were
            not.
        Unet4DError: the same, where only the GPU's memory or the network's answer was at fault; the disk is full.
    """
    where = find_device(device)
    precision = resolve_precision(precision, where)
    _check_time(time)
    trained = _with_window(load_model(model, where), overlap, sw_batch_size)
    subjects = trained.task.held_out if held_out else None
    studies = find_studies(
        inputs,
        trained.task.channel_names,
        channel_kinds=trained.task.channel_kinds,
        cases=cases,
        subjects=subjects,
        kind=kind,
        options=options,
    )
    folder = PredictionFolder(Path(out_dir), trained.task.labels, trained.path)
    folder.check(studies)
    written: list[Path] = []
    failed: dict[str, Unet4DError] = {}
    for study in tqdm(studies, "segmenting", unit="study", disable=None):
        order = time or study.time or ("cyclic" if trained.task.cyclic else "open")
        done = _segmented(trained, study, order, precision)
        if isinstance(done, Unet4DError):
            failed[study.name] = done
        else:
            image, label = done
            written.append(folder.add(study.name, label, image, order))
    _raise_failed(failed, len(studies), folder.path)
    return written


def _segmented(
    model: TrainedModel, study: Study, time: str, precision: Precision
) -> tuple[Image4D, np.ndarray] | Unet4DError:
    """One study read and segmented; or what went wrong with it, which holds none of its memory."""
    try:
        image = study.image()
        return image, segment(model, image, time=time, precision=precision)
    except Unet4DError as error:
        failed = type(error)(str(error))
    except torch.OutOfMemoryError as error:
        reason = str(error).split(". ")[0]
        failed = Unet4DError(f"the GPU is out of memory ({reason}); use --device cpu, or another GPU")
    torch.cuda.empty_cache()
    return failed


def _kinds(model: TrainedModel, image: Image4D) -> tuple[str, ...]:
    """What the image's channels hold: as it says, else as the model's; a velocity may be declared backwards by either."""
    wanted = model.task.channel_kinds
    if image.kinds and wanted and unsigned(image.kinds) != unsigned(wanted):
        raise InputError(
            f"{image.source or 'the image'} has channels of the kinds {', '.join(image.kinds)}; the model wants "
            f"{', '.join(unsigned(wanted))}; correct channel_kinds"
        )
    return image.kinds or wanted


def _check_time(time: str | None) -> None:
    if time not in (None, "cyclic", "open"):
        raise InputError(f"time is {time!r}; wanted cyclic or open")


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
