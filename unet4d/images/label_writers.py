"""Label maps as 3D Slicer keeps them, with names and colours: a sequence of volumes, a segmentation of one frame, a colour table.

.seq.nrrd   all frames in one file, the axis of frames first: the layout of every Slicer up to 5.8, which newer ones read, too
            https://slicer.readthedocs.io/en/5.8/developer_guide/modules/sequences.html
.seg.nrrd   one frame, its classes as segments in one layer
            https://slicer.readthedocs.io/en/latest/developer_guide/modules/segmentations.html
.ctbl       the colour table that Slicer shows a label map with: number, name, red, green, blue, opacity

The files are written by hand: plane by plane, so that no second copy of a label map is held, in UTF-8, and with the same bytes for
the same label map. Affines keep every digit.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unet4d.errors import InputError
from unet4d.system.files import replacing, write_text
from unet4d.system.text import printable

_GZIP_LEVEL = 4
_LPS = np.diag([-1.0, -1.0, 1.0])
_SOMETHING = (
    "Segmentation category and type - 3D Slicer General Anatomy list~SCT^85756007^Tissue~SCT^85756007^Tissue~^^~"
    "Anatomic codes - DICOM master list~^^~^^"
)
"""The term of a segment of which nothing is known but its name, as Slicer writes it."""


@dataclass(frozen=True)
class LabelClass:
    """A class as it is shown.

    Attributes:
        value: in the label map, above 0.
        colour: "#rrggbb".
    """

    name: str
    value: int
    colour: str

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Red, green and blue, 0 to 255."""
        red, green, blue = bytes.fromhex(self.colour.removeprefix("#"))
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
        classes: named in the header as segments are, which Slicer passes by and `unet4d convert` reads.
        frame_duration_s: seconds from frame to frame; None: frames are numbered.

    Raises:
        InputError: another dtype or number of axes.
        Unet4DError: the disk is full or the folder cannot be written to.
    """
    _check(path, label, "(T, X, Y, Z)", 4)
    frames = range(len(label))
    known = frame_duration_s is not None
    index = (
        [f"{t * frame_duration_s:.9g}" for t in frames] if frame_duration_s is not None else [str(t) for t in frames]
    )
    fields = {
        "labels": '"time" "" "" ""' if known else '"frame" "" "" ""',
        "units": '"s" "" "" ""' if known else None,
    }
    about = {
        "DataNodeClassName": "vtkMRMLLabelMapVolumeNode",
        "axis 0 index type": "numeric",
        "axis 0 index values": " ".join(index),
        **_segments(label, classes, with_extent=False),
    }
    _write(path, label, affine, True, fields, about)


def write_segmentation(path: Path, label: np.ndarray, affine: np.ndarray, classes: Sequence[LabelClass]) -> None:
    """Write one frame as a Slicer segmentation, whole or not at all.

    Args:
        path: .seg.nrrd.
        label: (X, Y, Z) uint8; the whole grid of the image, so that it lies on it without a crop.
        affine: (4, 4), voxel to mm (RAS).
        classes: a segment each, also where the frame has none of it.

    Raises:
        InputError: another dtype or number of axes.
        Unet4DError: the disk is full or the folder cannot be written to.
    """
    _check(path, label, "(X, Y, Z)", 3)
    about = {
        **_segments(label, classes, with_extent=True),
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_MasterRepresentation": "Binary labelmap",  # Slicer up to 5.0 asks for this one
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
        "Segmentation_SourceRepresentation": "Binary labelmap",
    }
    _write(path, label[None], affine, False, {}, about)


def write_color_table(path: Path, classes: Sequence[LabelClass]) -> None:
    """Write a Slicer colour table (.ctbl), whole or not at all; names have underscores for spaces there."""
    rows = [f"{one.value} {printable('_'.join(one.name.split()))} {' '.join(map(str, one.rgb))} 255" for one in classes]
    write_text(
        path, "\n".join(["# Color table file", f"# {len(rows) + 1} values", "0 background 0 0 0 0", *rows]) + "\n"
    )


def _segments(label: np.ndarray, classes: Sequence[LabelClass], with_extent: bool) -> dict[str, str]:
    """The fields of the segments, in one layer."""
    fields: dict[str, str] = {}
    for n, one in enumerate(classes):
        fields[f"Segment{n}_Color"] = " ".join(f"{channel / 255:.6g}" for channel in one.rgb)
        fields[f"Segment{n}_ColorAutoGenerated"] = "0"
        if with_extent:
            fields[f"Segment{n}_Extent"] = " ".join(map(str, _extent(label == one.value)))
        fields[f"Segment{n}_ID"] = f"Segment_{one.value}"
        fields[f"Segment{n}_LabelValue"] = str(one.value)
        fields[f"Segment{n}_Layer"] = "0"
        fields[f"Segment{n}_Name"] = " ".join(one.name.split())
        fields[f"Segment{n}_NameAutoGenerated"] = "0"
        fields[f"Segment{n}_Tags"] = f"TerminologyEntry:{_SOMETHING}|"
    return fields


def _extent(mask: np.ndarray) -> list[int]:
    """First and last voxel of what is drawn along X, Y and Z; 0 and -1 where nothing is, as Slicer has it."""
    ends: list[int] = []
    for axis in range(3):
        there = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        ends += [int(there[0]), int(there[-1])] if len(there) else [0, -1]
    return ends


def _write(
    path: Path,
    volumes: np.ndarray,
    affine: np.ndarray,
    listed: bool,
    fields: Mapping[str, str | None],
    about: Mapping[str, str],
) -> None:
    """Write volumes (N, X, Y, Z) with their header; `listed` says whether the axis of N is one of the file."""
    directions = [_vector(row) for row in (_LPS @ affine[:3, :3]).T]
    header: dict[str, Any] = {
        "type": "unsigned char",
        "dimension": 3 + listed,
        "space": "left-posterior-superior",
        "sizes": " ".join(map(str, volumes.shape[0 if listed else 1 :])),
        "space directions": " ".join(["none"] * listed + directions),
        "kinds": " ".join(["list"] * listed + ["domain"] * 3),
        **{name: value for name, value in fields.items() if value is not None},
        "encoding": "gzip",
        "space origin": _vector(_LPS @ affine[:3, 3]),
    }
    lines = [
        "NRRD0005",
        "# Complete NRRD file format specification at:",
        "# http://teem.sourceforge.net/nrrd/format.html",
    ]
    lines += [f"{name}: {value}" for name, value in header.items()]
    lines += [f"{name}:={printable(str(value))}" for name, value in about.items()]
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write("".join(f"{line}\n" for line in [*lines, ""]).encode())
        with gzip.GzipFile("", "wb", _GZIP_LEVEL, file, mtime=0) as packed:
            for z in range(volumes.shape[-1]):  # the axis that comes first is the fastest in the file
                packed.write(volumes[..., z].tobytes(order="F"))


def _vector(values: Iterable[float]) -> str:
    """A vector with every digit of its numbers."""
    return f"({','.join(repr(float(value) + 0.0) for value in values)})"  # 0.0 and not -0.0


def _check(path: Path, label: np.ndarray, axes: str, count: int) -> None:
    if label.dtype != np.uint8 or label.ndim != count:
        raise InputError(f"{path}: an array of {label.dtype} and shape {label.shape} came; wanted {axes} uint8")


_RULE = "#" * 48
_HEAD = f"""{_RULE}
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


def write_label_descriptions(path: Path, classes: Sequence[LabelClass]) -> None:
    """Write names and colours of the classes for ITK-SNAP, whole or not at all.

    Raises:
        Unet4DError: the disk is full or the folder cannot be written to.
    """
    rows = [(0, (0, 0, 0), "0", 0, "Clear Label")]
    rows += [(one.value, one.rgb, "1", 1, printable(" ".join(one.name.split())).replace('"', "'")) for one in classes]
    lines = [
        f'{value:5d} {red:5d} {green:4d} {blue:4d} {alpha:>8} {shown:2d} {shown:2d}    "{name}"'
        for value, (red, green, blue), alpha, shown, name in rows
    ]
    write_text(path, _HEAD + "\n".join(lines) + "\n")
