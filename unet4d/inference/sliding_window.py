"""The sliding window: blocks of logits of a whole image, in space only, so that every window sees all frames.

`logit_blocks` serves prediction, validation and streaming. Logits come in rows along X; only those that are asked for exist:

    windows that begin before row b      a          b                  rows a to b are complete, and returned;
    [-----------|                        |==========|------]           the rest is carried to the next call
           [-----------|                            |------- ...
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from unet4d.images.resample_back import Axis
from unet4d.inference.memory_plan import Tiling
from unet4d.inference.window_predictor import CPU, WindowPredictor
from unet4d.inference.windows import Pixels, WindowOrigin, Windows
from unet4d.models.ensemble import mean_logits
from unet4d.system.memory_errors import is_out_of_gpu_memory

Range = tuple[int, int]
"""First and end."""


def logit_blocks(
    predictors: Sequence[WindowPredictor],
    image: Pixels,
    axes: Sequence[Axis],
    tiling: Tiling,
    of_regions: bool = False,
) -> Iterator[tuple[Range, Range, Tensor]]:
    """Yield the logits of an image block by block; whoever takes a block must drop it before the next one is computed.

    Args:
        predictors: of each network; logits are those of the mean of their probabilities.
        image: (C, T, X, Y, Z), normalized, on the working grid.
        axes: of the native grid, in working orientation.
        tiling: rows and columns of the native grid in a block.
        of_regions: the outputs are regions, see `mean_logits`.

    Yields:
        Native rows (first, end) and columns (first, end), and logits (T, K, x, y, Z) float32 of the working voxels they need.
    """
    total = len(axes[0].low)
    for columns in tiling.columns:
        rows = [LogitRows(predictor, image, axes[1].needed(*columns)) for predictor in predictors]
        for first in range(0, total, tiling.rows):
            end = min(first + tiling.rows, total)
            low, high = axes[0].needed(first, end)
            keep = axes[0].needed(end, total)[0] if end < total else high
            spare = max(0, low - rows[0].begin)  # the same for all, which advance together
            logits = mean_logits((one.logits_until(high, keep)[:, :, spare:] for one in rows), of_regions)
            yield (first, end), columns, logits
            del logits  # or it would be held while the next ones are computed


class LogitRows:
    """The logits of an image, row by row along X; each window is computed once, by the first call that needs it.

    Windows overlap and are blended with Gaussian weights (Isensee et al. 2021); stitching is in float32 whatever the precision.

    Args:
        predictor: of windows.
        image: (C, T, X, Y, Z), normalized, on the working grid.
        columns: the part (first, end) of Y that is wanted; None: all.
    """

    def __init__(self, predictor: WindowPredictor, image: Pixels, columns: Range | None = None):
        predictor.limit_frames(image.shape[1])
        self.predictor, self.image = predictor, image
        self.windows = Windows(image.shape[2:], predictor.roi_size, predictor.config.overlap)
        self.columns = columns or (0, image.shape[3])
        self.begin = 0
        self._pending = list(self.windows.starts[0])
        self._carried: tuple[Tensor, Tensor] | None = None

    @torch.inference_mode()
    def logits_until(self, end: int, keep: int | None = None) -> Tensor:
        """Return logits (T, K, end - begin, Y, Z) float32 of the rows from `begin` on; the next ones begin at `keep`, or at `end`.

        The caller may overwrite them. Raise torch.OutOfMemoryError as `WindowPredictor.logits`.
        """
        keep, begin = end if keep is None else keep, self.begin
        now = [x for x in self._pending if x < end]
        self._pending = self._pending[len(now) :]
        carried = begin + (len(self._carried[1]) if self._carried else 0)
        reach = max([end, carried, *(self.windows.inside((x, 0, 0))[0][1] for x in now)])
        total, weight = self._new_sums(reach - begin)
        for x in now:
            total, weight = self._add_windows(total, weight, self.windows.beginning_at(x, self.columns))
        self._carried = self._copy_sums(total, weight, keep - begin)
        self.begin = keep
        return total[:, :, : end - begin].div_(weight[: end - begin])

    def _new_sums(self, rows: int) -> tuple[Tensor, Tensor]:
        """Return sums of logits (T, K, rows, Y, Z) and of weights (rows, Y, Z), with what was carried in the first rows."""
        frames, classes = self.image.shape[1], self.predictor.network.out_channels
        size = (rows, self.columns[1] - self.columns[0], self.image.shape[4])
        if self._carried is not None:
            device = self._carried[0].device
        else:
            device = self.predictor.stitching_device(4 * frames * classes * math.prod(size))
        try:
            total = torch.zeros((frames, classes, *size), device=device)
        except RuntimeError as error:
            if not is_out_of_gpu_memory(error):
                raise
            self.predictor.stitch_in_main_memory()
            total = torch.zeros((frames, classes, *size), device=CPU)
        weight = torch.zeros(size, device=total.device)
        if self._carried is not None:
            total[:, :, : self._carried[0].shape[2]] = self._carried[0]
            weight[: len(self._carried[1])] = self._carried[1]
            self._carried = None
        return total, weight

    def _copy_sums(self, total: Tensor, weight: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """Copy the sums from a row on; to main memory where the GPU has no room for the copies."""
        try:
            return total[:, :, first:].clone(), weight[first:].clone()
        except RuntimeError as error:
            if not is_out_of_gpu_memory(error):
                raise
            self.predictor.stitch_in_main_memory()
            # Copied as a whole, because a part would be copied on the GPU first.
            return total.cpu()[:, :, first:].clone(), weight.cpu()[first:].clone()

    def _add_windows(self, total: Tensor, weight: Tensor, origins: Sequence[WindowOrigin]) -> tuple[Tensor, Tensor]:
        """Compute and add windows; return the sums, which may have moved to another device."""
        done, predictor = 0, self.predictor
        while done < len(origins):
            batch = origins[done : done + predictor.windows_at_once]
            logits = predictor.logits(torch.stack([self.windows.read(self.image, origin) for origin in batch]))
            if predictor.stitch_on == CPU:
                total, weight = total.to(CPU), weight.to(CPU)
            if logits is None:
                continue
            for origin, window in zip(batch, logits, strict=True):
                self._add_window(total, weight, origin, window)
            done += len(batch)
            predictor.tick(len(batch))
        return total, weight

    def _add_window(self, total: Tensor, weight: Tensor, origin: WindowOrigin, logits: Tensor) -> None:
        """Add the wanted rows and columns of a window's logits (T, K, *roi_size)."""
        (x, x_end), (y, y_end), (z, z_end) = self.windows.inside(origin)
        x, y, y_end = max(x, self.begin), max(y, self.columns[0]), min(y_end, self.columns[1])
        if x >= x_end:  # all its rows were skipped
            return
        box = [slice(x, x_end), slice(y, y_end), slice(z, z_end)]
        in_sums, in_window = (
            tuple(slice(part.start - begin, part.stop - begin) for part, begin in zip(box, begins, strict=True))
            for begins in ((self.begin, self.columns[0], 0), origin)
        )
        weights = self.windows.weight[in_window].to(total.device)
        total[(slice(None), slice(None), *in_sums)].addcmul_(
            logits[(slice(None), slice(None), *in_window)].to(total.device), weights
        )
        weight[in_sums] += weights
