"""A study too large for main memory: on the working grid in a temporary file, of which boxes are read."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unet4d.datasets.study import FrameReader
from unet4d.images.grid import WorkingGrid
from unet4d.images.image4d import ImageInfo
from unet4d.pipeline.normalization import IntensityScale
from unet4d.system.byte_sizes import describe_bytes
from unet4d.system.files import writing


class DiskImage:
    """A study (C, T, X, Y, Z) float32 on the working grid, normalized as it is read; at most one frame is in memory.

    The file has no name, so that nothing of it is left however this process ends.

    Args:
        stream: the study.
        outline: its headers' content.
        grid: its working grid.
        normalization: see `normalize`.
        kinds: the kind of each channel, see images/channels.py.
        folder: on a disk with room for the file; None: the system's folder for temporary files.

    Raises:
        InputError: the study cannot be read.
        Unet4DError: the disk is full.
    """

    def __init__(
        self,
        stream: FrameReader,
        outline: ImageInfo,
        grid: WorkingGrid,
        normalization: str,
        kinds: Sequence[str],
        folder: Path | None,
    ):
        self.shape = (outline.channels, outline.frames, *grid.shape)
        folder = Path(folder or tempfile.gettempdir())
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder, prefix=".unet4d-")  # noqa: SIM115
        try:
            for frame in stream.frames():
                image = grid.image(frame[:, None], kinds, outline.source or "the image")
                with writing(f"{describe_bytes(4 * math.prod(self.shape))} into {folder}"):
                    self._file.write(np.ascontiguousarray(image).data)  # tofile would not report why it failed
                    self._file.flush()
            self.scale = IntensityScale.from_frames(self._frames, self.shape, normalization, kinds)
        except BaseException:
            self.close()
            raise

    def __getitem__(self, box: tuple[slice, ...]) -> Tensor:
        """Return (C, T, x, y, z) of five slices: all channels and frames, and a box of space."""
        image = np.stack(list(self._frames(*box[2:])), 1)
        self.scale.apply(image)
        return torch.from_numpy(image)

    def close(self) -> None:
        """Close the file, which frees its room on the disk."""
        with contextlib.suppress(OSError):  # buffered bytes that a full disk refused
            self._file.close()

    def _frames(self, *box: slice) -> Iterator[np.ndarray]:
        """Yield a box of each frame (C, x, y, z); mapped one at a time, because mapped pages count as used memory."""
        size = (self.shape[0], *self.shape[2:])
        for t in range(self.shape[1]):
            frame = np.memmap(self._file, np.float32, "r", 4 * t * math.prod(size), size)
            yield np.array(frame[(slice(None), *box)])
