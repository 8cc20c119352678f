"""`unet4d predict`: new studies in, 4D label maps with the study's own header out; by one network, or by several together."""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from unet4d.datasets.convert.file_names import natural_key
from unet4d.datasets.convert.options import NO_LAYOUT_OPTIONS, LayoutOptions
from unet4d.datasets.dataset import read_dataset
from unet4d.datasets.find_studies import AUTO_LAYOUT, expand_input_lists, find_studies
from unet4d.datasets.study import Study
from unet4d.errors import InputError, Unet4DError
from unet4d.images.image4d import ImageInfo
from unet4d.images.time_axis import time_axis
from unet4d.inference.batch.case_records import digest, stamps
from unet4d.inference.batch.job_split import JobShard
from unet4d.inference.batch.output_folder import PredictionFolder
from unet4d.inference.batch.run import Batch, Job
from unet4d.inference.check import check_models
from unet4d.inference.checks import check_predict
from unet4d.inference.postprocessing_steps import POSTPROCESSING, Step, read_steps
from unet4d.inference.settings import Models, Settings
from unet4d.models.checkpoint import TrainedModel
from unet4d.models.device import find_device, resolve_precision
from unet4d.models.folds import load_models
from unet4d.system.distributed import ALONE, ProcessGroup
from unet4d.system.environment import hardware
from unet4d.system.failures import failure_of_study
from unet4d.system.files import read_json
from unet4d.system.memory import free_memory_bytes, resident_bytes
from unet4d.system.signals import check_stop, stop_signals
from unet4d.system.text import count
from unet4d.system.version import VERSION


@stop_signals("what is written is whole; run again with --continue")
def predict(
    model: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    inputs: Sequence[str | os.PathLike[str]],
    out_dir: str | os.PathLike[str],
    settings: Settings | None = None,
    *,
    device: str = "auto",
    cases: Sequence[str] | None = None,
    held_out: bool = False,
    kind: str = AUTO_LAYOUT,
    options: LayoutOptions = NO_LAYOUT_OPTIONS,
    formats: Sequence[str] = ("nifti",),
    postprocess: Literal["auto", "off"] = "auto",
    leave_complete: bool = False,
    share: JobShard | None = None,
    ranks: ProcessGroup = ALONE,
) -> list[Path]:
    """Segment studies and write `out_dir/<case>.nii.gz` for each, `volumes.csv`, `prediction.json` and `summary.json`.

    The next study is read and the last one written while one is computed, unless they are so large that memory might run short:
    then one is held at a time. Several calls, jobs and processes can share a folder, also at the same time: a
    case's files and rows are replaced, in whatever format they were, those of other cases stay.

    Args:
        model: run folder or checkpoint file; several, or a folder of folds, answer together, see `segment`.
        inputs: files, folders of files (with several channels: CASE_0000.nii.gz, CASE_0001.nii.gz, ...), dataset folders, any
            layout that `unet4d convert` knows, or lists (.txt) of such; of the last two kinds test cases are taken, or all cases
            if there are none.
        out_dir: see prediction/folder.py; label maps there already are replaced if an earlier call wrote them, and nothing else is.
        settings: how the studies are segmented; what does not fit into memory is kept in `out_dir` meanwhile, unless they name a
            place.
        device: "auto", "cpu", "cuda" or "cuda:N".
        cases: of the dataset folders, take the training or test cases of these names.
        held_out: of the dataset folders, take the cases that the model's run was validated on; with several models all training
            cases, each segmented by the one model that was validated on it.
        kind: layout of the inputs, of `unet4d.datasets.convert.LAYOUTS`; "auto" finds it out.
        options: what the inputs do not say, where they are in such a layout.
        formats: of the label maps, see prediction/formats.py.
        postprocess: "auto" does what `unet4d postprocess` recorded in the run, or the folder of folds, for these checkpoints.
        leave_complete: leave the cases whose files are whole, of the same inputs, models, settings and version.
        share: the part of the studies to take; every n-th by name.
        ranks: the processes that take shares of that part; each calls this.

    Returns:
        The file (or folder of frames) of each study in the first format, those of all processes; without those left.

    Raises:
        InputError: the models, the inputs or the folder are not usable; a case was held out by no model, or by several; or (after
            all others were done) some studies were not usable.
        Stopped: SIGTERM or SIGINT came.
        Unet4DError: the same as InputError, where only the memory or the network's answer was at fault; the disk is full.
    """
    settings = settings or Settings()
    settings = replace(settings, scratch_dir=settings.scratch_dir or Path(out_dir))
    with ranks.raise_on_all_ranks(), _hushed(ranks):
        paths = [model] if isinstance(model, (str, os.PathLike)) else model
        check_predict(paths, inputs, out_dir, device, cases, held_out, settings.scratch_dir)
        where = find_device(ranks.device_name(device))
        resolve_precision(settings.precision, where)
        models = load_models(paths, where)
        settings = _of_this_process(settings, ranks)
        task, given = models[0].task, expand_input_lists(inputs)
        studies = find_studies(
            given,
            task.channel_names,
            channel_kinds=task.channel_kinds,
            cases=cases,
            subjects=_subjects(models, given) if held_out else None,
            layout=kind,
            options=options,
        )
        asked = {study.name: [_unseen(study, models)] if held_out else models for study in studies}
        folder = PredictionFolder(Path(out_dir), task.labels, formats, settings.probabilities)
    ranks.broadcast_from_rank0(lambda: folder.check(studies))
    ranks.rank0_first(lambda: check_models(models, settings.precision))
    digests = ranks.broadcast_from_rank0(lambda: {str(one.path): digest(one.path) for one in models})
    tuned = ranks.broadcast_from_rank0(lambda: _tuned_steps(paths, digests) if postprocess == "auto" else [])
    jobs = [
        Job(
            study,
            asked[study.name],
            _made(study, asked[study.name], digests, settings, held_out, tuned, options),
            tuned,
        )
        for study in (share or JobShard()).within(ranks).of(sorted(studies, key=lambda study: natural_key(study.name)))
    ]
    todo = [job for job in jobs if not (leave_complete and _is_left(job, folder))]
    if ranks.is_first:
        _tell_share(share, len(jobs), len(studies), ranks.size)
        if leave_complete:
            left = len(jobs) - len(todo)
            are, they = ("is", "it is") if left == 1 else ("are", "they are")
            print(
                f"{left} of {count(len(jobs), 'study', 'studies')} {are} complete and of the same models and settings; "
                f"{they} left as {they}"
            )
    batch = Batch(folder, settings, hardware(where), ranks.is_first)
    batch.all(todo)
    return _together(batch, len(todo), ranks)


def _is_left(job: Job, folder: PredictionFolder) -> bool:
    """Return whether a case is complete and made of the same; its files are read for this."""
    check_stop()
    return folder.left(job.name, job.made_of(stamps(job.study)))


def _of_this_process(settings: Settings, ranks: ProcessGroup) -> Settings:
    """The settings with this process's part of what is free, where several of a machine would each count on all of it."""
    free = free_memory_bytes()
    if ranks.local_size == 1 or settings.memory_bytes is not None or math.isinf(free):
        return settings
    return replace(settings, memory_bytes=int(free / ranks.local_size) + resident_bytes())


def _together(batch: Batch, count: int, ranks: ProcessGroup) -> list[Path]:
    """What all processes wrote; raises what failed in any of them, on the first."""
    parts = ranks.all_gather((batch.written, batch.failed, count), ranks.long_wait)
    failed = {name: error for _, errors, _ in parts for name, error in errors.items()}
    if ranks.is_first:
        batch.finish(failed)  # once more: all have written theirs, and who failed early may have found no tables yet
    with ranks.raise_on_all_ranks():
        _raise_failed(failed, sum(of for _, _, of in parts), batch.folder.path)
    return [path for written, _, _ in parts for path in written]


def _made(
    study: Study,
    models: Models,
    digests: Mapping[str, str],
    settings: Settings,
    held_out: bool,
    tuned: Sequence[Step],
    options: LayoutOptions,
) -> dict[str, Any]:
    """What decides the answer to a study, but for its files: not what computes it, nor with how much memory."""
    check_stop()
    outline = _outline(study)
    return {
        "version": VERSION,
        "models": [digests[str(one.path)] for one in models],
        "time": settings.time or study.time or time_axis(models[0].task.cyclic),
        "frame_duration_s": outline.frame_duration_s if outline else options.frame_duration_s,
        "channel_kinds": list(outline.kinds if outline else (options.channels or {}).values()),
        "fold": _fold(models[0]) if held_out else None,
        "settings": {
            "overlap": settings.overlap,
            "mirror_axes": None if settings.mirror_axes is None else list(settings.mirror_axes),
            "cyclic_shifts": settings.cyclic_shifts,
            "precision": settings.precision,
        },
        "postprocessing": [step.as_dict() for step in tuned],
    }


def _outline(study: Study) -> ImageInfo | None:
    """What a study is like, as its files and what is said of them have it; None where only reading it tells, or nothing does."""
    try:
        return study.stream.info() if study.stream else None
    except Exception as error:  # reading the study reports it
        failure_of_study(error)
        return None


def _tuned_steps(paths: Sequence[str | os.PathLike[str]], digests: Mapping[str, str]) -> list[Step]:
    """What `unet4d postprocess` recorded for these very checkpoints; says so, or why it is left out.

    Raises:
        InputError: the record is damaged.
    """
    if len(paths) != 1:
        return []
    run = Path(paths[0]) if Path(paths[0]).is_dir() else Path(paths[0]).parent
    if not (run / POSTPROCESSING).exists():
        return []
    record = read_json(run / POSTPROCESSING)
    recorded = record.get("checkpoints") if isinstance(record, dict) else None
    used = {Path(path).resolve(): found for path, found in digests.items()}
    if isinstance(recorded, dict) and {(run / name).resolve(): found for name, found in recorded.items()} != used:
        print(f"{run / POSTPROCESSING} was chosen for other checkpoints: left out; unet4d postprocess chooses anew")
        return []
    steps = read_steps(run) or []
    if steps:
        said = ", ".join(f"{step.operation} of {step.class_name}" for step in steps)
        print(f"post-processing, as {run / POSTPROCESSING} has it: {said}; --postprocess off leaves it out")
    return steps


def _tell_share(share: JobShard | None, own: int, total: int, processes: int) -> None:
    """Say which studies are taken, where that is not all."""
    if share is not None and share.parts > 1:
        more = f", of which the first of {processes} processes takes" if processes > 1 else ""
        print(f"{share.words}{more}: {own} of {count(total, 'study', 'studies')}{', nothing to do' * (not own)}")
    elif processes > 1:
        print(
            f"{processes} processes share {count(total, 'study', 'studies')}; what follows is of the first, which takes {own}"
        )


@contextlib.contextmanager
def _hushed(ranks: ProcessGroup) -> Iterator[None]:
    """What is said within is said by the first process alone."""
    if ranks.is_first:
        yield
        return
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield


def _subjects(models: Models, inputs: Sequence[Path]) -> Sequence[str]:
    """Whose cases are taken as held out: those of the model; of several, everybody, for each must have been held out by one."""
    if len(models) == 1:
        return models[0].task.held_out
    return sorted({subject for given in inputs for subject in read_dataset(given).subjects})


def _unseen(study: Study, models: Models) -> TrainedModel:
    """The one model that was validated on a study's subject, and not trained on it."""
    found = [model for model in models if study.subject in model.task.held_out]
    if len(found) != 1:
        came = " and ".join(str(model.path) for model in found) or f"none of the {count(len(models), 'model')}"
        raise InputError(
            f"case {study.name} (subject {study.subject}) was held out by {came}; wanted one; give all folds of one training on "
            "this dataset, each once, or leave held_out out"
        )
    return found[0]


def _fold(model: TrainedModel) -> int | None:
    """The fold whose subjects a model was validated on; None where they were named."""
    return model.config.fold if model.config.data.val_subjects is None else None


def _raise_failed(failed: Mapping[str, Unet4DError], studies: int, out_dir: Path) -> None:
    """Say which studies failed and why, once all others are done."""
    if not failed:
        return
    errors = list(failed.values())
    kind = InputError if any(isinstance(error, InputError) for error in errors) else Unet4DError
    if studies == 1:
        raise kind(str(errors[0])) from errors[0]
    rest = f"the other {studies - len(failed)} are in {out_dir}" if len(failed) < studies else "nothing was written"
    listed = "; ".join(f"{name}: {error}" for name, error in failed.items())
    raise kind(
        f"{len(failed)} of {count(studies, 'study', 'studies')} could not be segmented, {rest}: {listed}"
    ) from errors[0]
