"""Dice + cross-entropy on the labelled frames only, in a form that can be summed over pieces of a clip."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_SMOOTHING = 1e-5
"""Keeps the Dice of a class that is neither predicted nor there at 1; as in MONAI's DiceLoss."""


class LabelledFramesLoss(nn.Module):
    """Soft Dice over the batch plus cross-entropy, in float32, of the frames somebody labelled.

    The labelled frames are selected first; what is left is a plain 3D loss (Milletari et al. 2016 for the Dice part, without the
    background class; Isensee et al. 2021 for the sum). An unlabelled frame adds nothing and its label is never read.

    Dice couples all voxels of a batch, but through a few sums only. `sums` gives those of any part of the batch, `of` the loss of
    their total, so the loss of a clip can be taken piece by piece and is what it would have been at once.
    """

    def forward(self, logits: Tensor, label: Tensor, labelled: Tensor) -> Tensor:
        """The loss, a scalar.

        Args:
            logits: (B, T, K, X, Y, Z).
            label: (B, T, X, Y, Z) class indices.
            labelled: (B, T) bool, at least one True.
        """
        return self.of(self.sums(logits[labelled], label[labelled]))

    @staticmethod
    def sums(logits: Tensor, label: Tensor) -> Tensor:
        """What the loss needs to know of some frames: (4, K), float32 or wider; adds up over frames.

        Per class k: the probability of k where k is true, the probability of k, the voxels of k, and minus the log-probability of k
        where k is true.

        Args:
            logits: (N, K, X, Y, Z).
            label: (N, X, Y, Z) class indices of any integer type.
        """
        log_probability = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(1)
        predicted = log_probability.exp().sum((0, 2, 3, 4))
        log_of_true = log_probability.gather(1, label.long().unsqueeze(1)).squeeze(1)
        of_true = log_of_true.exp()
        rows = []
        for k in range(logits.shape[1]):
            here = label == k
            rows.append((of_true.where(here, 0).sum(), here.sum(), -log_of_true.where(here, 0).sum()))
        hit, true, surprise = (torch.stack(column) for column in zip(*rows, strict=True))
        return torch.stack((hit, predicted, true.to(hit), surprise))

    @staticmethod
    def of(sums: Tensor) -> Tensor:
        """The loss, a scalar, from the total of `sums` (4, K)."""
        hit, predicted, true, surprise = sums
        dice = (2 * hit + _SMOOTHING) / (predicted + true + _SMOOTHING)
        return (1 - dice[1:]).mean() + surprise.sum() / true.sum()


def level_weights(levels: int) -> list[float]:
    """What the loss of each level counts, from full resolution down: half of the one above; 1 in all (Isensee et al. 2021)."""
    halved = [0.5**level for level in range(levels)]
    return [weight / sum(halved) for weight in halved]
