"""Checks of each command before its work: folders and files that must exist, and places that must be writable.

A command line runs its check before torch is imported, which takes seconds. The function behind the command runs it again, because
it can be called from Python. This module and all that it imports are light; a test holds that.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from unet4d.config import Config
from unet4d.datasets.dataset import open_dataset
from unet4d.datasets.find_studies import check_choice, check_there, expanded
from unet4d.datasets.label_maps import label_maps
from unet4d.errors import InputError
from unet4d.models.checkpoint import BEST, LAST, PREVIOUS, checkpoint_of
from unet4d.models.folds import check_models, fold_folder, holds_folds, holds_run
from unet4d.planning.plan_file import check_replaceable
from unet4d.system.checks import described
from unet4d.system.environment import check_device_name
from unet4d.system.files import check_file_writable, check_writable
from unet4d.system.text import short_repr

PathLike = str | os.PathLike[str]
MOST_GB, MOST_GPUS = 10**6, 10**5
"""The largest GPU, and number of GPUs, that a plan is made for."""


def check_predict(
    models: Sequence[PathLike],
    inputs: Sequence[PathLike],
    out_dir: PathLike,
    device: str,
    cases: Sequence[str] | None,
    held_out: bool,
    scratch_dir: PathLike | None = None,
) -> None:
    """Check what `predict` is given. Raises InputError, or Unet4DError where a folder may not be written to."""
    check_device_name(device)
    check_choice(cases, held_out)
    check_models(models)
    for path in expanded(inputs):
        check_there(path)
    check_writable(out_dir)
    if scratch_dir is not None:
        check_writable(scratch_dir)


def check_tune(run: Path, dataset: PathLike, predictions: PathLike | None, device: str, dry_run: bool) -> None:
    """Check what `tune` is given. Raises InputError, or Unet4DError where the run may not be written to."""
    check_device_name(device)
    if run.is_file():
        raise InputError(
            f"{run} is a file; expected the folder of a run, or of folds, to record the steps in; give that folder"
        )
    check_models([run])
    if not dry_run:
        check_writable(run)
    open_dataset(dataset)
    if predictions is not None:
        label_maps(Path(predictions))


def check_train(dataset: PathLike, out_dir: Path, config: Config, device: str, resume: bool) -> None:
    """Check what the training of one run is given.

    Raises:
        InputError: the dataset or the weights to start from are missing; the folder holds a run, or folds; or, with `resume`, none.
        Unet4DError: the folder may not be written to.
    """
    check_device_name(device)
    if any("\ud800" <= one <= "\udfff" for one in str(out_dir)):
        raise InputError(
            f"got --out {out_dir} that is not UTF-8, which TensorBoard cannot write to; choose another name"
        )
    _check_run(out_dir, resume)
    open_dataset(dataset)
    if config.train.start_from is not None and not resume:
        checkpoint_of(config.train.start_from)


def check_cross_validation(dataset: PathLike, out_dir: Path, config: Config, device: str, resume: bool) -> None:
    """Check what the training of all folds is given.

    Raises:
        InputError: as `check_train`; subjects to hold out are named; the folder holds a single run.
        Unet4DError: the folder may not be written to.
    """
    check_device_name(device)
    if config.data.held_out is not None:
        raise InputError(
            "data.held_out and all folds came together; wanted one of them, for each fold has subjects of its own; leave "
            "data.held_out out, or train a single run"
        )
    check_writable(out_dir)
    if holds_run(out_dir):
        raise InputError(
            f"{out_dir} holds a single run; wanted a folder for the folds of a training; choose another --out"
        )
    open_dataset(dataset)
    if config.train.start_from is not None and not resume:
        checkpoint_of(config.train.start_from)


def check_plan(dataset: PathLike, out: Path, gpu_memory: str | float, gpus: int = 1) -> None:
    """Check what `plan` is given. Raises InputError, or Unet4DError where the file may not be written."""
    if gpu_memory != "auto":
        gpu_size_gb(gpu_memory)
    if not 1 <= gpus <= MOST_GPUS:
        raise InputError(
            f"--gpus is {short_repr(gpus)}; wanted how many GPUs train together, 1 or more, at most {MOST_GPUS}"
        )
    check_replaceable(out)
    open_dataset(dataset)


def check_verify(dataset: PathLike, out: PathLike | None) -> None:
    """Check what `verify` is given; `verify` reports the mistakes in a dataset.json itself.

    Raises:
        InputError: there is no dataset.json, or `out` is a folder.
        Unet4DError: `out` may not be written.
    """
    path = Path(dataset)
    if not (path / "dataset.json" if path.is_dir() else path).is_file():
        open_dataset(path)
    if out is not None:
        check_file_writable(out)


def gpu_size_gb(text: str | float) -> float:
    """Return the size of a GPU in GB. Raises InputError for what is no such size."""
    try:
        size = float(text)
    except ValueError:
        size = math.nan
    except OverflowError:
        size = math.inf
    if not 0 < size <= MOST_GB:
        raise InputError(
            f"--gpu-memory is {described(text)}; wanted a number of GB above 0, such as 24, or auto; at most {MOST_GB}"
        )
    return size


def _check_run(out_dir: Path, resume: bool) -> None:
    """Refuse to overwrite a run, to resume where there is none, and a folder that cannot be written to."""
    begun = any((out_dir / name).exists() for name in (LAST, PREVIOUS))
    if begun and not resume:
        raise InputError(f"{out_dir} already holds a run; choose a new --out, or add --resume to continue it")
    if holds_folds(out_dir):
        raise InputError(
            f"{out_dir} holds the folds of a cross-validation; train one with --out {fold_folder(out_dir, 0)}, all with --fold all"
        )
    if not begun and (out_dir / BEST).exists():
        raise InputError(
            f"{out_dir} holds {BEST} and no {LAST} to go on from; choose a new --out, or move the model away first"
        )
    if resume and not begun:
        raise InputError(
            f"--resume was given and {out_dir} holds no {LAST}; leave --resume out, or give the run's folder"
        )
    check_writable(out_dir)
