"""Embedding of a study in a page: the image in 8 bits and the label beside it, each a NIfTI in base64.

A study that is too large is reduced step by step: the margin around the segmentation, gray levels, resolution, frames. The affine
follows every step, and `EmbeddedStudy.notes` lists them.
"""

from __future__ import annotations

import base64
import gzip
import io
import math
from collections.abc import Iterator
from typing import NamedTuple

import nibabel as nib
import numpy as np

_GZIP_LEVEL = 6


class EmbeddedStudy(NamedTuple):
    """Image and label of a page.

    Attributes:
        image: base64 of a .nii.gz, uint8, (X, Y, Z, T) on the grid of the page.
        label: the same of the label.
        affine: (4, 4), voxel of the page to mm.
        start: voxel of the study where the grid of the page begins.
        steps: number of voxels of the study along each axis for one voxel of the page.
        frames: frames of the study, in the order of the page.
        notes: how the image was reduced, a sentence each.
    """

    image: str
    label: str
    affine: np.ndarray
    start: tuple[int, ...]
    steps: tuple[int, ...]
    frames: tuple[int, ...]
    notes: tuple[str, ...]

    @property
    def size(self) -> int:
        """Return the number of characters in the page."""
        return len(self.image) + len(self.label)


class _Reduction(NamedTuple):
    """Degree of reduction.

    Attributes:
        margin: around the label, as a share of its longest side; None for everything.
        levels: gray levels.
        step: side of the block of voxels that becomes one voxel, in voxels of the finest axis.
        frame_step: distance of the frames that are kept.
    """

    margin: float | None = None
    levels: int = 256
    step: int = 1
    frame_step: int = 1


class _PageGrid(NamedTuple):
    """Grid of the page in voxels of the study: the crop, and the block of voxels that becomes one voxel."""

    crop: tuple[slice, ...]
    steps: tuple[int, ...]

    def average(self, frame: np.ndarray) -> np.ndarray:
        """Crop (X, Y, Z) and average over blocks; an incomplete block at the far end is dropped."""
        frame = frame[self.crop]
        if max(self.steps) == 1:
            return frame
        counts = [size // step for size, step in zip(frame.shape, self.steps, strict=True)]
        frame = frame[tuple(slice(0, n * step) for n, step in zip(counts, self.steps, strict=True))]
        (x, y, z), (a, b, c) = counts, self.steps
        return frame.reshape(x, a, y, b, z, c).mean(axis=(1, 3, 5), dtype=np.float32)

    def gray(self, frame: np.ndarray, window: tuple[float, float], levels: int) -> np.ndarray:
        """Return a frame (X, Y, Z) as uint8, black and white at the ends of the window."""
        low, high = window
        scaled = np.clip((self.average(frame) - low) * (255.0 / (high - low)), 0, 255)
        step = 256 // levels
        return np.nan_to_num(np.rint(scaled)).astype(np.uint8) // step * step

    def majority(self, frame: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Return the most frequent of the label values in each block; of equals the lowest."""
        if max(self.steps) == 1:
            return frame[self.crop]
        shares = np.stack([self.average((frame == value).astype(np.float32)) for value in values])
        return values[shares.argmax(axis=0)].astype(np.uint8)

    def affine(self, affine: np.ndarray) -> np.ndarray:
        """Return voxel of the page to mm: from the center of the first block, in steps of blocks."""
        placed = np.array(affine, np.float64)
        offset = [side.start + (step - 1) / 2 for side, step in zip(self.crop, self.steps, strict=True)]
        placed[:3, 3] += affine[:3, :3] @ np.array(offset)
        placed[:3, :3] *= self.steps
        return placed


def embed_study(
    image: np.ndarray, label: np.ndarray, affine: np.ndarray, window: tuple[float, float], budget: int
) -> EmbeddedStudy:
    """Reduce a study until it fits into a page.

    Args:
        image: (T, X, Y, Z), one channel.
        label: (T, X, Y, Z) uint8.
        affine: (4, 4), voxel to mm (RAS).
        window: intensities shown as black and as white.
        budget: characters that image and label may take together; if nothing fits, the smallest result is returned.
    """
    values = np.unique([value for frame in label for value in np.unique(frame)]).astype(np.uint8)
    reductions = list(_reductions(image.shape))
    for reduction in reductions:
        last = reduction == reductions[-1]
        grid = _page_grid(label, affine, reduction)
        frames = range(0, len(image), reduction.frame_step)
        middle = grid.gray(image[frames[len(frames) // 2]], window, reduction.levels)
        estimate = len(gzip.compress(middle.tobytes(order="F"), _GZIP_LEVEL)) * len(frames) * 4 / 3
        if estimate > budget and not last:
            continue
        placed = grid.affine(affine)
        found = EmbeddedStudy(
            _encode((grid.gray(image[t], window, reduction.levels) for t in frames), len(frames), placed),
            _encode((grid.majority(label[t], values) for t in frames), len(frames), placed),
            placed,
            tuple(side.start for side in grid.crop),
            grid.steps,
            tuple(frames),
            tuple(_notes(image.shape, grid, window, reduction)),
        )
        if found.size <= budget or last:
            return found
    raise AssertionError("the last reduction is always returned")


def _reductions(shape: tuple[int, ...]) -> Iterator[_Reduction]:
    """Yield reductions, from none to a few voxels of a frame."""
    yield from (_Reduction(), _Reduction(0.6), _Reduction(0.6, 64), _Reduction(0.3, 64), _Reduction(0.3, 32))
    yield _Reduction(0.15, 32)
    step, frame_step = 1, 1
    while step < max(shape[1:]) or frame_step < shape[0]:
        if step <= frame_step or frame_step >= shape[0]:
            step += 1
        else:
            frame_step += 1
        yield _Reduction(0.3, 64, step, frame_step)


def _page_grid(label: np.ndarray, affine: np.ndarray, reduction: _Reduction) -> _PageGrid:
    """Crop to the label over all frames with a margin, everything without a label; average the finest axes first."""
    sizes, spacing = label.shape[1:], np.linalg.norm(affine[:3, :3], axis=0)
    crop = tuple(slice(0, size) for size in sizes)
    anywhere = np.asarray(label.any(axis=0))
    if reduction.margin is not None and anywhere.any():
        hits = [np.flatnonzero(anywhere.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
        margin = reduction.margin * max((hit[-1] - hit[0] + 1) * mm for hit, mm in zip(hits, spacing, strict=True))
        crop = tuple(
            slice(max(0, int(hit[0]) - math.ceil(margin / mm)), min(size, int(hit[-1]) + 1 + math.ceil(margin / mm)))
            for hit, mm, size in zip(hits, spacing, sizes, strict=True)
        )
    steps = tuple(
        min(side.stop - side.start, max(1, round(reduction.step * spacing.min() / mm)))
        for side, mm in zip(crop, spacing, strict=True)
    )
    return _PageGrid(crop, steps)


def _encode(frames: Iterator[np.ndarray], count: int, affine: np.ndarray) -> str:
    """Return frames (X, Y, Z) uint8 as .nii.gz in base64; the same input gives the same text."""
    first = next(frames)
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((*first.shape, count) if count > 1 else first.shape)
    header.set_qform(affine, code=1, strip_shears=True)
    header.set_sform(affine, code=1)
    header.set_xyzt_units("mm")
    header["magic"], header["vox_offset"], header["scl_slope"] = header.single_magic, header.single_vox_offset, 1
    buffer = io.BytesIO()
    with gzip.GzipFile("", "wb", _GZIP_LEVEL, buffer, mtime=0) as file:
        file.write(header.binaryblock + bytes(4))
        file.write(first.tobytes(order="F"))
        for frame in frames:
            file.write(frame.tobytes(order="F"))
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _notes(
    shape: tuple[int, ...], grid: _PageGrid, window: tuple[float, float], reduction: _Reduction
) -> Iterator[str]:
    yield f"Intensities from {window[0]:.4g} (black) to {window[1]:.4g} (white) in {reduction.levels} gray levels."
    sizes = [side.stop - side.start for side in grid.crop]
    if sizes != list(shape[1:]):
        cropped, whole = " x ".join(map(str, sizes)), " x ".join(map(str, shape[1:]))
        yield f"Cropped around the segmentation to {cropped} of {whole} voxels."
    if max(grid.steps) > 1:
        yield f"Coarser than the study: each voxel is the mean of {' x '.join(map(str, grid.steps))}."
    if reduction.frame_step > 1:
        yield f"Fewer frames than the study: one in {reduction.frame_step}."
