"""Dice + binary cross-entropy of regions, each with an output and a probability of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.nn.functional import softplus

from unet4d.training.loss import FrameTeaching, LabelledFramesLoss


class RegionsLoss(LabelledFramesLoss):
    """Soft Dice over the batch plus binary cross-entropy, each the mean over regions, in float32, of the labelled frames.

    With whole labels it is nnU-Net's loss of regions plus 1 (Isensee et al. 2021; nnunetv2, `DC_and_BCE_loss` with batch Dice).

    Where labels are partly drawn, ignored voxels are in none of the sums, and a frame is in all of them by its weight. Where a
    part of a region was not drawn, the label's background may be that part: such voxels are left out of the region's
    cross-entropy, and the frame of its Dice. Of a dataset with regions `train.loss` names a subclass of this.

    Args:
        regions: the class indices of each region, in the order of the network's outputs; together all but the background.
    """

    rows, of_regions = 5, True

    def __init__(self, regions: Sequence[Sequence[int]]):
        super().__init__()
        self.regions = regions

    def num_classes(self, outputs: int) -> int:
        """Return the number of classes of the label, with the background."""
        return 1 + max(k for classes in self.regions for k in classes)

    def sums(  # type: ignore[override]  # that of classes needs no instance
        self, logits: Tensor, label: Tensor, teaching: FrameTeaching | None = None
    ) -> Tensor:
        """Return the sums (5, K), float32 or wider, of K regions, from which the loss is computed; they add up over frames.

        Per region: its probability where it is true, its probability, its voxels, its cross-entropy, and the voxels of that.

        Args:
            logits: (N, K, X, Y, Z).
            label: (N, X, Y, Z) class indices of any integer type; voxels of no class are ignored where there is a `teaching`.
            teaching: what the labels teach; None: every voxel of every class alike.
        """
        dtype, columns = torch.promote_types(logits.dtype, torch.float32), []
        for region, classes in zip(logits.unbind(1), self.regions, strict=True):
            is_true, values = reduce(torch.logical_or, [label == k for k in classes]), region.to(dtype)
            probability, surprise = values.sigmoid(), softplus(torch.where(is_true, -values, values))
            if teaching is None:
                parts = probability.where(is_true, 0).sum(), probability.sum(), is_true.sum()
                columns.append(torch.stack((*parts, surprise.sum(), values.new_full((), is_true.numel()))))
                continue
            is_drawn = torch.stack([teaching.annotated[:, k] for k in classes]).all(0)
            known = label < self.num_classes(0)
            counted = known & ((label != 0) | is_drawn[:, None, None, None])
            of_dice = (probability.where(is_true, 0), probability.where(known, 0), is_true)
            in_frames = [voxels.sum((1, 2, 3)) * is_drawn for voxels in of_dice]
            in_frames += [voxels.sum((1, 2, 3)) for voxels in (surprise.where(counted, 0), counted)]
            columns.append(torch.stack([(frames * teaching.weights).sum() for frames in in_frames]))
        return torch.stack(columns, 1)

    @staticmethod
    def from_sums(sums: Tensor) -> Tensor:
        """Return the loss, a scalar, from the total of `sums` (5, K); 0 where every voxel is ignored."""
        _, _, _, surprise, counted = sums
        return (1 - RegionsLoss.dice(sums)).mean() + surprise.sum() / counted.sum().clamp(min=1e-5)

    @staticmethod
    def dice(sums: Tensor) -> Tensor:
        """Return the soft Dice of each region (K,) from the total of `sums` (5, K)."""
        return LabelledFramesLoss.dice(sums)
