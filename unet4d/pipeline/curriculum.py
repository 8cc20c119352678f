"""Clips that grow over a run: the first steps see few frames, of small patches if wished, the last ones all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from unet4d.config import BATCH_SIZE, FRAMES, Config, Size, triple

FRAME_SHARES = (1 / 4, 1 / 2, 1)
"""A third of the run's steps each sees this share of a clip's frames..."""
PLANE_SHARES = (1 / 2, 3 / 4, 1)
"""... and, where patches grow, of the patch's edges in the plane."""
FEWEST_FRAMES = 2
"""No clip is cut below this many frames: one alone would teach the recurrence nothing."""
NARROWEST = 2
"""No edge is cut below this many voxels of the bottleneck, whose instance norm needs more than one."""


class Stage(NamedTuple):
    """A part of a run whose clips are alike.

    Attributes:
        first_step: the run's step that it begins with.
        first_clip: the number of that step's first clip.
        frames: T of a clip.
        patch_size: voxels (X, Y, Z).
    """

    first_step: int
    first_clip: int
    frames: int
    patch_size: Size


def stages(config: Config, total_stride: Sequence[int]) -> list[Stage]:
    """The stages of a run, as `train.growth` says; the last one sees clips as they are configured.

    As video networks are trained on coarse clips before fine ones (Wu et al. 2020, arXiv:1912.00998), and nnU-Net on patches that
    grow (Fischer et al. 2024, arXiv:2407.07853).

        8 frames of 64 x 64 x 8, stride 16 x 16 x 2, 300 steps:
            clips      2 frames   from step 0     4 from 100     8 from 200
            patches    of 32 x 32 x 8             48 x 48 x 8    64 x 64 x 8

    Args:
        config: resolved.
        total_stride: of the network; patches stay multiples of it.
    """
    train, frames, patch = config.train, config.data.frames or FRAMES, triple(config.data.patch_size or ())
    steps, clips = train.epochs * train.steps_per_epoch, (train.batch_size or BATCH_SIZE) * train.accumulate_batches
    found: list[Stage] = []
    for part, (share, plane) in enumerate(zip(FRAME_SHARES, PLANE_SHARES, strict=True)):
        first = steps * part // len(FRAME_SHARES)
        seen, size = frames, patch
        if train.growth != "off":
            seen = max(min(FEWEST_FRAMES, frames), math.ceil(share * frames))
        if train.growth == "patches":
            x, y = (_cut(n, plane, multiple) for n, multiple in zip(patch[:2], total_stride[:2], strict=True))
            size = (x, y, patch[2])
        if found and found[-1].first_step == first:
            found.pop()  # of no step at all
        if not found or found[-1][2:] != (seen, size):
            found.append(Stage(first, first * clips, seen, size))
    return found


def _cut(edge: int, share: float, multiple: int) -> int:
    """This share of an edge, rounded up to a multiple, and no narrower than `NARROWEST` of them where the edge is not."""
    return min(edge, multiple * max(NARROWEST, math.ceil(share * edge / multiple)))
