"""The CLSTM-UNet: a 3D U-Net that sees each frame alone, with ConvLSTMs on its skips and bottleneck that see all frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unet4d.config import ResolvedModelConfig
from unet4d.errors import InputError
from unet4d.models.blocks import ResidualTemporal, UpBlock, encoder_stage
from unet4d.models.conv import Convolution
from unet4d.models.scan import Keep
from unet4d.models.temporal import BlockState
from unet4d.models.topology import check_divisible, total_stride

LevelStates = list[BlockState]
"""States of one cell at every level, from full resolution to the bottleneck; None is a state of zeros, or no cell there."""
NetworkState = list[LevelStates | None]
"""States of every cell: layer 0 forward, (layer 0 backward,) layer 1 forward, ... as in `TemporalBlock`; None stands for zeros."""
DropoutFactors = list[Tensor]
"""A factor (B, C) for every channel of each level, 0 where it is dropped."""
MOST_ELEMENTS = 2**31 - 1
"""Elements of the largest tensor that a kernel indexes with 32 bits; kernels for more are slow or missing."""


class CLSTMUNet(nn.Module):
    """The CLSTM-UNet on (B, T, C, X, Y, Z), giving logits (B, T, K, X, Y, Z).

    Encoder and decoder see each frame alone (Çiçek et al. 2016, the 3D U-Net); ConvLSTM3d layers on the skip paths and at the
    bottleneck (Shi et al. 2015; Arbelle & Riklin Raviv 2019) are all that couples frames. Any T works. `model.temporal` may put
    another `TemporalBlock` in place of each ConvLSTM.

    Args:
        config: levels, strides, kernels, blocks, ConvLSTMs, dropout (whole channels, Tompson et al. 2015; the same ones in all
            frames of a clip, Gal & Ghahramani 2016) and deep supervision: a head for every level of the decoder below full
            resolution, for training alone (Lee et al. 2015, arXiv:1409.5185; Isensee et al. 2021).
        in_channels: channels C of a frame.
        out_channels: classes K, background included.
    """

    def __init__(self, config: ResolvedModelConfig, in_channels: int, out_channels: int):
        super().__init__()
        channels, strides, kernels = config.channels, config.strides, config.kernel_size
        levels = len(channels)
        self.in_channels, self.out_channels, self.channels = in_channels, out_channels, tuple(channels)
        self.dropout, self.checkpoint_stages, self.skip_recurrence = config.dropout, False, False
        self.total_stride = total_stride(strides)
        self.encoder = nn.ModuleList(
            encoder_stage(config.blocks, i, before, channels[i], kernels[i], stride)
            for i, (before, stride) in enumerate(zip([in_channels, *channels], [(1, 1, 1), *strides], strict=False))
        )
        self.decoder = nn.ModuleList(
            UpBlock(channels[i + 1], channels[i], kernels[i], strides[i]) for i in range(levels - 1)
        )
        self.head = Convolution(channels[0], out_channels)
        # After these, so that one seed gives a network and its frame-wise baseline the same weights where they share them.
        self.recurrent = nn.ModuleDict(
            {
                str(i): ResidualTemporal(
                    channels[i], hidden, kernels[i], config.lstm_layers, config.direction, config.temporal
                )
                for i, hidden in enumerate(config.lstm_channels)
                if hidden
            }
        )
        # Last, for the same reason.
        self.lower_heads = nn.ModuleDict(
            {str(i): Convolution(channels[i], out_channels) for i in range(1, levels - 1) if config.deep_supervision}
        )
        self.head_strides = [(1, 1, 1), *(total_stride(strides[: int(level)]) for level in self.lower_heads)]

    @property
    def is_frame_wise(self) -> bool:
        """Return whether no layer couples frames: the frame-wise baseline, or any network while `skip_recurrence` is set."""
        return self.skip_recurrence or len(self.recurrent) == 0

    @property
    def num_cells(self) -> int:
        """Return the cells of a level, layers times directions; 0 for the frame-wise baseline and for blocks without states."""
        return max((recurrent.lstm.num_cells for recurrent in self._recurrent_levels()), default=0)

    @property
    def is_chunkable(self) -> bool:
        """Return whether frames may be computed in chunks: no layer couples frames, or states carry all that passes between."""
        return all(recurrent.lstm.num_cells for recurrent in self._recurrent_levels())

    @property
    def num_directions(self) -> int:
        """Return 2 for a bidirectional network, else 1."""
        return max((recurrent.lstm.num_directions for recurrent in self._recurrent_levels()), default=1)

    def set_recompute(self, stages: bool, lstm: Keep) -> None:
        """Set whether encoder stages are computed twice, and what ConvLSTMs keep for the backward pass; see `RecomputeConfig`."""
        self.checkpoint_stages = stages
        for recurrent in self.recurrent.values():
            cast(ResidualTemporal, recurrent).lstm.keep = lstm

    def forward(
        self, x: Tensor, state: NetworkState | None = None, cyclic: bool = False, priming_frames: int | None = None
    ) -> Tensor:
        """Return the logits (B, T, K, X, Y, Z) of `x` (B, T, C, X, Y, Z); see `step` for the arguments."""
        return self.step(x, state, cyclic, priming_frames)[0]

    def step(
        self, x: Tensor, state: NetworkState | None = None, cyclic: bool = False, priming_frames: int | None = None
    ) -> tuple[Tensor, NetworkState]:
        """Return the logits of these frames, and the state to pass on with the frames that follow.

        Args:
            x: (B, T, C, X, Y, Z); X, Y, Z multiples of `total_stride`.
            state: what an earlier call returned, or None for a state of zeros.
            cyclic: the last frame leads into the first: each ConvLSTM runs over the loop once before the run that counts.
            priming_frames: of a cyclic study, the frames of that first run, see `InferenceConfig`; None: all.

        Raises:
            InputError: a wrong shape.
        """
        dropout = self.sample_dropout(len(x)) if self.training else None
        [logits], after = self.level_logits(x, state, dropout=dropout, cyclic=cyclic, priming_frames=priming_frames)
        return logits.unflatten(0, x.shape[:2]), after

    def level_logits(
        self,
        x: Tensor,
        state: NetworkState | None = None,
        frames: Tensor | None = None,
        dropout: DropoutFactors | None = None,
        cyclic: bool = False,
        deep_supervision: bool = False,
        priming_frames: int | None = None,
    ) -> tuple[list[Tensor], NetworkState]:
        """Return the logits of every level with a head, and the state after all frames.

        Voxel (i, j, k) of a level of stride (a, b, c), see `head_strides`, stands for voxel (a i, b j, c k) of `x`.

        Args:
            x, state: as in `step`.
            frames: indices in B*T of the frames to decode; None decodes all.
            dropout: factors of the channels, see `sample_dropout`.
            cyclic, priming_frames: as in `step`.
            deep_supervision: also compute the logits of the lower levels.

        Returns:
            Logits (N, K, X, Y, Z) of full resolution, then of the lower levels if asked for; and the state.
        """
        # Encoder: each frame alone. Without recurrence, only frames that are decoded need it.
        features = self._encode(x, dropout, frames if self.is_frame_wise else None)
        # Recurrence: on every level a ConvLSTM, or another block, adds what it sees in all frames.
        primed = limit_priming(x.shape[1], priming_frames) if cyclic else 0
        features, after = self._recur(features, x.shape[:2], state, frames, primed)
        # Decoder: each frame alone.
        return self._decode(features, deep_supervision), after

    def final_network_state(
        self, x: Tensor, state: NetworkState, index: int, dropout: DropoutFactors | None = None
    ) -> NetworkState:
        """Return the state of a cell after the frames of `x` (B, T, C, X, Y, Z), at every level; nothing is decoded.

        A forward network gives the state of all its cells. A bidirectional one gives None for the others, and runs no cell that
        this one does not need.

        Args:
            x, state, dropout: as in `level_logits`.
            index: place of the cell in `NetworkState`.
        """
        if not self.num_cells:
            return []
        by_level: list[Sequence[BlockState] | None] = []
        for level, features in enumerate(self._encode(x, dropout)):
            recurrent, after = self._recurrent(level), None
            if recurrent:
                clip, before = features.unflatten(0, x.shape[:2]), _at_level(state, level)
                if self.num_directions == 1:
                    after = recurrent.lstm(clip, before)[1]
                else:
                    after = [None] * self.num_cells
                    after[index] = recurrent.lstm.final_cell_state(clip, before, index)
            by_level.append(after)
        return self._by_cell(by_level)

    def sample_dropout(self, batch: int, generator: torch.Generator | None = None) -> DropoutFactors | None:
        """Sample the factor of every channel, (B, C) per level; one draw serves all frames. None without dropout."""
        if not self.dropout:
            return None
        kept = 1 - self.dropout
        return [torch.empty(batch, n).bernoulli_(kept, generator=generator).div_(kept) for n in self.channels]

    def _encode(self, x: Tensor, dropout: DropoutFactors | None, frames: Tensor | None = None) -> list[Tensor]:
        """Return the features (N, C, X, Y, Z) of every level, of all frames or of those with the given indices in B*T.

        With `checkpoint_stages` the inner layers of a stage are recomputed in the backward pass. The decoder's are not: its widest
        stage comes last, so the peak would be the same.
        """
        self._check(x)
        folded, features = x.flatten(0, 1), []
        if frames is not None:
            folded = folded.index_select(0, frames)
        for level, stage in enumerate(self.encoder):
            if self.checkpoint_stages and torch.is_grad_enabled():
                folded = checkpoint(stage, folded, use_reentrant=False, preserve_rng_state=False)
            else:
                for layer in cast(nn.Sequential, stage):
                    folded = layer(folded)
            if dropout is not None:
                factor = dropout[level].to(folded, non_blocking=folded.is_cuda).repeat_interleave(x.shape[1], 0)
                factor = factor if frames is None else factor.index_select(0, frames)
                folded = folded * factor[..., None, None, None]
            features.append(folded)
        return features

    def _recur(
        self,
        features: list[Tensor],
        clips: Sequence[int],
        state: NetworkState | None,
        frames: Tensor | None,
        primed: int,
    ) -> tuple[list[Tensor], NetworkState]:
        """Return the features of the selected frames after recurrence, and the state; see `level_logits`.

        Args:
            features: (B*T, C, X, Y, Z) per level; of a frame-wise network, those of the selected frames. Replaced.
            clips: (B, T).
            primed: frames that recurrence runs over before.
        """
        if self.is_frame_wise:
            return features, []
        by_level: list[Sequence[BlockState] | None] = []
        for level, folded in enumerate(features):
            recurrent, after = self._recurrent(level), None
            if recurrent:
                before = _at_level(state, level)
                features[level], after = recurrent(folded.unflatten(0, tuple(clips)), before, frames, primed)
            elif frames is not None:
                features[level] = folded.index_select(0, frames)
            by_level.append(after)
        return features, self._by_cell(by_level)

    def _decode(self, skips: list[Tensor], deep_supervision: bool) -> list[Tensor]:
        """Decode the features of every level, which are freed on the way, to the logits of every level with a head.

        Frames are decoded in groups where the concatenation with a skip would have more than `MOST_ELEMENTS` elements.
        """
        widest = max(2 * skip[0].numel() for skip in skips[:-1])
        at_once = max(1, MOST_ELEMENTS // widest)
        if at_once >= len(skips[0]):
            return self._decode_group(skips, deep_supervision)
        groups = zip(*(skip.split(at_once) for skip in skips), strict=True)
        skips.clear()
        levels = zip(*(self._decode_group(list(group), deep_supervision) for group in groups), strict=True)
        return [torch.cat(level) for level in levels]

    def _decode_group(self, skips: list[Tensor], deep_supervision: bool) -> list[Tensor]:
        """Decode some frames at once; see `_decode`."""
        folded, lower = skips.pop(), []
        for level in reversed(range(len(self.decoder))):
            folded = self.decoder[level](folded, skips.pop())
            if deep_supervision and str(level) in self.lower_heads:
                lower.append(self.lower_heads[str(level)](folded))
        return [self.head(folded), *reversed(lower)]

    def _by_cell(self, by_level: Sequence[Sequence[BlockState] | None]) -> NetworkState:
        """Return a state per cell from a state per level."""
        return [[None if state is None else state[index] for state in by_level] for index in range(self.num_cells)]

    def _recurrent(self, level: int) -> ResidualTemporal | None:
        return cast(ResidualTemporal, self.recurrent[str(level)]) if str(level) in self.recurrent else None

    def _recurrent_levels(self) -> list[ResidualTemporal]:
        return (
            [] if self.is_frame_wise else [cast(ResidualTemporal, recurrent) for recurrent in self.recurrent.values()]
        )

    def _check(self, x: Tensor) -> None:
        if x.ndim != 6 or x.shape[2] != self.in_channels:
            raise InputError(f"got a tensor of shape {tuple(x.shape)}, expected (B, T, {self.in_channels}, X, Y, Z)")
        check_divisible(x.shape[3:], self.total_stride)


def limit_priming(frames: int, priming_frames: int | None) -> int:
    """Return the frames of a loop of this many that recurrence runs over first; None asks for all."""
    return frames if priming_frames is None else min(priming_frames, frames)


def can_be_chunked(config: ResolvedModelConfig) -> bool:
    """Return whether a network of this configuration is chunkable; see `CLSTMUNet.is_chunkable`."""
    if config.temporal is None:
        return True
    with torch.device("meta"):  # so that no memory is allocated
        return CLSTMUNet(config, 1, 2).is_chunkable


def _at_level(state: NetworkState | None, level: int) -> list[BlockState] | None:
    """Return the state of the cells of one level."""
    return None if state is None else [None if levels is None else levels[level] for levels in state]
