"""The checkpoint files of a run: the last two, of which one is whole at any moment, and the best."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unet4d.config import ResolvedConfig
from unet4d.errors import InputError
from unet4d.models.checkpoint import BEST, LAST, PREVIOUS, load_checkpoint, save_checkpoint
from unet4d.models.task import Task
from unet4d.system.checks import describe_value
from unet4d.system.files import remove_partial, replacing

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from torch import nn


class Checkpoints:
    """The checkpoints of one run, in its folder, written by one process."""

    def __init__(self, run: Path):
        self.run = run
        self._last_is_usable = False  # as far as is known

    def save_last(self, config: ResolvedConfig, task: Task, network: nn.Module, training: dict[str, Any]) -> None:
        """Write a checkpoint to resume from; the last one becomes the previous one, unless it is unusable.

            written to        .partial.last
            then    last      .partial.previous    previous        the names, and the checkpoints under them
                    4         4                    3
                    5         4                    3               the new one takes its name first, so that
                    5                              4               two are whole under their names at any moment

        `training` is the rest of what resuming needs; its "epoch" and "step" name the checkpoint to the user.

        Raises:
            Unet4DError: the disk is full; the checkpoints before are as they were.
        """
        remove_partial(self.run, "checkpoint_*.pt")
        last = self.run / LAST
        if self._last_is_usable or _is_usable(last):  # read again only where another process wrote it
            with replacing(self.run / PREVIOUS) as kept:
                _link(last, kept)
                save_checkpoint(last, config, task, network, training)
        else:
            save_checkpoint(last, config, task, network, training)
        self._last_is_usable = True

    def save_best(self, config: ResolvedConfig, task: Task, network: nn.Module) -> None:
        """Write the model to predict with. Raises Unet4DError: the disk is full; the best one before is as it was."""
        save_checkpoint(self.run / BEST, config, task, network, {})

    def newest(self) -> dict[str, Any]:
        """Read the last checkpoint, or the one before if that is missing or damaged, see `load_checkpoint`.

        Raises:
            InputError: neither is usable; gives the reasons of both.
        """
        reasons: list[str] = []
        for name in (LAST, PREVIOUS):
            path = self.run / name
            try:
                content = _read(path)
            except InputError as error:
                reasons.append(str(error).partition("; ")[0])  # without the advice
                continue
            if reasons:
                logger.warning(f"{reasons[0]}; resuming from {path}, {describe_position(content['training'])}")
            return content
        raise InputError(f"there is nothing to resume from: {'; '.join(reasons)}; train anew with a new --out")


def _read(path: Path) -> dict[str, Any]:
    """Read a checkpoint to resume from; raise an InputError where it is none, or a damaged one."""
    content = load_checkpoint(path)
    if not content["training"]:
        raise InputError(f"{path} holds a model without the state of its training; give the folder of a run")
    return content


def _is_usable(path: Path) -> bool:
    """Return whether there is a checkpoint to resume from."""
    try:
        _read(path)
    except InputError:
        return False
    return True


def describe_position(training: Mapping[str, Any]) -> str:
    """Return where in its run a checkpoint was written, by its "epoch", the number of those completed, and its "step"."""
    return f"after step {describe_value(training.get('step'))}, epoch {describe_value(training.get('epoch'))} done"


def _link(path: Path, other: Path) -> None:
    """Give a file another name; copy it where the file system has no hard links."""
    try:
        os.link(path, other)
    except OSError:
        shutil.copyfile(path, other)


def check_same_studies(before: list[list[str]], now: list[list[str]]) -> None:
    """Refuse to resume with other studies, because every later clip would be another."""
    if before == now:
        return
    differing = sorted({e for part in before for e in part} ^ {e for part in now for e in part})
    named = f", such as {differing[0]}" if differing else " in another order or part"
    raise InputError(
        f"got --resume with other studies{named}, expected those that the run was begun with; restore them, or give a new --out"
    )
