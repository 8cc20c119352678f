"""The smoothing of a network's output over time: logits are filtered along the frames, each voxel and class for itself.

A wall that moves crosses a voxel once; what goes to and fro between neighboring frames is noise. The logits are smoothed, not the
label map, because they reflect the distance to a wall: so a curve becomes smooth in steps finer than a voxel. The filter is linear,
and the same for every voxel: it does not matter whether it comes before or after the resampling to the study's grid.

The kernel is the Gaussian one of fourth order (Wand and Schucany, "Gaussian-based kernels", Can. J. Stat. 1990),

    k(t) = (3/2 - t^2 / (2 s^2)) exp(-t^2 / (2 s^2)),     up to a factor.

It leaves a parabola as it is, so it lowers the peaks of a volume curve less than a Gaussian that is as smooth. With a width s of
0.08 cycles, it keeps 99 % of what moves once a cycle, 91 % of what moves twice, 69 % of three times, and 18 % of five times.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unet4d.config import InferenceConfig

SHARE_OF_CYCLE = 0.08
"""Width where none is set, of a cyclic study."""
SMOOTHED_ROWS = 2
"""Copies of a row that exist while it is smoothed."""
_RADIUS = 4
"""Widths after which the kernel is cut off."""


def smoothing_frames(config: InferenceConfig, frames: int, cyclic: bool) -> float:
    """Return the width of the kernel in frames for a study of this many frames; 0: none."""
    if config.temporal_smoothing is not None:
        return config.temporal_smoothing
    return SHARE_OF_CYCLE * frames if cyclic else 0.0


@torch.inference_mode()
def smooth_over_time(logits: Tensor, width: float, cyclic: bool) -> None:
    """Smooth logits over time, in place, row by row.

    Args:
        logits: (T, K, X, Y, Z), changed.
        width: of the kernel, s above, in frames.
        cyclic: whether the last frame leads into the first. Else the first and the last frame stand for those beyond them.
    """
    radius = int(_RADIUS * width + 0.5)
    if radius > 0:
        weights = _weights(len(logits), width, radius, cyclic).to(logits)
        for row in logits.unbind(2):
            row.copy_((weights @ row.flatten(1)).view_as(row))


def _weights(frames: int, width: float, radius: int, cyclic: bool) -> Tensor:
    """Return the share (T, T) float64 of each frame in a smoothed one; rows sum to 1."""
    offsets = torch.arange(-radius, radius + 1)
    squares = (offsets.double() / width) ** 2 / 2
    kernel = (1.5 - squares) * torch.exp(-squares)
    at = torch.arange(frames)[:, None] + offsets
    at = at % frames if cyclic else at.clamp(0, frames - 1)
    weights = torch.zeros(frames, frames, dtype=torch.float64)
    return weights.scatter_add_(1, at, (kernel / kernel.sum()).expand(at.shape))
