"""Preprocessed studies on disk, uncompressed and memory-mapped, so that a patch is read and not a study."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from unet4d.config import DataConfig
from unet4d.data.dataset import Case, Dataset, read_labelled, to_classes
from unet4d.data.grid import WorkingGrid
from unet4d.data.transforms import normalised
from unet4d.errors import Unet4DError

VERSION = 1
"""Raised whenever the same settings would give other arrays."""


@dataclass(frozen=True)
class CachedStudy:
    """One preprocessed study; its arrays are read-only memory maps.

    Attributes:
        case: the case's name.
        image: (C, T, X, Y, Z) float32, normalised, on the working grid.
        label: (L, X, Y, Z) uint8, class indices of the labelled frames only.
        labelled_frames: the L frames the labels belong to, ascending.
        foreground: (N, 5) int32, the rows (l, class, x, y, z) of every foreground voxel, sorted by l, then class.
        spacing: (X, Y, Z) in mm.
    """

    case: str
    image: np.ndarray
    label: np.ndarray
    labelled_frames: tuple[int, ...]
    foreground: np.ndarray
    spacing: tuple[float, ...]


def cached_studies(
    cases: Sequence[Case], dataset: Dataset, config: DataConfig, plane_spacing_mm: float | None, root: Path
) -> list[CachedStudy]:
    """The cases preprocessed, from `root` where they lie there already and else built, with a progress bar.

    An entry is named by its case and a digest of its files' sizes and times and of every setting that shapes it: a changed file or
    setting makes a new entry. A killed build leaves nothing that looks whole.

    Raises:
        InputError: a study or its label is not as the dataset says.
        Unet4DError: the disk is full or not writable.
    """
    folders = [root / f"{case.name}-{_digest(case, dataset, config, plane_spacing_mm)}" for case in cases]
    todo = [i for i, folder in enumerate(folders) if not folder.is_dir()]
    for i in tqdm(todo, "preprocessing", unit="study", disable=None if todo else True):
        try:
            _build(cases[i], dataset, config, plane_spacing_mm, folders[i])
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM):
                raise
            raise Unet4DError(
                f"could not write the preprocessed study {folders[i]}: {error.strerror}; free space or set data.cache_dir"
            ) from error
    return [_open(case.name, folder) for case, folder in zip(cases, folders, strict=True)]


def _digest(case: Case, dataset: Dataset, config: DataConfig, plane_spacing_mm: float | None) -> str:
    files = [*case.images, *([case.label] if isinstance(case.label, Path) else (case.label or {}).values())]
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    shaping = [
        VERSION,
        stats,
        case.labelled_frames,
        list(case.label) if isinstance(case.label, dict) else None,
        case.channels_last,
        dataset.label_values,
        plane_spacing_mm,
        config.slice_spacing_mm,
        config.normalisation,
    ]
    return hashlib.sha256(json.dumps(shaping).encode()).hexdigest()[:16]


def _build(case: Case, dataset: Dataset, config: DataConfig, plane_spacing_mm: float | None, folder: Path) -> None:
    image = case.image()
    values, labelled = read_labelled(case, dataset, image)
    grid = WorkingGrid.of(image.affine, image.array.shape[2:], plane_spacing_mm, config.slice_spacing_mm)
    frames = np.flatnonzero(labelled)
    indices = to_classes(values[frames], dataset.label_values)
    label = grid.label(indices, len(dataset.class_names))

    temporary = folder.with_name(f".{secrets.token_hex(4)}.partial.{folder.name}")
    try:
        temporary.mkdir(parents=True)
        np.save(temporary / "image.npy", normalised(grid.image(image.array), config.normalisation))
        np.save(temporary / "label.npy", label)
        np.save(temporary / "foreground.npy", _foreground(label))
        about = {"labelled_frames": frames.tolist(), "spacing": list(grid.spacing)}
        (temporary / "study.json").write_text(json.dumps(about), encoding="utf-8")
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _foreground(label: np.ndarray) -> np.ndarray:
    """Rows (l, class, x, y, z) of the foreground voxels of (L, X, Y, Z), sorted by l, then class."""
    where = np.argwhere(label)
    classes = label[tuple(where.T)]
    rows = np.column_stack([where[:, 0], classes, where[:, 1:]]).astype(np.int32)
    return rows[np.lexsort((classes, where[:, 0]))]


def _open(case: str, folder: Path) -> CachedStudy:
    about = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    image, label, foreground = (
        np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("image", "label", "foreground")
    )
    return CachedStudy(case, image, label, tuple(about["labelled_frames"]), foreground, tuple(about["spacing"]))
