"""CLSTM-UNet: a 3D U-Net that sees each frame alone, with ConvLSTMs at the bottleneck and on the skips that see all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor, nn

from unet4d.config import CHANNELS, ModelConfig, Size
from unet4d.errors import InputError
from unet4d.model.blocks import RecurrentAddition, UpBlock, conv_block
from unet4d.model.convlstm import State
from unet4d.model.topology import checked_divisible, total_stride

NetworkState = list[State | None]
"""A state per level, from full resolution to the bottleneck; None where the level has no ConvLSTM."""


class CLSTMUNet(nn.Module):
    """The CLSTM-UNet on (B, T, C, X, Y, Z), giving logits (B, T, K, X, Y, Z).

    Encoder and decoder see each frame alone (Çiçek et al. 2016, the 3D U-Net); ConvLSTM3d layers on the skip paths and at the
    bottleneck (Shi et al. 2015; Arbelle & Riklin Raviv 2019) are all that couples frames. Any T works.

    Args:
        in_channels: channels C of a frame.
        out_channels: classes K, background included.
        channels: channels of each level, from full resolution to the bottleneck.
        strides: stride (X, Y, Z) between each level and the next.
        kernel_size: kernel (X, Y, Z) of each level.
        lstm_channels: hidden channels of each level's ConvLSTM, 0 for none; all 0 is the frame-wise twin.
        direction: "forward" or "bidirectional".
        lstm_layers: ConvLSTM layers stacked at a level.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int] = CHANNELS,
        strides: Sequence[Size] | None = None,
        kernel_size: Sequence[Size] | None = None,
        lstm_channels: Sequence[int] | int | None = None,
        direction: Literal["forward", "bidirectional"] = ModelConfig.direction,
        lstm_layers: int = ModelConfig.lstm_layers,
    ):
        super().__init__()
        levels = len(channels)
        strides = [(2, 2, 2)] * (levels - 1) if strides is None else list(strides)
        kernels = [(3, 3, 3)] * levels if kernel_size is None else list(kernel_size)
        lstm = lstm_channels if lstm_channels is None or isinstance(lstm_channels, int) else list(lstm_channels)
        # Built only for its checks, so that a network made by hand meets the same ones as a configured one.
        config = ModelConfig(list(channels), lstm, strides, kernels, direction, lstm_layers)

        self.in_channels, self.out_channels = in_channels, out_channels
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
        self.head = nn.Conv3d(channels[0], out_channels, 1)
        # Last, so that under one seed a network and its frame-wise twin draw the same weights for all they share.
        self.recurrent = nn.ModuleDict(
            {
                str(i): RecurrentAddition(channels[i], hidden, kernels[i], lstm_layers, direction)
                for i, hidden in enumerate(config.lstm_channels_per_level())
                if hidden
            }
        )

    @property
    def is_frame_wise(self) -> bool:
        """Whether no layer couples frames: the frame-wise twin."""
        return len(self.recurrent) == 0

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
        self._check(x)
        frames = x.shape[:2]
        folded = x.flatten(0, 1)
        skips: list[Tensor] = []
        states: NetworkState = []
        for level, encode in enumerate(self.encoder):
            folded = encode(folded)
            mixed, after = self._across_frames(level, folded, frames, None if state is None else state[level], cyclic)
            skips.append(mixed)
            states.append(after)
        folded = skips.pop()
        for level in reversed(range(len(self.decoder))):
            folded = self.decoder[level](folded, skips.pop())
        return self.head(folded).unflatten(0, frames), states

    def _across_frames(
        self, level: int, folded: Tensor, frames: Sequence[int], state: State | None, cyclic: bool
    ) -> tuple[Tensor, State | None]:
        """Let the frames of one level, (B*T, C, X, Y, Z), meet in its ConvLSTM, if it has one."""
        if str(level) not in self.recurrent:
            return folded, None
        mixed, after = self.recurrent[str(level)](folded.unflatten(0, tuple(frames)), state, cyclic)
        return mixed.flatten(0, 1), after

    def _check(self, x: Tensor) -> None:
        if x.ndim != 6 or x.shape[2] != self.in_channels:
            raise InputError(
                f"the network got a tensor of shape {tuple(x.shape)}; wanted (B, T, {self.in_channels}, X, Y, Z)"
            )
        checked_divisible(x.shape[3:], self.total_stride)

    def load_twin(self, weights: Mapping[str, Tensor]) -> None:
        """Take over the weights of the frame-wise twin; the recurrent layers keep their own.

        Raises:
            InputError: weights are missing, too many, or of another shape; lists what differs.
        """
        own = self.state_dict()
        wanted = {name for name in own if not name.startswith("recurrent.")}
        missing, extra = sorted(wanted - set(weights)), sorted(set(weights) - wanted)
        other = [name for name in sorted(wanted & set(weights)) if own[name].shape != weights[name].shape]
        if missing or extra or other:
            raise InputError(
                f"the weights are not this network's frame-wise twin: missing {missing[:3]}, extra {extra[:3]}, of another shape "
                f"{other[:3]}; build both with the same channels, strides and kernels"
            )
        self.load_state_dict(weights, strict=False)


def build_network(config: ModelConfig, in_channels: int, out_channels: int) -> CLSTMUNet:
    """The network of a resolved configuration (strides and kernels filled in)."""
    return CLSTMUNet(
        in_channels,
        out_channels,
        config.channels,
        config.strides,
        config.kernel_size,
        config.lstm_channels,
        config.direction,
        config.lstm_layers,
    )
