"""`unet4d train`: from a dataset to a run folder with checkpoints, their configuration and the record of how it went."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from unet4d.config import FRAMES, Config
from unet4d.data.cache import CachedStudy, cached_studies
from unet4d.data.clip_frames import most_labelled
from unet4d.data.dataset import cache_dir, split_cases
from unet4d.data.verification.ready import ready
from unet4d.errors import InputError
from unet4d.files import check_writable, write_text
from unet4d.model.checkpoint import BEST, LAST, Task, load_checkpoint
from unet4d.model.device import find_device, tune
from unet4d.model.fitting import GB, Fit, described, fitted, free_bytes
from unet4d.training.record import flat
from unet4d.resolve import resolved
from unet4d.training.trainer import Trainer

CONFIG = "config.yaml"
MAY_CHANGE_ON_RESUME = ("data.workers", "data.cache_dir", "train.validate_every", "memory.", "inference.chunk_frames")


def train(
    dataset: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    config: Config,
    device: str = "auto",
    resume: bool = False,
    skip_verify: bool = False,
) -> Path:
    """Train a network on the folds' other subjects and validate it on the fold's.

    Args:
        dataset: folder with dataset.json.
        out_dir: the run's folder; a new one, unless resuming.
        config: what to do; what it leaves out is derived from the studies.
        device: "auto", "cpu", "cuda" or "cuda:N".
        resume: go on from `checkpoint_last.pt` in `out_dir`.
        skip_verify: do not look for faults of the dataset first.

    Returns:
        The best checkpoint's path; on ties and without scores, the latest one.

    Raises:
        InputError: the dataset, a study, the configuration or the run folder is not usable.
        Unet4DError: the loss became infinite or not a number, or the disk is full.
    """
    out_dir = Path(out_dir)
    where = find_device(device)
    _check_out(out_dir, resume)
    studies, known = ready(dataset, lambda root: cache_dir(root, elsewhere=out_dir / "cache"), skip_verify)
    training, validation = split_cases(studies, config.fold, config.data.folds, config.seed, config.data.held_out)
    config = resolved(config, (*training, *validation), where, known)
    subjects = tuple(sorted({case.subject for case in validation}))
    task = Task(dict(studies.labels), studies.channel_names, studies.cyclic, subjects, studies.channel_kinds)
    saved = _saved_run(out_dir, config, task) if resume else None

    cache, plane = cache_dir(studies.root, config.data.cache_dir, out_dir / "cache"), config.data.plane_spacing_mm
    assert cache is not None
    cached = cached_studies((*training, *validation), studies, config.data, plane, cache)
    learnt, held_out = cached[: len(training)], cached[len(training) :]
    # Only now, when every study has been read: a bad one leaves no run behind.
    write_text(out_dir / CONFIG, yaml.safe_dump(config.as_dict(), sort_keys=False))
    tune(where, config.train.precision)
    plan = _fitted(config, task, learnt, where) if where.type == "cuda" else None
    trainer = Trainer(out_dir, config, task, learnt, held_out, where, saved, plan)
    trainer.describe(studies.name)
    trainer.fit()
    return out_dir / BEST


def _fitted(config: Config, task: Task, studies: Sequence[CachedStudy], device: torch.device) -> Fit:
    """The way to cut a step that fits what is free of the GPU now; says so where it is not the configured one.

    Raises:
        InputError: not even the leanest fits.
    """
    frames, free = config.data.frames or FRAMES, free_bytes(device)
    labelled = max(
        most_labelled(frames, study.image.shape[1], len(study.labelled_frames), task.cyclic, config.data)
        for study in studies
    )
    fit, fits = fitted(config, len(task.channel_names), len(task.labels), labelled, free)
    needs = f"{fit.planned_bytes / GB:.1f} GB for {described(fit.memory)}"
    if not fits:
        raise InputError(
            f"a training step needs {needs}, the leanest way, and {free / GB:.1f} GB of the GPU are free; lower "
            "--data.patch_size, --data.frames or --train.batch_size, or let unet4d plan choose them"
        )
    asked = config.memory
    if asked.chunk_frames is not None and fit.memory != asked:
        print(f"{described(asked)} does not fit the {free / GB:.1f} GB that are free; computing {needs} instead")
    return fit


def _check_out(out_dir: Path, resume: bool) -> None:
    """Refuse to overwrite a run, to go on with none, and a folder that cannot be written to."""
    last = out_dir / LAST
    if last.exists() and not resume:
        raise InputError(f"{out_dir} already holds a run; choose a new --out, or add --resume to go on with it")
    if resume and not last.exists():
        raise InputError(
            f"--resume was given and {out_dir} holds no {LAST}; leave --resume out, or give the run's folder"
        )
    check_writable(out_dir)


def _saved_run(out_dir: Path, config: Config, task: Task) -> dict[str, Any]:
    """The checkpoint to go on from; refuses to go on with another configuration or task."""
    last = out_dir / LAST
    saved = load_checkpoint(last)
    if not saved["training"]:
        raise InputError(f"{last} holds a model without the state of its training; give the folder of a run")
    before, now = flat(saved["config"], "."), flat(config.as_dict(), ".")
    differing = [k for k in now if now[k] != before.get(k) and not k.startswith(MAY_CHANGE_ON_RESUME)]
    if differing:
        name = min(differing, key=lambda k: "." in k)  # fold and seed first: what is derived follows from them
        more = f" (and {len(differing) - 1} more differ)" if differing[1:] else ""
        raise InputError(
            f"--resume with another configuration: {name} is {now[name]} and was {before.get(name)}{more}; leave it out, or give "
            "a new --out"
        )
    if task != (learnt := Task.from_dict(saved["task"])):
        raise InputError(
            f"--resume with another dataset: it is {task} and was {learnt}; give the run's own, or a new --out"
        )
    return saved
