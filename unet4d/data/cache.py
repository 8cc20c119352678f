"""Preprocessed studies on disk, uncompressed and memory-mapped, so that a patch is read and not a study."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from unet4d.config import DataConfig
from unet4d.data.dataset import Case, Dataset, read_labelled, to_classes
from unet4d.data.grid import WorkingGrid
from unet4d.data.normalisation import normalised
from unet4d.errors import Unet4DError

VERSION = 2
"""Raised whenever the same settings would give other arrays."""
FOREGROUND_VOXELS = 10_000
"""Voxels kept of each labelled frame and class, evenly spread, for patches to be centred on: as in nnU-Net."""


@dataclass(frozen=True, eq=False)
class CachedStudy:
    """One preprocessed study; its arrays are read-only memory maps.

    A process it is sent to opens the files itself: a study is never sent.

    Attributes:
        case: the case's name.
        image: (C, T, X, Y, Z) float32, normalised, on the working grid.
        label: (L, X, Y, Z) uint8, class indices of the labelled frames only.
        labelled_frames: the L frames the labels belong to, ascending.
        foreground: (N, 5) int32, rows (l, class, x, y, z) of foreground voxels, sorted by l, then class, then place; at most
            `FOREGROUND_VOXELS` of a frame and class.
        spacing: (X, Y, Z) in mm.
        entry: the name of its folder in the cache, which changes with its files, its labelled frames and the settings.
    """

    case: str
    image: np.ndarray
    label: np.ndarray
    labelled_frames: tuple[int, ...]
    foreground: np.ndarray
    spacing: tuple[float, ...]
    entry: str = ""

    def __reduce__(self) -> tuple[Any, ...]:
        if not isinstance(self.image, np.memmap) or self.image.filename is None:
            return super().__reduce__()  # type: ignore[return-value]
        return _open, (self.case, Path(self.image.filename).parent)


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
        _build(cases[i], dataset, config, plane_spacing_mm, folders[i])
    return [_open(case.name, folder) for case, folder in zip(cases, folders, strict=True)]


def _digest(case: Case, dataset: Dataset, config: DataConfig, plane_spacing_mm: float | None) -> str:
    files = [*case.images, *([case.label] if isinstance(case.label, Path) else (case.label or {}).values())]
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
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
    grid = WorkingGrid.of(image.affine, image.grid, plane_spacing_mm, config.slice_spacing_mm)
    frames = np.flatnonzero(labelled)
    label = grid.label(to_classes(values[frames], dataset.label_values), len(dataset.class_names))
    arrays = {
        "image": normalised(grid.image(image.array), config.normalisation),
        "label": label,
        "foreground": _foreground(label),
    }
    try:
        _write(arrays, {"labelled_frames": frames.tolist(), "spacing": list(grid.spacing)}, folder)
    except OSError as error:
        raise Unet4DError(
            f"could not write the preprocessed study {folder}: {error.strerror or error}; free space or set data.cache_dir"
        ) from error


def _write(arrays: dict[str, np.ndarray], about: dict[str, Any], folder: Path) -> None:
    """Write an entry whole or not at all; if another process has written it meanwhile, that one stays."""
    temporary = folder.with_name(f".{secrets.token_hex(4)}.partial.{folder.name}")
    try:
        temporary.mkdir(parents=True)
        for name, array in arrays.items():
            np.save(temporary / f"{name}.npy", array)
        (temporary / "study.json").write_text(json.dumps(about), encoding="utf-8")
        try:
            os.replace(temporary, folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _foreground(label: np.ndarray) -> np.ndarray:
    """Rows (l, class, x, y, z) of foreground voxels of (L, X, Y, Z), sorted by l, then class, then place."""
    rows = [np.zeros((0, 5), np.int32)]
    for row, frame in enumerate(label):
        for class_ in np.unique(frame[frame > 0]):
            voxels = np.argwhere(frame == class_)
            if len(voxels) > FOREGROUND_VOXELS:
                voxels = voxels[np.linspace(0, len(voxels) - 1, FOREGROUND_VOXELS).astype(int)]
            place = np.broadcast_to([row, class_], (len(voxels), 2))
            rows.append(np.hstack([place, voxels]).astype(np.int32))
    return np.concatenate(rows)


def _open(case: str, folder: Path) -> CachedStudy:
    about = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    image, label, foreground = (
        np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("image", "label", "foreground")
    )
    return CachedStudy(
        case, image, label, tuple(about["labelled_frames"]), foreground, tuple(about["spacing"]), folder.name
    )
