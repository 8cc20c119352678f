"""Resources of preprocessing: disk and memory, estimated from headers, and threads."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from unet4d.datasets.cases import Case, Dataset
from unet4d.images.grid import WorkingGrid
from unet4d.images.nifti import affine_of, read_header
from unet4d.pipeline.foreground import FOREGROUND_VOXELS
from unet4d.pipeline.normalization import SAMPLE_VOXELS
from unet4d.system.byte_sizes import describe_bytes
from unet4d.system.files import check_disk_space, free_disk_bytes
from unet4d.system.text import count

logger = logging.getLogger(__name__)

FOREGROUND_FRACTION = 0.05
"""Fraction of a frame that one class is taken to fill."""
USABLE = 0.8
"""Fraction of the free memory that is given to studies being preprocessed."""


class Footprint(NamedTuple):
    """Bytes of one study's entry on disk, and of memory at most while it is preprocessed."""

    disk_bytes: int
    memory_bytes: int


def footprint(case: Case, dataset: Dataset, spacing_mm: tuple[float | None, float | None]) -> Footprint:
    """Return the footprint of a case on the working grid of this spacing; reads its header alone.

    Args:
        case: the study.
        dataset: it is in.
        spacing_mm: in plane and between slices, as of `WorkingGrid.of`.

    Raises:
        InputError: as `read_header`.
    """
    header, (frames, *native) = read_header(case.images[0])
    grid = WorkingGrid.of(affine_of(header), native, *spacing_mm)
    frames = 1 if case.channels_last else frames
    labelled = frames if case.labelled_frames is None else len(case.labelled_frames)
    before, after = math.prod(native), math.prod(grid.shape)
    image, resampled = (4 * case.channels * frames * voxels for voxels in (before, after))
    rows = min(FOREGROUND_VOXELS, FOREGROUND_FRACTION * after) * (len(dataset.labels) - 1)
    disk = resampled + labelled * (after + 20 * rows)
    # Three copies of the image: as read, reoriented, resampled; or as read, resampled, normalized. Beside them the label before
    # and after, one frame of a class, and the sample that percentiles are taken from.
    copies = max(2 * image + resampled, image + 2 * resampled)
    memory = copies + frames * before + labelled * after + 24 * after + 16 * SAMPLE_VOXELS
    return Footprint(int(disk), memory)


def count_threads(wanted: int, footprints: Sequence[Footprint], free_bytes: float) -> int:
    """Return how many of the wanted threads may preprocess at once, so that even the largest studies fit together; 1 or more."""
    largest = sorted((study.memory_bytes for study in footprints), reverse=True)
    fitting = sum(total <= USABLE * free_bytes for total in itertools.accumulate(largest))
    return max(1, min(wanted, fitting))


@contextlib.contextmanager
def one_torch_thread(afterwards: int | None = None) -> Iterator[None]:
    """Let torch use one thread in this thread, then `afterwards`; None: as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(afterwards or before)


def check_disk_room(footprints: Sequence[Footprint], root: Path) -> None:
    """Print how much will be written to `root`, which may be missing yet, and is free. Raises Unet4DError for too little."""
    needed = sum(study.disk_bytes for study in footprints)
    studies = count(len(footprints), "study", "studies")
    check_disk_space(root, needed, f"{studies} to preprocess", "set data.cache_dir to a folder on another disk")
    free = free_disk_bytes(root)
    logger.info(f"preprocessing {studies} into {root}: {describe_bytes(needed)}, {describe_bytes(free)} free")
