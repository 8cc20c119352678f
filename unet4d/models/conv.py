"""Convolutions, padded so that stride 1 keeps the grid. One of kernel 1 is computed as the matrix product it is.

On a CPU torch lays a frame out anew for its convolution and back again: at full resolution, with few channels, that takes several
times as long as the product itself. Where autograd follows a convolution in half precision, it keeps torch's way.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from unet4d.config import Size, triple


def same_padding(kernel_size: Sequence[int]) -> Size:
    """The padding that keeps the grid under an odd kernel."""
    return triple(k // 2 for k in kernel_size)


def convolved(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Size = (1, 1, 1)) -> Tensor:
    """`x` (..., C, X, Y, Z), of five axes or more, convolved with `weight` (K, C, k, k, k): (..., K, X, Y, Z), fewer by a stride.

    All that lies before the channels is computed at once. Under autocast as a convolution.
    """
    folded, padding, ones = x.flatten(0, -5), same_padding(weight.shape[2:]), (1, 1, 1)
    if _is_pointwise(weight) and stride == ones and not (torch.is_grad_enabled() and _in_half(x)):
        answer = _product(weight.flatten(1), folded.flatten(2), bias).unflatten(2, x.shape[-3:])
    elif _is_lone(folded):
        answer = torch.mkldnn_convolution(folded, weight, bias, padding, stride, ones, 1)
    else:
        answer = functional.conv3d(folded, weight, bias, stride, padding)
    return answer.unflatten(0, x.shape[:-4])


def convolution_gradients(
    of_convolved: Tensor, x: Tensor, weight: Tensor, wanted: tuple[bool, bool, bool]
) -> Sequence[Tensor | None]:
    """Gradients of `x`, weight and bias from that of what `convolved` returned; None for one not wanted."""
    if not any(wanted):
        return None, None, None
    folded, of_folded = x.flatten(0, -5), of_convolved.flatten(0, -5)
    if _is_pointwise(weight) and not _in_half(x):
        of_x, of_weight, of_bias = _gradients_of_product(of_folded, folded, weight, wanted)
    else:
        padding, ones = same_padding(weight.shape[2:]), [1, 1, 1]
        of_x, of_weight, of_bias = torch.ops.aten.convolution_backward(
            of_folded, folded, weight, weight.shape[:1], ones, padding, ones, False, [0, 0, 0], 1, wanted
        )
    return of_x if of_x is None else of_x.unflatten(0, x.shape[:-4]), of_weight, of_bias


class Convolution(nn.Conv3d):
    """torch's layer, padded as an odd kernel needs it to keep the grid, computed by `convolved`."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: Size = (1, 1, 1), stride: Size = (1, 1, 1), bias: bool = True
    ):
        super().__init__(in_channels, out_channels, kernel, stride, same_padding(kernel), bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """`x` (N, C, X, Y, Z) to (N, K, X, Y, Z), or fewer by the stride."""
        return convolved(x, self.weight, self.bias, triple(self.stride))


def _is_pointwise(weight: Tensor) -> bool:
    return tuple(weight.shape[2:]) == (1, 1, 1)


def _in_half(x: Tensor) -> bool:
    """Whether a product would be in half precision: then its gradients would be added up in it, frame by frame."""
    kind = x.device.type
    autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return autocast or x.dtype in (torch.bfloat16, torch.float16)


def _is_lone(x: Tensor) -> bool:
    """Whether torch would pass oneDNN by for its slow convolution, as it does for one small frame in float32 on a CPU.

    A fake tensor has no oneDNN, autocast and autograd do not see through this way.
    """
    plain = type(x) is Tensor and x.device.type == "cpu" and x.dtype == torch.float32 and len(x) == 1
    unseen = not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    return plain and unseen and torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)


def _product(weight: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    """`weight` (K, C) times `x` (N, C, V)."""
    weight = weight.expand(len(x), -1, -1)
    return torch.bmm(weight, x) if bias is None else torch.baddbmm(bias[:, None], weight, x)


def _gradients_of_product(
    of_product: Tensor, x: Tensor, weight: Tensor, wanted: tuple[bool, bool, bool]
) -> Sequence[Tensor | None]:
    """As `convolution_gradients`, for a kernel of 1."""
    of_flat = of_product.flatten(2)
    of_x = _product(weight.flatten(1).T, of_flat, None).view(x.shape) if wanted[0] else None
    of_weight = torch.bmm(of_flat, x.flatten(2).mT).sum(0).view(weight.shape) if wanted[1] else None
    return of_x, of_weight, of_flat.sum((0, 2)) if wanted[2] else None
