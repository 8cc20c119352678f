"""The pieces of the network: convolutions that see one frame, and the recurrent addition that sees all."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unet4d.config import Size
from unet4d.model.convlstm import ConvLSTM3d, State, same_padding


def conv_block(in_channels: int, out_channels: int, kernel_size: Size, stride: Size = (1, 1, 1)) -> nn.Sequential:
    """Two convolutions, each with instance norm and leaky ReLU; the first one carries the stride (Isensee et al. 2021).

    Instance norm, since batch norm over frames folded into the batch would let every frame see every other.
    """
    padding = same_padding(kernel_size)
    layers: list[nn.Module] = []
    for inputs, step in ((in_channels, stride), (out_channels, (1, 1, 1))):
        layers += [
            nn.Conv3d(inputs, out_channels, kernel_size, step, padding, bias=False),
            nn.InstanceNorm3d(out_channels, affine=True),
            nn.LeakyReLU(0.01, inplace=True),
        ]
    return nn.Sequential(*layers)


class UpBlock(nn.Module):
    """Transposed convolution to the skip's grid, concatenation with the skip, a `conv_block`."""

    def __init__(self, in_channels: int, skip_channels: int, kernel_size: Size, stride: Size):
        super().__init__()
        self.up = nn.ConvTranspose3d(in_channels, skip_channels, stride, stride)
        self.conv = conv_block(2 * skip_channels, skip_channels, kernel_size)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """`x` (N, C, X, Y, Z) from the level below and `skip` (N, S, X', Y', Z') to (N, S, X', Y', Z')."""
        return self.conv(torch.cat((self.up(x), skip), 1))


class RecurrentAddition(nn.Module):
    """Adds what a ConvLSTM makes of all frames to each frame's features, through a projection that starts at zero.

    So a new network computes what its frame-wise twin computes, and recurrence has to earn its part.
    """

    def __init__(self, channels: int, hidden_channels: int, kernel_size: Size, num_layers: int, direction: str):
        super().__init__()
        self.lstm = ConvLSTM3d(channels, hidden_channels, kernel_size, num_layers, direction)
        self.projection = nn.Conv3d(self.lstm.out_channels, channels, 1)
        nn.init.zeros_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, state: State | None = None, cyclic: bool = False) -> tuple[Tensor, State]:
        """`x` (B, T, C, X, Y, Z) to the same shape, and the state after it.

        With `cyclic` the loop runs once before it counts, so that no frame is a cold start.
        """
        batch, frames = x.shape[:2]
        if cyclic:
            _, state = self.lstm(x, state)
        hidden, state = self.lstm(x, state)
        return x + self.projection(hidden.flatten(0, 1)).unflatten(0, (batch, frames)), state
