"""The memory that a network needs for one window, counted on tensors without content."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from unet4d.config import ResolvedModelConfig
from unet4d.inference.window_predictor import in_chunks
from unet4d.models.clstm_unet import CLSTMUNet, can_be_chunked
from unet4d.models.device import autocast
from unet4d.models.memory_trace import MemoryTrace

ALL_AT_ONCE = 4
"""Frames counted; what more of them take follows from the difference."""
HELD_SHARE = 1.25
"""Factor of what the allocator keeps over what is alive at once while a network computes, see `keep_freed_memory`; measured 1.0
to 1.2. A single frame of a small window takes some MB more, which the reserve of `MemoryBudget.left_bytes` covers."""
GENEROUS = 20
"""Values a voxel and frame for each channel of the first level, more than twice what any shipped configuration needs (about 8)."""


class WindowMemory(NamedTuple):
    """Bytes for a window of any number of frames, computed any number at once.

    Attributes:
        fixed_bytes: whatever the frames are.
        frame_bytes: for each frame computed at once.
        kept_bytes: for each frame of the study, its image and its logits.
        averaged_bytes: for each frame of the study, where several passes are averaged, another image and their sum.
        frame_elements: of the largest tensor, for each frame computed at once.
        chunkable: whether fewer than all frames may be computed at once.
    """

    fixed_bytes: int
    frame_bytes: int
    kept_bytes: int
    averaged_bytes: int
    frame_elements: int = 0
    chunkable: bool = True

    def needed(self, frames: int, at_once: int, averaged: bool = False) -> int:
        """Return the bytes for this many frames."""
        kept_bytes = self.kept_bytes + averaged * self.averaged_bytes
        together = min(at_once, frames) if self.chunkable else frames
        alive = self.fixed_bytes + together * self.frame_bytes
        return round(HELD_SHARE * alive) + frames * kept_bytes

    def fitting(self, frames: int, budget_bytes: float, averaged: bool = False) -> int:
        """Return the most frames at once that fit the budget; where none do, the fewest that can be."""
        at_once = frames
        while self.chunkable and at_once > 1 and self.needed(frames, at_once, averaged) > budget_bytes:
            at_once = -(-at_once // 2)
        return at_once


def window_memory(
    config: ResolvedModelConfig, in_channels: int, out_channels: int, roi_size: Sequence[int], precision: str
) -> WindowMemory:
    """Count the memory of a window of `roi_size`, by running the network on tensors without content; once for the same arguments.

    Args:
        config: of the network.
        in_channels: channels C of a frame.
        out_channels: classes K.
        roi_size: voxels (X, Y, Z).
        precision: "bf16", "fp16", "tf32" or "fp32".
    """
    return _window_memory(json.dumps(asdict(config)), in_channels, out_channels, tuple(roi_size), precision)


def generous_bytes(
    config: ResolvedModelConfig, in_channels: int, out_channels: int, roi_size: Sequence[int], frames: int
) -> float:
    """Return more than a window of this many frames, computed at once, ever takes: where that fits, nothing need be counted.

    What a block of the user's takes is not known: infinity.
    """
    if config.temporal is not None:
        return math.inf
    values = GENEROUS * config.channels[0] + 3 * in_channels + 5 * out_channels
    kernel = max(map(math.prod, config.kernel_size))
    # Of the largest convolution, two to one, in another precision and in another layout.
    copied_weights = 2 * kernel * 2 * max(config.channels) ** 2
    return 4 * (math.prod(roi_size) * frames * values + copied_weights)


@functools.lru_cache
def _window_memory(
    config: str, in_channels: int, out_channels: int, roi_size: tuple[int, ...], precision: str
) -> WindowMemory:
    def counted(frames: int) -> tuple[int, int]:
        with FakeTensorMode(), torch.no_grad():
            network = CLSTMUNet(model, in_channels, out_channels).eval()
            clip = torch.empty(1, frames, in_channels, *roi_size)
            with MemoryTrace() as trace, autocast(torch.device("cpu"), precision):
                logits = in_chunks(network, clip, frames, cyclic=False)
                del logits
            return trace.working_bytes, trace.largest_elements

    model = ResolvedModelConfig(**json.loads(config))
    (one, _), (more, elements) = counted(1), counted(ALL_AT_ONCE)
    frame_bytes = (more - one) / (ALL_AT_ONCE - 1)
    voxels = math.prod(roi_size)
    # The window as it is read and laid out, its logits in chunks, as one, and where they are stitched.
    kept_bytes = 4 * voxels * (2 * in_channels + 3 * out_channels)
    averaged_bytes = 4 * voxels * (in_channels + 2 * out_channels)
    frame_elements = -(-elements // ALL_AT_ONCE)
    fixed_bytes, chunkable = max(0, round(one - frame_bytes)), can_be_chunked(model)
    return WindowMemory(fixed_bytes, round(frame_bytes), kept_bytes, averaged_bytes, frame_elements, chunkable)
