"""The smoothing of a network's output over time: logits are filtered by a Gaussian, frame by frame for each voxel and class.

A wall that moves crosses a voxel once; what goes to and fro between neighboring frames is noise. The logits are smoothed, not the
label map, because they say how near to a wall a voxel is: so a curve becomes smooth in steps finer than a voxel. The filter is
linear, and the same for every voxel: it does not matter whether it comes before or after the resampling to the study's grid. It
damps fast motions: with a standard deviation of 0.05 cycles, it keeps 95 % of what moves once a cycle, 82 % of what moves twice
and 64 % of what moves three times.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unet4d.config import InferenceConfig

SHARE_OF_CYCLE = 0.05
"""Standard deviation where none is set, of a cyclic study."""
SMOOTHED_ROWS = 2
"""Copies of a row that exist while it is smoothed."""
_RADIUS = 3
"""Standard deviations after which the Gaussian is cut off."""


def smoothing_frames(config: InferenceConfig, frames: int, cyclic: bool) -> float:
    """Return the standard deviation in frames for a study of this many frames; 0: none."""
    if config.temporal_smoothing is not None:
        return config.temporal_smoothing
    return SHARE_OF_CYCLE * frames if cyclic else 0.0


@torch.inference_mode()
def smooth_over_time(logits: Tensor, sigma: float, cyclic: bool) -> None:
    """Smooth logits over time, in place, row by row.

    Args:
        logits: (T, K, X, Y, Z), changed.
        sigma: standard deviation in frames.
        cyclic: whether the last frame leads into the first. Else the first and the last frame stand for those beyond them.
    """
    radius = int(_RADIUS * sigma + 0.5)
    if radius > 0:
        weights = _weights(len(logits), sigma, radius, cyclic).to(logits)
        for row in logits.unbind(2):
            row.copy_((weights @ row.flatten(1)).view_as(row))


def _weights(frames: int, sigma: float, radius: int, cyclic: bool) -> Tensor:
    """Return the share (T, T) float64 of each frame in a smoothed one; rows sum to 1."""
    offsets = torch.arange(-radius, radius + 1)
    gaussian = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    at = torch.arange(frames)[:, None] + offsets
    at = at % frames if cyclic else at.clamp(0, frames - 1)
    return torch.zeros(frames, frames, dtype=torch.float64).scatter_add_(
        1, at, (gaussian / gaussian.sum()).expand(at.shape)
    )
