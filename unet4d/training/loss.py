"""Dice + cross-entropy of labelled frames, whole or partly drawn, for clips computed in chunks of frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unet4d.config import RecomputeConfig
from unet4d.errors import InputError
from unet4d.models.chunked import ChunkedRecurrence, Lengths, recompute
from unet4d.models.clstm_unet import CLSTMUNet, DropoutFactors, NetworkState
from unet4d.models.device import to_device
from unet4d.training.area_jitter import AreaJitter, Flags

_SMOOTHING = 1e-5
"""Keeps the Dice of a class that is neither predicted nor present at 1; as in MONAI's DiceLoss."""


class FrameTeaching(NamedTuple):
    """Weights and drawn classes of N frames, where not every voxel of every class teaches alike.

    Attributes:
        weights: (N,) float, of each frame in the loss, above 0.
        annotated: (N, K) bool, the classes that were drawn. The background of a frame may be any of the others.
    """

    weights: Tensor
    annotated: Tensor


class Teaching(NamedTuple):
    """The same for a batch, in lists, so that no device has to be waited for. Without one, every label is whole.

    Attributes:
        weights: B lists of T.
        annotated: B tuples of the foreground classes that were drawn; None: all.
    """

    weights: Sequence[Sequence[float]]
    annotated: Sequence[Sequence[int] | None]

    def part(self, frames: slice) -> Teaching:
        """Return that of a chunk of the frames."""
        return Teaching([row[frames] for row in self.weights], self.annotated)

    def select(self, labelled: Sequence[bool], classes: int, device: torch.device) -> FrameTeaching:
        """Return that of the labelled frames among B * T, on a device, which is not waited for."""
        weights = [weight for row in self.weights for weight in row]
        drawn = [[of is None or not k or k in of for k in range(classes)] for of in self.annotated]
        rows = [drawn[i // len(self.weights[0])] for i, flag in enumerate(labelled) if flag]
        chosen = [weight for weight, flag in zip(weights, labelled, strict=True) if flag]
        tables = torch.tensor(chosen), torch.tensor(rows, dtype=torch.bool).reshape(-1, classes)
        return FrameTeaching(*(to_device(table, device) for table in tables))


class LabelledFramesLoss(nn.Module):
    """Soft Dice over the batch plus cross-entropy, in float32, of the labelled frames.

    The labelled frames are selected first; what is left is a plain 3D loss (Milletari et al. 2016 for the Dice part, without the
    background class; Isensee et al. 2021 for the sum). An unlabelled frame adds nothing and its label is never read.

    Dice couples all voxels of a batch, but only through a few sums. `sums` returns those of any part of the batch, `from_sums` the
    loss of their total, so the loss of a clip can be computed in chunks without a difference.

    Where labels are partly drawn, ignored voxels are in none of the sums, and a frame is in all of them by its weight. Where some
    classes were not drawn, the label's background is the union of background and those classes, with the sum of their
    probabilities (the marginal loss of Shi et al., Med Image Anal 70:101979, 2021; Fang & Yan, IEEE TMI 39:3619, 2020), and the
    frame is not in the Dice of those classes. A class that no frame of a batch teaches adds nothing to the loss.

    `train.loss` names a subclass in its place. It is built without arguments and overrides `from_sums`; also `sums` and `rows`
    where it needs other sums, which must add up over frames. It has no weights and draws no random numbers, so that a resumed run
    is the same; it reads no value of a tensor, so that `plan` can count its memory. One that knows no partly drawn labels raises
    where it gets a `teaching`.

    Attributes:
        rows: of `sums`; with `train.consistency_weight` the first three are these.
        of_regions: the outputs are regions, each with a probability of its own, and not classes of which one is the background.
    """

    rows, of_regions = 4, False

    def num_classes(self, outputs: int) -> int:
        """Return the number of classes of the label, with the background, for a network with this many outputs."""
        return outputs

    def forward(self, logits: Tensor, label: Tensor, labelled: Tensor) -> Tensor:
        """Return the loss, a scalar.

        Args:
            logits: (B, T, K, X, Y, Z).
            label: (B, T, X, Y, Z) class indices.
            labelled: (B, T) bool, at least one True.
        """
        return self.from_sums(self.sums(logits[labelled], label[labelled]))

    @staticmethod
    def sums(logits: Tensor, label: Tensor, teaching: FrameTeaching | None = None) -> Tensor:
        """Return the sums (4, K), float32 or wider, from which the loss is computed; they add up over frames.

        Per class k: the probability of k where k is true, the probability of k, the voxels of k, and minus the log-probability of k
        where k is true.

        Args:
            logits: (N, K, X, Y, Z).
            label: (N, X, Y, Z) class indices of any integer type; voxels of no class are ignored where there is a `teaching`.
            teaching: what the labels teach; None: every voxel of every class alike.
        """
        log_probability = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(1)
        if teaching is None:
            predicted = log_probability.exp().sum((0, 2, 3, 4))
            log_probability_of_true = log_probability.gather(1, label.long().unsqueeze(1)).squeeze(1)
        else:
            predicted, log_probability_of_true = _partial_sums(log_probability, label, teaching)

        def total(voxels: Tensor) -> Tensor:
            return voxels.sum() if teaching is None else (voxels.sum((1, 2, 3)) * teaching.weights).sum()

        probability_of_true = log_probability_of_true.exp()
        rows = []
        for k in range(logits.shape[1]):
            is_k = label == k
            surprise_of_k = -total(log_probability_of_true.where(is_k, 0))
            rows.append((total(probability_of_true.where(is_k, 0)), total(is_k), surprise_of_k))
        hit, true, surprise = (torch.stack(column) for column in zip(*rows, strict=True))
        return torch.stack((hit, predicted, true.to(hit), surprise))

    @staticmethod
    def from_sums(sums: Tensor) -> Tensor:
        """Return the loss, a scalar, from the total of `sums` (4, K); 0 where every voxel is ignored."""
        _, _, true, surprise = sums
        return (1 - LabelledFramesLoss.dice(sums)[1:]).mean() + surprise.sum() / true.sum().clamp(min=_SMOOTHING)

    @staticmethod
    def dice(sums: Tensor) -> Tensor:
        """Return the soft Dice of each class (K,) from the total of `sums` (4, K)."""
        hit, predicted, true, *_ = sums
        return (2 * hit + _SMOOTHING) / (predicted + true + _SMOOTHING)


def _partial_sums(log_probability: Tensor, label: Tensor, teaching: FrameTeaching) -> tuple[Tensor, Tensor]:
    """Return what differs in the sums of labels that are partly drawn; see `LabelledFramesLoss`.

    Returns:
        The probability of each class (K,) over the voxels that count for it; and the log-probability (N, X, Y, Z) of the label,
        with any class that was not drawn for its background. In ignored voxels it means nothing.
    """
    classes = log_probability.shape[1]
    known = (label < classes).unsqueeze(1)
    in_frames = log_probability.exp().where(known, 0).sum((2, 3, 4))
    predicted = (in_frames * teaching.annotated * teaching.weights[:, None]).sum(0)
    is_drawn = teaching.annotated.clone()
    is_drawn[:, 0] = False
    background = log_probability.masked_fill(is_drawn[:, :, None, None, None], -torch.inf).logsumexp(1)
    index = label.long().clamp(max=classes - 1).unsqueeze(1)
    return predicted, torch.where(label == 0, background, log_probability.gather(1, index).squeeze(1))


def level_weights(levels: int) -> list[float]:
    """Return the weight of each level's loss, from full resolution down: half of the one above, 1 in all (Isensee et al. 2021)."""
    halved = [0.5**level for level in range(levels)]
    return [weight / sum(halved) for weight in halved]


class _ClipSums(NamedTuple):
    """Sums over a clip, or over a chunk of its frames, from which the loss is computed.

    Attributes:
        sums: those of `LabelledFramesLoss` of every level (levels, 4, K), or of `RegionsLoss` (levels, 5, K).
        areas: those of `AreaJitter` (B, T, K, Z), 0 in frames that are not decoded; without a `consistency_weight` of no slices.
    """

    sums: Tensor
    areas: Tensor


class ClipLoss(nn.Module):
    """Network and loss in one module, exact for any split into chunks, because only the states pass between frames.

    Each chunk of frames is a gradient checkpoint (Chen et al. 2016, arXiv:1604.06174; through time Gruslys et al. 2016,
    arXiv:1606.03401): the image and the states at its border are kept, its inside is recomputed. With E, D and R for the work
    of encoder, decoder and one direction of recurrence, a step costs 3 (E + D + R) at once and 4 (E + D + R) in chunks; when
    bidirectional 3 (E + D + 2 R) and 8 E + 4 D + 12 R, since the pass backward in time runs the encoder, too. Frames that are
    neither labelled nor compared are not decoded; a frame-wise network, in which they reach no other frame, does not encode them.

    With deep supervision it is the weighted mean of the losses of all levels with a head. The truth of a level is every voxel of
    the label that stands for one of its voxels; see `CLSTMUNet.level_logits`.

    Args:
        network: trained through this loss.
        schedule: how the frames are split, `chunk_frames` 0 for all at once, and what is recomputed; results do not depend on it.
        total: from the sums of the loss over these clips to those over all clips of the batch, where other processes have the rest.
        consistency_weight: of the jitter of areas in the loss; 0: none.
        loss: of the labelled frames; None: that of classes.
    """

    def __init__(
        self,
        network: CLSTMUNet,
        schedule: RecomputeConfig,
        total: Callable[[Tensor], Tensor] | None = None,
        consistency_weight: float = 0.0,
        loss: LabelledFramesLoss | None = None,
    ):
        super().__init__()
        self.network, self.loss, self.recurrence = network, loss or LabelledFramesLoss(), ChunkedRecurrence(network)
        self.total = total or (lambda sums: sums)
        self.jitter, self.consistency_weight = AreaJitter(), consistency_weight
        self.set_recompute(schedule)

    def set_recompute(self, schedule: RecomputeConfig) -> None:
        """Set how the next steps are split into chunks and what they recompute.

        Raises:
            InputError: chunks for a network that is not chunkable.
        """
        chunk, chunks = schedule.chunk_frames, schedule.group_chunks
        if chunk and not self.network.is_chunkable:
            raise InputError(
                f"got recompute.chunk_frames {chunk} for a model.temporal that carries no state from chunk to chunk, expected 0; "
                "leave it out"
            )
        groups = (chunk * chunks,) if chunk and chunks > 1 else ()
        self.lengths = (*groups, chunk) if chunk else ()
        self.network.set_recompute(schedule.stages, schedule.lstm)

    def forward(
        self,
        image: Tensor,
        label: Tensor,
        labelled: Flags,
        dropout: DropoutFactors | None = None,
        compared: Flags | None = None,
        teaching: Teaching | None = None,
    ) -> Tensor:
        """Return the loss, a scalar.

        Args:
            image: (B, T, C, X, Y, Z).
            label: (B, T, X, Y, Z) class indices of any integer type.
            labelled: at least one True.
            dropout: factors of the channels, see `CLSTMUNet.sample_dropout`; None drops none.
            compared: frames to compare the areas of; needed with a `consistency_weight`, else ignored.
            teaching: of labels that are partly drawn; None: every label is whole.
        """
        if not any(any(row) for row in labelled):
            raise InputError("got a batch in which no frame is labelled, expected one or more to train on")
        dropout = None if dropout is None else [to_device(factor, image.device) for factor in dropout]
        lengths = tuple(length for length in self.lengths if length < image.shape[1])
        start: NetworkState = [None] * self.network.num_cells
        decoded = labelled
        if self.consistency_weight:
            assert compared is not None
            decoded = [[any(pair) for pair in zip(*rows, strict=True)] for rows in zip(labelled, compared, strict=True)]
        found, _ = self._sums(image, label, (labelled, decoded), teaching, start, dropout, lengths)
        levels = self.total(found.sums)
        weights = level_weights(len(levels))
        loss = torch.stack([w * self.loss.from_sums(level) for w, level in zip(weights, levels, strict=True)]).sum(0)
        if self.network.skip_recurrence:  # processes that exchange gradients wait for one of every weight
            loss = loss + 0 * torch.stack([weight.sum() for weight in self.network.recurrent.parameters()]).sum()
        if compared is None or not self.consistency_weight:
            return loss
        dice = self.loss.dice(levels[0]).where(levels[0][1] > 0, 0)  # that of a class which nothing teaches is unknown
        jitter = self.jitter.from_sums(self.total(self.jitter.sums(found.areas, compared)), dice, self.loss.of_regions)
        return loss + self.consistency_weight * jitter

    def _sums(
        self,
        image: Tensor,
        label: Tensor,
        flags: tuple[Flags, Flags],
        teaching: Teaching | None,
        start: NetworkState,
        dropout: DropoutFactors | None,
        lengths: Lengths,
    ) -> tuple[_ClipSums, NetworkState]:
        """Return the sums of the loss over these frames, and the state after them.

        Args:
            image, label, teaching, dropout: as in `forward`.
            flags: of the frames that are labelled, and of those that are decoded, as `labelled` in `forward`.
            start: the state before them.
            lengths: how they are split.
        """

        def sums_of_chunk(chunk: slice, state: NetworkState) -> tuple[_ClipSums, NetworkState]:
            rows = tuple([row[chunk] for row in of_clips] for of_clips in flags)
            part = None if teaching is None else teaching.part(chunk)
            return recompute(self._sums, image[:, chunk], label[:, chunk], rows, part, state, dropout, lengths[1:])

        if lengths and image.shape[1] > lengths[0]:
            chunks, after = self.recurrence.run_chunks(image, start, lengths, sums_of_chunk, dropout)
            sums, areas = zip(*chunks, strict=True)
            return _ClipSums(torch.stack(sums).sum(0), torch.cat(areas, 1)), after
        labelled, decoded = ([flag for row in rows for flag in row] for rows in flags)
        strides, dtype = self.network.head_strides, torch.promote_types(image.dtype, torch.float32)
        shape = len(decoded), self.network.out_channels, image.shape[-1] if self.consistency_weight else 0
        found = image.new_zeros(shape, dtype=dtype)
        if not any(decoded):
            none = image.new_zeros((len(strides), self.loss.rows, self.network.out_channels), dtype=dtype)
            return _ClipSums(none, found.unflatten(0, image.shape[:2])), self.recurrence.skip(image, start, dropout)
        frames, truth = _places(decoded, image.device), _select(label.flatten(0, 1), labelled)
        selected = None if all(decoded) else frames
        levels, after = self.network.level_logits(image, start, selected, dropout, deep_supervision=True)
        taught = [flag for flag, is_decoded in zip(labelled, decoded, strict=True) if is_decoded]
        classes = self.loss.num_classes(self.network.out_channels)
        of_frames = None if teaching is None else teaching.select(labelled, classes, image.device)
        sums_of_levels = [
            self.loss.sums(_select(logits, taught), truth[:, ::x, ::y, ::z], of_frames)
            for logits, (x, y, z) in zip(levels, strides, strict=True)
        ]
        if self.consistency_weight:
            found = found.index_copy(0, frames, self.jitter.areas(levels[0], self.loss.of_regions))
        return _ClipSums(torch.stack(sums_of_levels), found.unflatten(0, image.shape[:2])), after


def _select(frames: Tensor, flags: Sequence[bool]) -> Tensor:
    """Return the flagged frames of a tensor (N, ...); itself where all are."""
    return frames if all(flags) else frames.index_select(0, _places(flags, frames.device))


def _places(flags: Sequence[bool], device: torch.device) -> Tensor:
    """Return the indices of the flags that are set, on a device, which is not waited for."""
    return to_device(torch.tensor([i for i, flag in enumerate(flags) if flag], dtype=torch.long), device)
