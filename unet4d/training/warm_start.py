"""Initial weights from an earlier training: of the frame-wise baseline, or of the same network."""

from __future__ import annotations

import os
from typing import Any

from unet4d.errors import InputError
from unet4d.models.checkpoint import Task
from unet4d.models.clstm_unet import CLSTMUNet


def load_initial_weights(network: CLSTMUNet, task: Task, content: dict[str, Any], path: str | os.PathLike[str]) -> str:
    """Load the weights of a checkpoint that was trained for the same task; return their description.

    Weights without recurrence are those of the frame-wise baseline; recurrent layers then keep their own. As their projections
    start at zero, a new network computes what the baseline computes.

    Raises:
        InputError: the checkpoint's classes, channels or layers differ; names the difference.
    """
    before, weights = Task.from_dict(content["task"]), content["network"]
    for what, got, expected in (
        ("classes", list(before.labels), list(task.labels)),
        ("channels", before.channel_names, task.channel_names),
        ("kinds of channels", before.channel_kinds, task.channel_kinds),
    ):
        if got != expected:
            raise InputError(
                f"{path} was trained for the {what} {', '.join(got)}, expected {', '.join(expected)}; start from a run on such a "
                "dataset, or leave train.init_from out"
            )
    is_baseline = not network.is_frame_wise and not any(name.startswith("recurrent.") for name in weights)
    try:
        (network.load_framewise_weights if is_baseline else network.load_weights)(weights)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return f"the weights of the {'frame-wise baseline' if is_baseline else 'same network'} in {path}"
