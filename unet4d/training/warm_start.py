"""Initial weights from an earlier training: of the frame-wise baseline, or of the same network."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unet4d.errors import InputError
from unet4d.models.checkpoint import Task
from unet4d.models.clstm_unet import CLSTMUNet

_OUTPUTS = "head.", "lower_heads."
"""First parts of the names of weights that have a row per class."""


def load_initial_weights(network: CLSTMUNet, task: Task, content: dict[str, Any], path: str | os.PathLike[str]) -> str:
    """Load the weights of a checkpoint that was trained on the same channels; return their description.

    Weights without recurrence are those of the frame-wise baseline; recurrent layers then keep their own. As their projections
    start at zero, a new network computes what the baseline computes. The outputs follow the names of the classes, whatever their
    order; a class that the checkpoint does not know keeps its own, random ones. The only channel of a task may have any name.

    Raises:
        InputError: the checkpoint's channels or layers differ; names the difference.
    """
    before = Task.from_dict(content["task"])
    _check_channels(before, task, path)
    weights = _follow_classes(content["network"], network.state_dict(), list(before.labels), list(task.labels))
    is_baseline = not network.is_frame_wise and not any(name.startswith("recurrent.") for name in weights)
    try:
        (network.load_framewise_weights if is_baseline else network.load_weights)(weights)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    unknown = [name for name in task.labels if name not in before.labels and task.labels[name]]
    outputs = f", but for the outputs of {', '.join(unknown)}, which it does not know" if unknown else ""
    return f"the weights of the {'frame-wise baseline' if is_baseline else 'same network'} in {path}{outputs}"


def _check_channels(before: Task, task: Task, path: str | os.PathLike[str]) -> None:
    """Refuse a checkpoint of other channels."""
    is_single = len(before.channel_names) == len(task.channel_names) == 1
    for what, got, expected in (
        ("channels", before.channel_names, task.channel_names),
        ("kinds of channels", before.channel_kinds, task.channel_kinds),
    ):
        if got != expected and not (is_single and what == "channels"):
            raise InputError(
                f"{path} was trained for the {what} {', '.join(got)}, expected {', '.join(expected)}; start from a run on such a "
                "dataset, or leave train.init_from out"
            )


def _follow_classes(
    given: Mapping[str, Tensor], own: Mapping[str, Tensor], before: list[str], classes: list[str]
) -> dict[str, Tensor]:
    """Return the given weights with outputs in the order of `classes`, background first; new classes keep the network's own."""
    rows = [0, *(before.index(name) if name in before[1:] else None for name in classes[1:])]
    followed = dict(given)
    for name, weight in given.items():
        is_output = name.startswith(_OUTPUTS) and name in own
        if is_output and len(weight) == len(before) and weight.shape[1:] == own[name].shape[1:]:
            parts = [own[name][k].cpu() if row is None else weight[row].float() for k, row in enumerate(rows)]
            followed[name] = torch.stack(parts)
    return followed
