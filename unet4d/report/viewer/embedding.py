"""A study made small enough to be put into a page: image in 8 bits, label beside it, each a NIfTI in base64.

What is left out is left out in this order, until it fits: what lies far from the segmentation, fine grey levels, more of both,
then resolution and frames; `Embedded.said` tells all of it. The affine follows every step.
"""

from __future__ import annotations

import base64
import gzip
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass

import nibabel as nib
import numpy as np

_GZIP_LEVEL = 6
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class EmbeddedStudy:
    """Image and label of a page.

    Attributes:
        image: base64 of a .nii.gz, uint8, (X, Y, Z, T) of the page.
        label: the same of the label, on the same grid.
        affine: (4, 4), voxel of the page to mm.
        start: voxel of the study where the page's grid begins.
        steps: voxels of the study along each axis that one of the page stands for.
        frames: of the study, in the page's order.
        said: what was done to the image, a sentence each.
    """

    image: str
    label: str
    affine: np.ndarray
    start: tuple[int, int, int]
    steps: tuple[int, int, int]
    frames: tuple[int, ...]
    said: tuple[str, ...]

    @property
    def size(self) -> int:
        """Characters in the page."""
        return len(self.image) + len(self.label)


@dataclass(frozen=True)
class _Rung:
    """How much is kept: a margin round the label as a share of its longest side (None: everything), grey levels, and every how
    manyth voxel of the finest axis and every how manyth frame.
    """

    margin: float | None = None
    levels: int = 256
    step: int = 1
    frame_step: int = 1


def embed_study(
    image: np.ndarray, label: np.ndarray, affine: np.ndarray, window: tuple[float, float], budget: int
) -> EmbeddedStudy:
    """Make a study fit into a page.

    Args:
        image: (T, X, Y, Z), one channel.
        label: (T, X, Y, Z) uint8.
        affine: (4, 4), voxel to mm (RAS).
        window: intensities shown as black and as white.
        budget: characters that image and label may take together; what cannot fit is as small as can be.
    """
    rungs = list(_rungs(image.shape))
    for rung in rungs:
        last = rung == rungs[-1]
        box = _box(label, affine, rung.margin)
        steps = _steps(affine, rung.step, box)
        frames = range(0, len(image), rung.frame_step)
        middle = _grey(image[frames[len(frames) // 2]], box, steps, window, rung.levels)
        estimate = len(gzip.compress(middle.tobytes(order="F"), _GZIP_LEVEL)) * len(frames) * 4 / 3
        if estimate > budget and not last:
            continue
        placed = _affine(affine, box, steps)
        values = np.unique([value for frame in label for value in np.unique(frame)]).astype(np.uint8)
        grey = (_grey(image[t], box, steps, window, rung.levels) for t in frames)
        classes = (_majority(label[t], box, steps, values) for t in frames)
        start = (box[0].start, box[1].start, box[2].start)
        found = EmbeddedStudy(
            _nifti(grey, len(frames), placed),
            _nifti(classes, len(frames), placed),
            placed,
            start,
            steps,
            tuple(frames),
            tuple(_said(image.shape, box, steps, window, rung)),
        )
        if found.size <= budget or last:
            return found
    raise AssertionError("the last rung was given")


def _rungs(shape: tuple[int, ...]) -> Iterator[_Rung]:
    """From everything to a few voxels of a frame."""
    yield _Rung()
    yield _Rung(0.6)
    yield _Rung(0.6, 64)
    yield _Rung(0.3, 64)
    yield _Rung(0.3, 32)
    yield _Rung(0.15, 32)
    step, frame_step = 1, 1
    while step < max(shape[1:]) or frame_step < shape[0]:
        if step <= frame_step or frame_step >= shape[0]:
            step += 1
        else:
            frame_step += 1
        yield _Rung(0.3, 64, step, frame_step)


def _box(label: np.ndarray, affine: np.ndarray, margin: float | None) -> Box:
    """The label's box over all frames, widened by a share of its longest side in mm; everything where nothing is labelled."""
    whole = tuple(slice(0, size) for size in label.shape[1:])
    if margin is None or not label.any():
        return (whole[0], whole[1], whole[2])
    anywhere = np.asarray(label.any(axis=0))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    hits = [np.flatnonzero(anywhere.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    wide_mm = margin * max((hit[-1] - hit[0] + 1) * spacing[a] for a, hit in enumerate(hits))
    sides = []
    for a, hit in enumerate(hits):
        pad = math.ceil(wide_mm / spacing[a])
        sides.append(slice(max(0, int(hit[0]) - pad), min(anywhere.shape[a], int(hit[-1]) + 1 + pad)))
    return (sides[0], sides[1], sides[2])


def _steps(affine: np.ndarray, step: int, box: Box) -> tuple[int, int, int]:
    """Voxels to average along each axis: `step` of the finest, and thick slices stay until the plane is as coarse."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    sizes = [side.stop - side.start for side in box]
    x, y, z = (min(size, max(1, round(step * spacing.min() / mm))) for mm, size in zip(spacing, sizes, strict=True))
    return x, y, z


def _affine(affine: np.ndarray, box: Box, steps: tuple[int, int, int]) -> np.ndarray:
    """Voxel of the page to mm: the centre of its first block of voxels, then blocks."""
    placed = np.array(affine, np.float64)
    offset = [side.start + (step - 1) / 2 for side, step in zip(box, steps, strict=True)]
    placed[:3, 3] += affine[:3, :3] @ np.array(offset)
    placed[:3, :3] *= steps
    return placed


def _blocks(frame: np.ndarray, box: Box, steps: tuple[int, int, int]) -> np.ndarray:
    """Crop (X, Y, Z) and take means over blocks of voxels; what is left over at the far end is left out."""
    frame = frame[box]
    counts = [size // step for size, step in zip(frame.shape, steps, strict=True)]
    frame = frame[tuple(slice(0, n * step) for n, step in zip(counts, steps, strict=True))]
    if max(steps) == 1:
        return frame
    (x, y, z), (a, b, c) = counts, steps
    return frame.reshape(x, a, y, b, z, c).mean(axis=(1, 3, 5), dtype=np.float32)


def _grey(
    frame: np.ndarray, box: Box, steps: tuple[int, int, int], window: tuple[float, float], levels: int
) -> np.ndarray:
    """One frame (X, Y, Z) as uint8, black and white at the window's ends."""
    low, high = window
    shown = np.clip((_blocks(frame, box, steps) - low) * (255.0 / (high - low)), 0, 255)
    grey = np.nan_to_num(np.rint(shown)).astype(np.uint8)
    step = 256 // levels
    return grey // step * step


def _majority(frame: np.ndarray, box: Box, steps: tuple[int, int, int], values: np.ndarray) -> np.ndarray:
    """One frame (X, Y, Z) of a label: what most of a block's voxels are; of equals the lowest value."""
    if max(steps) == 1:
        return frame[box]
    shares = np.stack([_blocks((frame == value).astype(np.float32), box, steps) for value in values])
    return values[shares.argmax(axis=0)].astype(np.uint8)


def _nifti(frames: Iterator[np.ndarray], count: int, affine: np.ndarray) -> str:
    """Frames (X, Y, Z) uint8 as .nii.gz in base64; the same input, the same text."""
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


def _said(
    shape: tuple[int, ...], box: Box, steps: tuple[int, int, int], window: tuple[float, float], rung: _Rung
) -> Iterator[str]:
    yield f"Intensities from {window[0]:.4g} (black) to {window[1]:.4g} (white) in {rung.levels} grey levels."
    kept = [side.stop - side.start for side in box]
    if kept != list(shape[1:]):
        yield (
            f"Cropped round the segmentation to {' x '.join(map(str, kept))} of {' x '.join(map(str, shape[1:]))} voxels."
        )
    if max(steps) > 1:
        yield f"Coarser than the study: each voxel is the mean of {' x '.join(map(str, steps))}."
    if rung.frame_step > 1:
        yield f"Fewer frames than the study: one in {rung.frame_step}."
