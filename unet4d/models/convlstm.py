"""ConvLSTM3d: an LSTM with 3D convolutions in place of its matrix products; the only layer in which frames meet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unet4d.config import Size, triple
from unet4d.errors import InputError
from unet4d.models.conv import same_padding
from unet4d.models.lstm_gates import CellState
from unet4d.models.scan import Keep, scan
from unet4d.models.temporal import TemporalBlock

ConvLSTMState = list[CellState]
"""State per layer and direction: layer 0 forward, (layer 0 backward,) layer 1 forward, ..."""


def _odd_kernel(name: str, kernel_size: int | Size) -> Size:
    """Return a kernel as three odd sizes; raise InputError for an even one."""
    kernel = (kernel_size,) * 3 if isinstance(kernel_size, int) else kernel_size
    if len(kernel) != 3 or any(k % 2 == 0 for k in kernel):
        raise InputError(f"got {name} {kernel_size}, expected an odd number, or three; an even one shifts the grid")
    return triple(kernel)


class ConvLSTMLayer3d(nn.Module):
    """One ConvLSTM layer in one direction, which runs over all frames of a clip.

    Gates in the order i, f, g, o as in `torch.nn.LSTM`; the forget bias starts at 1 (Jozefowicz et al. 2015).
    The input's part of the gates is computed for all frames at once, the hidden state's part step by step.

    Args:
        in_channels: channels C of a frame.
        hidden_channels: channels H of the hidden and the cell state.
        kernel_size: odd kernel (X, Y, Z) of the hidden state, padded to keep the grid.
        input_kernel_size: that of the input.
    """

    def __init__(self, in_channels: int, hidden_channels: int, kernel_size: Size, input_kernel_size: Size):
        super().__init__()
        self.hidden_channels = hidden_channels
        gates = 4 * hidden_channels
        self.input_gates = nn.Conv3d(in_channels, gates, input_kernel_size, padding=same_padding(input_kernel_size))
        self.hidden_gates = nn.Conv3d(
            hidden_channels, gates, kernel_size, padding=same_padding(kernel_size), bias=False
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reset to Xavier-uniform input weights, orthogonal hidden weights, and biases of 0 but 1 for the forget gate."""
        nn.init.xavier_uniform_(self.input_gates.weight)
        nn.init.orthogonal_(self.hidden_gates.weight)
        bias = self.input_gates.bias
        assert bias is not None
        with torch.no_grad():
            bias.zero_()
            bias[self.hidden_channels : 2 * self.hidden_channels] = 1.0

    def forward(
        self, x: Tensor, state: CellState | None = None, reverse: bool = False, keep: Keep = "hidden"
    ) -> tuple[Tensor, CellState]:
        """Run over the frames of `x` (B, T, C, X, Y, Z), from the last to the first if `reverse`; see `scan`.

        Returns:
            Hidden states (B, T, H, X, Y, Z), in the order of the input's frames, and the state after the last step.
        """
        inputs, bias = self.input_gates, self.input_gates.bias
        assert bias is not None
        return scan(x, state, inputs.weight, bias, self.hidden_gates.weight, keep, reverse)


class ConvLSTM3d(TemporalBlock):
    """Stacked, optionally bidirectional ConvLSTM over (B, T, C, X, Y, Z), after Shi et al. 2015 (NeurIPS 28), without peepholes.

    At kernel 1 on a single voxel it equals `torch.nn.LSTM` with the same weights.

    Args:
        in_channels: channels C of a frame.
        hidden_channels: channels H of each layer and direction.
        kernel_size: an odd number, or one per axis (X, Y, Z), of what a step takes from the hidden state.
        num_layers: layers stacked, each fed the hidden states of the one below.
        direction: "forward" (frame t depends on frames <= t only) or "bidirectional" (both, hidden states concatenated).
        keep: what training keeps for its backward pass, see `scan`; may be changed at any time.
        input_kernel_size: of what a step takes from its frame; None: as `kernel_size`.

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
        keep: Keep = "hidden",
        input_kernel_size: int | Size | None = None,
    ):
        super().__init__()
        kernel = _odd_kernel("kernel_size", kernel_size)
        input_kernel = kernel if input_kernel_size is None else _odd_kernel("input_kernel_size", input_kernel_size)
        if direction not in ("forward", "bidirectional"):
            raise InputError(f"got direction {direction!r}, expected 'forward' or 'bidirectional'")
        self.keep: Keep = keep
        self.num_directions = 1 if direction == "forward" else 2
        self.out_channels = hidden_channels * self.num_directions
        self.cells = nn.ModuleList(
            ConvLSTMLayer3d(in_channels if layer == 0 else self.out_channels, hidden_channels, kernel, input_kernel)
            for layer in range(num_layers)
            for _ in range(self.num_directions)
        )
        self.num_cells = len(self.cells)

    def forward(  # type: ignore[override]  # no `cyclic`, because it carries states
        self, x: Tensor, state: Sequence[CellState | None] | None = None
    ) -> tuple[Tensor, ConvLSTMState]:
        """Run over all frames.

        Args:
            x: (B, T, C, X, Y, Z).
            state: state to start from, as returned by an earlier call; None is a state of zeros. The forward direction starts
                from it at the first frame, the backward direction at the last.

        Returns:
            Output (B, T, H * directions, X, Y, Z), and the final state of each direction. Passed on with the frames that follow, it
            gives what one forward run over all frames gives.
        """
        self._check(x, state)
        after: ConvLSTMState = []
        for layer in range(len(self.cells) // self.num_directions):
            x, final = self._run_layer(x, state, layer)
            after += final
        return x, after

    def final_cell_state(self, x: Tensor, state: Sequence[CellState | None] | None, index: int) -> CellState:
        """Return the final state of one cell; runs the layers below it and, of its own layer, that cell alone.

        Args:
            x: (B, T, C, X, Y, Z).
            state: as in `forward`; None for a cell is a state of zeros. States from `index` on are ignored, except the cell's own.
            index: place of the cell in the state.
        """
        self._check(x, state)
        if not 0 <= index < len(self.cells):
            raise InputError(f"got cell {index}, expected 0 to {len(self.cells) - 1}")
        for layer in range(index // self.num_directions):
            x, _ = self._run_layer(x, state, layer)
        return self._run_cell(x, state, index)[1]

    def _run_layer(
        self, x: Tensor, state: Sequence[CellState | None] | None, layer: int
    ) -> tuple[Tensor, ConvLSTMState]:
        """Return the output (B, T, H * directions, X, Y, Z) of one layer, and the final state of each direction."""
        first = layer * self.num_directions
        outputs, final = zip(*(self._run_cell(x, state, first + i) for i in range(self.num_directions)), strict=True)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 2), list(final)

    def _run_cell(self, x: Tensor, state: Sequence[CellState | None] | None, index: int) -> tuple[Tensor, CellState]:
        """Return the hidden states (B, T, H, X, Y, Z) of one layer in one direction, and its final state."""
        before = None if state is None else state[index]
        return self.cells[index](x, before, index % self.num_directions == 1, self.keep)

    def _check(self, x: Tensor, state: Sequence[CellState | None] | None) -> None:
        if x.ndim != 6 or x.shape[1] == 0:
            raise InputError(f"got a tensor of shape {tuple(x.shape)}, expected (B, T, C, X, Y, Z) with T of 1 or more")
        if state is not None and len(state) != len(self.cells):
            raise InputError(f"got {len(state)} states, expected one per layer and direction, {len(self.cells)}")
