"""Preprocessed studies on disk, uncompressed and memory-mapped, so that a patch is read and not a study."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from unet4d.config import MOST_WORKERS, DataConfig
from unet4d.datasets.case_labels import read_labelled, to_classes
from unet4d.datasets.cases import Case, Dataset
from unet4d.datasets.issues import ERROR
from unet4d.datasets.partial_labels import WHOLE
from unet4d.datasets.verify.run_checks import CheckResult, StudyCheck, check_study, stream_studies
from unet4d.errors import InputError, Unet4DError
from unet4d.images.grid import IGNORE, WorkingGrid
from unet4d.images.image4d import Image4D
from unet4d.pipeline.cached_study import WHOLE_LABEL, CachedStudy, LabelScope, open_entry, write_entry
from unet4d.pipeline.fingerprint import compute_fingerprint
from unet4d.pipeline.foreground import foreground_voxels
from unet4d.pipeline.normalization import normalize
from unet4d.pipeline.resources import check_disk_room, count_threads, footprint, one_torch_thread
from unet4d.system.digests import DigestMemo, Stamp, content_digests, stamp
from unet4d.system.environment import available_cores
from unet4d.system.memory import free_memory_bytes
from unet4d.system.progress_bar import ProgressBar
from unet4d.system.regular_files import record_digests
from unet4d.system.threads import each_done

VERSION = 2
"""Raised whenever the same settings would give other arrays."""
MEMO = "digests.json"
"""Digests of the studies' files, beside the entries."""
STALE_S = 3600.0
"""Age from which a half-written entry that no longer grows is removed: its process has ended."""


def cached_studies(
    cases: Sequence[Case], dataset: Dataset, config: DataConfig, plane_spacing_mm: float | None, root: Path
) -> list[CachedStudy]:
    """Return the cases preprocessed: from `root` where they are there already, else built, as many at once as memory allows.

    An entry is named by its case and a digest of its files' bytes and of every setting that shapes it. A changed file or setting
    makes a new entry; a file that was touched, moved or copied does not. A killed build leaves nothing that looks whole, several
    programs may build at once, and the size of what will be written is printed beforehand.

    Raises:
        InputError: a study or its label is not as the dataset says; what was built before stays.
        Unet4DError: the disk is full, will be full or is not writable; a file changed while it was read.
    """
    cache = _StudyCache(root, dataset, config, plane_spacing_mm, DigestMemo(root / MEMO))
    absent = cache.names_without_entry(cases)
    digested = [case for case in cases if case.name not in absent]
    contents = content_digests([file for case in digested for file in case.files], cache.memo, config.num_workers or 1)
    folders = {case.name: cache.folder(case, contents) for case in digested}
    missing = [case for case in cases if case.name in absent or not folders[case.name].is_dir()]
    if missing:
        folders.update(cache.build_all(missing))
    return [open_entry(case.name, folders[case.name]) for case in cases]


def verify_and_build(
    config: DataConfig, root_of: Callable[[Path], Path]
) -> Callable[[Dataset, Sequence[Case]], tuple[StudyCheck, int]]:
    """Return the `checks` of `load_verified_dataset` that read a study's files once, to verify it and to build its entry.

    Entries are built of training studies that have none and in which no error was found. Where the header of a training study
    cannot be read, nothing is built: the spacing of the working grid is unknown.

    Args:
        config: of the data; what it leaves open is derived from the headers, as training does.
        root_of: from the dataset's folder to the cache's.
    """

    def prepare(dataset: Dataset, cases: Sequence[Case]) -> tuple[StudyCheck, int]:
        root, training = root_of(dataset.root), {case.name for case in dataset.training}
        try:
            seen = compute_fingerprint(dataset.training, config) if training else None
            resolved = replace(config, slice_spacing_mm=seen.slice_spacing_mm) if seen else config
            plane = seen.plane_spacing_mm if seen else None
            cache = _StudyCache(root, dataset, resolved, plane, DigestMemo(root / MEMO))
            absent = training & cache.names_without_entry(cases)
            threads = cache.prepare([case for case in cases if case.name in absent]) if absent else 0
        except InputError:  # the check of that study reports it
            return stream_studies(dataset, cases)
        _, at_once = stream_studies(dataset, cases)
        return lambda case: cache.check(case, case.name in absent), threads or at_once

    return prepare


_ReadStudy = tuple[Image4D, np.ndarray, np.ndarray]
"""Image, label values (T, X, Y, Z) uint8, and which frames are labelled (T,) bool."""


@dataclass(frozen=True)
class _StudyCache:
    """The entries of a dataset's studies in one folder, all with the same settings."""

    root: Path
    dataset: Dataset
    config: DataConfig  # its slice spacing is known
    plane_spacing_mm: float | None
    memo: DigestMemo
    torch_threads: int = field(default_factory=torch.get_num_threads)  # of the thread that makes this

    @property
    def spacing_mm(self) -> tuple[float | None, float | None]:
        """Return the spacing of the working grid in plane and between slices; None: each study's own."""
        return self.plane_spacing_mm, cast(float | None, self.config.slice_spacing_mm)

    def names_without_entry(self, cases: Sequence[Case]) -> set[str]:
        """Return the names of the cases that have no entry, whatever their files hold."""
        found = {path.name.rpartition("-")[0] for path in self.root.glob("*-*")}
        return {case.name for case in cases} - found

    def folder(self, case: Case, contents: Mapping[Path, str]) -> Path:
        """Return the entry's folder, given the digests of the case's files."""
        shaping: list[Any] = [
            VERSION,
            [contents[file] for file in case.files],
            case.labelled_frames,
            list(case.label) if isinstance(case.label, dict) else None,
            case.channels_last,
            case.channel_kinds,
            self.dataset.label_values,
            *self.spacing_mm,
            self.config.normalization,
        ]
        if self.config.interpolation != "linear":
            shaping.append(self.config.interpolation)
        if case.partial != WHOLE or self.dataset.ignore is not None:
            shaping.append([self.dataset.ignore, case.partial.plain()])
        return self.root / f"{case.name}-{hashlib.sha256(json.dumps(shaping).encode()).hexdigest()[:16]}"

    def prepare(self, cases: Sequence[Case]) -> int:
        """Check that there is room on the disk, and return how many of the cases fit into memory at once.

        Raises:
            InputError: a header cannot be read.
            Unet4DError: there is too little room.
        """
        _remove_stale(self.root)
        footprints = [footprint(case, self.dataset, self.spacing_mm) for case in cases]
        check_disk_room(footprints, self.root)
        workers = self.config.num_workers
        # No core need be kept for training meanwhile.
        wanted = min(MOST_WORKERS, available_cores()) if workers is None else workers
        return count_threads(wanted, footprints, free_memory_bytes())

    def build_all(self, cases: Sequence[Case]) -> dict[str, Path]:
        """Build entries and return their folders by case. After an error, those under way are finished and no more begun."""
        threads = self.prepare(cases)
        folders: dict[str, Path] = {}
        errors: list[Unet4DError] = []

        def unless_failed() -> Iterator[Case]:
            for case in cases:
                if errors:
                    return
                yield case

        def built(case: Case) -> Path | Unet4DError:
            try:
                with self.recorded(case) as contents:
                    study = self.read(case)
                return self.build(case, study, contents)
            except Unet4DError as error:
                return error

        done = each_done(built, unless_failed(), threads)
        for case, folder in ProgressBar(done, "preprocessing", len(cases), unit="study"):
            if isinstance(folder, Unet4DError):
                errors.append(folder)
            else:
                folders[case.name] = folder
        if errors:
            raise errors[0]
        return folders

    def check(self, case: Case, to_build: bool) -> tuple[CheckResult, bool]:
        """Verify a case, see `StudyCheck`, and build its entry from the same read if asked to and no error is found."""
        study = None
        with self.recorded(case) as contents:
            if to_build:
                with contextlib.suppress(Exception):  # the check below finds it, too, and reports it
                    study = self.read(case)
            if study is None:
                return check_study(case, self.dataset)
        result = check_study(case, self.dataset, study[0].array, study[1])
        if all(fault.severity != ERROR for fault in result[0][1]):
            with contextlib.suppress(InputError):  # `cached_studies` raises it, once all studies are verified
                self.build(case, study, contents)
        return result

    @contextlib.contextmanager
    def recorded(self, case: Case) -> Iterator[dict[Path, str]]:
        """Give a dict that gets the digests of the case's files that are read inside; the memo gets those of unchanged files."""
        before = {file: _stamp_if_there(file) for file in case.files}
        with record_digests() as contents:
            yield contents
        for file in case.files:
            taken = before[file]
            if taken and _stamp_if_there(file) != taken:
                contents.pop(file, None)
            elif taken and file in contents:
                self.memo.add(file, taken, contents[file])
        self.memo.write()

    def read(self, case: Case) -> _ReadStudy:
        """Read a case. Raises InputError."""
        image = case.image()
        return image, *read_labelled(case, self.dataset, image)

    def build(self, case: Case, study: _ReadStudy, contents: Mapping[Path, str]) -> Path:
        """Preprocess a study, write its entry and return the entry's folder.

        Raises:
            Unet4DError: a file changed while it was read, so that its digest is unknown; the disk is full.
        """
        changed = [file for file in case.files if file not in contents]
        if changed:
            raise Unet4DError(f"{changed[0]} changed while it was read; leave the studies as they are and start again")
        (image, values, labelled), folder, kinds = study, self.folder(case, contents), case.channel_kinds
        grid = WorkingGrid.of(image.affine, image.grid, *self.spacing_mm, self.config.interpolation)
        frames = np.flatnonzero(labelled)
        with one_torch_thread(self.torch_threads):  # studies are built side by side
            has_ignored = self.dataset.ignore is not None or case.partial.has_slices
            ignored = self.dataset.ignored_value if has_ignored else None
            classes = to_classes(values[frames], self.dataset.label_values, ignored)
            label = grid.label(classes, len(self.dataset.class_names))
            resampled = grid.image(image.array, kinds, image.source or case.name)
        normalized = normalize(resampled, self.config.normalization, kinds)
        arrays = {"image": normalized, "label": label, "foreground": foreground_voxels(label)}
        about: dict[str, Any] = {"labelled_frames": frames.tolist(), "spacing": list(grid.spacing)}
        scope = _label_scope(case, self.dataset, frames.tolist(), label)
        try:
            write_entry(arrays, about if scope == WHOLE_LABEL else about | {"scope": asdict(scope)}, folder)
        except OSError as error:
            reason = error.strerror or error
            raise Unet4DError(
                f"could not write the preprocessed study {folder}: {reason}; free space or set data.cache_dir"
            ) from error
        return folder


def _label_scope(case: Case, dataset: Dataset, frames: Sequence[int], label: np.ndarray) -> LabelScope:
    """Return what the label (L, *shape) of a case teaches on the working grid."""
    partial = case.partial
    annotated = None if partial.annotated is None else tuple(map(dataset.label_values.index, partial.annotated))
    weights = tuple(partial.weight(t) for t in frames)
    varies = any(weight != 1 for weight in weights)
    is_all = annotated is not None and len(annotated) == len(dataset.labels) - 1
    return LabelScope(
        bool((label == IGNORE).any()), None if is_all else annotated, weights if varies else (), partial.propagated
    )


def _stamp_if_there(file: Path) -> Stamp | None:
    return stamp(file) if file.is_file() else None


def _remove_stale(root: Path) -> None:
    """Remove what killed processes left half written."""
    for partial in root.glob(".*.partial.*"):
        with contextlib.suppress(OSError):  # another process may remove it, too
            newest = max(path.stat().st_mtime for path in (partial, *partial.glob("*")))
            if time.time() - newest > STALE_S:
                shutil.rmtree(partial) if partial.is_dir() else partial.unlink()
