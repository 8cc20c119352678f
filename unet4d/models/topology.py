"""Strides and kernels from the voxel size: thick slices are not pooled or convolved across while the plane is finer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from unet4d.config import CHANNELS, MOST_LEVELS, ModelConfig, ResolvedModelConfig, Size, triple
from unet4d.errors import InputError

SMALLEST_POOLED_EDGE = 4
"""An axis is not pooled below this many voxels."""


def strides_and_kernels(spacing: Sequence[float], size: Sequence[int], levels: int) -> tuple[list[Size], list[Size]]:
    """Return strides between the levels and kernels of the levels, by nnU-Net's rule (Isensee et al. 2021, supplementary note 2).

    An axis is convolved across (kernel 3) from the level on where its spacing is less than twice the finest axis', or where it has
    been pooled, since a stride wider than its kernel would throw voxels away. It is pooled (stride 2) where at least
    `SMALLEST_POOLED_EDGE` voxels remain of it, and its spacing is less than twice the finest of such axes.

    An axis of a single voxel is ignored, unlike in nnU-Net, which plans single slices in 2D: there is only padding across it, and
    its spacing in the header is often 0 or 1 mm.

    Args:
        spacing: (X, Y, Z) in mm.
        size: voxels (X, Y, Z) of the patch.
        levels: levels of the network.

    Returns:
        `levels - 1` strides and `levels` kernels.
    """
    here, left = list(spacing), [float(n) for n in size]
    kernel: Size = (1, 1, 1)
    stride: Size = (1, 1, 1)
    strides: list[Size] = []
    kernels: list[Size] = []
    for _ in range(levels):
        limit = 2 * min((s for s, n in zip(here, size, strict=True) if n > 1), default=0.0)
        near = [n > 1 and s < limit for s, n in zip(here, size, strict=True)]
        kernel = triple(3 if n or step > 1 else k for n, step, k in zip(near, stride, kernel, strict=True))
        kernels.append(kernel)
        large = [edge >= 2 * SMALLEST_POOLED_EDGE for edge in left]
        finest = min((s for s, enough in zip(here, large, strict=True) if enough), default=0.0)
        stride = triple(2 if enough and s < 2 * finest else 1 for s, enough in zip(here, large, strict=True))
        strides.append(stride)
        here = [s * step for s, step in zip(here, stride, strict=True)]
        left = [edge / step for edge, step in zip(left, stride, strict=True)]
    return strides[:-1], kernels


def channels_of_patch(spacing: Sequence[float], size: Sequence[int]) -> list[int]:
    """Return the channels of as many levels as pool a patch until no axis is left to pool (Isensee et al. 2021); two or more.

    See `strides_and_kernels` for the arguments.
    """
    strides, _ = strides_and_kernels(spacing, size, MOST_LEVELS)
    pooled = sum(stride != (1, 1, 1) for stride in strides)
    return [min(CHANNELS[0] << level, CHANNELS[-1]) for level in range(max(2, pooled + 1))]


def resolve_model(model: ModelConfig, spacing: Sequence[float], patch: Sequence[int]) -> ResolvedModelConfig:
    """Return a network's configuration with levels, strides and kernels from patch and voxel, and the ConvLSTMs' channels.

    Args:
        model: what it sets is kept.
        spacing: (X, Y, Z) in mm.
        patch: voxels (X, Y, Z), before they are rounded up to the strides.
    """
    channels = model.channels or channels_of_patch(spacing, patch)
    model = replace(model, channels=channels)
    strides, kernels = strides_and_kernels(spacing, patch, len(channels))
    derived = {"strides": model.strides or strides, "kernel_size": model.kernel_size or kernels}
    return ResolvedModelConfig(**{**vars(model), **derived, "lstm_channels": model.lstm_channels_per_level()})


def total_stride(strides: Sequence[Sequence[int]]) -> Size:
    """Return the product of the strides per axis: a patch must be a multiple of it."""
    product = [1, 1, 1]
    for stride in strides:
        product = [p * s for p, s in zip(product, stride, strict=True)]
    return triple(product)


def rounded_up(size: Sequence[int], multiple: Sequence[int]) -> Size:
    """Return the smallest size of at least `size` that `multiple` divides, per axis."""
    return triple(-(-n // m) * m for n, m in zip(size, multiple, strict=True))


def check_divisible(size: Sequence[int], multiple: Sequence[int]) -> None:
    """Raise an InputError that names the shape to pad to unless `multiple` divides `size`."""
    if any(n % m for n, m in zip(size, multiple, strict=True)):
        raise InputError(
            f"got a grid of {tuple(size)}, expected multiples of {tuple(multiple)}; pad to {rounded_up(size, multiple)}"
        )
