"""Dice + cross-entropy on the labelled frames only, from sums that add up over chunks of a clip."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_SMOOTHING = 1e-5
"""Keeps the Dice of a class that is neither predicted nor present at 1; as in MONAI's DiceLoss."""


class LabelledFramesLoss(nn.Module):
    """Soft Dice over the batch plus cross-entropy, in float32, of the labelled frames.

    The labelled frames are selected first; what is left is a plain 3D loss (Milletari et al. 2016 for the Dice part, without the
    background class; Isensee et al. 2021 for the sum). An unlabelled frame adds nothing and its label is never read.

    Dice couples all voxels of a batch, but only through a few sums. `sums` returns those of any part of the batch, `from_sums` the
    loss of their total, so the loss of a clip can be computed in chunks without a difference.
    """

    def forward(self, logits: Tensor, label: Tensor, labelled: Tensor) -> Tensor:
        """Return the loss, a scalar.

        Args:
            logits: (B, T, K, X, Y, Z).
            label: (B, T, X, Y, Z) class indices.
            labelled: (B, T) bool, at least one True.
        """
        return self.from_sums(self.sums(logits[labelled], label[labelled]))

    @staticmethod
    def sums(logits: Tensor, label: Tensor) -> Tensor:
        """Return the sums (4, K), float32 or wider, from which the loss is computed; they add up over frames.

        Per class k: the probability of k where k is true, the probability of k, the voxels of k, and minus the log-probability of k
        where k is true.

        Args:
            logits: (N, K, X, Y, Z).
            label: (N, X, Y, Z) class indices of any integer type.
        """
        log_probability = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(1)
        predicted = log_probability.exp().sum((0, 2, 3, 4))
        log_probability_of_true = log_probability.gather(1, label.long().unsqueeze(1)).squeeze(1)
        probability_of_true = log_probability_of_true.exp()
        rows = []
        for k in range(logits.shape[1]):
            is_k = label == k
            surprise_of_k = -log_probability_of_true.where(is_k, 0).sum()
            rows.append((probability_of_true.where(is_k, 0).sum(), is_k.sum(), surprise_of_k))
        hit, true, surprise = (torch.stack(column) for column in zip(*rows, strict=True))
        return torch.stack((hit, predicted, true.to(hit), surprise))

    @staticmethod
    def from_sums(sums: Tensor) -> Tensor:
        """Return the loss, a scalar, from the total of `sums` (4, K)."""
        hit, predicted, true, surprise = sums
        dice = (2 * hit + _SMOOTHING) / (predicted + true + _SMOOTHING)
        return (1 - dice[1:]).mean() + surprise.sum() / true.sum()


def level_weights(levels: int) -> list[float]:
    """Return the weight of each level's loss, from full resolution down: half of the one above, 1 in all (Isensee et al. 2021)."""
    halved = [0.5**level for level in range(levels)]
    return [weight / sum(halved) for weight in halved]
