"""The arithmetic of an LSTM's gates, one step forward and back, and its fusion on a GPU."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

CellState = tuple[Tensor, Tensor]
"""Hidden and cell state of one layer in one direction, each (B, H, X, Y, Z); the cell state is float32."""


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the gates' arithmetic."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def step(gates: Tensor, share: Tensor | None, cell: Tensor, keep_gates: bool) -> CellState:
    """One step: the hidden state and the cell state (B, H, X, Y, Z) after it.

    Args:
        gates: the input's share of the gates (B, 4H, X, Y, Z); overwritten.
        share: the hidden state's share; None is zeros.
        cell: cell state before the step.
        keep_gates: leave the activated gates in `gates`.
    """
    count = cell.shape[1]
    wide = gates.to(cell.dtype)
    if share is not None:
        wide.add_(share)
    wide[:, : 2 * count].sigmoid_()
    _tanh_(wide[:, 2 * count : 3 * count])
    wide[:, 3 * count :].sigmoid_()
    i, f, g, o = wide.chunk(4, 1)
    cell = (f * cell).addcmul_(i, g)
    if keep_gates and wide is not gates:
        gates.copy_(wide)
    return _tanh_(cell.clone()).mul_(o).to(gates.dtype), cell


def step_backward(
    gates: Tensor,
    before: Tensor,
    cell: Tensor,
    grad_output: Tensor,
    grad_hidden: Tensor,
    grad_cell: Tensor,
    into: Tensor,
) -> Tensor:
    """The gradient of `step`.

    Args:
        gates: activations (B, 4H, X, Y, Z) of the step's gates.
        before: cell state (B, H, X, Y, Z) before the step.
        cell: cell state after it.
        grad_output: gradient of the hidden state as an output.
        grad_hidden: gradient of the hidden state from the step that follows.
        grad_cell: gradient of the cell state from the step that follows.
        into: (B, 4H, X, Y, Z), overwritten by the gradient of the summed gates; may be `gates` itself.

    Returns:
        Gradient of `before`.
    """
    i, f, g, o = gates.to(cell.dtype).chunk(4, 1)
    grad_hidden = grad_output.to(cell.dtype) + grad_hidden
    squashed = _tanh_(cell.clone())
    grad_cell = grad_cell + torch.ops.aten.tanh_backward(grad_hidden * o, squashed)
    grads = (
        torch.ops.aten.sigmoid_backward(grad_cell * g, i),
        torch.ops.aten.sigmoid_backward(grad_cell * before, f),
        torch.ops.aten.tanh_backward(grad_cell * i, g),
        torch.ops.aten.sigmoid_backward(grad_hidden * squashed, o),
    )
    grad_before = grad_cell * f
    for share, grad in zip(into.chunk(4, 1), grads, strict=True):
        share.copy_(grad)
    return grad_before


def _tanh_(x: Tensor) -> Tensor:
    """The hyperbolic tangent, in place, to some 1e-7; on a CPU by the logistic function, which takes torch a sixth of its time."""
    return x.mul_(2).sigmoid_().mul_(2).sub_(1) if x.device.type == "cpu" else x.tanh_()


Steps = tuple[Callable[..., CellState], Callable[..., Tensor]]
"""`step` and `step_backward`, or what stands for them."""
_fused_on_gpu = False


def fuse_gates(on: bool = True) -> None:
    """Compile each step's arithmetic into one kernel on CUDA devices. Off until a benchmark on a GPU says that it pays."""
    global _fused_on_gpu
    _fused_on_gpu = on


def steps_for(device: torch.device) -> Steps:
    """What computes the steps on a device."""
    return fused_steps(device) if _fused_on_gpu and device.type == "cuda" else (step, step_backward)


@functools.cache
def fused_steps(device: torch.device) -> Steps:
    """`step` and `step_backward` compiled for the device; themselves, with one warning, where that fails."""
    fused: Steps = (torch.compile(step, dynamic=True), torch.compile(step_backward, dynamic=True))
    gates, share = torch.zeros(2, 2, 8, 2, 3, 4, device=device)
    states = torch.zeros(5, 2, 2, 2, 3, 4, device=device)
    try:
        fused[0](gates, share, states[0], True)
        fused[1](gates, *states, gates)
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        warnings.warn(f"the gates' arithmetic cannot be compiled, and runs unfused: {reason[0]}", stacklevel=2)
        return step, step_backward
    return fused
