"""Strides and kernels by hand, for the voxels the field has."""

from __future__ import annotations

import pytest

from unet4d.config import ModelConfig
from unet4d.errors import InputError
from unet4d.models.topology import (
    channels_of_patch,
    check_divisible,
    resolve_model,
    rounded_up,
    strides_and_kernels,
    total_stride,
)


@pytest.mark.parametrize(
    ("spacing", "size", "strides", "kernels"),
    [
        # Cine, 10 mm slices: 1.4 -> 2.8 -> 5.6 mm; only at 5.6 is a slice less than twice as thick.
        (
            (1.4, 1.4, 10),
            (128, 128, 16),
            [(2, 2, 1), (2, 2, 1), (2, 2, 2)],
            [(3, 3, 1), (3, 3, 1), (3, 3, 3), (3, 3, 3)],
        ),
        # Isotropic: everything from the start.
        ((1.0, 1.0, 1.0), (64, 64, 64), [(2, 2, 2)] * 3, [(3, 3, 3)] * 4),
        # 3 mm slices beside 1 mm pixels: one level apart.
        (
            (1.0, 1.0, 3.0),
            (64, 64, 32),
            [(2, 2, 1), (2, 2, 2), (2, 2, 2)],
            [(3, 3, 1), (3, 3, 3), (3, 3, 3), (3, 3, 3)],
        ),
        # Few voxels: an axis is not pooled below 4.
        ((1.0, 1.0, 1.0), (16, 12, 6), [(2, 2, 1), (2, 1, 1), (1, 1, 1)], [(3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)]),
        # 3 mm slices beside 1.4 mm pixels: more than twice as thick, so one level apart, too.
        (
            (1.4, 1.4, 3.0),
            (96, 96, 40),
            [(2, 2, 1), (2, 2, 2), (2, 2, 2)],
            [(3, 3, 1), (3, 3, 3), (3, 3, 3), (3, 3, 3)],
        ),
        # Six thick slices: convolved across once pixels are 5.6 mm, and too few to be pooled.
        (
            (1.4, 1.4, 10),
            (256, 256, 6),
            [(2, 2, 1), (2, 2, 1), (2, 2, 1)],
            [(3, 3, 1), (3, 3, 1), (3, 3, 3), (3, 3, 3)],
        ),
        # A single slice: nothing lies across it, however coarse the pixels become.
        ((1.4, 1.4, 8), (64, 64, 1), [(2, 2, 1)] * 3, [(3, 3, 1)] * 4),
        # Nor does the spacing its header gives it count: in the plane all is as above.
        ((1.4, 1.4, 0.1), (64, 64, 1), [(2, 2, 1)] * 3, [(3, 3, 1)] * 4),
        # Long and thin: the two short axes stop at 4 voxels, the long one goes on alone.
        ((1.0, 1.0, 1.0), (16, 16, 256), [(2, 2, 2), (2, 2, 2), (1, 1, 2)], [(3, 3, 3)] * 4),
        # A thin plane of thick slices: Y stops at 6 voxels, X at 5.6 mm takes the slices along.
        (
            (1.4, 1.4, 10),
            (256, 24, 12),
            [(2, 2, 1), (2, 2, 1), (2, 1, 2)],
            [(3, 3, 1), (3, 3, 1), (3, 3, 3), (3, 3, 3)],
        ),
        # The thick axis may be any.
        ((8.0, 1.0, 1.0), (8, 64, 64), [(1, 2, 2), (1, 2, 2), (1, 2, 2)], [(1, 3, 3), (1, 3, 3), (1, 3, 3), (3, 3, 3)]),
    ],
)
def test_strides_and_kernels_follow_the_voxel(spacing, size, strides, kernels):
    assert strides_and_kernels(spacing, size, 4) == (strides, kernels)


@pytest.mark.parametrize("thickness", [0.3, 1.0, 2.5, 4.0, 10.0])
@pytest.mark.parametrize("size", [(8, 8, 64), (64, 48, 8), (16, 12, 6), (128, 128, 32)])
def test_no_stride_is_wider_than_the_kernel_that_carries_it(size, thickness):
    """Pins a kernel of 1 with a stride of 2, under which every other slice had no say."""
    strides, kernels = strides_and_kernels((1.0, 1.0, thickness), size, 5)
    carried = zip(strides, kernels[1:], strict=True)
    assert all(s <= k for stride, kernel in carried for s, k in zip(stride, kernel, strict=True))


@pytest.mark.parametrize(
    ("spacing", "size", "channels"),
    [
        ((1.4, 1.4, 10), (256, 224, 12), [32, 64, 128, 256, 320, 320, 320]),  # 256 -> 4, six times halved
        ((1.4, 1.4, 10), (252, 216, 12), [32, 64, 128, 256, 320, 320]),  # 252 -> 7.9
        ((1.0, 1.0, 1.0), (96, 96, 96), [32, 64, 128, 256, 320]),  # 96 -> 6
        ((1.0, 1.0, 1.0), (16, 12, 6), [32, 64, 128]),
        ((1.4, 1.4, 8), (64, 64, 1), [32, 64, 128, 256, 320]),
        ((1.0, 1.0, 1.0), (7, 7, 7), [32, 64]),  # nothing to pool: a network has two levels
    ],
)
def test_levels_pool_the_patch_until_no_edge_has_eight_voxels(spacing, size, channels):
    assert channels_of_patch(spacing, size) == channels
    model = resolve_model(ModelConfig(channels=None, lstm_channels=[0]), spacing, size)
    assert model.channels == channels
    assert model.lstm_channels == [0, *(n // 8 for n in channels[1:])]
    whole = resolve_model(ModelConfig(), spacing, size)
    shared = min(len(channels), 5)
    assert model.kernel_size[:shared] == whole.kernel_size[:shared]
    left = [n / stride for n, stride in zip(size, total_stride(model.strides), strict=True)]
    assert all(min(n, 4) <= rest < 8 for n, rest in zip(size, left, strict=True))


def test_total_stride_and_rounding_up():
    assert total_stride([(2, 2, 1), (2, 1, 1), (2, 2, 2)]) == (8, 4, 2)
    assert rounded_up((8, 9, 1), (8, 4, 2)) == (8, 12, 2)
    check_divisible((8, 12, 2), (8, 4, 2))
    with pytest.raises(InputError, match=r"pad to \(8, 12, 2\)"):
        check_divisible((8, 9, 1), (8, 4, 2))
