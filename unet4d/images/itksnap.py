"""ITK-SNAP's label description file: names and colours of a label map's values (Segmentation > Import Label Descriptions)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unet4d.images.label_writers import LabelClass
from unet4d.system.files import write_text
from unet4d.system.text import printable

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
