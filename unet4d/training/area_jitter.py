"""Jitter of the areas of structures over neighboring frames, which needs no label."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unet4d.models.device import to_device

Flags = Sequence[Sequence[bool]]
"""B lists of T; lists, so that no device has to be waited for."""


class AreaJitter:
    """The jitter of each structure's area in each slice over evenly spaced neighboring frames; it needs no label.

    The second difference A[t+1] - 2 A[t] + A[t-1] of the area, squared and summed, over the sum of squared areas: the square of
    `metrics.volume_curves.roughness` (Painchaud et al., IEEE TMI 2022) for probabilities, mean over the structures. The motion of a
    heart bends the curves of all its slices alike and a faulty frame those of some, so slices tell them apart better than volumes.

    Each structure counts by the square of its Dice on the labelled frames of the batch. Without that, a structure that is not
    learned yet stays small, because its first probabilities flicker most. The gradient flows through the second differences alone.

    An area is a sum over one frame, so areas of chunks are those of the clip.
    """

    @staticmethod
    def areas(logits: Tensor, of_regions: bool = False) -> Tensor:
        """Return the area in voxels of each class, or region, in each slice (N, K, Z), float32 or wider.

        Args:
            logits: (N, K, X, Y, Z).
            of_regions: of regions, each with a probability of its own.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return (logits.sigmoid() if of_regions else logits.softmax(1)).sum((2, 3))

    @staticmethod
    def sums(areas: Tensor, compared: Flags) -> Tensor:
        """Return the sums (2, K) from which the jitter is computed, of areas (B, T, K, Z); they add up over clips.

        Per class: the squared second differences, and the squared areas in their middle, each one voxel at least. Three
        neighbors in a row are compared where all of them are flagged.
        """
        triples = [[all(row[t : t + 3]) for t in range(len(row) - 2)] for row in compared]
        chosen = to_device(torch.tensor(triples, dtype=torch.bool), areas.device)[..., None, None]
        jitter, middle = areas.diff(n=2, dim=1) ** 2, areas[:, 1:-1].clamp(min=1) ** 2
        return torch.stack([part.where(chosen, 0).sum((0, 1, 3)) for part in (jitter, middle)])

    @staticmethod
    def from_sums(sums: Tensor, dice: Tensor, of_regions: bool = False) -> Tensor:
        """Return the jitter, a scalar, from the total of `sums` (2, K) and the Dice (K,); 0 where no frames were compared.

        The first of K classes is the background, which does not count; every one of K regions does.
        """
        jitter, middle = sums
        return (dice.detach() ** 2 * jitter / middle.detach().clamp(min=1))[0 if of_regions else 1 :].mean()
