"""The loss of a batch of clips, computed in chunks of frames between which only the ConvLSTMs' states are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from unet4d.config import RecomputeConfig
from unet4d.errors import InputError
from unet4d.models.chunked import ChunkedRecurrence, Lengths, recompute
from unet4d.models.clstm_unet import CLSTMUNet, DropoutFactors, NetworkState
from unet4d.training.loss import LabelledFramesLoss, level_weights


class ClipLoss(nn.Module):
    """Network and loss in one, exact however the frames are cut, since the states are all that passes between frames.

    Each chunk of frames is a gradient checkpoint (Chen et al. 2016, arXiv:1604.06174; through time Gruslys et al. 2016,
    arXiv:1606.03401): kept are the image and the states at its border, its inside is computed again. With E, D and R for the work
    of encoder, decoder and one direction of recurrence, a step costs 3 (E + D + R) at once and 4 (E + D + R) in chunks; when
    bidirectional 3 (E + D + 2 R) and 8 E + 4 D + 12 R, since the sweep back runs the encoder, too. Unlabelled frames are not
    decoded; a frame-wise network, in which they reach no other frame, does not encode them either.

    With deep supervision it is the weighted mean of the losses of all taught levels, whose truth is every voxel that stands for one
    of theirs; see `CLSTMUNet.deep_supervision_logits`.

    Args:
        network: trained through this loss.
        memory: how the frames are cut, and what is computed again inside; results do not depend on it.
        total: from the sums of the loss over these clips to those over all clips of the batch, where others have the rest.
    """

    def __init__(self, network: CLSTMUNet, memory: RecomputeConfig, total: Callable[[Tensor], Tensor] | None = None):
        super().__init__()
        self.network, self.loss, self.sweeps = network, LabelledFramesLoss(), ChunkedRecurrence(network)
        self.total = total
        self.use(memory)

    def use(self, memory: RecomputeConfig) -> None:
        """Change how a step is cut; the next one is computed so."""
        chunk = memory.chunk_frames or 0
        groups = [chunk * memory.group_chunks] if memory.group_chunks > 1 else []
        self.lengths = (*groups, chunk) if chunk else ()
        self.network.keep(memory.lstm)
        self.network.checkpoint_stages = memory.stages

    def forward(
        self, image: Tensor, label: Tensor, labelled: Sequence[Sequence[bool]], kept: DropoutFactors | None = None
    ) -> Tensor:
        """The loss, a scalar.

        Args:
            image: (B, T, C, X, Y, Z).
            label: (B, T, X, Y, Z) class indices of any integer type.
            labelled: B lists of T, at least one True; a list, so that no device has to be waited for.
            kept: channels that dropout keeps, see `CLSTMUNet.sample_dropout`; None drops none.
        """
        if not any(any(row) for row in labelled):
            raise InputError(
                "no frame of this batch is labelled; wanted one or more, for there is nothing to learn from"
            )
        kept = None if kept is None else [factor.to(image.device, non_blocking=True) for factor in kept]
        lengths = tuple(length for length in self.lengths if length < image.shape[1])
        cold: NetworkState = [None] * self.network.cells
        sums, _ = self._sums(image, label, labelled, cold, kept, lengths)
        levels = sums if self.total is None else self.total(sums)
        weights = level_weights(len(levels))
        return torch.stack([w * self.loss.of(level) for w, level in zip(weights, levels, strict=True)]).sum()

    def _sums(
        self,
        image: Tensor,
        label: Tensor,
        labelled: Sequence[Sequence[bool]],
        start: NetworkState,
        kept: DropoutFactors | None,
        lengths: Lengths,
    ) -> tuple[Tensor, NetworkState]:
        """The sums of the loss over these frames, cut to these lengths, (levels, 4, K), and the state after them."""

        def of_piece(here: slice, state: NetworkState) -> tuple[Tensor, NetworkState]:
            rows = [row[here] for row in labelled]
            return recompute(self._sums, image[:, here], label[:, here], rows, state, kept, lengths[1:])

        if lengths and image.shape[1] > lengths[0]:
            sums, after = self.sweeps.through(image, start, lengths, of_piece, kept)
            return torch.stack(sums).sum(0), after
        places = [i for i, here in enumerate(here for row in labelled for here in row) if here]
        if not places:
            dtype = torch.promote_types(image.dtype, torch.float32)
            shape = (len(self.network.head_strides), 4, self.network.out_channels)
            return image.new_zeros(shape, dtype=dtype), self.sweeps.after(image, start, kept)
        chosen, truth = None, label.flatten(0, 1)
        if len(places) < len(truth):
            chosen = torch.tensor(places).to(image.device, non_blocking=True)
            truth = truth.index_select(0, chosen)
        logits, after = self.network.deep_supervision_logits(image, start, chosen, kept)
        taught = zip(logits, self.network.head_strides, strict=True)
        return torch.stack([self.loss.sums(level, truth[:, ::x, ::y, ::z]) for level, (x, y, z) in taught]), after
