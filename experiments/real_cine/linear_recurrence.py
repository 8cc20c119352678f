"""A rival of the ConvLSTM, a linear recurrence: `model.temporal: experiments.real_cine.linear_recurrence.LinearRecurrence`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unet4d.config import Size
from unet4d.models.blocks import InstanceNormLeakyReLU
from unet4d.models.conv import Convolution
from unet4d.models.lstm_gates import wide_dtype
from unet4d.models.temporal import TemporalBlock


class LinearRecurrence(TemporalBlock):
    """A gated linear recurrence (Martin & Cundy 2018, ICLR; the minGRU of Feng et al. 2024, arXiv:2410.01201).

    h_t = f_t h_(t-1) + (1 - f_t) z_t, where a convolution of frame t alone gives f_t and z_t. So each convolution runs over all
    frames at once, and only an interpolation of two numbers waits for the frame before. The forget gates' bias starts at 1. As wide
    as a ConvLSTM's output, with the same kernel in space, and a state per layer and direction.
    """

    def __init__(self, channels: int, hidden_channels: int, kernel_size: Size, num_layers: int, direction: str):
        super().__init__()
        self.num_directions = 1 if direction == "forward" else 2
        self.num_cells = num_layers * self.num_directions
        self.out_channels = width = hidden_channels * self.num_directions
        self.reduce = nn.Sequential(Convolution(channels, width, bias=False), InstanceNormLeakyReLU(width))
        self.gates = nn.ModuleList(Convolution(width, 2 * width, kernel_size) for _ in range(num_layers))
        for gates in self.gates:
            nn.init.zeros_(gates.bias)
            nn.init.ones_(gates.bias[:width].detach())

    def forward(self, x: Tensor, state: Sequence[Tensor | None] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Return the output (B, T, W, X, Y, Z) of `x` (B, T, C, X, Y, Z), and each cell's last state (B, H, X, Y, Z)."""
        clip, x = x.shape[:2], self.reduce(x.flatten(0, 1))
        before = [None] * self.num_cells if state is None else list(state)
        after: list[Tensor] = []
        for gates in self.gates:
            both = gates(x).unflatten(0, clip)
            forget, new = both.to(wide_dtype(both.dtype)).chunk(2, 2)
            directions = zip(*(part.chunk(self.num_directions, 2) for part in (forget.sigmoid(), new)), strict=True)
            outputs = []
            for reverse, (f, z) in enumerate(directions):
                hidden, last = _scan(f, z, before[len(after)], bool(reverse))
                outputs.append(hidden)
                after.append(last)
            x = torch.cat(outputs, 2).flatten(0, 1)
        return x.unflatten(0, clip), after


def _scan(forget: Tensor, new: Tensor, start: Tensor | None, reverse: bool) -> tuple[Tensor, Tensor]:
    """Return the states (B, T, H, X, Y, Z) in the order of the frames, and the last one; from the last frame on if `reverse`."""
    order = slice(None, None, -1 if reverse else 1)
    hidden, states = torch.zeros_like(new[:, 0]) if start is None else start, []
    for f, z in zip(forget.unbind(1)[order], new.unbind(1)[order], strict=True):
        hidden = torch.lerp(z, hidden, f)  # z + f (hidden - z)
        states.append(hidden)
    return torch.stack(states[order], 1), hidden
