"""Segmentations of 3D Slicer and label maps, read by class name onto the grid of the image.

A segmentation (.seg.nrrd) names its segments; each is a value in one of its layers. Overlapping segments lie in different layers,
along a list axis. The voxels are a box around the segments, anywhere on the image's lattice; a single voxel of 0, wherever it
lies, is an empty segmentation. See https://slicer.readthedocs.io/en/latest/developer_guide/modules/segmentations.html.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from unet4d.errors import InputError
from unet4d.images.image4d import Image4D, read_label
from unet4d.images.nifti import is_nifti, spacing_of
from unet4d.images.nrrd import NrrdHeader, import_pynrrd, read_nrrd_header
from unet4d.system.class_values import BACKGROUND
from unet4d.system.text import suggest_names

_SEGMENT = re.compile(r"Segment(\d+)_(?:Name|ID)")
_OFF_LATTICE = 0.01  # greatest distance of a corner from the image's lattice, in voxels of the image


@dataclass(frozen=True)
class Segment:
    """A segment of a segmentation: the voxels of a layer that have this value."""

    name: str
    value: int
    layer: int


def named_segments(header: NrrdHeader) -> tuple[Segment, ...]:
    """Return the segments that a header names, by number; files of Slicer 4 give each a layer of its own, with the value 1."""
    fields = header.fields
    numbers = sorted({int(found[1]) for field in fields if (found := _SEGMENT.fullmatch(field))})
    return tuple(
        Segment(
            name=fields.get(f"Segment{n}_Name", fields.get(f"Segment{n}_ID")).strip(),
            value=_whole(header, f"Segment{n}_LabelValue", 1),
            layer=_whole(header, f"Segment{n}_Layer", n),
        )
        for n in numbers
    )


def label_values(files: Iterable[Path], given: Mapping[str, int] | None) -> dict[str, int]:
    """Return class name to label value for all these segmentations and label maps; reads the headers of the NRRD among them.

    A damaged header is ignored here; `read_segmentation` raises for it. Names are the same if they differ in capitals and spaces
    alone. Without given values they are 1, 2, ... in the order in which the names come first, by file and number of the segment.

    Args:
        files: .nrrd or .nhdr; label maps in NIfTI have no names and are ignored.
        given: class name to label value, to map by instead; background at 0 is optional.

    Returns:
        background at 0 first; empty where nothing is given and no segment has a name.

    Raises:
        InputError: a segment that `given` does not name; values that do not fit; pynrrd is not installed.
    """
    labels = with_background(given) if given else {BACKGROUND: 0}
    known = {name_key(name) for name in labels}
    names: list[tuple[Path, str]] = []
    for path in files:
        if not is_nifti(path):
            import_pynrrd(path)
            with contextlib.suppress(InputError):
                names += [(path, segment.name) for segment in named_segments(read_nrrd_header(path))]
    for path, name in names:
        if name_key(name) in known:
            continue
        if given:
            raise InputError(
                f"{path}: got a segment {name!r}{suggest_names(name, labels)}, expected one of {', '.join(labels)}; name it in "
                "labels, or rename or remove it in 3D Slicer"
            )
        labels[name] = len(labels)
        known.add(name_key(name))
    return labels if given or len(labels) > 1 else {}


def read_segmentation(path: Path, labels: Mapping[str, int], image: Image4D) -> np.ndarray:
    """Read the segmentation of one frame.

    Where segments overlap the one of the higher number wins, as where 3D Slicer exports a label map.

    Args:
        path: .seg.nrrd or .seg.nhdr.
        labels: class name to label value, as from `label_values`.
        image: of the same lattice.

    Returns:
        (X, Y, Z) uint8 on the image's grid, values as in `labels`.

    Raises:
        InputError: another lattice than the image's, segments outside it, voxels that belong to no segment, a
            fractional segmentation; names the file.
    """
    header = read_nrrd_header(path)
    for field in ("Segmentation_SourceRepresentation", "Segmentation_MasterRepresentation"):
        if "Fractional" in header.fields.get(field, ""):
            raise InputError(f"{path}: got a fractional segmentation, expected a binary label map; convert it")
    layers = header.read()
    if header.grid == (1, 1, 1) and not layers.any():
        return np.zeros(image.grid, dtype=np.uint8)
    return _onto_grid(_merge_segments(layers, named_segments(header), labels, path)[None], header, image)[0]


def read_label_map(path: Path, labels: Mapping[str, int], image: Image4D) -> np.ndarray:
    """Read a label map of one frame, or a sequence with one label map per frame.

    Args:
        path: .nrrd or .nhdr, where the names of segments in the header, if any, give the values' meaning; .nii or .nii.gz.
        labels: class name to label value.
        image: of the same lattice.

    Returns:
        (N, X, Y, Z) uint8 on the image's grid, values as in `labels`.

    Raises:
        InputError: as `read_segmentation`; a value that `labels` does not name.
    """
    if is_nifti(path):
        return _check_names(read_label(path, like=image), labels, path)
    header = read_nrrd_header(path)
    volumes, segments = header.read(), named_segments(header)
    if segments:
        return _onto_grid(_merge_segments(volumes[None], segments, labels, path), header, image)
    with np.errstate(invalid="ignore"):  # NaN
        whole = np.clip(volumes, 0, 255).astype(np.uint8)
    if not np.array_equal(whole, volumes):
        raise InputError(f"{path}: its voxels are no whole numbers from 0 to 255, expected a label map; correct it")
    return _check_names(_onto_grid(whole, header, image), labels, path)


def _merge_segments(
    layers: np.ndarray, segments: Sequence[Segment], labels: Mapping[str, int], path: Path
) -> np.ndarray:
    """Merge layers (L, ...) into label values (...) uint8, segment over segment."""
    values = {name_key(name): value for name, value in labels.items()}
    merged = np.zeros(layers.shape[1:], dtype=np.uint8)
    unknown = layers != 0
    for segment in segments:
        if segment.layer >= len(layers):
            raise InputError(
                f"{path}: got layer {segment.layer} for its segment {segment.name!r}, expected one of 0 to {len(layers) - 1}; "
                "export it again"
            )
        mask = layers[segment.layer] == segment.value
        merged[mask] = values[name_key(segment.name)]
        unknown[segment.layer] &= ~mask
    if unknown.any():
        known = ", ".join(f"{segment.name} ({segment.value})" for segment in segments)
        raise InputError(
            f"{path}: got {np.count_nonzero(unknown)} voxels with the values {np.unique(layers[unknown])[:5].tolist()} of no "
            f"segment, expected those of {known or 'segments, and none is named'}; export it from 3D Slicer as a segmentation"
        )
    return merged


def _onto_grid(volumes: np.ndarray, header: NrrdHeader, image: Image4D) -> np.ndarray:
    """Place label values (N, x, y, z) on a part of the image's lattice, with axes in any order and sense, on its whole grid."""
    to_image = np.linalg.inv(image.affine) @ header.affine  # from voxel to voxel
    turn = nib.orientations.io_orientation(to_image)
    to_image = to_image @ nib.orientations.inv_ornt_aff(turn, header.grid)
    turned = np.moveaxis(nib.orientations.apply_orientation(np.moveaxis(volumes, 0, -1), turn), -1, 0)
    offset = np.rint(to_image[:3, 3]).astype(int)
    shift = np.eye(4)
    shift[:3, 3] = offset
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, n - 1) for n in turned.shape[1:]))]).T
    apart = np.abs((to_image - shift) @ corners).max()
    if not apart <= _OFF_LATTICE:
        raise InputError(
            f"{header.path}: got voxels ({_describe_grid(header.affine, header.grid)}) up to {apart:.3g} voxels off those of "
            f"{image.source or 'the image'} ({_describe_grid(image.affine, image.grid)}), expected a part of them; segment "
            "that image, or choose it as source geometry in 3D Slicer and export again"
        )
    start = np.maximum(-offset, 0)
    stop = np.maximum(np.minimum(turned.shape[1:], image.grid - offset), start)
    out = np.zeros((len(turned), *image.grid), dtype=np.uint8)
    inside = tuple(slice(a + o, b + o) for a, b, o in zip(start, stop, offset, strict=True))
    out[(slice(None), *inside)] = turned[(slice(None), *(slice(a, b) for a, b in zip(start, stop, strict=True)))]
    outside = np.count_nonzero(turned) - np.count_nonzero(out)
    if outside:
        raise InputError(
            f"{header.path}: got {outside} labelled voxels outside {image.source or 'the image'}, expected all inside its "
            f"{image.grid}; crop them, or give the image that was segmented"
        )
    return out


def _check_names(volumes: np.ndarray, labels: Mapping[str, int], path: Path) -> np.ndarray:
    """Return the same label values. Raises InputError for one without a name."""
    present = np.flatnonzero(np.bincount(volumes.ravel(), minlength=256))
    unknown = sorted(set(present.tolist()) - {0, *labels.values()})
    if unknown:
        known = ", ".join(f"{value} ({name})" for name, value in labels.items())
        raise InputError(f"{path}: got label values {unknown[:5]}, expected {known or 'names'}; name them in labels")
    return volumes


def with_background(given: Mapping[str, int]) -> dict[str, int]:
    """Return the given labels by value, background added if nothing has the value 0."""
    labels = dict(given) if 0 in given.values() else {**given, BACKGROUND: 0}
    if len({name_key(name) for name in labels}) < len(given) + (0 not in given.values()):
        raise InputError(f"got labels {dict(given)}, expected every name once, background at 0 if at all; correct them")
    return dict(sorted(labels.items(), key=lambda label: label[1]))


def name_key(name: str) -> str:
    """Return a name without spaces and capitals, to compare."""
    return "".join(name.split()).casefold()


def _whole(header: NrrdHeader, field: str, default: int) -> int:
    """Return a field that holds a whole number."""
    value = str(header.fields.get(field, default)).strip()
    if not (value.isdecimal() and len(value) < 10):
        raise InputError(f"{header.path}: {field} is {value!r}, expected a whole number; export it again")
    return int(value)


def _describe_grid(affine: np.ndarray, grid: Sequence[int]) -> str:
    spacing = " x ".join(f"{size:.6g}" for size in spacing_of(affine))
    origin = " ".join(f"{position:.6g}" for position in affine[:3, 3])
    return f"{' x '.join(map(str, grid))} of {spacing} mm from {origin}"
