"""A rival of the ConvLSTM, convolutions over three frames: `model.temporal: experiments.real_cine.conv_over_time.ConvOverTime`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from unet4d.config import Size
from unet4d.models.blocks import InstanceNormLeakyReLU
from unet4d.models.conv import Convolution
from unet4d.models.temporal import TemporalBlock


class ConvOverTime(TemporalBlock):
    """Convolutions over space and over three frames in turn, as in R(2+1)D (Tran et al. 2018, CVPR).

    As wide as a ConvLSTM's output, with the same kernel in space. Two pairs of convolutions stand for each of its layers: a frame
    sees two frames to either side; with direction "forward" four before it. No state is carried from frame to frame.
    """

    def __init__(self, channels: int, hidden_channels: int, kernel_size: Size, num_layers: int, direction: str):
        super().__init__()
        self.before, self.after = (2, 0) if direction == "forward" else (1, 1)
        self.out_channels = width = hidden_channels * (1 if direction == "forward" else 2)
        self.reduce = nn.Sequential(Convolution(channels, width, bias=False), InstanceNormLeakyReLU(width))
        self.over_space = nn.ModuleList(
            nn.Sequential(Convolution(width, width, kernel_size, bias=False), InstanceNormLeakyReLU(width))
            for _ in range(2 * num_layers)
        )
        self.over_time = nn.ModuleList(Convolution(3 * width, width) for _ in range(2 * num_layers))

    def forward(self, x: Tensor, state: Any = None, cyclic: bool = False) -> tuple[Tensor, list[Any]]:
        """Return the output (B, T, W, X, Y, Z) of `x` (B, T, C, X, Y, Z), and no state."""
        clip, x = x.shape[:2], self.reduce(x.flatten(0, 1))
        for over_space, over_time in zip(self.over_space, self.over_time, strict=True):
            three = self._with_neighbors(over_space(x).unflatten(0, clip), cyclic)
            x = functional.leaky_relu_(over_time(three.flatten(0, 1)), 0.01)
        return x.unflatten(0, clip), []

    def _with_neighbors(self, x: Tensor, cyclic: bool) -> Tensor:
        """Return the channels of three frames (B, T, 3 W, X, Y, Z) for each; beyond an open study's ends they are zeros."""
        frames = x.shape[1]
        if cyclic:
            longer = x[:, [t % frames for t in range(-self.before, frames + self.after)]]
        else:
            longer = functional.pad(x, (0, 0) * 4 + (self.before, self.after))
        return torch.cat([longer[:, first : first + frames] for first in range(3)], 2)
