"""Dice + cross-entropy on the labelled frames only."""

from __future__ import annotations

from monai.losses import DiceCELoss
from torch import Tensor, nn


class LabelledFramesLoss(nn.Module):
    """Soft Dice over the batch plus cross-entropy, in float32, of the frames somebody labelled.

    The labelled frames are selected first; what is left is a plain 3D loss (Milletari et al. 2016 for the Dice part, without the
    background class; Isensee et al. 2021 for the sum). An unlabelled frame adds nothing and its label is never read.
    """

    def __init__(self):
        super().__init__()
        self.loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)

    def forward(self, logits: Tensor, label: Tensor, labelled: Tensor) -> Tensor:
        """The loss, a scalar.

        Args:
            logits: (B, T, K, X, Y, Z).
            label: (B, T, X, Y, Z) int64 class indices.
            labelled: (B, T) bool, at least one True.
        """
        return self.loss(logits[labelled].float(), label[labelled].unsqueeze(1))
