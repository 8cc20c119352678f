"""Resampling to the study's own grid, box by box, equals torch's interpolation, whatever the boxes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from tests.builders import OBLIQUE
from unet4d.images.grid import WorkingGrid
from unet4d.images.resample_back import Axis, NativeLabel

SHAPE = (18, 15, 5)


def filled(grid: WorkingGrid, logits: torch.Tensor, row_ends, column_ends, probabilities=False) -> NativeLabel:
    native = NativeLabel(grid, len(logits), (0, 7, 9), probabilities)
    x, y = native.axes[:2]
    for columns in zip((0, *column_ends), column_ends, strict=False):
        for rows in zip((0, *row_ends), row_ends, strict=False):
            box = (slice(*x.needed(*rows)), slice(*y.needed(*columns)))
            native.fill(logits[(slice(None), slice(None), *box)], rows, columns)
    return native


@pytest.mark.parametrize("spacing", [None, 0.7, 2.0, 3.3, 30.0])
def test_boxes_of_any_size_give_torchs_trilinear_interpolation(spacing):
    grid = WorkingGrid.of(OBLIQUE, SHAPE, spacing, spacing)
    logits = torch.randn(2, 3, *grid.shape, generator=torch.Generator().manual_seed(0))
    sizes = [SHAPE[axis] for axis in grid.order]
    wanted = interpolate(logits, size=tuple(sizes), mode="trilinear", align_corners=False).softmax(1)
    whole = filled(grid, logits, [sizes[0]], [sizes[1]], probabilities=True)
    got = grid.reorient(whole.probabilities)
    np.testing.assert_allclose(got, wanted.transpose(0, 1).numpy(), atol=1e-5)
    sure = (wanted.topk(2, 1).values.diff(dim=1).abs()[:, 0] > 1e-4).numpy()
    values = np.array([0, 7, 9])[wanted.argmax(1).numpy()]
    assert np.array_equal(grid.reorient(whole.label)[sure], values[sure])
    assert sure.mean() > 0.99
    for rows, columns in (([4, 9, sizes[0]], [2, sizes[1]]), (range(1, sizes[0] + 1), range(1, sizes[1] + 1))):
        cut = filled(grid, logits, list(rows), list(columns), probabilities=True)
        assert np.array_equal(cut.label, whole.label)
        np.testing.assert_allclose(cut.probabilities, whole.probabilities, atol=1e-6)


@pytest.mark.parametrize("coarseness", [1, 3])
@pytest.mark.parametrize("spacing", [(0.7, None), (2.0, None), (2.0, 3.0)])
def test_labels_without_probabilities_are_those_of_resampled_logits_to_the_bit(spacing, coarseness):
    grid = WorkingGrid.of(OBLIQUE, SHAPE, *spacing)
    logits = torch.randn(2, 3, *grid.shape, generator=torch.Generator().manual_seed(1))
    for dim in (2, 3, 4):  # one class over several voxels
        logits = logits.index_select(dim, torch.arange(logits.shape[dim]) // coarseness)
    ends = [SHAPE[axis] for axis in grid.order]
    alone, both = (filled(grid, logits, [7, ends[0]], [4, ends[1]], probabilities=p) for p in (False, True))
    assert np.array_equal(alone.label, both.label)
    assert len(np.unique(both.label)) == 3


def test_an_axis_by_hand():
    """Three working voxels, six native ones: centers at -0.25, 0.25, 0.75, 1.25, 1.75, 2.25."""
    axis = Axis.of(6, 3)
    assert axis.low.tolist() == [0, 0, 0, 1, 1, 2]
    assert axis.high.tolist() == [0, 1, 1, 2, 2, 2]
    assert axis.share.tolist() == [0, 0.25, 0.75, 0.25, 0.75, 0]
    assert [axis.needed(0, 1), axis.needed(2, 4), axis.needed(5, 6)] == [(0, 1), (0, 3), (2, 3)]
    assert Axis.of(4, 4).is_same


def test_regions_are_painted_in_order_where_their_probability_is_above_a_half():
    """As nnU-Net's `convert_probabilities_to_segmentation`: `segmentation[p[i] > 0.5] = regions_class_order[i]`, i ascending."""
    grid = WorkingGrid.of(np.diag([-1.0, 1, 1, 1]), (4, 5, 3))
    logits = torch.randn(2, 3, *grid.shape, generator=torch.Generator().manual_seed(0))
    logits[0, 1, 0, 0, 0] = 0  # a probability of 0.5 is not above it
    native = NativeLabel(grid, 2, (7, 9, 7), probabilities=True, of_regions=True)
    native.fill(logits, (0, 4), (0, 5))
    wanted = np.zeros((2, *grid.shape), np.uint8)
    for index, value in enumerate((7, 9, 7)):
        wanted[logits[:, index].sigmoid().numpy() > 0.5] = value
    np.testing.assert_array_equal(grid.reorient(native.label), wanted)
    np.testing.assert_allclose(grid.reorient(native.probabilities), logits.sigmoid().transpose(0, 1), rtol=1e-6)


def test_of_equal_logits_the_first_class_wins():
    grid = WorkingGrid.of(np.eye(4), (2, 2, 2))
    assert not filled(grid, torch.zeros(1, 3, 2, 2, 2), [2], [2]).label.any()
