"""Several networks that answer together: the mean of their probabilities, one network's answer in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from unet4d.errors import InputError
from unet4d.images.time_axis import time_axis
from unet4d.models.checkpoint import TrainedModel


def check_compatible(models: Sequence[TrainedModel]) -> None:
    """See that models can answer together: one working grid, the same input, the same classes.

    Raises:
        InputError: there are none; or names two that differ, and in what.
    """
    if not models:
        raise InputError("no model came; wanted one or more; give runs or checkpoints")
    first, *others = models
    wanted = _shared(first)
    for other in others:
        for what, came in _shared(other).items():
            if came != wanted[what]:
                raise InputError(
                    f"{other.path} and {first.path} cannot answer together: {what} {came} and {wanted[what]} came; wanted the same "
                    "labels, channels, kinds, time, spacing and normalization; name models that share them"
                )


@torch.inference_mode()
def mean_logits(answers: Iterable[Tensor]) -> Tensor:
    """Logits (T, K, X, Y, Z) whose softmax is the mean of the answers' softmaxes; of one answer alone, the answer itself.

    They are the logarithm of the summed probabilities: so the mean of a network with itself is that network, resampled or not.

    Args:
        answers: logits (T, K, X, Y, Z) float32 of one network after the other. Only the first is kept, and overwritten.
    """
    together: Tensor | None = None
    summed = False
    for answer in answers:  # not enumerated: that would hold an answer while the next is computed
        if together is None:
            together = answer
        else:
            _add(together, answer, summed)
            summed = True
        del answer
    assert together is not None
    return together


def _add(together: Tensor, answer: Tensor, summed: bool) -> None:
    """Add an answer's probabilities to `together`, which holds logits yet unless it is `summed`."""
    for total, frame in zip(together, answer, strict=True):  # frame by frame: no further copy of a study's logits
        frame = frame.to(total.device)  # one network may have gone on in main memory
        torch.logaddexp(total if summed else total.log_softmax(0), frame.log_softmax(0), out=total)


def _shared(model: TrainedModel) -> dict[str, Any]:
    """What models that answer together have in common; the order of labels is that of the network's classes."""
    task, data = model.task, model.config.data
    return {
        "labels": list(task.labels.items()),
        "channels": list(task.channel_names),
        "kinds": list(task.channel_kinds) or ["signal"] * len(task.channel_names),
        "time": time_axis(task.cyclic),
        "spacing (mm in plane, between slices)": (data.in_plane_spacing_mm, data.slice_spacing_mm),
        "normalization": data.normalization,
    }
