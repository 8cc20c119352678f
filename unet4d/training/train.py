"""`unet4d train`: from a dataset to a run folder with checkpoints, their configuration and the record of how it went."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from unet4d.config import Config, ResolvedConfig, ResolvedDataConfig
from unet4d.datasets.dataset import choose_cache_dir
from unet4d.datasets.folds import describe_fewer_folds, split_cases
from unet4d.datasets.verify.load_verified import load_verified_dataset
from unet4d.errors import InputError, Unet4DError
from unet4d.models.checkpoint import BEST, Task, find_checkpoint, load_checkpoint
from unet4d.models.conv_check import check_convolutions
from unet4d.models.device import find_device, resolve_precision, set_tf32
from unet4d.pipeline.cache import CachedStudy, cached_studies, verify_and_build
from unet4d.pipeline.clip_frames import most_labelled_frames
from unet4d.pipeline.fingerprint import compute_fingerprint
from unet4d.system.distributed import ALONE, ProcessGroup
from unet4d.system.files import write_text
from unet4d.system.gpu_memory import GB, NCCL_BYTES, free_bytes
from unet4d.system.lock import lock_run
from unet4d.system.memory_errors import is_out_of_gpu_memory, memory_error_reason
from unet4d.system.signals import stop_signals
from unet4d.training.checkpoints import Checkpoints
from unet4d.training.checks import check_train
from unet4d.training.monitoring.log_lines import flat
from unet4d.training.monitoring.mlflow_log import check_mlflow
from unet4d.training.monitoring.summary import CONFIG
from unet4d.training.oom_fallback import peak_bytes
from unet4d.training.resolve import resolve
from unet4d.training.step_memory import StepFit, describe_recompute, fit_recompute
from unet4d.training.trainer import Trainer
from unet4d.training.warm_start import load_initial_weights

MAY_CHANGE_ON_RESUME = (
    "data.num_workers", "data.cache_dir", "train.validate_every", "train.skip_limit", "train.mlflow", "recompute.",
    "inference.chunk_frames",
)  # fmt: skip


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
    """Train a network on the folds' other subjects and validate it on the fold's.

    Args:
        dataset: folder with dataset.json.
        out_dir: the run's folder; a new one, unless resuming.
        config: what to do; what it leaves out is derived from the studies.
        device: "auto", "cpu", "cuda" or "cuda:N".
        resume: go on from the newest checkpoint in `out_dir` that is whole.
        skip_verify: do not look for faults of the dataset first.
        ranks: the processes that train together, as `unet4d.system.distributed.init_distributed` gives them; each calls this.

    Returns:
        The best checkpoint's path; on ties and without scores, the latest one.

    Raises:
        InputError: the dataset, a study, the configuration or the run folder is not usable.
        Stopped: a signal asked for it; the run can be gone on with.
        Unet4DError: too many steps in a row were not finite, or the GPU's memory is too small, or the disk is full.
    """
    out_dir = Path(out_dir)
    ranks.broadcast_from_rank0(lambda: check_train(dataset, out_dir, config, device, resume))
    where = find_device(ranks.device_name(device))
    ranks.broadcast_from_rank0(lambda: check_mlflow(config.train.mlflow))
    studies, known = ranks.rank0_first(
        lambda: load_verified_dataset(
            dataset,
            lambda root: choose_cache_dir(root, elsewhere=out_dir / "cache"),
            skip_verify,
            verify_and_build(
                config.data, lambda root: choose_cache_dir(root, config.data.cache_dir) or out_dir / "cache"
            ),
        )
    )
    with ranks.raise_on_all_ranks():
        training, validation = split_cases(
            studies, config.fold, config.data.folds, config.seed, config.data.val_subjects
        )
    if (
        ranks.is_first
        and config.data.val_subjects is None
        and (fewer := describe_fewer_folds(studies, config.data.folds))
    ):
        print(fewer)
    given = config
    cases, precision = (*training, *validation), resolve_precision(given.train.precision, where)
    config = ranks.broadcast_from_rank0(
        lambda: resolve(given, compute_fingerprint(cases, given.data, known), precision, ranks)
    )
    with ranks.raise_on_all_ranks():
        _check_shares(config, ranks)
    subjects = tuple(sorted({case.subject for case in validation}))
    task = Task(dict(studies.labels), studies.channel_names, studies.cyclic, subjects, studies.channel_kinds)
    set_tf32(where, config.train.precision)
    sizes, patch = (len(task.channel_names), len(task.labels)), config.data.patch_size
    at_once = len(ranks.share(config.train.batch_size)) * config.data.frames
    ranks.rank0_first(
        lambda: check_convolutions(config.model, sizes, patch, where, config.train.precision, True, at_once)
    )
    with contextlib.ExitStack() as held:
        if resume:
            ranks.broadcast_from_rank0(lambda: held.enter_context(lock_run(out_dir)))
        saved = ranks.broadcast_from_rank0(lambda: _saved_run(out_dir, config, task)) if resume else None
        cache = choose_cache_dir(studies.root, config.data.cache_dir, out_dir / "cache")
        assert cache is not None
        cached = ranks.rank0_first(
            lambda: cached_studies(
                (*training, *validation), studies, config.data, config.data.in_plane_spacing_mm, cache
            )
        )
        train_studies, held_out = cached[: len(training)], cached[len(training) :]
        with ranks.raise_on_all_ranks():
            plan = _fitted(config, task, train_studies, where, ranks) if where.type == "cuda" else None
            trainer = Trainer(out_dir, config, task, train_studies, held_out, where, plan, ranks)
            said = _begun(trainer, config, task, saved, ranks)
        if trainer.is_done:
            if ranks.is_first:
                print(f"{out_dir}: all {config.train.epochs} epochs were done before")
            return out_dir / BEST
        # Only now, when every study has been read: a bad one leaves no run behind.
        if not resume:
            ranks.broadcast_from_rank0(lambda: held.enter_context(lock_run(out_dir)))
        if ranks.is_first:
            write_text(out_dir / CONFIG, yaml.safe_dump(config.as_dict(), sort_keys=False))
            print(said, end="")
        free = free_bytes(where) if where.type == "cuda" else 0
        try:
            trainer.fit(studies.name, studies.root)
        except RuntimeError as error:
            if not is_out_of_gpu_memory(error):
                raise
            planned = f"planned {plan.planned_bytes / GB:.2f} GB, " if plan else ""
            raise Unet4DError(
                f"a training step ran out of GPU memory: {planned}got {peak_bytes(where) / GB:.2f} GB of the {free / GB:.2f} GB "
                f"that were free ({memory_error_reason(error)}); begin again with a smaller plan: unet4d plan {studies.root} "
                f"--gpu-memory {int(0.8 * free / GB)} --out plan.yaml, then train with --config plan.yaml and a new --out"
            ) from error
    return out_dir / BEST


def _begun(
    trainer: Trainer, config: ResolvedConfig, task: Task, saved: dict[str, Any] | None, ranks: ProcessGroup
) -> str:
    """Have the trainer go on from a checkpoint, or begin with the weights that the configuration names; what to say of it."""
    if saved:
        trainer.restore(saved)
        return ""
    if config.train.init_from is None:
        return ""
    path = find_checkpoint(config.train.init_from)
    content = ranks.broadcast_from_rank0(lambda: load_checkpoint(path))
    return f"begins with {load_initial_weights(trainer.network, task, content, path)}\n"


def _check_shares(config: ResolvedConfig, ranks: ProcessGroup) -> None:
    """Refuse a batch that leaves a process without a clip."""
    batch = config.train.batch_size
    if batch < ranks.size:
        raise InputError(
            f"--train.batch_size is {batch} and {ranks.size} processes share it; wanted {ranks.size} or more, such as "
            f"--train.batch_size {batch * ranks.size}, which gives each what one has now"
        )


def _fitted(
    config: ResolvedConfig, task: Task, studies: Sequence[CachedStudy], device: torch.device, ranks: ProcessGroup
) -> StepFit:
    """The way to cut a step that fits what is free of the GPU now; says so where it is not the configured one.

    Raises:
        InputError: not even the leanest fits.
    """
    frames, free = config.data.frames, min(ranks.all_gather(free_bytes(device)))
    free -= NCCL_BYTES if ranks.size > 1 else 0
    labelled = _labelled(frames, studies, task, config.data)
    largest_share = -(-config.train.batch_size // ranks.size)
    own = replace(config, train=replace(config.train, batch_size=largest_share))
    fit, fits = fit_recompute(own, len(task.channel_names), len(task.labels), labelled, free)
    needs = f"{fit.planned_bytes / GB:.1f} GB for {describe_recompute(fit.recompute)}"
    if not fits:
        raise InputError(
            f"a training step needs {needs}, the leanest way, and {free / GB:.1f} GB of the GPU are free; lower "
            "--data.patch_size, --data.frames or --train.batch_size, or let unet4d plan choose them"
        )
    asked = config.recompute
    if asked.chunk_frames is not None and fit.recompute != asked and ranks.is_first:
        print(
            f"{describe_recompute(asked)} does not fit the {free / GB:.1f} GB that are free; computing {needs} instead"
        )
    return fit


def _labelled(frames: int, studies: Sequence[CachedStudy], task: Task, data: ResolvedDataConfig) -> int:
    """The most frames of a clip of so many that are labelled, in any study."""
    counts = ((study.image.shape[1], len(study.labelled_frames)) for study in studies)
    return max(most_labelled_frames(frames, known, labelled, task.cyclic, data) for known, labelled in counts)


def _saved_run(out_dir: Path, config: ResolvedConfig, task: Task) -> dict[str, Any]:
    """The checkpoint to go on from; refuses to go on with another configuration or task."""
    saved = Checkpoints(out_dir).newest(print)
    before, now = flat(ResolvedConfig.from_dict(saved["config"]).as_dict(), "."), flat(config.as_dict(), ".")
    differing = [k for k in now if now[k] != before.get(k) and not k.startswith(MAY_CHANGE_ON_RESUME)]
    if differing:
        name = min(differing, key=lambda k: "." in k)  # fold and seed first: what is derived follows from them
        more = f" (and {len(differing) - 1} more differ)" if differing[1:] else ""
        raise InputError(
            f"--resume with another configuration: {name} is {now[name]} and was {before.get(name)}{more}; leave it out, or give "
            "a new --out"
        )
    learnt, given = Task.from_dict(saved["task"]).as_dict(), task.as_dict()
    if other := [name for name in given if given[name] != learnt[name]]:
        name = other[0]
        raise InputError(
            f"--resume with another dataset: {name} is {given[name]} and was {learnt[name]}; give the run's own, or a new --out"
        )
    return saved
