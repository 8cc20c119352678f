"""Checks of `unet4d verify` that import no torch, which takes seconds: paths that must exist or be writable."""

from __future__ import annotations

from pathlib import Path

from unet4d.datasets.dataset import open_dataset
from unet4d.datasets.propagation.registration import import_greedy
from unet4d.system.files import PathLike, check_file_writable


def check_verify(dataset: PathLike, out: PathLike | None, cross_frames: bool = False) -> None:
    """Check the arguments of `verify`, which reports mistakes in a dataset.json itself.

    Raises:
        InputError: there is no dataset.json, or `out` is a folder; Greedy is missing, which `cross_frames` needs.
        Unet4DError: `out` may not be written.
    """
    path = Path(dataset)
    if not (path / "dataset.json" if path.is_dir() else path).is_file():
        open_dataset(path)
    if out is not None:
        check_file_writable(out)
    if cross_frames:
        import_greedy()
