"""Preprocessed studies on disk, uncompressed and memory-mapped, so that a patch is read and not a study."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import active_children
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch.utils import data as torch_data

from unet4d.config import DataConfig
from unet4d.datasets.dataset import Case, Dataset, read_labelled, to_classes
from unet4d.errors import Unet4DError
from unet4d.images.grid import WorkingGrid
from unet4d.pipeline.foreground import foreground_voxels
from unet4d.pipeline.normalization import normalised
from unet4d.pipeline.resources import footprint, processes, tell_room
from unet4d.system.digests import Stamp, content_digests, stamp
from unet4d.system.files import read_json
from unet4d.system.memory import free_memory_bytes
from unet4d.system.progress_bar import ProgressBar
from unet4d.system.signals import blocked_stop_signals, check_stop, ignore_stop_signals

VERSION = 2
"""Raised whenever the same settings would give other arrays."""
MEMO = "digests.json"
"""What the files of the studies were found to hold, beside the entries."""
ASK_EVERY_S = 1
"""Interval at which the wait for a study that a process preprocesses asks whether to stop."""
STALE_S = 3600.0
"""What is half written and has not grown for so long was left by a process that is no more."""


@dataclass(frozen=True, eq=False)
class CachedStudy:
    """One preprocessed study; its arrays are read-only memory maps.

    A process it is sent to opens the files itself: a study is never sent.

    Attributes:
        case: the case's name.
        image: (C, T, X, Y, Z) float32, normalised, on the working grid.
        label: (L, X, Y, Z) uint8, class indices of the labelled frames only.
        labelled_frames: the L frames the labels belong to, ascending.
        foreground: (N, 5) int32, rows (l, class, x, y, z) of foreground voxels, sorted by l, then class, then place.
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
    """The cases preprocessed, from `root` where they lie there already and else built, as many at once as memory allows.

    An entry is named by its case and a digest of what its files hold and of every setting that shapes it: a changed file or setting
    makes a new entry, a file that was touched, moved or copied does not. A killed build leaves nothing that looks whole, several
    programs may build at once, and how much will be written is said beforehand.

    Raises:
        InputError: a study or its label is not as the dataset says; what was built before stays.
        Unet4DError: the disk is full, will be full or is not writable; a process was killed.
    """
    files = [file for case in cases for file in case.files]
    stamps = {file: stamp(file) for file in files}
    contents = content_digests(files, root / MEMO, config.num_workers or 1)
    folders = [root / f"{c.name}-{_digest(c, dataset, config, plane_spacing_mm, contents)}" for c in cases]
    missing = [i for i, folder in enumerate(folders) if not folder.is_dir()]
    if missing:
        _remove_stale(root)
        todo = _Unbuilt(
            [cases[i] for i in missing], dataset, config, plane_spacing_mm, [folders[i] for i in missing], stamps
        )
        _build_all(todo, root)
    return [_open(case.name, folder) for case, folder in zip(cases, folders, strict=True)]


@dataclass(frozen=True)
class _Unbuilt(torch_data.Dataset):
    """Studies to preprocess; getting one builds its entry in whatever process, and gives what the user did wrong, if anything."""

    cases: Sequence[Case]
    dataset: Dataset
    config: DataConfig
    plane_spacing_mm: float | None
    folders: Sequence[Path]
    stamps: Mapping[Path, Stamp]

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, i: int) -> Unet4DError | None:
        try:
            _build(self.cases[i], self.dataset, self.config, self.plane_spacing_mm, self.folders[i], self.stamps)
        except Unet4DError as error:
            return error
        return None


def _build_all(todo: _Unbuilt, root: Path) -> None:
    """Build the entries with a progress bar. After an error, those handed out are finished and no more begun."""
    footprints = [footprint(case, todo.dataset, todo.config, todo.plane_spacing_mm) for case in todo.cases]
    tell_room(footprints, root)
    errors: list[Unet4DError] = []

    def unless_failed() -> Iterator[int]:
        for i in range(len(todo)):
            if errors:
                return
            yield i

    workers = processes(todo.config.num_workers or 0, footprints, free_memory_bytes())
    building = torch_data.DataLoader(
        todo,
        batch_size=None,
        sampler=unless_failed(),
        num_workers=workers,
        prefetch_factor=1 if workers else None,  # a worker has one study at a time
        in_order=False,
        timeout=ASK_EVERY_S if workers else 0,
        worker_init_fn=ignore_stop_signals,
        generator=torch.Generator(),  # leaves the global one alone
    )
    try:
        for error in ProgressBar(_each_built(building), "preprocessing", len(todo), unit="study"):
            errors += [error] if error else []
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise Unet4DError(
            f"{root}: a process that preprocessed studies was killed, most often because memory ran out; free memory, or lower "
            "data.num_workers; what is done is kept"
        ) from error
    if errors:
        raise errors[0]


def _each_built(building: torch_data.DataLoader) -> Iterator[Unet4DError | None]:
    """Yield the error of each study, or None, in the order in which they are done; end the processes however this ends."""
    before = set(active_children())
    with blocked_stop_signals():
        done = iter(building)
    started = set(active_children()) - before
    try:
        while True:
            try:
                yield next(done)
            except StopIteration:
                return
            except RuntimeError as error:
                if "DataLoader timed out" not in str(error):
                    raise
                check_stop()
    finally:
        for process in started:  # they ignore a SIGTERM, and would finish their study first
            process.kill()


def _remove_stale(root: Path) -> None:
    """Remove what killed processes left half written."""
    for partial in root.glob(".*.partial.*"):
        with contextlib.suppress(OSError):  # somebody else may remove it, too
            newest = max(path.stat().st_mtime for path in (partial, *partial.glob("*")))
            if time.time() - newest > STALE_S:
                shutil.rmtree(partial) if partial.is_dir() else partial.unlink()


def _digest(
    case: Case,
    dataset: Dataset,
    config: DataConfig,
    plane_spacing_mm: float | None,
    contents: Mapping[Path, str],
) -> str:
    shaping = [
        VERSION,
        [contents[file] for file in case.files],
        case.labelled_frames,
        list(case.label) if isinstance(case.label, dict) else None,
        case.channels_last,
        case.channel_kinds,
        dataset.label_values,
        plane_spacing_mm,
        config.slice_spacing_mm,
        config.normalization,
    ]
    return hashlib.sha256(json.dumps(shaping).encode()).hexdigest()[:16]


def _build(
    case: Case,
    dataset: Dataset,
    config: DataConfig,
    plane_spacing_mm: float | None,
    folder: Path,
    stamps: Mapping[Path, Stamp],
) -> None:
    image = case.image()
    values, labelled = read_labelled(case, dataset, image)
    changed = [file for file in case.files if stamp(file) != stamps[file]]
    if changed:  # the entry is named for what it held before
        raise Unet4DError(f"{changed[0]} changed while it was read; wanted studies that stay as they are; start again")
    grid = WorkingGrid.of(image.affine, image.grid, plane_spacing_mm, config.slice_spacing_mm)
    frames = np.flatnonzero(labelled)
    label = grid.label(to_classes(values[frames], dataset.label_values), len(dataset.class_names))
    kinds = case.channel_kinds
    arrays = {
        "image": normalised(grid.image(image.array, kinds, image.source or case.name), config.normalization, kinds),
        "label": label,
        "foreground": foreground_voxels(label),
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
            with _synced(temporary / f"{name}.npy") as file:
                np.save(file, array)
        with _synced(temporary / "study.json") as file:
            file.write(json.dumps(about).encode())
        try:
            os.replace(temporary, folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _synced(path: Path) -> Iterator[BinaryIO]:
    """A file that is on the disk when it is closed: the entry's name shall not outlive a power cut that its arrays do not."""
    with open(path, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _open(case: str, folder: Path) -> CachedStudy:
    """Raises Unet4DError where somebody has damaged the entry."""
    try:
        about = read_json(folder / "study.json")
        image, label, foreground = (
            np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("image", "label", "foreground")
        )
        frames, spacing = tuple(about["labelled_frames"]), tuple(about["spacing"])
    except (OSError, ValueError, LookupError, TypeError, EOFError) as error:
        raise Unet4DError(f"{folder} is damaged ({error}); delete it, and it will be built again") from error
    return CachedStudy(case, image, label, frames, foreground, spacing, folder.name)
