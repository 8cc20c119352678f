"""A cross-validation's folder: OUT/fold_0, OUT/fold_1, ..., each a run that held the subjects of its fold out.

OUT/folds.json, where one command trained them all: {"folds": 5, "seed": 0, "held_out": {"fold_0": [subject, ...], ...}}
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unet4d.errors import InputError
from unet4d.models.checkpoint import BEST, LAST, PREVIOUS, TrainedModel, find_checkpoint, load_model

if TYPE_CHECKING:
    import torch

FOLDS_FILE = "folds.json"
_OF_A_MACHINE = ("data.num_workers", "data.cache_dir", "train.precision", "train.validate_every")
"""Settings in which the folds of one cross-validation may differ."""


def fold_folder(out: Path, fold: int) -> Path:
    """Where the run of a fold lies."""
    return out / f"fold_{fold}"


def holds_run(folder: Path) -> bool:
    """Whether a folder has a checkpoint, whole or not."""
    return any((folder / name).is_file() for name in (BEST, LAST, PREVIOUS))


def holds_folds(folder: Path) -> bool:
    """Whether a folder is that of a cross-validation, and no run of its own."""
    return not holds_run(folder) and ((folder / FOLDS_FILE).is_file() or bool(folds_in(folder)))


def folds_in(out: Path) -> dict[int, Path]:
    """The folds begun in a folder, by number."""
    numbers = {path.name.removeprefix("fold_"): path for path in out.glob("fold_*") if holds_run(path)}
    found = {int(number): path for number, path in numbers.items() if number.isdecimal()}
    return {fold: found[fold] for fold in sorted(found) if found[fold] == fold_folder(out, fold)}


def check_model_files(paths: Sequence[str | os.PathLike[str]]) -> None:
    """See that the files which `load_models` reads are there, without reading them.

    Raises:
        InputError: a path is missing, or a folder holds no checkpoint.
    """
    for path in map(Path, paths):
        if holds_run(path) or not folds_in(path):
            find_checkpoint(path)


def load_models(paths: Sequence[str | os.PathLike[str]], device: str | torch.device = "cpu") -> list[TrainedModel]:
    """The models of runs, checkpoint files and folders of folds, in this order, fit to answer together.

    Raises:
        InputError: no model is there; a folder lacks folds, or holds such that do not belong together; two models differ in what
            they segment, see `check_compatible`; a checkpoint comes twice.
    """
    from unet4d.models.ensemble import check_compatible

    models: list[TrainedModel] = []
    for path in map(Path, paths):
        folds = {} if holds_run(path) else folds_in(path)
        if folds:
            found = {fold: load_model(run, device) for fold, run in folds.items()}
            _check_whole(path, found)
            models += found.values()
        else:
            models.append(load_model(path, device))
    check_compatible(models)
    where = [model.path.resolve() for model in models]
    doubled = [path for path in where if where.count(path) > 1]
    if doubled:
        raise InputError(f"{doubled[0]} came twice; wanted each model once; leave one out")
    return models


def _check_whole(out: Path, models: Mapping[int, TrainedModel]) -> None:
    """See that the models are all folds of one cross-validation."""
    advice = f"give a folder of folds as they were trained, or name the runs to take: {fold_folder(out, next(iter(models)))} ..."
    for fold, model in models.items():
        config = model.config
        if config.data.val_subjects is not None or config.fold != fold:
            came = f"fold {config.fold}" if config.data.val_subjects is None else "named subjects"
            raise InputError(f"{model.path} held {came} out; wanted fold {fold}; {advice}")
    for one, other in pairwise(models.values()):
        before, now = _settings(one), _settings(other)
        differing = [name for name in now if now[name] != before.get(name)]
        if differing:
            name = differing[0]
            raise InputError(
                f"{other.path} and {one.path} are no folds of one training: {name} is {now[name]} and {before.get(name)}; {advice}"
            )
    wanted = next(iter(models.values())).config.data.folds
    missing = [str(fold) for fold in range(wanted) if fold not in models]
    if missing:
        raise InputError(
            f"{out} lacks fold {', '.join(missing)} of {wanted}; wanted all; train what is missing (unet4d train --fold all "
            f"--resume), or name the runs to take: {fold_folder(out, next(iter(models)))} ..."
        )


def _settings(model: TrainedModel) -> dict[str, Any]:
    """What the folds of one training share, by dotted name."""
    config = model.config.as_dict()
    found = {"seed": config["seed"]}
    for section in ("data", "model", "train"):
        found.update({f"{section}.{name}": value for name, value in config[section].items()})
    return {name: value for name, value in found.items() if name not in _OF_A_MACHINE}
