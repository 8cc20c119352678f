"""Blocks of the network: convolutions that see one frame, and the residual block that sees all frames."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from unet4d.config import Size
from unet4d.models.conv import Convolution
from unet4d.models.convlstm import ConvLSTM3d
from unet4d.models.temporal import BlockState, TemporalBlock, temporal_class

RESIDUAL_BLOCKS = (1, 3, 4, 6)
"""Residual blocks of the first levels of an encoder; levels beyond have as many as the last of these."""
_SLOPE = 0.01


class InstanceNormLeakyReLU(nn.Module):
    """Instance norm (Ulyanov et al. 2016) with a scale and a shift per channel, then leaky ReLU in place.

    Batch norm over frames folded into the batch would let every frame see every other. As in `torch.nn.InstanceNorm3d` a batch
    norm of (1, N*C, X, Y, Z) computes it; that module's output is a view, on which an activation in place costs two copies.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` (N, C, X, Y, Z) normalized and activated."""
        batch = len(x)
        scale, shift = self.weight.repeat(batch), self.bias.repeat(batch)
        normal = functional.batch_norm(x.reshape(1, -1, *x.shape[2:]), None, None, scale, shift, training=True)
        return functional.leaky_relu_(normal, _SLOPE).view(x.shape)


def conv_block(
    in_channels: int, out_channels: int, kernel_size: Size, stride: Size = (1, 1, 1), convolutions: int = 2
) -> nn.Sequential:
    """Return convolutions, each with an `InstanceNormLeakyReLU`; the first one has the stride (Isensee et al. 2021)."""
    layers: list[nn.Module] = []
    for i in range(convolutions):
        inputs, step = (out_channels, (1, 1, 1)) if i else (in_channels, stride)
        convolution = Convolution(inputs, out_channels, kernel_size, step, bias=False)
        layers += [convolution, InstanceNormLeakyReLU(out_channels)]
    return nn.Sequential(*layers)


class ResidualBlock(nn.Module):
    """Two convolutions with instance norm, and a shortcut that is added before the second leaky ReLU (He et al. 2016).

    As in ResEnc (Isensee et al. 2024, "nnU-Net Revisited") the shortcut takes the mean over a stride, and is projected where
    channels change. The last norm's scale starts at zero (Goyal et al. 2017), so that a new block passes its shortcut on.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Size, stride: Size = (1, 1, 1)):
        super().__init__()
        self.first = conv_block(in_channels, out_channels, kernel_size, stride, convolutions=1)
        self.second = Convolution(out_channels, out_channels, kernel_size, bias=False)
        self.norm = nn.InstanceNorm3d(out_channels, affine=True)
        nn.init.zeros_(self.norm.weight)
        self.shortcut = nn.Sequential()
        if stride != (1, 1, 1):
            self.shortcut.append(nn.AvgPool3d(stride, stride))
        if in_channels != out_channels:
            self.shortcut.append(Convolution(in_channels, out_channels, bias=False))
            self.shortcut.append(nn.InstanceNorm3d(out_channels, affine=True))

    def forward(self, x: Tensor) -> Tensor:
        """Return features (N, K, X', Y', Z') from `x` (N, C, X, Y, Z)."""
        return functional.leaky_relu_(self.norm(self.second(self.first(x))) + self.shortcut(x), _SLOPE)


def encoder_stage(
    blocks: str, level: int, in_channels: int, out_channels: int, kernel_size: Size, stride: Size
) -> nn.Sequential:
    """Return the stage of an encoder at a level: a "plain" `conv_block`, or "residual" blocks, after a convolution at level 0."""
    if blocks == "plain":
        return conv_block(in_channels, out_channels, kernel_size, stride)
    stem = () if level else conv_block(in_channels, out_channels, kernel_size, convolutions=1)
    first = ResidualBlock(in_channels if level else out_channels, out_channels, kernel_size, stride)
    more = RESIDUAL_BLOCKS[min(level, len(RESIDUAL_BLOCKS) - 1)] - 1
    return nn.Sequential(*stem, first, *(ResidualBlock(out_channels, out_channels, kernel_size) for _ in range(more)))


class UpBlock(nn.Module):
    """Transposed convolution to the skip's grid, concatenation with the skip, one convolution.

    One convolution, because a decoder needs less than an encoder (Isensee et al. 2024, "nnU-Net Revisited", ResEnc presets).
    """

    def __init__(self, in_channels: int, skip_channels: int, kernel_size: Size, stride: Size):
        super().__init__()
        self.up = nn.ConvTranspose3d(in_channels, skip_channels, stride, stride)
        self.conv = conv_block(2 * skip_channels, skip_channels, kernel_size, convolutions=1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Return features (N, S, X', Y', Z') from `x` (N, C, X, Y, Z) of the level below and `skip` (N, S, X', Y', Z')."""
        return self.conv(torch.cat((self.up(x), skip), 1))


class ResidualTemporal(nn.Module):
    """A block that couples all frames, added to each frame's features through a projection that starts at zero.

    So a new network computes what its frame-wise baseline computes. The ConvLSTM takes each voxel's features as they are, because
    the encoder has convolved them; across space it looks through its hidden state.

    Args:
        channels: channels C of the features.
        hidden_channels, kernel_size, num_layers, direction: of the block, see `TemporalBlock`.
        temporal: dotted path of its class; None: the ConvLSTM.

    Attributes:
        lstm: the block, whatever its class, because checkpoints hold this name.
    """

    def __init__(
        self,
        channels: int,
        hidden_channels: int,
        kernel_size: Size,
        num_layers: int,
        direction: str,
        temporal: str | None = None,
    ):
        super().__init__()
        shape = channels, hidden_channels, kernel_size, num_layers, direction
        self.lstm: TemporalBlock = (
            ConvLSTM3d(*shape, input_kernel_size=1) if temporal is None else temporal_class(temporal)(*shape)
        )
        self.projection = Convolution(self.lstm.out_channels, channels)
        nn.init.zeros_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)  # type: ignore[arg-type]

    def forward(
        self, x: Tensor, state: Sequence[BlockState] | None, frames: Tensor | None, priming_frames: int = 0
    ) -> tuple[Tensor, list[BlockState]]:
        """Return the features (N, C, X, Y, Z) of the selected frames with what the block adds, and its state after all frames.

        Args:
            x: features (B, T, C, X, Y, Z) of all frames.
            state: what the block starts from; None is a state of zeros.
            frames: indices in B*T of the frames to return; None returns all.
            priming_frames: of a loop, whose last frame leads into the first, frames over which the block runs before that, see
                `TemporalBlock.prime`; `ChunkedRecurrence.prime` does so in chunks. 0: start from `state`.
        """
        if not self.lstm.num_cells:
            hidden, after = self.lstm(x, cyclic=priming_frames > 0)
        else:
            if priming_frames:
                state = self.lstm.prime(x, priming_frames)
            hidden, after = self.lstm(x, state)
        x, hidden = x.flatten(0, 1), hidden.flatten(0, 1)
        if frames is not None:
            x, hidden = x.index_select(0, frames), hidden.index_select(0, frames)
        return x + self.projection(hidden), after
