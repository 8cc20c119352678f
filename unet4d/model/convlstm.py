"""ConvLSTM3d: an LSTM whose products are 3D convolutions; the one place where frames meet."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unet4d.config import Size, triple
from unet4d.errors import InputError

CellState = tuple[Tensor, Tensor]
"""Hidden and cell state of one layer in one direction, each (B, H, X, Y, Z); the cell state is float32."""
State = list[CellState]
"""A state per layer and direction: layer 0 forward, (layer 0 backward,) layer 1 forward, ..."""


def same_padding(kernel_size: Size) -> Size:
    """The padding that keeps the grid under an odd kernel."""
    return triple(k // 2 for k in kernel_size)


class ConvLSTMCell3d(nn.Module):
    """One layer in one direction; it knows a step, and runs it over the frames in the order it is given them.

    Gates in the order i, f, g, o as in `torch.nn.LSTM`; the forget bias starts at 1 (Jozefowicz et al. 2015).
    The input's share of the gates is computed for all frames at once, the hidden state's share step by step.

    Args:
        in_channels: channels C of a frame.
        hidden_channels: channels H of the hidden and the cell state.
        kernel_size: odd kernel (X, Y, Z), padded to keep the grid.
    """

    def __init__(self, in_channels: int, hidden_channels: int, kernel_size: Size):
        super().__init__()
        padding = same_padding(kernel_size)
        self.hidden_channels = hidden_channels
        self.input_gates = nn.Conv3d(in_channels, 4 * hidden_channels, kernel_size, padding=padding)
        self.hidden_gates = nn.Conv3d(hidden_channels, 4 * hidden_channels, kernel_size, padding=padding, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform input weights, orthogonal hidden weights, zero biases but 1 for the forget gate."""
        nn.init.xavier_uniform_(self.input_gates.weight)
        nn.init.orthogonal_(self.hidden_gates.weight)
        bias = self.input_gates.bias
        assert bias is not None
        with torch.no_grad():
            bias.zero_()
            bias[self.hidden_channels : 2 * self.hidden_channels] = 1.0

    def forward(self, x: Tensor, state: CellState | None = None, reverse: bool = False) -> tuple[Tensor, CellState]:
        """Run over the frames of `x` (B, T, C, X, Y, Z), from the last to the first if `reverse`.

        Returns:
            Hidden states (B, T, H, X, Y, Z), in the order of the input's frames, and the state after the last step.
        """
        batch, frames = x.shape[:2]
        gates_from_input = self.input_gates(x.flatten(0, 1)).unflatten(0, (batch, frames)).unbind(1)
        order = range(frames - 1, -1, -1) if reverse else range(frames)
        hidden: list[Tensor] = [x] * frames
        for t in order:
            gates = gates_from_input[t]
            if state is not None:
                gates = gates + self.hidden_gates(state[0].to(gates.dtype))
            state = self._step(gates, None if state is None else state[1])
            hidden[t] = state[0]
        assert state is not None
        return torch.stack(hidden, 1), state

    @staticmethod
    def _step(gates: Tensor, cell: Tensor | None) -> CellState:
        """One step from the summed gates (B, 4H, X, Y, Z); no cell state means one of zeros."""
        i, f, g, o = gates.float().chunk(4, 1) if gates.dtype in (torch.bfloat16, torch.float16) else gates.chunk(4, 1)
        update = torch.sigmoid(i) * torch.tanh(g)
        cell = update if cell is None else torch.sigmoid(f) * cell + update
        return (torch.sigmoid(o) * torch.tanh(cell)).to(gates.dtype), cell


class ConvLSTM3d(nn.Module):
    """Stacked, optionally bidirectional ConvLSTM over (B, T, C, X, Y, Z), after Shi et al. 2015 (NeurIPS 28), without peepholes.

    At kernel 1 on a single voxel it equals `torch.nn.LSTM` with the same weights.

    Args:
        in_channels: channels C of a frame.
        hidden_channels: channels H of each layer and direction.
        kernel_size: an odd number, or one per axis (X, Y, Z).
        num_layers: layers stacked, each fed the hidden states of the one below.
        direction: "forward" (frame t depends on frames <= t only) or "bidirectional" (both, hidden states concatenated).

    Raises:
        InputError: an even kernel or an unknown direction.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        kernel_size: int | Size = 3,
        num_layers: int = 1,
        direction: str = "forward",
    ):
        super().__init__()
        kernel = (kernel_size,) * 3 if isinstance(kernel_size, int) else kernel_size
        if len(kernel) != 3 or any(k % 2 == 0 for k in kernel):
            raise InputError(
                f"kernel_size is {kernel_size}; wanted an odd number, or three; an even one shifts the grid"
            )
        if direction not in ("forward", "bidirectional"):
            raise InputError(f"direction is {direction!r}; wanted 'forward' or 'bidirectional'")
        self.num_directions = 1 if direction == "forward" else 2
        self.out_channels = hidden_channels * self.num_directions
        self.cells = nn.ModuleList(
            ConvLSTMCell3d(in_channels if layer == 0 else self.out_channels, hidden_channels, kernel)
            for layer in range(num_layers)
            for _ in range(self.num_directions)
        )

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Run over all frames.

        Args:
            x: (B, T, C, X, Y, Z).
            state: state to start from, as returned by an earlier call; None is a state of zeros. The forward direction starts
                from it at the first frame, the backward direction at the last.

        Returns:
            Output (B, T, H * directions, X, Y, Z), and the state each direction ended with: pass it on with the frames that follow
            (forward) to get what one run over all of them would have given.
        """
        if x.ndim != 6 or x.shape[1] == 0:
            raise InputError(
                f"ConvLSTM3d got a tensor of shape {tuple(x.shape)}; wanted (B, T, C, X, Y, Z) with T of 1 or more"
            )
        if state is not None and len(state) != len(self.cells):
            raise InputError(
                f"ConvLSTM3d got {len(state)} states; wanted one per layer and direction, {len(self.cells)}"
            )
        after: State = []
        for first in range(0, len(self.cells), self.num_directions):
            outputs = []
            for offset in range(self.num_directions):
                before = None if state is None else state[first + offset]
                output, ended = self.cells[first + offset](x, before, reverse=offset == 1)
                outputs.append(output)
                after.append(ended)
            x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, 2)
        return x, after
