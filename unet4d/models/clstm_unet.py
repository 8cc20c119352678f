"""CLSTM-UNet: a 3D U-Net that sees each frame alone, with ConvLSTMs at the bottleneck and on the skips that see all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unet4d.config import ResolvedModelConfig
from unet4d.errors import InputError
from unet4d.models.blocks import ResidualConvLSTM, UpBlock, conv_block
from unet4d.models.conv import Convolution
from unet4d.models.convlstm import CellState, ConvLSTMState
from unet4d.models.topology import check_divisible, total_stride

LevelStates = list[CellState | None]
"""What one cell carries at every level, from full resolution to the bottleneck; None for a cold start, or a level without it."""
NetworkState = list[LevelStates | None]
"""What every cell carries: layer 0 forward, (layer 0 backward,) layer 1 forward, ... as in `ConvLSTM3d`; None for a cold start."""


MOST_ELEMENTS = 2**31 - 1
"""Elements of the largest tensor that a kernel indexes with 32 bits; kernels for more are slow or missing."""
DropoutFactors = list[Tensor]
_RECURRENT, _HEADS = "recurrent.", "lower_heads."
"""What the names of the weights of ConvLSTMs, and of deep supervision's heads, begin with."""


class CLSTMUNet(nn.Module):
    """The CLSTM-UNet on (B, T, C, X, Y, Z), giving logits (B, T, K, X, Y, Z).

    Encoder and decoder see each frame alone (Çiçek et al. 2016, the 3D U-Net); ConvLSTM3d layers on the skip paths and at the
    bottleneck (Shi et al. 2015; Arbelle & Riklin Raviv 2019) are all that couples frames. Any T works.

    Args:
        config: levels, strides, kernels, ConvLSTMs, dropout (whole channels, Tompson et al. 2015; the same ones in all frames of a
            clip, Gal & Ghahramani 2016) and deep supervision: a head for every level of the decoder below full resolution, for
            training alone (Lee et al. 2015, arXiv:1409.5185; Isensee et al. 2021).
        in_channels: channels C of a frame.
        out_channels: classes K, background included.
    """

    def __init__(self, config: ResolvedModelConfig, in_channels: int, out_channels: int):
        super().__init__()
        channels, strides, kernels = config.channels, config.strides, config.kernel_size
        levels = len(channels)
        self.in_channels, self.out_channels, self.channels = in_channels, out_channels, tuple(channels)
        self.dropout, self.checkpoint_stages = config.dropout, False
        self.total_stride = total_stride(strides)
        self.encoder = nn.ModuleList(
            conv_block(
                in_channels if i == 0 else channels[i - 1], channels[i], kernels[i], strides[i - 1] if i else (1, 1, 1)
            )
            for i in range(levels)
        )
        self.decoder = nn.ModuleList(
            UpBlock(channels[i + 1], channels[i], kernels[i], strides[i]) for i in range(levels - 1)
        )
        self.head = Convolution(channels[0], out_channels)
        # After these, so that under one seed a network and its frame-wise twin draw the same weights for all they share.
        self.recurrent = nn.ModuleDict(
            {
                str(i): ResidualConvLSTM(channels[i], hidden, kernels[i], config.lstm_layers, config.direction)
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
        """Whether no layer couples frames: the frame-wise twin."""
        return len(self.recurrent) == 0

    @property
    def cells(self) -> int:
        """Cells of a level's ConvLSTM (layers times directions); 0 for the frame-wise twin."""
        return max((len(addition.lstm.cells) for addition in self._additions()), default=0)

    @property
    def directions(self) -> int:
        """1: forward, or no recurrence at all. 2: bidirectional."""
        return max((addition.lstm.num_directions for addition in self._additions()), default=1)

    def keep(self, what: Literal["gates", "hidden"]) -> None:
        """Set what the ConvLSTMs keep for their backward pass; see `RecomputeConfig.lstm`."""
        for addition in self._additions():
            addition.lstm.keep = what

    def forward(self, x: Tensor, state: NetworkState | None = None, cyclic: bool = False) -> Tensor:
        """Logits (B, T, K, X, Y, Z) of `x` (B, T, C, X, Y, Z); see `step` for the arguments."""
        return self.step(x, state, cyclic)[0]

    def step(self, x: Tensor, state: NetworkState | None = None, cyclic: bool = False) -> tuple[Tensor, NetworkState]:
        """Logits of these frames, and the state to hand over with those that follow.

        Args:
            x: (B, T, C, X, Y, Z); X, Y, Z multiples of `total_stride`.
            state: what an earlier call returned, or None for a cold start.
            cyclic: the last frame leads into the first: each ConvLSTM runs the loop once before it counts.

        Raises:
            InputError: a wrong shape; says which was wanted.
        """
        kept = self.sample_dropout(len(x)) if self.training else None
        logits, after = self.logits(x, state, kept=kept, cyclic=cyclic)
        return logits.unflatten(0, x.shape[:2]), after

    def logits(
        self,
        x: Tensor,
        state: NetworkState | None = None,
        chosen: Tensor | None = None,
        kept: DropoutFactors | None = None,
        cyclic: bool = False,
    ) -> tuple[Tensor, NetworkState]:
        """Logits (N, K, X, Y, Z) of the `chosen` frames, by their place in B*T; of all, where None. And the state after all frames.

        `kept` are the channels that dropout keeps, as `sample_dropout` gives them. Only chosen frames are decoded; a frame-wise
        network encodes only them, too.
        """
        logits, after = self._computed(x, state, chosen, kept, cyclic)
        return logits[0], after

    def deep_supervision_logits(
        self,
        x: Tensor,
        state: NetworkState | None = None,
        chosen: Tensor | None = None,
        kept: DropoutFactors | None = None,
    ) -> tuple[list[Tensor], NetworkState]:
        """As `logits`, but those of every level that training teaches, from full resolution down; their strides: `taught_strides`.

        A convolution with stride is centred on the first voxel of each step, so that voxel (i, j, k) of a level of stride (a, b, c)
        stands for voxel (a i, b j, c k) of `x`.
        """
        return self._computed(x, state, chosen, kept, taught=True)

    def ended(self, x: Tensor, state: NetworkState, cell: int, kept: DropoutFactors | None = None) -> NetworkState:
        """The state of a cell after the frames of `x` (B, T, C, X, Y, Z), at every level; nothing is decoded.

        A forward network gives those of all its cells, a bidirectional one None for the others, which run as far as this one needs.

        Args:
            x: as in `step`.
            state: what each cell starts from.
            cell: which, counted as in `NetworkState`.
            kept: as in `logits`.
        """
        if self.is_frame_wise:
            return []
        ended: list[Sequence[CellState | None] | None] = []
        for level, folded in enumerate(self._encoded(x, kept)):
            addition, after = self._addition(level), None
            if addition:
                seen, before = folded.unflatten(0, x.shape[:2]), _of_level(state, level)
                if self.directions == 1:
                    after = addition.lstm(seen, before)[1]
                else:
                    after = [None] * self.cells
                    after[cell] = addition.lstm.ended(seen, before, cell)
            ended.append(after)
        return self._by_cell(ended)

    def sample_dropout(self, batch: int, generator: torch.Generator | None = None) -> DropoutFactors | None:
        """For each level the factor of every channel, (B, C), 0 where dropped; one draw serves all frames. None without dropout."""
        if not self.dropout:
            return None
        kept = 1 - self.dropout
        return [torch.empty(batch, n).bernoulli_(kept, generator=generator).div_(kept) for n in self.channels]

    def _computed(
        self,
        x: Tensor,
        state: NetworkState | None,
        chosen: Tensor | None,
        kept: DropoutFactors | None,
        cyclic: bool = False,
        taught: bool = False,
    ) -> tuple[list[Tensor], NetworkState]:
        if self.is_frame_wise and chosen is not None:
            # Nothing couples frames, so the others change nothing: they are not encoded either.
            return self._decoded(self._encoded(x, kept, chosen), taught), []
        features = self._encoded(x, kept)
        carried: list[Sequence[CellState | None] | None] = []
        for level, folded in enumerate(features):
            hidden, after = self._hidden(level, folded, x.shape[:2], state, cyclic)
            carried.append(after)
            if chosen is not None:
                folded = folded.index_select(0, chosen)
                hidden = None if hidden is None else hidden.index_select(0, chosen)
            addition = self._addition(level)
            features[level] = addition.added(folded, hidden) if addition and hidden is not None else folded
        return self._decoded(features, taught), self._by_cell(carried)

    def _encoded(self, x: Tensor, kept: DropoutFactors | None, chosen: Tensor | None = None) -> list[Tensor]:
        """Encode all frames, or the `chosen` ones by their index in B*T.

        Returns:
            The features of every level, each (B*T, C, X, Y, Z) or (chosen, C, X, Y, Z), from full resolution to the bottleneck.
        """
        self._check(x)
        folded, features = x.flatten(0, 1), []
        if chosen is not None:
            folded = folded.index_select(0, chosen)
        for level, encode in enumerate(self.encoder):
            folded = self._encoded_stage(encode, folded)
            if kept is not None:
                factor = kept[level].to(folded, non_blocking=True).repeat_interleave(x.shape[1], 0)
                factor = factor if chosen is None else factor.index_select(0, chosen)
                folded = folded * factor[..., None, None, None]
            features.append(folded)
        return features

    def _hidden(
        self, level: int, folded: Tensor, frames: Sequence[int], state: NetworkState | None, cyclic: bool
    ) -> tuple[Tensor | None, ConvLSTMState | None]:
        """Let the frames of one level, (B*T, C, X, Y, Z), meet in its ConvLSTM, if it has one: hidden states, state after."""
        addition = self._addition(level)
        if addition is None:
            return None, None
        seen, before = folded.unflatten(0, tuple(frames)), _of_level(state, level)
        if cyclic:
            _, before = addition.lstm(seen, before)
        hidden, after = addition.lstm(seen, before)
        return hidden.flatten(0, 1), after

    def _decoded(self, skips: list[Tensor], taught: bool) -> list[Tensor]:
        """Decode the features of every level, which are given away, to logits (N, K, X, Y, Z); if `taught`, lower levels' follow.

        Frames are decoded in groups where the concatenation with a skip would have more than `MOST_ELEMENTS` elements.
        """
        widest = max(2 * skip[0].numel() for skip in skips[:-1])
        at_once = max(1, MOST_ELEMENTS // widest)
        if at_once >= len(skips[0]):
            return self._decoded_group(skips, taught)
        groups = zip(*(skip.split(at_once) for skip in skips), strict=True)
        skips.clear()
        levels = zip(*(self._decoded_group(list(group), taught) for group in groups), strict=True)
        return [torch.cat(level) for level in levels]

    def _decoded_group(self, skips: list[Tensor], taught: bool) -> list[Tensor]:
        """Decode some frames at once; as `_decoded`."""
        folded, lower = skips.pop(), []
        for level in reversed(range(len(self.decoder))):
            folded = self.decoder[level](folded, skips.pop())
            if taught and str(level) in self.lower_heads:
                lower.append(self.lower_heads[str(level)](folded))
        return [self.head(folded), *reversed(lower)]

    def _encoded_stage(self, encode: nn.Module, folded: Tensor) -> Tensor:
        """One stage of the encoder; with `checkpoint_stages` its inner layers are computed again in the backward pass.

        The decoder's are not: its widest stage comes last, so that it is at its widest with or without.
        """
        if self.checkpoint_stages and torch.is_grad_enabled():
            return checkpoint(encode, folded, use_reentrant=False, preserve_rng_state=False)
        return encode(folded)

    def _by_cell(self, carried: Sequence[Sequence[CellState | None] | None]) -> NetworkState:
        """Turn a state per level into a state per cell."""
        return [[None if state is None else state[cell] for state in carried] for cell in range(self.cells)]

    def _addition(self, level: int) -> ResidualConvLSTM | None:
        return cast(ResidualConvLSTM, self.recurrent[str(level)]) if str(level) in self.recurrent else None

    def _additions(self) -> list[ResidualConvLSTM]:
        return [cast(ResidualConvLSTM, addition) for addition in self.recurrent.values()]

    def _check(self, x: Tensor) -> None:
        if x.ndim != 6 or x.shape[2] != self.in_channels:
            raise InputError(
                f"the network got a tensor of shape {tuple(x.shape)}; wanted (B, T, {self.in_channels}, X, Y, Z)"
            )
        check_divisible(x.shape[3:], self.total_stride)

    def load_framewise_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take over the weights of the frame-wise twin; the recurrent layers keep their own.

        Heads of deep supervision may be missing on either side.

        Raises:
            InputError: weights are missing, too many, or of another shape; lists what differs.
        """
        self._take_over(weights, (_RECURRENT, _HEADS), "not this network's frame-wise twin")

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take over the weights of a network like this one, but for heads of deep supervision as in `load_framewise_weights`.

        Raises:
            InputError: as for `load_framewise_weights`.
        """
        self._take_over(weights, (_HEADS,), "another network's")

    def _take_over(self, weights: Mapping[str, Tensor], spared: tuple[str, ...], fault: str) -> None:
        """Load weights that may lack the `spared` ones, and bring heads that this network lacks."""
        own = self.state_dict()
        wanted = {name for name in own if not name.startswith(spared)}
        came = {name for name in weights if not name.startswith(_HEADS)}
        missing, extra, shared = sorted(wanted - came), sorted(came - wanted), own.keys() & weights.keys()
        other = [name for name in sorted(shared - set(extra)) if own[name].shape != weights[name].shape]
        if missing or extra or other:
            raise InputError(
                f"the weights are {fault}: missing {missing[:3]}, extra {extra[:3]}, of another shape {other[:3]}; build both "
                "with the same channels, strides and kernels"
            )
        self.load_state_dict({name: weights[name] for name in shared}, strict=False)


def _of_level(state: NetworkState | None, level: int) -> list[CellState | None] | None:
    """What the cells of one level start from."""
    return None if state is None else [None if cell is None else cell[level] for cell in state]
