"""Checks of `train` before torch is imported, which takes seconds: what must exist, and what must be writable.

The command line runs them first; `train` and `cross_validate` run them too, because Python code may call those directly. This
module and all that it imports are light; a test holds that.
"""

from __future__ import annotations

from pathlib import Path

from unet4d.config import Config
from unet4d.datasets.dataset import open_dataset
from unet4d.errors import InputError
from unet4d.models.checkpoint import BEST, LAST, PREVIOUS, find_checkpoint
from unet4d.models.folds import fold_folder, holds_folds, holds_run
from unet4d.system.clocks import SLURM, slurm_seconds_left
from unet4d.system.environment import check_device_name
from unet4d.system.files import PathLike, check_writable


def check_train(dataset: PathLike, out_dir: Path, config: Config, device: str, resume: bool) -> None:
    """Check the arguments of the training of one run.

    Raises:
        InputError: the dataset or the initial weights are missing; the folder holds a run, or folds; or, with `resume`, none.
        Unet4DError: the folder may not be written to.
    """
    check_device_name(device)
    if any("\ud800" <= letter <= "\udfff" for letter in str(out_dir)):
        raise InputError(
            f"got --out {out_dir} that is not UTF-8, which TensorBoard cannot write to; choose another name"
        )
    _check_run(out_dir, resume)
    open_dataset(dataset)
    if config.train.init_from is not None and not resume:
        find_checkpoint(config.train.init_from)
    if config.train.time_budget == SLURM:
        slurm_seconds_left()


def check_cross_validation(dataset: PathLike, out_dir: Path, config: Config, device: str, resume: bool) -> None:
    """Check the arguments of the training of all folds.

    Raises:
        InputError: as `check_train`; subjects to hold out are named; the folder holds a single run.
        Unet4DError: the folder may not be written to.
    """
    check_device_name(device)
    if config.data.val_subjects is not None:
        raise InputError(
            "got data.val_subjects and all folds, expected one of them, because each fold has its own subjects; leave "
            "data.val_subjects out, or train a single run"
        )
    if config.train.time_budget == SLURM:
        raise InputError(
            f"got train.time_budget {SLURM} and all folds, expected the time of one fold; name it, such as --train.time_budget 2h"
        )
    check_writable(out_dir)
    if holds_run(out_dir):
        raise InputError(
            f"{out_dir} holds a single run, expected a folder for the folds of a training; choose another --out"
        )
    open_dataset(dataset)
    if config.train.init_from is not None and not resume:
        find_checkpoint(config.train.init_from)


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
            f"{out_dir} holds {BEST} and no {LAST} to resume from; choose a new --out, or move the model away first"
        )
    if resume and not begun:
        raise InputError(
            f"--resume was given and {out_dir} holds no {LAST}; leave --resume out, or give the run's folder"
        )
    check_writable(out_dir)
