"""Folders of a cross-validation: OUT/fold_0, OUT/fold_1, ..., each a run that was not trained on the subjects of its fold.

OUT/folds.json is written where one command trains them all: {"folds": 5, "seed": 0, "held_out": {"fold_0": [subject, ...], ...}}
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unet4d.errors import InputError
from unet4d.models.checkpoint import BEST, LAST, PREVIOUS, TrainedModel, find_checkpoint, load_model
from unet4d.models.model_file import is_model_file, network_paths

if TYPE_CHECKING:
    import torch

FOLDS_FILE = "folds.json"
_MAY_DIFFER = ("data.num_workers", "data.cache_dir", "train.precision", "train.validate_every")
"""Settings in which the folds of one cross-validation may differ."""


def fold_folder(out: Path, fold: int) -> Path:
    """Return the folder of a fold's run."""
    return out / f"fold_{fold}"


def holds_run(folder: Path) -> bool:
    """Return whether a folder has a checkpoint, whole or not."""
    return any((folder / name).is_file() for name in (BEST, LAST, PREVIOUS))


def holds_folds(folder: Path) -> bool:
    """Return whether a folder is that of a cross-validation, and not of a run."""
    return not holds_run(folder) and ((folder / FOLDS_FILE).is_file() or bool(folds_in(folder)))


def folds_in(out: Path) -> dict[int, Path]:
    """Return the runs of the folds that were begun in a folder, by number."""
    numbers = {path.name.removeprefix("fold_"): path for path in out.glob("fold_*") if holds_run(path)}
    found = {int(number): path for number, path in numbers.items() if number.isdecimal()}
    return {fold: found[fold] for fold in sorted(found) if found[fold] == fold_folder(out, fold)}


def check_model_files(paths: Sequence[str | os.PathLike[str]]) -> None:
    """Check that the files which `load_models` reads exist; of these, only model files are read, to check their hashes.

    Raises:
        InputError: a path is missing, a folder holds no checkpoint, or a model file was changed.
    """
    for path in map(Path, paths):
        if is_model_file(path):
            network_paths(path)
        elif holds_run(path) or not folds_in(path):
            find_checkpoint(path)


def load_models(paths: Sequence[str | os.PathLike[str]], device: str | torch.device = "cpu") -> list[TrainedModel]:
    """Load the models of runs, checkpoint files, model files and folders of folds, in this order, for one ensemble.

    Of each fold it is the last checkpoint. The best one is chosen by the very subjects that the fold scores, so their score would
    be too good.

    Raises:
        InputError: there is no model; a folder lacks folds, or its folds do not belong together; models are not compatible, see
            `check_compatible`; a checkpoint is given twice.
    """
    from unet4d.models.ensemble import check_compatible

    models: list[TrainedModel] = []
    for path in map(Path, paths):
        folds = {} if holds_run(path) else folds_in(path)
        if is_model_file(path):
            models += [load_model(network, device) for network in network_paths(path)]
        elif folds:
            found = {fold: load_model(run, device, prefer_last=True) for fold, run in folds.items()}
            _check_folds(path, found)
            models += found.values()
        else:
            models.append(load_model(path, device))
    check_compatible(models)
    files = [model.path.resolve() for model in models]
    if repeated := [path for path in files if files.count(path) > 1]:
        raise InputError(f"got {repeated[0]} twice, expected each model once; leave one out")
    return models


def _check_folds(out: Path, models: Mapping[int, TrainedModel]) -> None:
    """Raise an InputError unless the models are all folds of one cross-validation."""
    advice = f"name the runs to use: {fold_folder(out, next(iter(models)))} ..."
    for fold, model in models.items():
        config = model.config
        if config.data.val_subjects is not None or config.fold != fold:
            got = f"fold {config.fold}" if config.data.val_subjects is None else "named subjects"
            raise InputError(f"{model.path} held out {got}, expected fold {fold}; {advice}")
    for first, second in pairwise(models.values()):
        before, now = _settings(first), _settings(second)
        if other := [name for name in now if now[name] != before.get(name)]:
            name = other[0]
            raise InputError(
                f"{second.path} and {first.path} are no folds of one training: got {name} {now[name]} and {before.get(name)}, "
                f"expected the same; {advice}"
            )
    folds = next(iter(models.values())).config.data.folds
    if missing := [str(fold) for fold in range(folds) if fold not in models]:
        raise InputError(
            f"{out} lacks fold {', '.join(missing)} of {folds}; train it (unet4d train --fold all --resume), or {advice}"
        )


def _settings(model: TrainedModel) -> dict[str, Any]:
    """Return the settings that the folds of one training share, by dotted name."""
    config = model.config.as_dict()
    settings = {"seed": config["seed"]}
    for section in ("data", "model", "train"):
        settings.update({f"{section}.{name}": value for name, value in config[section].items()})
    return {name: value for name, value in settings.items() if name not in _MAY_DIFFER}
