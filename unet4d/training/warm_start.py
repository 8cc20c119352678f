"""Initial weights from an earlier training, of the same network or of another: what fits is taken, the rest begins anew.

Weights are matched by name, so level by level from full resolution down. Where kernels differ in size alone, they are adapted so
that an image that is constant along an axis gets the answer that it got:

    convolution    a kernel that grows is padded with zeros around its center: it computes what it computed for any image.
                   The taps beyond a smaller kernel are added to its outermost ones, to 1 tap as their sum
    upsampling     its kernel is the stride: each tap is repeated where the stride grows, the mean of taps where it shrinks

The first convolution follows the channels by name and kind. One that the checkpoint does not know begins with the mean of those
that it knows (Carreira & Zisserman 2017, arXiv:1705.07750, inflate kernels in the same spirit). Outputs follow the names of the
classes, or of the regions. A block that couples frames is taken whole or begins anew, with a projection of zeros that leaves the
others' answer as it is.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from unet4d.config import triple
from unet4d.errors import InputError
from unet4d.models.clstm_unet import CLSTMUNet
from unet4d.models.task import Task

_OUTPUTS = "head.", "lower_heads."
"""First parts of the names of weights that have a row per class."""
_STEM = "encoder.0.0.weight"
"""The only weight with a column per channel of the image."""
_BLOCK = "recurrent."
_KNOWN_KERNELS = "input_gates.weight", "hidden_gates.weight"
"""Last parts of the names of a ConvLSTM's kernels; those of other blocks that couple frames may mean anything."""


@dataclass(frozen=True)
class InitialWeights:
    """The weights that a network took from a checkpoint.

    Attributes:
        text: what is taken, adapted, new and left out, for people.
        share: fraction of the network's weights that come from the checkpoint, 0 to 1.
        whole: names of the tensors that come from it with every row and column.
    """

    text: str
    share: float
    whole: tuple[str, ...]


def load_initial_weights(
    network: CLSTMUNet,
    task: Task,
    content: Mapping[str, Any],
    path: str | os.PathLike[str],
    similar: Mapping[str, str] = MappingProxyType({}),
) -> InitialWeights:
    """Load the weights of a checkpoint that fit, as the module says; return a report.

    Args:
        network: keeps its own weights where nothing fits. Frozen ones must all be in the checkpoint.
        task: of the network.
        content: of the checkpoint, see `load_checkpoint`.
        path: of the checkpoint, for messages.
        similar: name of a new output to the checkpoint's output as which it begins.

    Raises:
        InputError: no convolution of the encoder fits, or a frozen weight is missing; the network is left as it was.
    """
    before, own = Task.from_dict(content["task"]), network.state_dict()
    given = {name: weight.float() for name, weight in content["network"].items()}
    channels, classes = _channel_places(before, task), _class_places(before, task, similar)
    fitted: dict[str, Tensor] = {}
    for name, weight in given.items():
        if name == _STEM and weight.shape[1:2] == (len(before.channel_names),):
            mean = weight.mean(1, keepdim=True).expand(-1, len(channels), *weight.shape[2:])
            weight = _follow(weight, channels, 1, mean)
        elif name.startswith(_OUTPUTS) and name in own:
            if weight.shape != (len(before.output_names), *own[name].shape[1:]):
                continue  # outputs that are no classes, or of another width
            weight = _follow(weight, classes, 0, own[name].cpu())
        if name in own and (fitting := _fit(name, weight, own[name].shape)) is not None:
            fitted[name] = fitting
    fitted = _whole_blocks(fitted, given, own)
    _check_encoder(fitted, content, network, path)
    _check_frozen(fitted, network, path)
    network.load_state_dict(fitted, strict=False)
    new_channels, new_classes = ([name for name, at in places.items() if at is None] for places in (channels, classes))
    return _describe(fitted, given, own, new_channels, new_classes, similar, path)


def _channel_places(before: Task, task: Task) -> dict[str, int | None]:
    """Return the place in the checkpoint of each channel, by name and kind; None where it does not know it.

    An only channel may have another name: it is the mean of the only one that the checkpoint knows.
    """
    was, now = (
        list(zip(one.channel_names, one.channel_kinds or ["signal"] * len(one.channel_names), strict=True))
        for one in (before, task)
    )
    if len(was) == len(now) == 1:
        return {task.channel_names[0]: 0}
    return {channel[0]: was.index(channel) if channel in was else None for channel in now}


def _class_places(before: Task, task: Task, similar: Mapping[str, str]) -> dict[str, int | None]:
    """Return the place in the checkpoint of each class, by name, background first, or region; None where it does not know it.

    Outputs of regions and those of classes, of which one is the background, are different numbers: none is taken for another.
    """
    if before.regions or task.regions:
        names = list(before.regions) if task.regions else []
        places = {name: k for k, name in enumerate(names)}
        return {name: places.get(similar.get(name, name)) for name in task.output_names}
    (_, *was), (background, *classes) = before.labels, task.labels
    places = {name: k for k, name in enumerate(was, 1)}
    return {background: 0} | {name: places.get(similar.get(name, name)) for name in classes}


def _follow(weight: Tensor, places: Mapping[str, int | None], axis: int, other: Tensor) -> Tensor:
    """Return the slices of a weight along an axis in the order of `places`, those of `other` where there is no place."""
    slices = [other.select(axis, k) if at is None else weight.select(axis, at) for k, at in enumerate(places.values())]
    return torch.stack(slices, axis)


def _fit(name: str, weight: Tensor, shape: torch.Size) -> Tensor | None:
    """Return a weight in the shape of the network's, its kernel adapted; None where more than the kernel differs."""
    if weight.shape == shape:
        return weight
    is_adaptable = not name.startswith(_BLOCK) or name.endswith(_KNOWN_KERNELS)
    if weight.ndim != 5 or weight.shape[:2] != shape[:2] or not is_adaptable:
        return None
    if name.endswith(".up.weight"):
        return functional.adaptive_avg_pool3d(weight, triple(shape[2:]))
    for axis, size in enumerate(shape[2:], 2):
        weight = resize_kernel(weight, axis, size)
    return weight


def resize_kernel(weight: Tensor, axis: int, size: int) -> Tensor:
    """Return a kernel with `size` taps along an axis: padded with zeros, or the taps beyond added to the outermost ones."""
    place = torch.arange(weight.shape[axis]) - weight.shape[axis] // 2
    index = place.clamp(-(size // 2), size // 2) + size // 2
    resized = weight.new_zeros((*weight.shape[:axis], size, *weight.shape[axis + 1 :]))
    return resized.index_add(axis, index, weight)


def _whole_blocks(fitted: Mapping[str, Tensor], given: Iterable[str], own: Iterable[str]) -> dict[str, Tensor]:
    """Return the fitted weights without those of blocks over time that have others, or lack some, in the checkpoint."""

    def by_block(names: Iterable[str]) -> dict[str, set[str]]:
        blocks: dict[str, set[str]] = {}
        for name in names:
            if name.startswith(_BLOCK):
                blocks.setdefault(_part(name), set()).add(name)
        return blocks

    found, before = by_block(fitted), by_block(given)
    whole = {block for block, names in by_block(own).items() if names == found.get(block) == before.get(block)}
    return {name: weight for name, weight in fitted.items() if not name.startswith(_BLOCK) or _part(name) in whole}


def _part(name: str) -> str:
    """Return the part of the network that a weight belongs to, such as encoder.2 or head."""
    first, second, *_ = name.split(".")
    return first if first == "head" else f"{first}.{second}"


def _check_encoder(
    fitted: Mapping[str, Tensor], content: Mapping[str, Any], network: CLSTMUNet, path: str | os.PathLike[str]
) -> None:
    """Refuse a checkpoint of which no convolution of the encoder fits."""
    if any(name.startswith("encoder.") and weight.ndim == 5 for name, weight in fitted.items()):
        return
    channels = list(content["config"]["model"]["channels"])
    raise InputError(
        f"{path} fits nowhere: it has the channels {channels}, expected some of {list(network.channels)} at the same levels; set "
        f"--model.channels '{channels}', or leave train.init_from out"
    )


def _check_frozen(fitted: Mapping[str, Tensor], network: CLSTMUNet, path: str | os.PathLike[str]) -> None:
    """Refuse to freeze weights that are random."""
    frozen = [name for name, weight in network.named_parameters() if not weight.requires_grad]
    if new := sorted({_part(name) for name in frozen if name not in fitted}):
        raise InputError(
            f"{path} lacks weights of {', '.join(new)}, and train.freeze would keep them random; expected all that is frozen; set "
            "--model.channels and --model.blocks as they were, or leave train.freeze out"
        )


def _describe(
    fitted: Mapping[str, Tensor], given: Mapping[str, Tensor], own: Mapping[str, Tensor], channels: Sequence[str],
    classes: Sequence[str], similar: Mapping[str, str], path: str | os.PathLike[str],
) -> InitialWeights:  # fmt: skip
    """Return what is taken, as text and as a share; `channels` and `classes` are those that begin anew."""
    outputs = [name for name in fitted if name.startswith(_OUTPUTS)]
    sizes = {name: weight.numel() for name, weight in own.items()}
    new = sum(sizes[name] * len(classes) // len(own[name]) for name in outputs)
    share = (sum(sizes[name] for name in fitted) - new) / sum(sizes.values())
    notes = {
        "adapted kernels": sorted({_part(name) for name in fitted if given[name].shape[2:] != own[name].shape[2:]}),
        "channels that begin with the mean of the known": channels if _STEM in fitted else [],
        "outputs that begin as others": [f"{new} as {old}" for new, old in similar.items()] if outputs else [],
        "new outputs": classes if outputs else [],
        "new": sorted({_part(name) for name in own if name not in fitted}),
        "left out": sorted(
            {_part(name) for name in given if name not in fitted and not name.startswith("lower_heads.")}
        ),
    }
    listed = "".join(f"; {what}: {', '.join(names)}" for what, names in notes.items() if names)
    partly = {name for name in fitted if (name == _STEM and channels) or (name in outputs and classes)}
    text = f"{math.floor(1000 * share) / 10:g} % of its {sum(sizes.values()):,} weights from {path}{listed}"
    return InitialWeights(text, share, tuple(sorted(fitted.keys() - partly)))
