"""The preparation of a run on rank 0: checks, verification, split, resolved configuration, and the checkpoint to begin with."""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unet4d.config import Config, ResolvedConfig
from unet4d.datasets.cases import Case, Dataset
from unet4d.datasets.dataset import choose_cache_dir
from unet4d.datasets.subject_folds import describe_fewer_folds, split_cases
from unet4d.datasets.verify.load_verified import load_verified_dataset
from unet4d.errors import InputError
from unet4d.models.checkpoint import find_checkpoint, load_checkpoint
from unet4d.models.device import resolve_precision
from unet4d.models.task import Task
from unet4d.pipeline.cache import verify_and_build
from unet4d.pipeline.fingerprint import compute_fingerprint
from unet4d.system.distributed import ProcessGroup
from unet4d.system.lock import lock_run
from unet4d.training.checkpoints import Checkpoints
from unet4d.training.checks import check_train
from unet4d.training.monitoring.log_lines import flatten_dict
from unet4d.training.monitoring.mlflow_log import check_mlflow
from unet4d.training.resolve import fit_cpu, resolve

logger = logging.getLogger(__name__)

MAY_CHANGE_ON_RESUME = (
    "data.num_workers", "data.cache_dir", "train.validate_every", "train.skip_limit", "train.mlflow", "recompute.",
    "inference.chunk_frames",
)  # fmt: skip


@dataclass(frozen=True)
class PreparedRun:
    """All that the ranks need to build a run: `checkpoint` to resume from, or else initial weights with their path, if any."""

    dataset: Dataset
    training: tuple[Case, ...]
    validation: tuple[Case, ...]
    config: ResolvedConfig
    task: Task
    checkpoint: dict[str, Any] | None
    initial: tuple[dict[str, Any], Path] | None


def prepare_run(
    dataset: str | os.PathLike[str],
    out_dir: Path,
    config: Config,
    device: torch.device,
    resume: bool,
    skip_verify: bool,
    ranks: ProcessGroup,
    stack: contextlib.ExitStack,
) -> PreparedRun:
    """Check, read and resolve the arguments of `unet4d.training.train.train`; called on rank 0 alone.

    When resuming, the run's folder is locked until `stack` is closed; else it is left untouched.

    Raises:
        InputError: the dataset, a study, the configuration or the run folder is not usable.
    """
    check_train(dataset, out_dir, config, str(device), resume)
    check_mlflow(config.train.mlflow)
    data = config.data

    def findings_dir(root: Path) -> Path:
        return choose_run_cache(root, out_dir)

    def studies_dir(root: Path) -> Path:
        return choose_run_cache(root, out_dir, data.cache_dir)

    verify = verify_and_build(data, studies_dir)
    opened, properties = load_verified_dataset(dataset, findings_dir, skip_verify, verify)
    training, validation = split_cases(opened, config.fold, data.folds, config.seed, data.val_subjects)
    if data.val_subjects is None and (fewer := describe_fewer_folds(opened, data.folds)):
        logger.info(fewer)
    precision = resolve_precision(config.train.precision, device)
    seen = compute_fingerprint((*training, *validation), data, properties)
    if device.type != "cuda":
        config, chosen = fit_cpu(config, seen)
        if chosen:
            logger.info(chosen)
    resolved = resolve(config, seen, precision, ranks)
    _check_batch_size(resolved.train.batch_size, ranks)
    subjects = tuple(sorted({case.subject for case in validation}))
    task = Task(
        labels=dict(opened.labels),
        channel_names=opened.channel_names,
        cyclic=opened.cyclic,
        held_out=subjects,
        channel_kinds=opened.channel_kinds,
        roles=dict(opened.roles),
        regions=dict(opened.regions),
    )
    checkpoint, initial = None, None
    if resume:
        stack.enter_context(lock_run(out_dir))
        checkpoint = _read_checkpoint(out_dir, resolved, task)
    elif config.train.init_from is not None:
        path = find_checkpoint(config.train.init_from)
        initial = load_checkpoint(path), path
    return PreparedRun(opened, training, validation, resolved, task, checkpoint, initial)


def choose_run_cache(root: Path, out_dir: Path, named: str | None = None) -> Path:
    """Return the folder for results about a dataset: `named`, else the dataset's own cache, else one in the run's folder."""
    return choose_cache_dir(root, named) or out_dir / "cache"


def _check_batch_size(batch_size: int, ranks: ProcessGroup) -> None:
    """Refuse a batch that leaves a rank without a clip."""
    if batch_size < ranks.size:
        raise InputError(
            f"got --train.batch_size {batch_size} for {ranks.size} processes, expected {ranks.size} or more; "
            f"--train.batch_size {batch_size * ranks.size} gives each of them this many"
        )


def _read_checkpoint(out_dir: Path, config: ResolvedConfig, task: Task) -> dict[str, Any]:
    """Return the checkpoint to resume from; refuse another configuration or task."""
    checkpoint = Checkpoints(out_dir).newest()
    before = flatten_dict(ResolvedConfig.from_dict(checkpoint["config"]).as_dict())
    now = flatten_dict(config.as_dict())
    differing = [k for k in now if now[k] != before.get(k) and not k.startswith(MAY_CHANGE_ON_RESUME)]
    if differing:
        name = min(differing, key=lambda k: "." in k)  # fold and seed first: derived settings follow from them
        more = f" (and {len(differing) - 1} more differ)" if differing[1:] else ""
        raise InputError(
            f"--resume with another configuration: {name} is {now[name]} and was {before.get(name)}{more}; leave it out, or give "
            "a new --out"
        )
    trained, given = Task.from_dict(checkpoint["task"]).as_dict(), task.as_dict()
    for name, value in given.items():
        if name == "roles":  # they change what is reported, not what is trained
            continue
        if repr(value) != repr(trained[name]):  # in the same order, too: it is that of the network's outputs
            raise InputError(
                f"--resume with another dataset: {name} is {value} and was {trained[name]}; give the run's own, or a new --out"
            )
    return checkpoint
