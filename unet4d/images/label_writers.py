"""Writers of label maps with names and colors for 3D Slicer and ITK-SNAP: sequences, segmentations, tables of colors.

.seq.nrrd   all frames in one file, the axis of frames first: the layout of every Slicer up to 5.8, which newer ones read, too
            https://slicer.readthedocs.io/en/5.8/developer_guide/modules/sequences.html
.seg.nrrd   one frame, its classes as segments in one layer
            https://slicer.readthedocs.io/en/latest/developer_guide/modules/segmentations.html
.ctbl       Slicer's color table for a label map: number, name, red, green, blue, opacity
.txt        ITK-SNAP's label descriptions (Segmentation > Import Label Descriptions)

NRRD is written plane by plane, without a second copy of the label map, in UTF-8; the same label map gives the same bytes.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unet4d.errors import InputError
from unet4d.system.files import replacing, write_text
from unet4d.system.text import printable

_GZIP_LEVEL = 4
_LPS = np.diag([-1.0, -1.0, 1.0])
_TISSUE = (
    "Segmentation category and type - 3D Slicer General Anatomy list~SCT^85756007^Tissue~SCT^85756007^Tissue~^^~"
    "Anatomic codes - DICOM master list~^^~^^"
)
"""Slicer's term for a segment of which only the name is known."""
_RULE = "#" * 48
_ITK_SNAP_HEAD = f"""{_RULE}
# ITK-SnAP Label Description File
# File format:
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
# Fields:
#    IDX:   Zero-based index
#    -R-:   Red color component (0..255)
#    -G-:   Green color component (0..255)
#    -B-:   Blue color component (0..255)
#    -A-:   Label transparency (0.00 .. 1.00)
#    VIS:   Label visibility (0 or 1)
#    IDX:   Label mesh visibility (0 or 1)
#  LABEL:   Label description
{_RULE}
"""


@dataclass(frozen=True)
class LabelClass:
    """A class with its color.

    Attributes:
        value: in the label map, above 0.
        color: "#rrggbb".
    """

    name: str
    value: int
    color: str

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Return red, green and blue, 0 to 255."""
        red, green, blue = bytes.fromhex(self.color.removeprefix("#"))
        return red, green, blue


def write_sequence(
    path: Path,
    label: np.ndarray,
    affine: np.ndarray,
    classes: Sequence[LabelClass],
    frame_duration_s: float | None = None,
) -> None:
    """Write all frames as a Slicer sequence of label volumes, whole or not at all.

    Args:
        path: .seq.nrrd.
        label: (T, X, Y, Z) uint8.
        affine: (4, 4), voxel to mm (RAS).
        classes: named in the header as segments are, which Slicer ignores and `unet4d convert` reads.
        frame_duration_s: seconds from frame to frame; None: frames are numbered.

    Raises:
        InputError: another dtype or number of axes.
        Unet4DError: the disk is full or the folder cannot be written to.
    """
    _check(path, label, "(T, X, Y, Z)", 4)
    fields = {"labels": '"frame" "" "" ""'}
    if frame_duration_s is not None:
        fields = {"labels": '"time" "" "" ""', "units": '"s" "" "" ""'}
    step = 1 if frame_duration_s is None else frame_duration_s
    pairs = {
        "DataNodeClassName": "vtkMRMLLabelMapVolumeNode",
        "axis 0 index type": "numeric",
        "axis 0 index values": " ".join(f"{t * step:.9g}" for t in range(len(label))),
        **_segments(label, classes, with_extent=False),
    }
    _write_nrrd(path, label, affine, fields, pairs)


def write_segmentation(path: Path, label: np.ndarray, affine: np.ndarray, classes: Sequence[LabelClass]) -> None:
    """Write one frame as a Slicer segmentation, whole or not at all.

    Args:
        path: .seg.nrrd.
        label: (X, Y, Z) uint8; the whole grid of the image, so that it lies on it without a crop.
        affine: (4, 4), voxel to mm (RAS).
        classes: one segment each, also where the frame has none of it.

    Raises:
        InputError: another dtype or number of axes.
        Unet4DError: the disk is full or the folder cannot be written to.
    """
    _check(path, label, "(X, Y, Z)", 3)
    pairs = {
        **_segments(label, classes, with_extent=True),
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_MasterRepresentation": "Binary labelmap",  # for Slicer up to 5.0
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
        "Segmentation_SourceRepresentation": "Binary labelmap",
    }
    _write_nrrd(path, label, affine, {}, pairs)


def write_color_table(path: Path, classes: Sequence[LabelClass]) -> None:
    """Write a Slicer color table (.ctbl), whole or not at all; names have underscores for spaces there."""
    rows = [f"{c.value} {printable('_'.join(c.name.split()))} {' '.join(map(str, c.rgb))} 255" for c in classes]
    lines = ["# Color table file", f"# {len(rows) + 1} values", "0 background 0 0 0 0", *rows]
    write_text(path, "\n".join(lines) + "\n")


def write_label_descriptions(path: Path, classes: Sequence[LabelClass]) -> None:
    """Write names and colors of the classes for ITK-SNAP, whole or not at all."""
    rows = [(0, (0, 0, 0), "0", 0, "Clear Label")]
    rows += [(c.value, c.rgb, "1", 1, printable(" ".join(c.name.split())).replace('"', "'")) for c in classes]
    lines = [
        f'{value:5d} {red:5d} {green:4d} {blue:4d} {alpha:>8} {visible:2d} {visible:2d}    "{name}"'
        for value, (red, green, blue), alpha, visible, name in rows
    ]
    write_text(path, _ITK_SNAP_HEAD + "\n".join(lines) + "\n")


def _segments(label: np.ndarray, classes: Sequence[LabelClass], with_extent: bool) -> dict[str, str]:
    """Return the fields of the segments, in one layer."""
    fields: dict[str, str] = {}
    for n, segment in enumerate(classes):
        fields[f"Segment{n}_Color"] = " ".join(f"{channel / 255:.6g}" for channel in segment.rgb)
        fields[f"Segment{n}_ColorAutoGenerated"] = "0"
        if with_extent:
            fields[f"Segment{n}_Extent"] = " ".join(map(str, _extent(label == segment.value)))
        fields[f"Segment{n}_ID"] = f"Segment_{segment.value}"
        fields[f"Segment{n}_LabelValue"] = str(segment.value)
        fields[f"Segment{n}_Layer"] = "0"
        fields[f"Segment{n}_Name"] = " ".join(segment.name.split())
        fields[f"Segment{n}_NameAutoGenerated"] = "0"
        fields[f"Segment{n}_Tags"] = f"TerminologyEntry:{_TISSUE}|"
    return fields


def _extent(mask: np.ndarray) -> list[int]:
    """Return the first and last voxel of a mask along X, Y and Z; as in Slicer 0 and -1 for an empty one."""
    ends: list[int] = []
    for axis in range(3):
        hit = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        ends += [int(hit[0]), int(hit[-1])] if len(hit) else [0, -1]
    return ends


def _write_nrrd(
    path: Path, label: np.ndarray, affine: np.ndarray, fields: Mapping[str, str], pairs: Mapping[str, str]
) -> None:
    """Write a label map (X, Y, Z), or a list of them (N, X, Y, Z), with these fields and key/value pairs in the header."""
    lists = label.ndim - 3
    header = {
        "type": "unsigned char",
        "dimension": label.ndim,
        "space": "left-posterior-superior",
        "sizes": " ".join(map(str, label.shape)),
        "space directions": " ".join(["none"] * lists + [_vector(row) for row in (_LPS @ affine[:3, :3]).T]),
        "kinds": " ".join(["list"] * lists + ["domain"] * 3),
        **fields,
        "encoding": "gzip",
        "space origin": _vector(_LPS @ affine[:3, 3]),
    }
    lines = [
        "NRRD0005",
        "# Complete NRRD file format specification at:",
        "# http://teem.sourceforge.net/nrrd/format.html",
    ]
    lines += [f"{name}: {value}" for name, value in header.items()]
    lines += [f"{name}:={printable(value)}" for name, value in pairs.items()]
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write("".join(f"{line}\n" for line in [*lines, ""]).encode())
        with gzip.GzipFile("", "wb", _GZIP_LEVEL, file, mtime=0) as packed:
            for z in range(label.shape[-1]):  # the first axis is the fastest in the file
                packed.write(label[..., z].tobytes(order="F"))


def _vector(values: Iterable[float]) -> str:
    """Return a vector with every digit of its numbers."""
    return f"({','.join(repr(float(value) + 0.0) for value in values)})"  # 0.0 and not -0.0


def _check(path: Path, label: np.ndarray, axes: str, count: int) -> None:
    if label.dtype != np.uint8 or label.ndim != count:
        raise InputError(f"{path}: got an array of {label.dtype} and shape {label.shape}, expected {axes} uint8")
