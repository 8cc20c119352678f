"""Beginning a training with weights that were trained before: those of the frame-wise twin, or of the same network."""

from __future__ import annotations

import os
from typing import Any

from unet4d.errors import InputError
from unet4d.models.checkpoint import Task
from unet4d.models.clstm_unet import CLSTMUNet


def load_initial_weights(network: CLSTMUNet, task: Task, content: dict[str, Any], path: str | os.PathLike[str]) -> str:
    """Take over the weights of a checkpoint that was trained for the same task.

    Weights without recurrence are the twin's: a network that has any keeps its own there. As its projections start at zero, a new
    network then computes what the twin computes, and training goes on from there.

    Args:
        network: on any device.
        task: what it is to do.
        content: of the checkpoint, from `load_checkpoint`.
        path: where that lies, for what is said.

    Returns:
        Whose weights they are, in words.

    Raises:
        InputError: the checkpoint's classes, channels or layers are others; says which.
    """
    learnt, weights = Task.from_dict(content["task"]), content["network"]
    for what, came, wanted in (
        ("classes", list(learnt.labels), list(task.labels)),
        ("channels", learnt.channel_names, task.channel_names),
        ("kinds of channels", learnt.channel_kinds, task.channel_kinds),
    ):
        if came != wanted:
            raise InputError(
                f"{path} was trained for the {what} {', '.join(came)}; wanted {', '.join(wanted)}; start from a run on such a "
                "dataset, or leave train.init_from out"
            )
    is_twin = not network.is_frame_wise and not any(name.startswith("recurrent.") for name in weights)
    try:
        (network.load_framewise_weights if is_twin else network.load_weights)(weights)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return f"the {'frame-wise twin' if is_twin else 'network'}'s weights of {path}"
