"""What somebody drew, by the names of its classes, on the grid of the image: 3D Slicer's segmentations and label maps.

A segmentation (.seg.nrrd) names its segments, each of which is a value in one of its layers; overlapping segments lie in
layers of their own, along a list axis. Its voxels are a box round what was drawn, anywhere on the image's lattice; a single
voxel of 0, wherever it lies, means that nothing was. See https://slicer.readthedocs.io/en/latest/developer_guide/modules/segmentations.html.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from unet4d.errors import InputError
from unet4d.images.image4d import Image4D, read_label
from unet4d.images.nifti import NIFTI_SUFFIXES, spacing_of
from unet4d.images.nrrd import NrrdHeader, check_installed, read_nrrd_header
from unet4d.system.class_values import BACKGROUND
from unet4d.system.text import suggest_names

_SEGMENT = re.compile(r"Segment(\d+)_(?:Name|ID)")
_OFF_LATTICE = 0.01  # how far a corner may lie from the image's lattice, in voxels of the image


@dataclass(frozen=True)
class Segment:
    """A segment of a segmentation: where a layer has this value."""

    name: str
    value: int
    layer: int


def segments_of(header: NrrdHeader) -> tuple[Segment, ...]:
    """The segments that a header names, by number; files of Slicer 4 give each a layer of its own, with the value 1."""
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
    """Class name to label value for all these segmentations and label maps; reads the headers of the NRRD among them.

    A damaged header is passed by here, and told where its file is read: the other studies go on.

    Names are the same if they differ in capitals and spaces alone. Where nothing is given, the values are 1, 2, ... in the
    order in which the names come first: file by file as given, in a file by the number of the segment.

    Args:
        files: .nrrd or .nhdr; label maps in NIfTI name nothing and are passed by.
        given: class name to label value, to map by instead; background at 0 may be left out.

    Returns:
        background at 0 first; empty where nothing is given and nothing is named.

    Raises:
        InputError: a segment that `given` does not name; values that do not fit; pynrrd is not installed.
    """
    labels = _checked(given) if given else {BACKGROUND: 0}
    known = {_key(name) for name in labels}
    for path in files:
        if path.name.lower().endswith(NIFTI_SUFFIXES):
            continue
        for segment in _named_in(path):
            if _key(segment.name) in known:
                continue
            if given:
                raise InputError(
                    f"{path}: labels do not name its segment {segment.name!r}{suggest_names(segment.name, labels)}; wanted one of "
                    f"{', '.join(labels)}; name it there, or rename or remove it in 3D Slicer"
                )
            labels[segment.name] = len(labels)
            known.add(_key(segment.name))
    return labels if given or len(labels) > 1 else {}


def _named_in(path: Path) -> tuple[Segment, ...]:
    """The segments of a file; none where its header is damaged."""
    check_installed(path)
    try:
        return segments_of(read_nrrd_header(path))
    except InputError:
        return ()


def read_segmentation(path: Path, labels: Mapping[str, int], image: Image4D) -> np.ndarray:
    """Read the segmentation of one frame.

    Where segments overlap the later one wins, that of the higher number, as where 3D Slicer exports a label map.

    Args:
        path: .seg.nrrd or .seg.nhdr.
        labels: class name to label value, as from `label_values`.
        image: on whose lattice it was drawn.

    Returns:
        (X, Y, Z) uint8 on the image's grid, values as in `labels`.

    Raises:
        InputError: another lattice than the image's, something drawn outside it, voxels that belong to no segment, a
            fractional segmentation; names the file.
    """
    header = read_nrrd_header(path)
    for field in ("Segmentation_SourceRepresentation", "Segmentation_MasterRepresentation"):
        if "Fractional" in header.fields.get(field, ""):
            raise InputError(
                f"{path}: a fractional segmentation came; wanted a binary label map; convert it in 3D Slicer"
            )
    layers = header.read()
    if header.grid == (1, 1, 1) and not layers.any():
        return np.zeros(image.grid, dtype=np.uint8)
    return _onto_grid(_painted(layers, segments_of(header), labels, path)[None], header, image)[0]


def read_label_map(path: Path, labels: Mapping[str, int], image: Image4D) -> np.ndarray:
    """Read a label map: of one frame, or a sequence of one a frame.

    Args:
        path: .nrrd or .nhdr, whose segments give the values' meaning where its header names any; .nii or .nii.gz.
        labels: class name to label value.
        image: on whose lattice it lies.

    Returns:
        (N, X, Y, Z) uint8 on the image's grid, values as in `labels`.

    Raises:
        InputError: as `read_segmentation`; a value that `labels` does not name.
    """
    if path.name.lower().endswith(NIFTI_SUFFIXES):
        return _named(read_label(path, like=image), labels, path)
    header = read_nrrd_header(path)
    volumes, segments = header.read(), segments_of(header)
    if segments:
        return _onto_grid(_painted(volumes[None], segments, labels, path), header, image)
    with np.errstate(invalid="ignore"):  # NaN
        whole = np.clip(volumes, 0, 255).astype(np.uint8)
    if not np.array_equal(whole, volumes):
        raise InputError(f"{path}: its voxels are no whole numbers from 0 to 255; wanted a label map; correct it")
    return _named(_onto_grid(whole, header, image), labels, path)


def _painted(layers: np.ndarray, segments: Sequence[Segment], labels: Mapping[str, int], path: Path) -> np.ndarray:
    """Layers (L, ...) to label values (...) uint8, segment over segment."""
    values = {_key(name): value for name, value in labels.items()}
    painted = np.zeros(layers.shape[1:], dtype=np.uint8)
    nobodys = layers != 0
    for segment in segments:
        if segment.layer >= len(layers):
            raise InputError(
                f"{path}: its segment {segment.name!r} lies in layer {segment.layer}; it has the layers 0 to "
                f"{len(layers) - 1}; export it again"
            )
        here = layers[segment.layer] == segment.value
        painted[here] = values[_key(segment.name)]
        nobodys[segment.layer] &= ~here
    if nobodys.any():
        strays = np.unique(layers[nobodys])[:5].tolist()
        raise InputError(
            f"{path}: {np.count_nonzero(nobodys)} voxels have the values {strays}, of no segment; wanted those of "
            f"{', '.join(f'{segment.name} ({segment.value})' for segment in segments) or 'segments, and none is named'}; "
            "export it from 3D Slicer as a segmentation"
        )
    return painted


def _onto_grid(volumes: np.ndarray, header: NrrdHeader, image: Image4D) -> np.ndarray:
    """Label values (N, x, y, z) on a part of the image's lattice, its axes in any order and sense, on its whole grid."""
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
            f"{header.path}: its voxels ({_geometry(header.affine, header.grid)}) are not those of "
            f"{image.source or 'the image'} ({_geometry(image.affine, image.grid)}), nor a part of them: up to {apart:.3g} "
            "voxels off; draw on that image, or choose it as source geometry in 3D Slicer and export again"
        )
    start = np.maximum(-offset, 0)
    stop = np.maximum(np.minimum(turned.shape[1:], image.grid - offset), start)
    out = np.zeros((len(turned), *image.grid), dtype=np.uint8)
    there = tuple(slice(a + o, b + o) for a, b, o in zip(start, stop, offset, strict=True))
    out[(slice(None), *there)] = turned[(slice(None), *(slice(a, b) for a, b in zip(start, stop, strict=True)))]
    outside = np.count_nonzero(turned) - np.count_nonzero(out)
    if outside:
        raise InputError(
            f"{header.path}: {outside} labelled voxels lie outside {image.source or 'the image'}; wanted all inside its "
            f"{image.grid}; crop them, or give the image it was drawn on"
        )
    return out


def _named(volumes: np.ndarray, labels: Mapping[str, int], path: Path) -> np.ndarray:
    """The same label values, if each of them has a name."""
    present = np.flatnonzero(np.bincount(volumes.ravel(), minlength=256))
    unknown = sorted(set(present.tolist()) - {0, *labels.values()})
    if unknown:
        wanted = (
            f"wanted {', '.join(f'{value} ({name})' for name, value in labels.items())}" if labels else "no name came"
        )
        raise InputError(f"{path}: the label values {unknown[:5]} have no name; {wanted}; name them in labels")
    return volumes


def _checked(given: Mapping[str, int]) -> dict[str, int]:
    """The given labels by value, background added if nothing has the value 0."""
    labels = dict(given) if 0 in given.values() else {**given, BACKGROUND: 0}
    if len({_key(name) for name in labels}) < len(given) + (0 not in given.values()):
        raise InputError(f"labels are {dict(given)}; wanted every name once, background at 0 if at all; correct them")
    return dict(sorted(labels.items(), key=lambda label: label[1]))


def _key(name: str) -> str:
    """What names have in common that are written alike."""
    return "".join(name.split()).casefold()


def _whole(header: NrrdHeader, field: str, otherwise: int) -> int:
    """A field that holds a whole number."""
    value = str(header.fields.get(field, otherwise)).strip()
    if not (value.isdecimal() and len(value) < 10):
        raise InputError(f"{header.path}: {field} is {value!r}; wanted a whole number; export it again")
    return int(value)


def _geometry(affine: np.ndarray, grid: Sequence[int]) -> str:
    spacing = " x ".join(f"{one:.6g}" for one in spacing_of(affine))
    origin = " ".join(f"{one:.6g}" for one in affine[:3, 3])
    return f"{' x '.join(map(str, grid))} of {spacing} mm from {origin}"
