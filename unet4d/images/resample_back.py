"""From logits on the working grid to a label map on the study's own grid, box by box, so that the logits never exist whole.

Along each axis a native voxel lies between two working ones, and takes a share of each (linear, over the same field of view; beyond
the outermost centers the outermost value):

    working   |   0   |   1   |   2   |
    native    | 0 | 1 | 2 | 3 | 4 | 5 |       voxel 2: 3/4 of 0 and 1/4 of 1
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unet4d.images.grid import WorkingGrid, argmax_classes

_AT_ONCE = 2**16
"""Voxels between several classes that are resampled at once, which bounds the memory."""
_MIXED = 255
"""Mark of a voxel between several classes. Where it is a class, too, all its voxels are resampled, which changes no result."""


@dataclass(frozen=True)
class Axis:
    """One axis of the native grid, in working orientation: for each voxel the two working ones it lies between.

    Attributes:
        low: (N,) int64.
        high: (N,) int64, the next, or `low` where the whole value is from that.
        share: (N,) float32, of `high`.
        is_same: both grids are the same along it.
    """

    low: Tensor
    high: Tensor
    share: Tensor
    is_same: bool

    @classmethod
    def of(cls, native: int, working: int) -> Axis:
        """Make the axis from its number of voxels in each grid."""
        center = ((torch.arange(native, dtype=torch.float64) + 0.5) * working / native - 0.5).clamp(0, working - 1)
        low = center.floor().long()
        share = (center - low).float()
        return cls(low, low + (share > 0), share, native == working)

    def needed(self, first: int, end: int) -> tuple[int, int]:
        """Return the working voxels (first, end) that native voxels first to end take from."""
        return int(self.low[first]), int(self.high[end - 1]) + 1


class NativeLabel:
    """A label map on the study's own grid, filled box by box.

    Args:
        grid: between both grids.
        frames: T.
        values: the label value of each class, background first; or of each region.
        probabilities: keep each class's probability, too.
        of_regions: the outputs are regions, which are painted in their order where a logit is above 0, see metrics/regions.py.

    Attributes:
        label: (T, X, Y, Z) uint8, label values.
        probabilities: (K, T, X, Y, Z) float32; None unless asked for.
        axes: of the native grid in working orientation.
    """

    def __init__(
        self,
        grid: WorkingGrid,
        frames: int,
        values: Sequence[int],
        probabilities: bool = False,
        of_regions: bool = False,
    ):
        self.grid, self.values, self.of_regions = grid, np.asarray(values, np.uint8), of_regions
        self.label = np.zeros((frames, *grid.native_shape), np.uint8)
        shape = (len(values), frames, *grid.native_shape)
        self.probabilities = np.zeros(shape, np.float32) if probabilities else None
        sizes = [grid.native_shape[axis] for axis in grid.order]
        self.axes = [Axis.of(native, working) for native, working in zip(sizes, grid.shape, strict=True)]

    def fill(self, logits: Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> None:
        """Fill a box of the native grid, in working orientation: `rows` along X, `columns` along Y, all of Z.

        Args:
            logits: (T, K, x, y, Z) of the working voxels that these rows and columns need.
            rows: (first, end).
            columns: (first, end).
        """
        box = [rows, columns, (0, len(self.axes[2].low))]
        spatial = (slice(*rows), slice(*columns), slice(None))
        label = self.grid.reorient(self.label)
        probabilities = None if self.probabilities is None else self.grid.reorient(self.probabilities)
        for t, frame in enumerate(logits):
            if self.of_regions or probabilities is not None:
                frame = self._resample(frame, box)
            if self.of_regions:
                self._paint(label[(t, *spatial)], frame)
            else:
                classes = self._classes(frame, box) if probabilities is None else argmax_classes(frame)
                label[(t, *spatial)] = self.values.take(classes.cpu().numpy())
            if probabilities is not None:
                chances = frame.sigmoid() if self.of_regions else frame.softmax(0)
                probabilities[(slice(None), t, *spatial)] = chances.cpu().numpy()

    def _paint(self, label: np.ndarray, frame: Tensor) -> None:
        """Paint a box of the label map with the regions that the logits (K, *box) give a probability above 0.5."""
        label[:] = 0
        for value, logits in zip(self.values, frame, strict=True):
            label[(logits > 0).cpu().numpy()] = value

    def _classes(self, frame: Tensor, box: Sequence[tuple[int, int]]) -> Tensor:
        """Return the class of the largest logit, *box uint8, of a part (K, x, y, Z) of the working grid.

        Where a native voxel lies between working ones of one class, it is of that class, too: its logits are a mean of theirs.
        Only the others are resampled, a few percent of a label map.
        """
        classes, places = argmax_classes(frame), [self._between(dim, box[dim], frame.device) for dim in range(3)]
        resampled = [dim for dim, axis in enumerate(self.axes) if not axis.is_same]
        if not resampled:
            return classes
        classes.masked_fill_(_differ_from_next(classes, resampled), _MIXED)
        for dim in resampled:
            classes = classes.index_select(dim, places[dim][0])
        mixed = np.flatnonzero(classes.cpu().numpy() == _MIXED)  # NumPy unravels in a fifth of torch's time
        for at in (mixed[n : n + _AT_ONCE] for n in range(0, len(mixed), _AT_ONCE)):
            voxels = [torch.from_numpy(n).int().to(frame.device) for n in np.unravel_index(at, classes.shape)]
            of_voxels = argmax_classes(self._resample_voxels(frame, voxels, places))
            classes.view(-1)[torch.from_numpy(at).to(frame.device)] = of_voxels
        return classes

    def _resample_voxels(
        self, frame: Tensor, at: Sequence[Tensor], places: Sequence[tuple[Tensor, Tensor, Tensor]]
    ) -> Iterator[Tensor]:
        """Yield the logits (N,) of each class at single voxels, as `_resample` computes them; `at` has their X, Y and Z."""
        corners, shares = [torch.zeros_like(at[0])], []
        for dim, stride in enumerate((frame.shape[2] * frame.shape[3], frame.shape[3], 1)):
            low, high, share = (part.index_select(0, at[dim]) for part in places[dim])
            if self.axes[dim].is_same:
                corners = [corner + low * stride for corner in corners]
            else:
                corners = [corner + side * stride for corner in corners for side in (low, high)]
                shares.append(share)
        for logits in frame:
            values = [logits.flatten().index_select(0, corner) for corner in corners]
            for share in reversed(shares):
                pairs = zip(values[::2], values[1::2], strict=True)
                values = [torch.lerp(below, above, share) for below, above in pairs]
            yield values[0]

    def _between(self, dim: int, part: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Return for a part (first, end) of an axis the working voxels on both sides, counted within the box, and the shares."""
        axis, (first, end) = self.axes[dim], part
        begin = axis.needed(first, end)[0] if dim < 2 else 0
        low, high, share = (side[first:end].to(device) for side in (axis.low, axis.high, axis.share))
        return (low - begin).int(), (high - begin).int(), share

    def _resample(self, frame: Tensor, box: Sequence[tuple[int, int]]) -> Tensor:
        """Resample (K, x, y, Z) on the working grid, the part that the box needs along X and Y, to (K, *box)."""
        for dim in (3, 2, 1):  # the last axis, along which gathering is slowest, while the box is small
            if self.axes[dim - 1].is_same:
                continue
            low, high, share = self._between(dim - 1, box[dim - 1], frame.device)
            share = share.view([-1 if n == dim else 1 for n in range(4)])
            below = frame.index_select(dim, low)
            frame = torch.lerp(below, frame.index_select(dim, high), share, out=below)
        return frame


def _differ_from_next(classes: Tensor, dims: Sequence[int]) -> Tensor:
    """Return whether a voxel (X, Y, Z) and the next ones along these axes, diagonals included, are of several classes."""
    mixed = torch.zeros_like(classes, dtype=torch.bool)
    for dim in dims:
        pairs = classes.shape[dim] - 1
        differ = classes.narrow(dim, 0, pairs) != classes.narrow(dim, 1, pairs)
        mixed.narrow(dim, 0, pairs).copy_(differ | mixed.narrow(dim, 0, pairs) | mixed.narrow(dim, 1, pairs))
    return mixed
