"""Dice + cross-entropy on the labelled frames only, from sums that add up over the chunks of frames that a clip is computed in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from unet4d.config import RecomputeConfig
from unet4d.errors import InputError
from unet4d.models.chunked import ChunkedRecurrence, Lengths, recompute
from unet4d.models.clstm_unet import CLSTMUNet, DropoutFactors, NetworkState

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


class ClipLoss(nn.Module):
    """Network and loss in one module, exact for any split into chunks, because only the states pass between frames.

    Each chunk of frames is a gradient checkpoint (Chen et al. 2016, arXiv:1604.06174; through time Gruslys et al. 2016,
    arXiv:1606.03401): the image and the states at its border are kept, its inside is recomputed. With E, D and R for the work
    of encoder, decoder and one direction of recurrence, a step costs 3 (E + D + R) at once and 4 (E + D + R) in chunks; when
    bidirectional 3 (E + D + 2 R) and 8 E + 4 D + 12 R, since the pass backward in time runs the encoder, too. Unlabelled frames
    are not decoded; a frame-wise network, in which they reach no other frame, does not encode them either.

    With deep supervision it is the weighted mean of the losses of all levels with a head. The truth of a level is every voxel of
    the label that stands for one of its voxels; see `CLSTMUNet.level_logits`.

    Args:
        network: trained through this loss.
        schedule: how the frames are split, `chunk_frames` 0 for all at once, and what is recomputed; results do not depend on it.
        total: from the sums of the loss over these clips to those over all clips of the batch, where other processes have the rest.
    """

    def __init__(self, network: CLSTMUNet, schedule: RecomputeConfig, total: Callable[[Tensor], Tensor] | None = None):
        super().__init__()
        self.network, self.loss, self.recurrence = network, LabelledFramesLoss(), ChunkedRecurrence(network)
        self.total = total
        self.set_recompute(schedule)

    def set_recompute(self, schedule: RecomputeConfig) -> None:
        """Set how the next steps are split into chunks and what they recompute."""
        chunk, chunks = schedule.chunk_frames, schedule.group_chunks
        groups = (chunk * chunks,) if chunk and chunks > 1 else ()
        self.lengths = (*groups, chunk) if chunk else ()
        self.network.set_recompute(schedule.stages, schedule.lstm)

    def forward(
        self, image: Tensor, label: Tensor, labelled: Sequence[Sequence[bool]], dropout: DropoutFactors | None = None
    ) -> Tensor:
        """Return the loss, a scalar.

        Args:
            image: (B, T, C, X, Y, Z).
            label: (B, T, X, Y, Z) class indices of any integer type.
            labelled: B lists of T, at least one True; a list, so that no device has to be waited for.
            dropout: factors of the channels, see `CLSTMUNet.sample_dropout`; None drops none.
        """
        if not any(any(row) for row in labelled):
            raise InputError("got a batch in which no frame is labelled, expected one or more to train on")
        dropout = None if dropout is None else [factor.to(image.device, non_blocking=True) for factor in dropout]
        lengths = tuple(length for length in self.lengths if length < image.shape[1])
        start: NetworkState = [None] * self.network.num_cells
        sums, _ = self._sums(image, label, labelled, start, dropout, lengths)
        levels = sums if self.total is None else self.total(sums)
        weights = level_weights(len(levels))
        return torch.stack([w * self.loss.from_sums(level) for w, level in zip(weights, levels, strict=True)]).sum()

    def _sums(
        self,
        image: Tensor,
        label: Tensor,
        labelled: Sequence[Sequence[bool]],
        start: NetworkState,
        dropout: DropoutFactors | None,
        lengths: Lengths,
    ) -> tuple[Tensor, NetworkState]:
        """Return the sums of the loss over these frames, split to these lengths, (levels, 4, K), and the state after them."""

        def sums_of_chunk(chunk: slice, state: NetworkState) -> tuple[Tensor, NetworkState]:
            rows = [row[chunk] for row in labelled]
            return recompute(self._sums, image[:, chunk], label[:, chunk], rows, state, dropout, lengths[1:])

        if lengths and image.shape[1] > lengths[0]:
            chunks, after = self.recurrence.run_chunks(image, start, lengths, sums_of_chunk, dropout)
            return torch.stack(chunks).sum(0), after
        strides = self.network.head_strides
        places = [i for i, is_labelled in enumerate(flag for row in labelled for flag in row) if is_labelled]
        if not places:
            dtype = torch.promote_types(image.dtype, torch.float32)
            sums = image.new_zeros((len(strides), 4, self.network.out_channels), dtype=dtype)
            return sums, self.recurrence.skip(image, start, dropout)
        frames, truth = None, label.flatten(0, 1)
        if len(places) < len(truth):
            frames = torch.tensor(places).to(image.device, non_blocking=True)
            truth = truth.index_select(0, frames)
        levels, after = self.network.level_logits(image, start, frames, dropout, deep_supervision=True)
        sums_of_levels = [
            self.loss.sums(logits, truth[:, ::x, ::y, ::z]) for logits, (x, y, z) in zip(levels, strides, strict=True)
        ]
        return torch.stack(sums_of_levels), after
