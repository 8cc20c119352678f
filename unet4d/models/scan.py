"""A ConvLSTM's run over its frames, with a backward pass that recomputes what the forward pass did not keep."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from unet4d.errors import InputError
from unet4d.models.conv import convolution_gradients, convolved
from unet4d.models.lstm_gates import CellState, step, step_backward, step_weights, wide_dtype

Keep = Literal["gates", "hidden"]
"""Tensors kept for the backward pass. gates: the gates and cell states of every frame, so nothing is recomputed.
hidden: the frames and the hidden states; the gates are recomputed, those of all frames at once."""


@torch.compiler.disable
def scan(
    x: Tensor,
    state: CellState | None,
    input_weight: Tensor,
    bias: Tensor,
    hidden_weight: Tensor,
    keep: Keep = "hidden",
    reverse: bool = False,
) -> tuple[Tensor, CellState]:
    """Run a ConvLSTM without peepholes (Shi et al. 2015, NeurIPS 28) over the frames of `x`.

    Under autocast the convolutions run in its dtype; the gates' arithmetic and the cell state are float32, or float64 for float64
    frames. Differentiable once.

    Args:
        x: frames (B, T, C, X, Y, Z).
        state: hidden and cell state to start from, each (B, H, X, Y, Z); None is zeros.
        input_weight: (4H, C, k, k, k), odd kernel of any shape, padded to keep the grid; gates in the order i, f, g, o.
        bias: (4H,).
        hidden_weight: (4H, H, k, k, k).
        keep: what to keep for the backward pass; results do not depend on it.
        reverse: run from the last frame to the first.

    Returns:
        Hidden states (B, T, H, X, Y, Z) in the order of the frames, and the state after the last step.
    """
    if keep not in get_args(Keep):
        raise InputError(f"got keep {keep!r}, expected one of {', '.join(get_args(Keep))}")
    if not torch.is_grad_enabled():
        keep = "hidden"  # no backward pass will need the gates
    kind = x.device.type
    autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    dtype = torch.get_autocast_dtype(kind) if autocast else x.dtype
    hidden, cell = (None, None) if state is None else (state[0].to(dtype), state[1].to(wide_dtype(dtype)))
    weights = [weight.to(dtype) for weight in (input_weight, bias, hidden_weight)]
    with _without_autocast(x):
        output, *after = _Scan.apply(x.to(dtype), hidden, cell, *weights, keep, reverse)
    return output, (after[0], after[1])


def _without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


_Start = tuple[Tensor | None, Tensor]
"""Hidden and cell state to start from; no hidden state means one of zeros."""


@dataclass
class _Layer:
    """One layer in one direction: its weights as in `scan`, and the order of its steps.

    Attributes:
        for_steps: input weight, bias and hidden weight as `step` takes them.
    """

    input_weight: Tensor
    bias: Tensor
    hidden_weight: Tensor
    reverse: bool
    for_steps: tuple[Tensor, Tensor, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        """Scale the weights for the steps."""
        self.for_steps = step_weights(self.input_weight), step_weights(self.bias), step_weights(self.hidden_weight)

    @property
    def way(self) -> slice:
        """Return the slice that puts frames into the order of the steps, and back."""
        return slice(None, None, -1 if self.reverse else 1)

    def parts(self, frames: int, length: int) -> list[slice]:
        """Return slices of `length` frames in the order of the steps."""
        return [slice(start, min(start + length, frames)) for start in range(0, frames, length)][self.way]

    def steps_and_before(self, steps: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """Return the frames (B, T - 1, ...) of `steps` after the first step, and those of `before` one step earlier."""
        later, earlier = slice(1, None), slice(None, -1)
        return (steps[:, earlier], before[:, later]) if self.reverse else (steps[:, later], before[:, earlier])

    def run(self, x: Tensor, start: _Start, hidden: Tensor, kept: list[Tensor] | None) -> CellState:
        """Run over the frames of `x` and return the last state; fill `hidden`, and `kept` with the gates and each cell state."""
        input_weight, bias, hidden_weight = self.for_steps
        gates = convolved(x, input_weight, bias)
        if kept is not None:
            kept.append(gates)
        h, c = start
        for t in range(x.shape[1])[self.way]:
            from_hidden = None if h is None else convolved(h, hidden_weight)
            h, c = step(gates[:, t], from_hidden, c, kept is not None)
            hidden[:, t] = h
            if kept is not None:
                kept.append(c)
        assert h is not None
        return h, c

    def recompute(self, x: Tensor, start: _Start, hidden: Tensor) -> list[Tensor]:
        """Return what `run` puts into `kept`; as the hidden states are known, no convolution waits for a step."""
        gates, cells = convolved(x, *self.for_steps[:2]), [start[1]]
        for t, from_hidden in zip(range(x.shape[1])[self.way], self._from_hidden(start[0], hidden), strict=True):
            cells.append(step(gates[:, t], from_hidden, cells[-1], True)[1])
        return [gates, *cells[1:]]

    def _from_hidden(self, first: Tensor | None, hidden: Tensor) -> Iterator[Tensor | None]:
        """Yield the hidden state's part of the gates at each step, computed for a few frames at once to bound the memory."""
        weight = self.for_steps[2]
        yield None if first is None else convolved(first, weight)
        _, before = self.steps_and_before(hidden, hidden)
        for part in self.parts(before.shape[1], _sqrt(before.shape[1])):
            yield from convolved(before[:, part], weight).unbind(1)[self.way]

    def backward(
        self,
        x: Tensor,
        start: _Start,
        hidden: Tensor,
        kept: Sequence[Tensor],
        grads: Sequence[Tensor],
        needs: Sequence[bool],
    ) -> list[Tensor | None]:
        """Return the gradients of x, first hidden state, first cell state, input weight, bias and hidden weight.

        Args:
            kept: what `run` kept; empty recomputes it.
            grads: gradients of the hidden states (B, T, H, X, Y, Z), and of hidden and cell state after the last step.
            needs: which gradients are needed.
        """
        weight, order = self.hidden_weight, range(x.shape[1])[self.way]
        grad_output, grad_hidden, grad_cell = grads
        gates, *cells = kept or self.recompute(x, start, hidden)
        grad_gates = torch.empty_like(gates) if kept else gates
        grad_first: Tensor | None = None
        grad_weight: Tensor | None = None
        for number in reversed(range(len(order))):
            t, cell, before = order[number], cells.pop(), cells[-1] if number else start[1]
            now = grad_gates[:, t]
            grad_cell = step_backward(gates[:, t], before, cell, grad_output[:, t], grad_hidden, grad_cell, now)
            if number:
                previous = convolution_gradients(now, hidden[:, order[number - 1]], weight, (True, False, False))[0]
                assert previous is not None
                grad_hidden = previous
            elif start[0] is not None:
                grad_first, grad_weight, _ = convolution_gradients(now, start[0], weight, (needs[1], needs[5], False))
        if len(order) > 1:
            steps, before = self.steps_and_before(grad_gates, hidden)
            grad_weight = _sum(grad_weight, convolution_gradients(steps, before, weight, (False, needs[5], False))[1])
        grad_x, grad_input_weight, grad_bias = convolution_gradients(
            grad_gates, x, self.input_weight, (needs[0], needs[3], needs[4])
        )
        return [grad_x, grad_first, grad_cell if needs[2] else None, grad_input_weight, grad_bias, grad_weight]


class _Scan(torch.autograd.Function):
    """`scan` on tensors of one dtype, except for the cell state."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, hidden: Tensor | None, cell: Tensor | None, input_weight: Tensor, bias: Tensor, hidden_weight: Tensor,
        keep: Keep, reverse: bool,
    ) -> tuple[Tensor | None, ...]:  # fmt: skip
        layer = _Layer(input_weight, bias, hidden_weight, reverse)
        output = x.new_empty((*x.shape[:2], hidden_weight.shape[1], *x.shape[3:]))
        kept: list[Tensor] | None = [] if keep == "gates" else None
        state = hidden, _first_cell(x, cell, output)
        for part in layer.parts(x.shape[1], x.shape[1] if keep == "gates" else _sqrt(x.shape[1])):
            state = layer.run(x[:, part], state, output[:, part], kept)
        ctx.reverse = reverse
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, hidden, cell, input_weight, bias, hidden_weight, output, *(kept or ()))
        return output, *state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        x, hidden, cell, input_weight, bias, hidden_weight, output, *kept = ctx.saved_tensors
        layer = _Layer(input_weight, bias, hidden_weight, ctx.reverse)
        start = hidden, _first_cell(x, cell, output)
        grads = [
            x.new_zeros(()).expand(shape) if grad is None else grad
            for grad, shape in zip(gradients, (output.shape, *[start[1].shape] * 2), strict=True)
        ]
        with _without_autocast(x):
            found = layer.backward(x, start, output, kept, grads, ctx.needs_input_grad)
        for number, weight in enumerate((input_weight, bias, hidden_weight), 3):
            grad = found[number]
            found[number] = weight.new_zeros(weight.shape) if grad is None else grad.to(weight.dtype)
        return *found, None, None


def _first_cell(x: Tensor, cell: Tensor | None, output: Tensor) -> Tensor:
    """Return the cell state to start from: the given one, or zeros like a frame of the output."""
    return output.new_zeros(output[:, 0].shape, dtype=wide_dtype(x.dtype)) if cell is None else cell


def _sqrt(frames: int) -> int:
    """Return the square root of a number of frames, rounded up."""
    return math.isqrt(max(frames - 1, 0)) + 1


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """Add two gradients that may be missing, not rounded to half precision, which would lose small summands."""
    if a is None or b is None:
        return b if a is None else a
    return a.to(wide_dtype(a.dtype)) + b
