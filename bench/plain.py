"""The baselines, written plainly: a ConvLSTM with autograd, and the published CLSTM-UNet around one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unet4d.config import Config, Size
from unet4d.models.conv import same_padding
from unet4d.models.convlstm import ConvLSTMLayer3d
from unet4d.models.device import autocast
from unet4d.pipeline.clip_dataset import Batch
from unet4d.training.loss import LabelledFramesLoss
from unet4d.training.optimizer import build_optimizer

WIDTHS = (64, 128, 256, 512)
"""Channels of the published network's levels."""


class PlainConvLSTM(nn.Module):
    """A convolution of input and hidden state together, and a loop over time: the mathematics of ConvLSTM3d, run forward.

    Under autocast the hidden state has the frames' dtype and the cell state, which adds up over time, is float32.
    """

    def __init__(self, in_channels: int, hidden_channels: int, kernel_size: int | Size = 3):
        super().__init__()
        kernel = (kernel_size,) * 3 if isinstance(kernel_size, int) else kernel_size
        self.hidden_channels = hidden_channels
        self.gates = nn.Conv3d(in_channels + hidden_channels, 4 * hidden_channels, kernel, padding=same_padding(kernel))

    def forward(self, x: Tensor) -> Tensor:
        """Return the hidden states (B, T, H, X, Y, Z) of `x` (B, T, C, X, Y, Z)."""
        shape = (x.shape[0], self.hidden_channels, *x.shape[3:])
        hidden = torch.zeros(shape, device=x.device, dtype=x.dtype)
        cell = torch.zeros(shape, device=x.device, dtype=self.gates.weight.dtype)
        outputs = []
        for frame in x.unbind(1):
            i, f, g, o = self.gates(torch.cat((frame, hidden), 1)).chunk(4, 1)
            cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
            hidden = (torch.sigmoid(o) * torch.tanh(cell)).to(x.dtype)
            outputs.append(hidden)
        return torch.stack(outputs, 1)

    def copy_weights(self, cell: ConvLSTMLayer3d) -> PlainConvLSTM:
        """Copy the weights of a cell of ConvLSTM3d; return itself."""
        bias = cell.input_gates.bias
        assert self.gates.bias is not None
        assert bias is not None
        with torch.no_grad():
            self.gates.weight.copy_(torch.cat((cell.input_gates.weight, cell.hidden_gates.weight), 1))
            self.gates.bias.copy_(bias)
        return self


def double_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return two times a convolution, batch norm and ReLU."""
    layers: list[nn.Module] = []
    for inputs in (in_channels, out_channels):
        layers += [nn.Conv3d(inputs, out_channels, 3, padding=1), nn.BatchNorm3d(out_channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class PublishedCLSTMUNet(nn.Module):
    """The published CLSTM-UNet: a 3D U-Net over frames folded into the batch, and one ConvLSTM as wide as its bottleneck.

    Args:
        in_channels: channels C of a frame.
        out_channels: classes K.
        widths: channels of the levels.

    Without the last block of the published code, which computes at twice the input's resolution, loses the border and adds nothing.
    """

    def __init__(self, in_channels: int, out_channels: int, widths: Sequence[int] = WIDTHS):
        super().__init__()
        self.encoder = nn.ModuleList(double_conv(i, o) for i, o in zip((in_channels, *widths), widths, strict=False))
        self.pool = nn.MaxPool3d(2)
        self.lstm = PlainConvLSTM(widths[-1], widths[-1])
        ups = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.ups = nn.ModuleList(nn.ConvTranspose3d(low, high, 2, 2) for low, high in ups)
        self.decoder = nn.ModuleList(double_conv(2 * high, high) for _, high in ups)
        self.head = nn.Conv3d(widths[0], out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, T, K, X, Y, Z) of `x` (B, T, C, X, Y, Z); X, Y, Z multiples of 2 per level below the first."""
        frames, folded = x.shape[:2], x.flatten(0, 1)
        skips: list[Tensor] = []
        for encode in self.encoder:
            folded = encode(self.pool(folded) if skips else folded)
            skips.append(folded)
        folded = self.lstm(skips.pop().unflatten(0, frames)).flatten(0, 1)
        for up, decode in zip(self.ups, self.decoder, strict=True):
            folded = decode(torch.cat((skips.pop(), up(folded)), 1))
        return self.head(folded).unflatten(0, frames)


class PlainStep:
    """A training step by plain backpropagation, all frames labelled: loss, optimizer and clipping are those of TrainingStep."""

    def __init__(self, network: nn.Module, config: Config, device: torch.device):
        self.network, self.config, self.device = network, config.train, device
        self.loss, self.optimizer = LabelledFramesLoss(), build_optimizer(network, config.train)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.train.precision == "fp16")

    def __call__(self, batch: Batch) -> Tensor:
        """Take one step; return the loss. All frames count as labelled."""
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, self.config.precision):
            logits = self.network(batch.image)
        loss = self.loss.from_sums(self.loss.sums(logits.flatten(0, 1), batch.label.flatten(0, 1)))
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        if self.config.gradient_clip:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.gradient_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach()
