"""Convolutions, padded so that stride 1 keeps the grid; one of kernel 1 is computed as a matrix product.

On a CPU torch changes a frame's memory layout for its convolution and back. At full resolution, with few channels, that takes
several times as long as the product. With autograd in half precision, torch's convolution is used.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from unet4d.config import Size, triple


def same_padding(kernel_size: Sequence[int]) -> Size:
    """Return the padding that keeps the grid under an odd kernel."""
    return triple(k // 2 for k in kernel_size)


def convolved(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Size = (1, 1, 1)) -> Tensor:
    """Convolve `x` (..., C, X, Y, Z), of five axes or more, with `weight` (K, C, k, k, k): (..., K, X, Y, Z), fewer by a stride.

    All axes before the channels are computed at once, under autocast in its dtype.
    """
    folded, padding, ones = x.flatten(0, -5), same_padding(weight.shape[2:]), (1, 1, 1)
    if _is_pointwise(weight) and stride == ones and not (torch.is_grad_enabled() and _in_half(x)):
        result = _product(weight.flatten(1), folded.flatten(2), bias).unflatten(2, x.shape[-3:])
    elif _is_lone(folded):
        result = torch.mkldnn_convolution(folded, weight, bias, padding, stride, ones, 1)
    else:
        result = functional.conv3d(folded, weight, bias, stride, padding)
    return result.unflatten(0, x.shape[:-4])


def convolution_gradients(
    grad_result: Tensor, x: Tensor, weight: Tensor, needed: tuple[bool, bool, bool]
) -> Sequence[Tensor | None]:
    """Return the gradients of `x`, weight and bias from that of the result of `convolved`; None for one not needed."""
    if not any(needed):
        return None, None, None
    folded, grad_folded = x.flatten(0, -5), grad_result.flatten(0, -5)
    if _is_pointwise(weight) and not _in_half(x):
        grad_x, grad_weight, grad_bias = _gradients_of_product(grad_folded, folded, weight, needed)
    else:
        padding, ones = same_padding(weight.shape[2:]), [1, 1, 1]
        grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad_folded, folded, weight, weight.shape[:1], ones, padding, ones, False, [0, 0, 0], 1, needed
        )
    return grad_x if grad_x is None else grad_x.unflatten(0, x.shape[:-4]), grad_weight, grad_bias


class Convolution(nn.Conv3d):
    """A `torch.nn.Conv3d`, padded so that an odd kernel keeps the grid, computed by `convolved`."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: Size = (1, 1, 1), stride: Size = (1, 1, 1), bias: bool = True
    ):
        super().__init__(in_channels, out_channels, kernel, stride, same_padding(kernel), bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, K, X, Y, Z), or fewer by the stride, from `x` (N, C, X, Y, Z)."""
        return convolved(x, self.weight, self.bias, triple(self.stride))


def _is_pointwise(weight: Tensor) -> bool:
    return tuple(weight.shape[2:]) == (1, 1, 1)


def _in_half(x: Tensor) -> bool:
    """Return whether a product would be in half precision: then its gradients would be added up in it, frame by frame."""
    kind = x.device.type
    autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return autocast or x.dtype in (torch.bfloat16, torch.float16)


def _is_lone(x: Tensor) -> bool:
    """Return whether torch would skip oneDNN for its slow convolution, as it does for one small frame in float32 on a CPU.

    A fake tensor has no oneDNN; autocast and autograd do not support this path.
    """
    plain = type(x) is Tensor and x.device.type == "cpu" and x.dtype == torch.float32 and len(x) == 1
    unseen = not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    return plain and unseen and torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)


def _product(weight: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    """Return `weight` (K, C) times `x` (N, C, V)."""
    weight = weight.expand(len(x), -1, -1)
    return torch.bmm(weight, x) if bias is None else torch.baddbmm(bias[:, None], weight, x)


def _gradients_of_product(
    grad_product: Tensor, x: Tensor, weight: Tensor, needed: tuple[bool, bool, bool]
) -> Sequence[Tensor | None]:
    """Return the same as `convolution_gradients`, for a kernel of 1."""
    grad_flat = grad_product.flatten(2)
    grad_x = _product(weight.flatten(1).T, grad_flat, None).view(x.shape) if needed[0] else None
    grad_weight = torch.bmm(grad_flat, x.flatten(2).mT).sum(0).view(weight.shape) if needed[1] else None
    return grad_x, grad_weight, grad_flat.sum((0, 2)) if needed[2] else None
