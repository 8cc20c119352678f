"""The run of a ConvLSTM over its frames, with a backward pass that keeps as little as it is told to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from unet4d.errors import InputError
from unet4d.models.conv import convolved, gradients
from unet4d.models.lstm_gates import CellState, steps_for, wide_dtype

Keep = Literal["gates", "hidden", "borders"]
"""What a run keeps for its backward pass. gates: the gates and cell states of every frame, so that nothing is computed again.
hidden: the frames and the hidden states; the gates are computed again, all frames at once. borders: the frames, and the states
every sqrt(T) frames; what lies between two of them is run again."""


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

    The states of few frames kept and the rest run again is Chen et al. 2016 (arXiv 1604.06174). Under autocast the convolutions
    run in its dtype; the gates' arithmetic and the cell state are float32, or float64 for float64 frames. Differentiable once.

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
        raise InputError(f"keep is {keep!r}; wanted one of {', '.join(get_args(Keep))}")
    if not torch.is_grad_enabled():
        keep = "hidden"  # no backward pass, and the only one that holds nothing in forward which it does not return
    kind = x.device.type
    autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    dtype = torch.get_autocast_dtype(kind) if autocast else x.dtype
    hidden, cell = (None, None) if state is None else (state[0].to(dtype), state[1].to(wide_dtype(dtype)))
    weights = [weight.to(dtype) for weight in (input_weight, bias, hidden_weight)]
    with _without_autocast(x):
        output, *after = _Scan.apply(x.to(dtype), hidden, cell, *weights, keep, reverse)
    return output, (after[0], after[1])


def _without_autocast(x: Tensor) -> AbstractContextManager:
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


_Start = tuple[Tensor | None, Tensor]
"""Hidden and cell state to start from; no hidden state means one of zeros."""


@dataclass
class _Layer:
    """One layer in one direction: its weights as in `scan`, what it keeps and the way it runs."""

    input_weight: Tensor
    bias: Tensor
    hidden_weight: Tensor
    keep: Keep
    reverse: bool

    def order(self, frames: int) -> list[int]:
        """The frames as they are run."""
        return list(range(frames))[:: -1 if self.reverse else 1]

    def parts(self, frames: int, length: int) -> list[slice]:
        """The frames cut into parts of `length`, as they are run."""
        parts = [slice(start, min(start + length, frames)) for start in range(0, frames, length)]
        return parts[:: -1 if self.reverse else 1]

    def steps(self, of_frames: Tensor) -> Tensor:
        """(B, T, ...) without the frame run first."""
        return of_frames[:, :-1] if self.reverse else of_frames[:, 1:]

    def steps_before(self, of_frames: Tensor) -> Tensor:
        """(B, T, ...) without the frame run last: to each of `steps` the one run before it."""
        return of_frames[:, 1:] if self.reverse else of_frames[:, :-1]

    def start(self, x: Tensor, hidden: Tensor | None, cell: Tensor | None) -> _Start:
        """The state to start from."""
        shape = (x.shape[0], self.hidden_weight.shape[1], *x.shape[3:])
        return hidden, x.new_zeros(shape, dtype=wide_dtype(x.dtype)) if cell is None else cell

    def room(self, x: Tensor) -> Tensor:
        """Memory for the hidden states (B, T, H, X, Y, Z) of the frames of `x`."""
        return x.new_empty((*x.shape[:2], self.hidden_weight.shape[1], *x.shape[3:]))

    def run(self, x: Tensor, start: _Start, hidden: Tensor, kept: list[Tensor] | None = None) -> CellState:
        """Run over the frames of `x`; the state it ends with. Fills in `hidden`, and `kept` with the gates and each cell state."""
        forward, _ = steps_for(x.device)
        gates = convolved(x, self.input_weight, self.bias)
        if kept is not None:
            kept.append(gates)
        h, c = start
        for t in self.order(x.shape[1]):
            share = None if h is None else convolved(h, self.hidden_weight)
            h, c = forward(gates[:, t], share, c, kept is not None)
            hidden[:, t] = h
            if kept is not None:
                kept.append(c)
        assert h is not None
        return h, c

    def run_again(self, x: Tensor, start: _Start, hidden: Tensor) -> list[Tensor]:
        """What `run` put into `kept`, the hidden states being known: no convolution waits for a step."""
        forward, _ = steps_for(x.device)
        gates, cells = convolved(x, self.input_weight, self.bias), [start[1]]
        for t, share in zip(self.order(x.shape[1]), self.shares(start[0], hidden), strict=True):
            cells.append(forward(gates[:, t], share, cells[-1], True)[1])
        return [gates, *cells[1:]]

    def shares(self, first: Tensor | None, hidden: Tensor) -> Iterator[Tensor | None]:
        """The hidden state's share of the gates at each step; some frames at once, for all would be as large as the gates."""
        yield None if first is None else convolved(first, self.hidden_weight)
        before = self.steps_before(hidden)
        for some in self.parts(before.shape[1], _root(before.shape[1])):
            yield from convolved(before[:, some], self.hidden_weight).unbind(1)[:: -1 if self.reverse else 1]

    def recalled(self, x: Tensor, start: _Start, kept: Sequence[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Hidden states, activated gates and cell states of a run over the frames of `x`: as kept, or computed again."""
        hidden = self.room(x) if self.keep == "borders" else kept[0]
        again: list[Tensor] = []
        if self.keep == "gates":
            again += kept[1:]
        elif self.keep == "hidden":
            again += self.run_again(x, start, hidden)
        else:
            self.run(x, start, hidden, again)
        return hidden, again[0], again[1:]

    def back(
        self, x: Tensor, start: _Start, kept: Sequence[Tensor], grads: Sequence[Any], wanted: Sequence[bool]
    ) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None]]:
        """Back over the frames of `x`, run from `start`.

        Args:
            grads: gradients of the hidden states (B, T, H, X, Y, Z), and of hidden and cell state after the last step.
            wanted: whether a gradient is: x's, the first hidden state's, input weight's, bias', hidden weight's.

        Returns:
            Gradients of x, input weight, bias and hidden weight; those of `start`.
        """
        _, backward = steps_for(x.device)
        weight, order = self.hidden_weight, self.order(x.shape[1])
        of_output, of_hidden, of_cell = grads
        hidden, gates, cells = self.recalled(x, start, kept)
        of_gates = torch.empty_like(gates) if self.keep == "gates" else gates
        of_first: Tensor | None = None
        of_weight: Tensor | None = None
        for step in reversed(range(len(order))):
            t, cell, before = order[step], cells.pop(), cells[-1] if step else start[1]
            now = gates[:, t]
            into = now if of_gates is gates else of_gates[:, t]
            of_cell = backward(now, before, cell, of_output[:, t], of_hidden, of_cell, into)
            if step:
                of_hidden = gradients(into, hidden[:, order[step - 1]], weight, (True, False, False))[0]
            elif start[0] is not None:
                of_first, of_weight, _ = gradients(into, start[0], weight, (wanted[1], wanted[4], False))
        if len(order) > 1:
            of_steps, before = self.steps(of_gates), self.steps_before(hidden)
            of_weight = _sum(of_weight, gradients(of_steps, before, weight, (False, wanted[4], False))[1])
        of_inputs = gradients(of_gates, x, self.input_weight, (wanted[0], wanted[2], wanted[3]))
        return (*of_inputs, of_weight), (of_first, of_cell)


class _Scan(torch.autograd.Function):
    """`scan` on tensors of one dtype, the cell state apart."""

    @staticmethod
    def forward(ctx, x, hidden, cell, input_weight, bias, hidden_weight, keep: Keep, reverse: bool):
        layer = _Layer(input_weight, bias, hidden_weight, keep, reverse)
        output = layer.room(x)
        kept: Any = {"gates": [output], "hidden": [output], "borders": []}[keep]
        state = layer.start(x, hidden, cell)
        length = x.shape[1] if keep == "gates" else _root(x.shape[1])
        for number, part in enumerate(layer.parts(x.shape[1], length)):
            if keep == "borders" and number > 0:
                kept.extend(state)
            state = layer.run(x[:, part], state, output[:, part], kept if keep == "gates" else None)
        ctx.keep, ctx.reverse = keep, reverse
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, hidden, cell, input_weight, bias, hidden_weight, *kept)
        return output, *state

    @staticmethod
    @once_differentiable
    def backward(ctx, of_output, of_hidden, of_cell):
        x, hidden, cell, input_weight, bias, hidden_weight, *kept = ctx.saved_tensors
        layer = _Layer(input_weight, bias, hidden_weight, ctx.keep, ctx.reverse)
        parts, starts = [slice(None)], [layer.start(x, hidden, cell)]
        if ctx.keep == "borders":
            parts = layer.parts(x.shape[1], _root(x.shape[1]))
            starts += zip(kept[::2], kept[1::2], strict=True)
        shape = starts[0][1].shape
        if of_output is None:
            of_output = x.new_zeros(()).expand(*x.shape[:2], *shape[1:])
        of_state: Any = [x.new_zeros(()).expand(shape) if of is None else of for of in (of_hidden, of_cell)]
        needs_x, needs_hidden, needs_cell, *needs_weights = ctx.needs_input_grad[:6]
        of_x = torch.empty_like(x) if needs_x and len(parts) > 1 else None
        totals: list[Tensor | None] = [None] * 3
        with _without_autocast(x):
            for number, part in reversed(list(enumerate(parts))):
                wanted = (needs_x, needs_hidden or number > 0, *needs_weights)
                grads = (of_output[:, part], *of_state)
                (of_part, *of_weights), of_state = layer.back(x[:, part], starts[number], kept, grads, wanted)
                totals = [_sum(total, of) for total, of in zip(totals, of_weights, strict=True)]
                if of_x is not None and of_part is not None:
                    of_x[:, part] = of_part
        of_weights = [
            weight.new_zeros(weight.shape) if total is None else total.to(weight.dtype)
            for weight, total in zip((input_weight, bias, hidden_weight), totals, strict=True)
        ]
        of_cell = of_state[1] if needs_cell else None
        return of_part if of_x is None else of_x, of_state[0], of_cell, *of_weights, None, None


def _root(frames: int) -> int:
    """The square root of a number of frames, rounded up."""
    return math.isqrt(max(frames - 1, 0)) + 1


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """The sum of what there is of two gradients; not rounded to half precision, which would swallow small parts."""
    if a is None or b is None:
        return b if a is None else a
    return a.to(wide_dtype(a.dtype)) + b
