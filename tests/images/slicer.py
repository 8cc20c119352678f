"""Files as 3D Slicer saves them, written with pynrrd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders import OBLIQUE

nrrd = pytest.importorskip("nrrd", reason="needs pynrrd: pip install pynrrd")

SIGNS = {
    "right-anterior-superior": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1),
    "RAS": (1, 1, 1),
    "LAS": (-1, 1, 1),
    "LPS": (-1, -1, 1),
}


def geometry(
    affine: np.ndarray, list_axis: int | None = None, space: str = "left-posterior-superior"
) -> dict[str, Any]:
    """Return the fields of the voxels' place, for an affine in RAS."""
    there = np.diag([*SIGNS[space], 1]) @ affine
    rows, kinds = list(there[:3, :3].T), ["domain"] * 3
    if list_axis is not None:
        rows.insert(list_axis, np.full(3, np.nan))
        kinds.insert(list_axis, "list")
    return {"space": space, "space directions": np.array(rows), "space origin": there[:3, 3], "kinds": kinds}


def write(path: Path, voxels: np.ndarray, fields: Mapping[str, Any]) -> Path:
    """Write voxels, in the order of axes in which they come; a field of None is left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nrrd.write(str(path), voxels, {name: value for name, value in fields.items() if value is not None})
    return path


def write_volume(path: Path, voxels: np.ndarray, affine: np.ndarray = OBLIQUE, **fields: Any) -> Path:
    """Write one volume (X, Y, Z)."""
    return write(path, voxels, geometry(affine) | fields)


def write_sequence(
    path: Path,
    volumes: np.ndarray,
    affine: np.ndarray = OBLIQUE,
    list_axis: int = 3,
    times: Sequence[object] | None = None,
    unit: str = "s",
    **fields: Any,
) -> Path:
    """Write a sequence of volumes (T, X, Y, Z), its axis of frames first (0) or last (3)."""
    about: dict[str, Any] = {"labels": [""] * 4, "units": [""] * 4, "DataNodeClassName": "vtkMRMLScalarVolumeNode"}
    about["labels"][list_axis], about["units"][list_axis] = "time", unit
    about[f"axis {list_axis} index type"] = "numeric"
    about[f"axis {list_axis} index values"] = " ".join(map(str, range(len(volumes)) if times is None else times))
    return write(path, np.moveaxis(volumes, 0, list_axis), geometry(affine, list_axis) | about | fields)


def write_segmentation(
    path: Path,
    layers: np.ndarray,
    segments: Sequence[tuple[str, int, int]],
    affine: np.ndarray = OBLIQUE,
    crop: bool = False,
    **fields: Any,
) -> Path:
    """Write a segmentation: layers (L, X, Y, Z), or one (X, Y, Z); segments by name, value and layer; cropped to what is drawn."""
    layers = layers.astype(np.uint8)
    layers = layers[None] if layers.ndim == 3 else layers
    start = np.zeros(3, int)
    if crop:
        drawn = np.argwhere(layers.any(axis=0))
        start, stop = drawn.min(axis=0), drawn.max(axis=0) + 1
        layers = layers[(slice(None), *(slice(a, b) for a, b in zip(start, stop, strict=True)))]
    corner = affine.copy()
    corner[:3, 3] = (affine @ [*start, 1])[:3]
    about: dict[str, Any] = {"Segmentation_ReferenceImageExtentOffset": " ".join(map(str, start))}
    about["Segmentation_SourceRepresentation"] = "Binary labelmap"
    for n, (name, value, layer) in enumerate(segments):
        about |= {f"Segment{n}_ID": f"Segment_{n + 1}", f"Segment{n}_Name": name}
        about |= {f"Segment{n}_LabelValue": str(value), f"Segment{n}_Layer": str(layer)}
    single = len(layers) == 1
    where = geometry(corner, None if single else 0)
    return write(path, layers[0] if single else layers, where | about | fields)
