"""Ensembles: the mean of several networks' probabilities, with one network's logits in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from unet4d.errors import InputError
from unet4d.images.time_axis import time_axis
from unet4d.models.checkpoint import TrainedModel


def check_compatible(models: Sequence[TrainedModel]) -> None:
    """Check that models can form an ensemble: one working grid, the same input, the same classes.

    Raises:
        InputError: there are none; or names two that differ, and the difference.
    """
    if not models:
        raise InputError("got no model, expected one or more; give runs or checkpoints")
    first, *others = models
    expected = _shared(first)
    for other in others:
        for what, got in _shared(other).items():
            if got != expected[what]:
                raise InputError(
                    f"{other.path} and {first.path} cannot form an ensemble: got {what} {got} and {expected[what]}, expected the "
                    "same; name models that share labels, channels, kinds, time, spacing and normalization"
                )


@torch.inference_mode()
def mean_logits(members: Iterable[Tensor], of_regions: bool = False) -> Tensor:
    """Return logits (T, K, X, Y, Z) with the mean of the members' probabilities; of one member, its own.

    Of classes they are the logarithm of the summed softmaxes, so the mean of a network with itself is that network. Of regions
    the mean is that of the sigmoids.

    Args:
        members: logits (T, K, X, Y, Z) float32 of one network after the other. Only the first is kept, and overwritten.
        of_regions: the K outputs are regions, each with a probability of its own.
    """
    total: Tensor | None = None
    added = 0
    for logits in members:  # not enumerated: that would hold the logits while the next are computed
        if total is None:
            total = logits
        else:
            (_average if of_regions else _add)(total, logits, added)
            added += 1
        del logits
    assert total is not None
    return total


def _add(total: Tensor, logits: Tensor, added: int) -> None:
    """Add probabilities to `total`, which holds the first member's logits before any were `added`."""
    for summed, frame in zip(total, logits, strict=True):  # frame by frame: no further copy of a study's logits
        frame = frame.to(summed.device)  # a network may have continued in main memory
        torch.logaddexp(summed if added else summed.log_softmax(0), frame.log_softmax(0), out=summed)


def _average(total: Tensor, logits: Tensor, added: int) -> None:
    """Put the mean of sigmoids in place of `total`, the mean of the first member and those `added` before."""
    weight = math.log1p(added)
    for mean, frame in zip(total, logits, strict=True):
        frame = frame.to(mean.device)
        inside, outside = (torch.logaddexp(weight + logsigmoid(s * mean), logsigmoid(s * frame)) for s in (1, -1))
        torch.sub(inside, outside, out=mean)


def _shared(model: TrainedModel) -> dict[str, Any]:
    """Return what the models of an ensemble share; the order of labels is that of the network's classes."""
    task, data = model.task, model.config.data
    return {
        "labels": list(task.labels.items()),
        "regions": [(name, region.as_dict()) for name, region in task.regions.items()],
        "channels": list(task.channel_names),
        "kinds": list(task.channel_kinds) or ["signal"] * len(task.channel_names),
        "time": time_axis(task.cyclic),
        "spacing (mm in plane, between slices)": (data.in_plane_spacing_mm, data.slice_spacing_mm),
        "interpolation": data.interpolation,
        "normalization": data.normalization,
    }
