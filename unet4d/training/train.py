"""`unet4d train`: from a dataset to a run folder with checkpoints, their configuration and the log."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import yaml

from unet4d.config import Config
from unet4d.errors import InputError, Unet4DError
from unet4d.models.checkpoint import BEST
from unet4d.models.conv_check import check_convolutions
from unet4d.models.device import find_device, set_tf32
from unet4d.models.model_file import TRAINING_DATA
from unet4d.pipeline.cache import cached_studies
from unet4d.pipeline.cached_study import CachedStudy
from unet4d.pipeline.clip_frames import most_labelled_frames
from unet4d.system.byte_sizes import GB, describe_bytes
from unet4d.system.distributed import ALONE, ProcessGroup
from unet4d.system.documents import write_document
from unet4d.system.files import write_text
from unet4d.system.gpu_memory import NCCL_BYTES, free_bytes, peak_allocated_bytes
from unet4d.system.lock import lock_run
from unet4d.system.memory_errors import is_out_of_gpu_memory, memory_error_reason
from unet4d.system.signals import stop_signals
from unet4d.training.budget import EpochBudget, make_budget
from unet4d.training.monitoring.summary import CONFIG
from unet4d.training.own_classes import import_own_classes
from unet4d.training.prepare_run import PreparedRun, choose_run_cache, prepare_run
from unet4d.training.similar_outputs import find_similar_outputs
from unet4d.training.step_memory import PlannedStep, choose_recompute, describe_recompute
from unet4d.training.trainer import Trainer
from unet4d.training.warm_start import load_initial_weights

logger = logging.getLogger(__name__)

HALF = 0.5
"""Share of the network's weights below which what a checkpoint gives is a warning: its user may have meant another network."""


@stop_signals()
def train(
    dataset: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    config: Config,
    device: str = "auto",
    resume: bool = False,
    skip_verify: bool = False,
    ranks: ProcessGroup = ALONE,
) -> Path:
    """Train a network on the subjects of the other folds and validate it on those of its fold.

    Args:
        dataset: folder with dataset.json.
        out_dir: the run's folder; a new one, unless resuming.
        config: what the user set; the rest follows from the studies.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        resume: continue from the newest checkpoint in `out_dir` that is whole.
        skip_verify: do not verify the dataset first.
        ranks: the processes that train together, from `unet4d.system.distributed.init_distributed`; each calls this.

    Returns:
        The path of the best checkpoint; on ties and without scores, the latest one.

    Raises:
        InputError: the dataset, a study, the configuration or the run folder is not usable.
        Stopped: a signal asked for it; the run can be resumed.
        Unet4DError: too many steps in a row were not finite, or the GPU's memory is too small, or the disk is full.
    """
    budget = make_budget(config.train)
    out_dir, chosen = Path(out_dir), find_device(ranks.device_name(device))
    import_own_classes(config)
    with contextlib.ExitStack() as stack:
        run = ranks.broadcast_from_rank0(
            lambda: prepare_run(dataset, out_dir, config, chosen, resume, skip_verify, ranks, stack)
        )
        trainer = _build(run, out_dir, chosen, ranks, budget)
        similar = ranks.broadcast_from_rank0(lambda: _similar_outputs(trainer, run))
        with ranks.raise_on_all_ranks():
            _restore(trainer, run, similar)
        if not trainer.is_done:
            sample = partial(trainer.validate.sample, trainer.network)
            ranks.broadcast_from_rank0(lambda: budget.begin(sample))
            # Only now, when every study has been read, so that a bad one leaves no run behind.
            ranks.broadcast_from_rank0(lambda: _begin(run, out_dir, trainer.training, stack))
            _train_or_explain_memory(trainer, run)
            if ranks.is_first and (spent := budget.report()):
                logger.info(spent)
        elif ranks.is_first:
            logger.info(f"{out_dir}: all {trainer.epochs_done} epochs were done before")
    return out_dir / BEST


def _begin(run: PreparedRun, out_dir: Path, studies: Sequence[CachedStudy], stack: contextlib.ExitStack) -> None:
    """Create the run's folder, lock it until `stack` is closed, and write its configuration and what it is trained on."""
    if not run.checkpoint:  # else it is locked
        stack.enter_context(lock_run(out_dir))
    write_text(out_dir / CONFIG, yaml.safe_dump(run.config.as_dict(), sort_keys=False))
    data = {
        "dataset": run.dataset.name,
        "subjects": len({case.subject for case in run.training}),
        "studies": len(run.training),
        "frames": sum(study.image.shape[1] for study in studies),
        "labelled_frames": sum(len(study.labelled_frames) for study in studies),
        "validation_subjects": len(run.task.held_out),
    }
    write_document(out_dir / TRAINING_DATA, "training-data", data)


def _build(run: PreparedRun, out_dir: Path, device: torch.device, ranks: ProcessGroup, budget: EpochBudget) -> Trainer:
    """Open the preprocessed studies, built once per machine, and build the network and its training step."""
    config, task = run.config, run.task

    def open_studies() -> list[CachedStudy]:
        own_clips = len(ranks.share(config.train.batch_size))
        patch, precision, clip_frames = config.data.patch_size, config.train.precision, own_clips * config.data.frames
        check_convolutions(config.model, task.channels, patch, device, precision, training=True, frames=clip_frames)
        cache = choose_run_cache(run.dataset.root, out_dir, config.data.cache_dir)
        cases, spacing_mm = (*run.training, *run.validation), config.data.in_plane_spacing_mm
        return cached_studies(cases, run.dataset, config.data, spacing_mm, cache)

    set_tf32(device, config.train.precision)
    studies = ranks.rank0_first(open_studies)
    training, validation = studies[: len(run.training)], studies[len(run.training) :]
    with ranks.raise_on_all_ranks():
        planned = _plan_step(run, training, device, ranks) if device.type == "cuda" else None
        return Trainer(out_dir, config, task, training, validation, device, planned, ranks, budget)


def _plan_step(
    run: PreparedRun, studies: Sequence[CachedStudy], device: torch.device, ranks: ProcessGroup
) -> PlannedStep:
    """Return the fastest recompute schedule that fits every rank's free GPU memory; print it where it is not the one asked for.

    Raises:
        InputError: none fits.
    """
    config, task, asked = run.config, run.task, run.config.recompute
    free = min(ranks.all_gather(free_bytes(device))) - (NCCL_BYTES if ranks.size > 1 else 0)
    labelled = max(
        most_labelled_frames(
            config.data.frames, study.image.shape[1], len(study.labelled_frames), task.cyclic, config.data
        )
        for study in studies
    )
    largest_share = -(-config.train.batch_size // ranks.size)
    own = replace(config, train=replace(config.train, batch_size=largest_share))
    is_whole = all(study.scope.is_whole for study in studies)
    planned, is_enough = choose_recompute(own, *task.channels, labelled, free, is_whole, task.region_classes)
    needs = f"{describe_bytes(planned.planned_bytes)} for {describe_recompute(planned.recompute)}"
    if not is_enough:
        raise InputError(
            f"a training step needs at least {needs}, and {describe_bytes(free)} of the GPU are free; lower --data.patch_size, "
            "--data.frames or --train.batch_size, or let unet4d plan choose them"
        )
    if asked.chunk_frames is not None and planned.recompute != asked and ranks.is_first:
        logger.warning(
            f"{describe_recompute(asked)} does not fit the {describe_bytes(free)} that are free; using {needs}"
        )
    return planned


def _similar_outputs(trainer: Trainer, run: PreparedRun) -> dict[str, str]:
    """Return the outputs as which classes of new names begin; none without initial weights."""
    if not run.initial or run.config.train.init_outputs == "name":
        return {}
    return find_similar_outputs(run.config, run.task, trainer.training, trainer.device, *run.initial)


def _restore(trainer: Trainer, run: PreparedRun, similar: Mapping[str, str]) -> None:
    """Restore the checkpoint, or load the initial weights, if there are any."""
    if run.checkpoint:
        trainer.restore(run.checkpoint)
    elif run.initial:
        initial = load_initial_weights(trainer.network, run.task, *run.initial, similar)
        trainer.training_step.set_initial(initial.whole)
        trainer.initial = initial.text
        if trainer.ranks.is_first:
            logger.log(logging.INFO if initial.share >= HALF else logging.WARNING, f"begins with {initial.text}")


def _train_or_explain_memory(trainer: Trainer, run: PreparedRun) -> None:
    """Train; where a step's leanest schedule runs out of GPU memory, raise an error with the command for a smaller plan."""
    device = trainer.device
    free = free_bytes(device) if device.type == "cuda" else 0
    try:
        trainer.fit(run.dataset.name, run.dataset.root)
    except RuntimeError as error:
        if not is_out_of_gpu_memory(error):
            raise
        planned = f"planned {describe_bytes(trainer.planned_bytes)}, " if trainer.planned_bytes else ""
        raise Unet4DError(
            f"a training step ran out of GPU memory: {planned}got {describe_bytes(peak_allocated_bytes(device))} of the "
            f"{describe_bytes(free)} that were free ({memory_error_reason(error)}); make a smaller plan: unet4d plan "
            f"{run.dataset.root} --gpu_memory {int(0.8 * free / GB)} --out plan.yaml, then train with --config plan.yaml and a "
            "new --out"
        ) from error
