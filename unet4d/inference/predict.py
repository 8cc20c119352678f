"""`unet4d predict`: new studies in, 4D label maps with the study's own header out; by one network, or by several together."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from unet4d.datasets.convert.file_names import natural_key
from unet4d.datasets.convert.layout_options import NO_LAYOUT_OPTIONS, LayoutOptions
from unet4d.datasets.dataset import read_dataset
from unet4d.datasets.find_studies import AUTO_LAYOUT, expand_input_lists, find_studies
from unet4d.datasets.key_file import write_key_file
from unet4d.datasets.study import Study
from unet4d.errors import InputError
from unet4d.evaluation.signal_curves import NO_CURVES, CurveOptions
from unet4d.images.image4d import ImageInfo
from unet4d.images.time_axis import time_axis
from unet4d.inference.batch.case_records import input_stamps
from unet4d.inference.batch.job_split import JobShard
from unet4d.inference.batch.output_folder import PredictionFolder
from unet4d.inference.batch.prediction_conditions import prediction_conditions
from unet4d.inference.batch.run import BatchPredictor, StudyJob, check_failed
from unet4d.inference.checks import check_predict
from unet4d.inference.memory_budget import MemoryBudget
from unet4d.inference.options import InferenceOptions, Models, warn_of_untrained_mirroring
from unet4d.inference.postprocessing_steps import OtherCheckpoints, Step, check_steps, describe_steps, find_steps
from unet4d.inference.segment import check_gpu
from unet4d.metrics.cardiac_structures import describe_roles, has_other_names
from unet4d.models.backends import TORCH, check_backend
from unet4d.models.checkpoint import TrainedModel
from unet4d.models.device import find_device, resolve_precision
from unet4d.models.folds import load_models
from unet4d.models.graph_network import backend_precision, use_backend
from unet4d.models.model_file import checkpoint_sha256
from unet4d.models.task import Task
from unet4d.report.dicom.terms import read_terms
from unet4d.system.distributed import ALONE, ProcessGroup
from unet4d.system.environment import VERSION, hardware
from unet4d.system.failures import failure_of_study
from unet4d.system.files import PathLike
from unet4d.system.signals import check_stop, stop_signals
from unet4d.system.text import count

logger = logging.getLogger(__name__)


@stop_signals("what is written is whole; run again with --continue")
def predict(
    model: PathLike | Sequence[PathLike],
    inputs: Sequence[PathLike],
    out_dir: PathLike,
    options: InferenceOptions | None = None,
    *,
    device: str = "auto",
    backend: str = TORCH,
    cases: Sequence[str] | None = None,
    held_out: bool = False,
    layout: str = AUTO_LAYOUT,
    convert_options: LayoutOptions = NO_LAYOUT_OPTIONS,
    formats: Sequence[str] = ("nifti",),
    postprocess: Literal["auto", "off"] = "auto",
    key_file: PathLike | None = None,
    dicom_terms: PathLike | None = None,
    curves: CurveOptions = NO_CURVES,
    leave_complete: bool = False,
    shard: JobShard | None = None,
    ranks: ProcessGroup = ALONE,
) -> list[Path]:
    """Segment studies and write `out_dir/<case>.nii.gz` for each, and tables beside them: `volumes.csv`, `measures.csv`, ...

    The next study is read and the last one written while one is computed, unless they are so large that memory might run short.
    Several calls, jobs and processes can share a folder, also at the same time: a case's files and rows are replaced, in whatever
    format they were, those of other cases stay.

    Args:
        model: run folder, checkpoint or model file; several, or a folder of folds, predict together, see `segment`.
        inputs: files, folders of files (with several channels: CASE_0000.nii.gz, CASE_0001.nii.gz, ...), dataset folders, any
            layout that `unet4d convert` knows, or lists (.txt) of such; of the last two kinds test cases are taken, or all cases
            if there are none.
        out_dir: see inference/batch/output_folder.py; label maps that an earlier call wrote there are replaced, and nothing else.
        options: how the studies are segmented; what does not fit into memory is kept in `out_dir` meanwhile, unless they name a
            folder.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        backend: "torch"; or "onnxruntime" or "openvino", on the CPU, see models/graph_network.py.
        cases: of the dataset folders, take the training or test cases of these names.
        held_out: of the dataset folders, take the cases that the model's run was validated on; with several models all training
            cases, each segmented by the one model that was validated on it.
        layout: of the inputs, of `unet4d.datasets.convert.layouts.LAYOUTS`; "auto" finds it out.
        convert_options: what the inputs lack, where they are in such a layout.
        formats: of the label maps, see inference/batch/formats.py.
        postprocess: "auto" applies what `unet4d postprocess` recorded in the run, or the folder of folds, for these checkpoints.
        key_file: a CSV file of the patient and the series behind each anonymized case, for its owner alone; outside of
            `out_dir` and of the inputs.
        dicom_terms: a table of the codes and colors of classes in DICOM formats, see `unet4d.report.dicom.terms.read_terms`.
        curves: curves that are measured beside volumes: signal, uptake, velocity, flow; each has a table of its own.
        leave_complete: skip the cases with whole files of the same inputs, models, settings and version.
        shard: the part of the studies to take; every n-th by name.
        ranks: the processes that share that part; each calls this.

    Returns:
        The file (or folder of frames) of each study in the first format, those of all processes; without those skipped.

    Raises:
        InputError: the models, the inputs or the folder are not usable; a case was held out by no model, or by several; or (after
            all others were done) some studies were not usable.
        Stopped: SIGTERM or SIGINT came.
        Unet4DError: the same as InputError, where only the memory or the network was at fault; the disk is full.
    """
    options = options or InferenceOptions()
    options = replace(options, scratch_dir=options.scratch_dir or Path(out_dir))
    budget = MemoryBudget.of_process(options.max_memory_bytes, ranks.local_size)
    with ranks.raise_on_all_ranks():
        paths = [model] if isinstance(model, (str, os.PathLike)) else model
        check_predict(paths, inputs, out_dir, device, cases, held_out, options.scratch_dir, key_file)
        check_backend(backend, device, options.precision)
        options = replace(options, precision=backend_precision(backend, options.precision))
        terms = {} if dicom_terms is None else read_terms(Path(dicom_terms))
        torch_device = find_device(ranks.device_name(device if backend == TORCH else "cpu"))
        precision = resolve_precision(options.precision, torch_device)
        models = [use_backend(one, backend, precision) for one in load_models(paths, torch_device)]
        task, given = models[0].task, expand_input_lists(inputs)
        studies = find_studies(
            given,
            task.channel_names,
            channel_kinds=task.channel_kinds,
            cases=cases,
            subjects=_held_out_subjects(models, given) if held_out else None,
            layout=layout,
            options=convert_options,
        )
        models_of = {study.name: [_held_out_by(study, models)] if held_out else models for study in studies}
        curves.check(task.channel_kinds, {study.name: study.velocity_unit for study in studies})
        outputs = curves.outputs(study.velocity_unit for study in studies)
        about = (task.labels, formats, options.probabilities, task.roles, task.regions, outputs)
        folder = PredictionFolder(Path(out_dir), *about)
    ranks.broadcast_from_rank0(lambda: folder.check(studies))
    if key_file is not None:
        ranks.broadcast_from_rank0(lambda: write_key_file(Path(key_file), studies, "these inputs"))
    ranks.rank0_first(lambda: check_gpu(models, options.precision))
    if ranks.is_first:
        warn_of_untrained_mirroring(models, options)
    digests = ranks.broadcast_from_rank0(lambda: {str(one.path): checkpoint_sha256(one.path) for one in models})
    steps = ranks.broadcast_from_rank0(lambda: _recorded_steps(paths, digests, task) if postprocess == "auto" else [])
    own = (shard or JobShard()).within(ranks).of(sorted(studies, key=lambda study: natural_key(study.name)))
    jobs = [
        StudyJob(
            study,
            models_of[study.name],
            _made_from(study, models_of[study.name], digests, options, held_out, steps, convert_options)
            | ({"dicom_terms": {name: str(term) for name, term in terms.items()}} if terms else {}),
            steps,
            prediction_conditions(models_of[study.name], options, steps),
            terms,
        )
        for study in own
    ]
    todo = [job for job in jobs if not (leave_complete and _is_complete(job, folder))]
    if ranks.is_first:
        _report_shard(shard, len(jobs), len(studies), ranks.size)
        if has_other_names(folder.roles):
            logger.info(f"structures of a heart: {describe_roles(folder.roles, folder.classes)}")
        if leave_complete:
            _report_skipped(len(jobs) - len(todo), len(jobs))
    computed_by = hardware(torch_device) | ({} if backend == TORCH else {"backend": f"{backend} {version(backend)}"})
    batch = BatchPredictor(folder, options, budget, computed_by, ranks.is_first, curves)
    batch.run(todo)
    if ranks.is_first and (mixed := folder.mixed_conditions()):
        logger.warning(
            f"the cases in {out_dir} were predicted with different options: {mixed}; predict them again with the same ones, or "
            "into folders of their own"
        )
    return _gather(batch, len(todo), ranks)


def _is_complete(job: StudyJob, folder: PredictionFolder) -> bool:
    """Return whether a case is complete and made from the same; its files are read for this."""
    check_stop()
    return folder.skips(job.name, job.made_from(input_stamps(job.study)), job.study.vitals)


def _gather(batch: BatchPredictor, studies: int, ranks: ProcessGroup) -> list[Path]:
    """Return what all processes wrote; raise what failed in any of them, on the first."""
    parts = ranks.all_gather((batch.written, batch.failed, studies), ranks.long_wait)
    failed = {name: error for _, errors, _ in parts for name, error in errors.items()}
    with ranks.raise_on_all_ranks():
        check_failed(failed, sum(total for _, _, total in parts), batch.folder.path)
    return [path for written, _, _ in parts for path in written]


def _made_from(
    study: Study,
    models: Models,
    digests: Mapping[str, str],
    options: InferenceOptions,
    held_out: bool,
    steps: Sequence[Step],
    convert_options: LayoutOptions,
) -> dict[str, Any]:
    """Return what decides the label map of a study, but for its files: neither the device nor the memory is part of it."""
    check_stop()
    model, info = models[0], _read_info(study)
    by_fold = held_out and model.config.data.val_subjects is None
    return {
        "version": VERSION,
        "models": [digests[str(one.path)] for one in models],
        "time": options.time or study.time or time_axis(model.task.cyclic),
        "frame_duration_s": info.frame_duration_s if info else convert_options.frame_duration_s,
        "channel_kinds": list(info.kinds if info else (convert_options.channels or {}).values()),
        "fold": model.config.fold if by_fold else None,
        "settings": {
            "overlap": options.overlap,
            "mirror_axes": None if options.mirror_axes is None else list(options.mirror_axes),
            "cyclic_shifts": options.cyclic_shifts,
            "priming_frames": options.priming_frames,
            "temporal_smoothing": options.temporal_smoothing,
            "precision": options.precision,
        },
        "postprocessing": [step.as_dict() for step in steps],
    }


def _read_info(study: Study) -> ImageInfo | None:
    """Return the header of a study; None where it can only be read whole, or is damaged."""
    try:
        return study.stream.info() if study.stream else None
    except Exception as error:  # reading the study reports it
        failure_of_study(error)
        return None


def _recorded_steps(paths: Sequence[PathLike], digests: Mapping[str, str], task: Task) -> list[Step]:
    """Return the steps that `unet4d postprocess` recorded for these very checkpoints; print them, or why they are skipped.

    Raises:
        InputError: the record is damaged, or has a step for a class that the task lacks.
    """
    if len(paths) != 1:
        return []
    try:
        steps, record = find_steps(paths[0], {Path(path): found for path, found in digests.items()})
    except OtherCheckpoints as error:
        logger.info(str(error))
        return []
    check_steps(steps, task.classes, record)
    if steps:
        logger.info(f"post-processing from {record}: {describe_steps(steps)}; --postprocess off skips it")
    return steps


def _report_shard(shard: JobShard | None, own: int, total: int, processes: int) -> None:
    """Print which studies are taken, where that is not all."""
    if shard is not None and shard.parts > 1:
        more = f", of which the first of {processes} processes takes" if processes > 1 else ""
        logger.info(
            f"{shard.describe()}{more}: {own} of {count(total, 'study', 'studies')}{', nothing to do' * (not own)}"
        )
    elif processes > 1:
        studies = count(total, "study", "studies")
        logger.info(f"{processes} processes share {studies}; the lines below are of the first, which takes {own}")


def _report_skipped(skipped: int, total: int) -> None:
    """Print how many studies are complete."""
    verb = "is" if skipped == 1 else "are"
    logger.info(
        f"{skipped} of {count(total, 'study', 'studies')} {verb} complete and of the same models and settings: skipped"
    )


def _held_out_subjects(models: Models, inputs: Sequence[Path]) -> Sequence[str]:
    """Return the held-out subjects of a model; of several all subjects, because each must have been held out by one."""
    if len(models) == 1:
        return models[0].task.held_out
    return sorted({subject for path in inputs for subject in read_dataset(path).subjects})


def _held_out_by(study: Study, models: Models) -> TrainedModel:
    """Return the one model that was validated on a study's subject, and not trained on it."""
    found = [model for model in models if study.subject in model.task.held_out]
    if len(found) != 1:
        names = " and ".join(str(model.path) for model in found) or f"none of the {count(len(models), 'model')}"
        raise InputError(
            f"case {study.name} (subject {study.subject}) was held out by {names}, expected one model; give all folds of one "
            "training on this dataset, each once, or leave held_out out"
        )
    return found[0]
