"""One preprocessed study in its folder of the cache: written whole or not at all, opened as memory maps."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from unet4d.errors import Unet4DError
from unet4d.system.files import read_json
from unet4d.system.operating_system import replace_file


@dataclass(frozen=True)
class LabelScope:
    """The parts of a preprocessed study's label that teach, and those that are evaluated; the default is a whole label.

    Attributes:
        ignores: whether a voxel of the label is IGNORE. What lies outside of such a study is ignored, too.
        annotated: the foreground class indices that were drawn; None: all.
        weights: of the labelled frames in the loss, in their order; empty: 1 each.
        propagated: labelled frames that train and are never evaluated on.
    """

    ignores: bool = False
    annotated: tuple[int, ...] | None = None
    weights: tuple[float, ...] = ()
    propagated: tuple[int, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Return whether the label teaches every voxel of every class and frame alike."""
        return not self.ignores and self.annotated is None and not self.weights


WHOLE_LABEL = LabelScope()


@dataclass(frozen=True, eq=False)
class CachedStudy:
    """One preprocessed study; its arrays are read-only memory maps. Sent to another process, it is opened there from its files.

    Attributes:
        case: the case's name.
        image: (C, T, X, Y, Z) float32, normalized, on the working grid.
        label: (L, X, Y, Z) uint8, class indices of the labelled frames only, IGNORE in undrawn voxels.
        labelled_frames: the L frames the labels belong to, ascending.
        foreground: (N, 5) int32, rows (l, class, x, y, z) of foreground voxels, sorted by l, then class, then place.
        spacing: (X, Y, Z) in mm.
        entry: the name of its folder in the cache, which changes with its files, its labelled frames and the settings.
        scope: what the label teaches.
    """

    case: str
    image: np.ndarray
    label: np.ndarray
    labelled_frames: tuple[int, ...]
    foreground: np.ndarray
    spacing: tuple[float, ...]
    entry: str = ""
    scope: LabelScope = WHOLE_LABEL

    @property
    def taught_rows(self) -> list[int]:
        """Return the rows of `label` that count in the loss: those of a weight above 0."""
        return [row for row in range(len(self.labelled_frames)) if not self.scope.weights or self.scope.weights[row]]

    @property
    def evaluated_rows(self) -> list[int]:
        """Return the rows of `label` that are evaluated: those of frames that were drawn."""
        return [row for row, t in enumerate(self.labelled_frames) if t not in self.scope.propagated]

    def __reduce__(self) -> tuple[Any, ...]:
        if not isinstance(self.image, np.memmap) or self.image.filename is None:
            return super().__reduce__()  # type: ignore[return-value]
        return open_entry, (self.case, Path(self.image.filename).parent)


def write_entry(arrays: dict[str, np.ndarray], about: dict[str, Any], folder: Path) -> None:
    """Write an entry whole or not at all; if another process has written it meanwhile, that one stays."""
    temporary = folder.with_name(f".{secrets.token_hex(4)}.partial.{folder.name}")
    try:
        temporary.mkdir(parents=True)
        for name, array in arrays.items():
            with _open_synced(temporary / f"{name}.npy") as file:
                np.save(file, array)
        with _open_synced(temporary / "study.json") as file:
            file.write(json.dumps(about).encode())
        try:
            replace_file(temporary, folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _open_synced(path: Path) -> Iterator[BinaryIO]:
    """Open a file that is on the disk when it is closed: a power cut shall not leave the entry's name without its arrays."""
    with open(path, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def open_entry(case: str, folder: Path) -> CachedStudy:
    """Open an entry. Raises Unet4DError where it is damaged."""
    try:
        about = read_json(folder / "study.json")
        image, label, foreground = (
            np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("image", "label", "foreground")
        )
        frames, spacing = tuple(about["labelled_frames"]), tuple(about["spacing"])
        scope = LabelScope(**{key: _tuple(value) for key, value in about.get("scope", {}).items()})
    except (OSError, ValueError, LookupError, TypeError, EOFError) as error:
        raise Unet4DError(f"{folder} is damaged ({error}); delete it, and it will be built again") from error
    return CachedStudy(case, image, label, frames, foreground, spacing, folder.name, scope)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
