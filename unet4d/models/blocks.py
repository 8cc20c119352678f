"""The pieces of the network: convolutions that see one frame, and the recurrent addition that sees all."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from unet4d.config import Size
from unet4d.models.conv import Convolution
from unet4d.models.convlstm import ConvLSTM3d


class InstanceNormLeakyReLU(nn.Module):
    """Instance norm (Ulyanov et al. 2016) with a scale and a shift per channel, then leaky ReLU, in place of the norm's output.

    Batch norm over frames folded into the batch would let every frame see every other. As in `torch.nn.InstanceNorm3d` a batch
    norm of (1, N*C, X, Y, Z) computes it; that module's output is a view, on which an activation in place costs two copies.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """`x` (N, C, X, Y, Z) to the same shape."""
        batch = len(x)
        scale, shift = self.weight.repeat(batch), self.bias.repeat(batch)
        normal = functional.batch_norm(x.reshape(1, -1, *x.shape[2:]), None, None, scale, shift, training=True)
        return functional.leaky_relu_(normal, 0.01).view(x.shape)


def conv_block(
    in_channels: int, out_channels: int, kernel_size: Size, stride: Size = (1, 1, 1), convolutions: int = 2
) -> nn.Sequential:
    """Convolutions, each with a `InstanceNormLeakyReLU`; the first one carries the stride (Isensee et al. 2021)."""
    layers: list[nn.Module] = []
    for i in range(convolutions):
        inputs, step = (out_channels, (1, 1, 1)) if i else (in_channels, stride)
        convolution = Convolution(inputs, out_channels, kernel_size, step, bias=False)
        layers += [convolution, InstanceNormLeakyReLU(out_channels)]
    return nn.Sequential(*layers)


class UpBlock(nn.Module):
    """Transposed convolution to the skip's grid, concatenation with the skip, one convolution.

    One, since a decoder needs less than an encoder (Isensee et al. 2024, "nnU-Net Revisited", ResEnc presets).
    """

    def __init__(self, in_channels: int, skip_channels: int, kernel_size: Size, stride: Size):
        super().__init__()
        self.up = nn.ConvTranspose3d(in_channels, skip_channels, stride, stride)
        self.conv = conv_block(2 * skip_channels, skip_channels, kernel_size, convolutions=1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """`x` (N, C, X, Y, Z) from the level below and `skip` (N, S, X', Y', Z') to (N, S, X', Y', Z')."""
        return self.conv(torch.cat((self.up(x), skip), 1))


class ResidualConvLSTM(nn.Module):
    """Adds what a ConvLSTM makes of all frames to each frame's features, through a projection that starts at zero.

    So a new network computes what its twin computes, and recurrence has to earn its part. The ConvLSTM takes each voxel's
    features as they are, for the encoder has convolved them; across space it looks through its hidden state.
    """

    def __init__(self, channels: int, hidden_channels: int, kernel_size: Size, num_layers: int, direction: str):
        super().__init__()
        self.lstm = ConvLSTM3d(channels, hidden_channels, kernel_size, num_layers, direction, input_kernel_size=1)
        self.projection = Convolution(self.lstm.out_channels, channels)
        nn.init.zeros_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)  # type: ignore[arg-type]

    def added(self, folded: Tensor, hidden: Tensor) -> Tensor:
        """The features (N, C, X, Y, Z) with what the hidden states (N, H * directions, X, Y, Z) add to them."""
        return folded + self.projection(hidden)
