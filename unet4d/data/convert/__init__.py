"""Layouts in which studies are found on disk, one module each; every one of them gives a `Source` of studies to read.

acdc.py   nnunet.py   frames.py   sequence.py   dicom.py
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from unet4d.data.study import Source

KINDS = {
    "acdc": "the ACDC challenge: patientNNN/patientNNN_4d.nii.gz, patientNNN_frameXX_gt.nii.gz, Info.cfg",
    "nnunet": "nnU-Net raw data: dataset.json, imagesTr/CASE_0000.nii.gz, labelsTr; frames of one subject are joined",
    "frames": "folders of 3D files, one a frame: .nrrd with .seg.nrrd as 3D Slicer exports them, .nii.gz",
    "sequence": "3D Slicer sequences: .seq.nrrd, with .seg.seq.nrrd beside them",
    "dicom": "cine and dynamic series as scanners and PACS leave them, single-frame or enhanced multi-frame",
}
"""Kind to what it is; `unet4d.data.convert.<kind>` has `find(root, options)` and `is_kind(root)`."""


@dataclass(frozen=True)
class Options:
    """What a user can say of a source where its files do not.

    Attributes:
        pattern: regular expression with the groups `subject` and `frame`, for file names relative to the source.
        labels: class name to value; maps segments by name, and names the values of plain label maps.
        time: "cyclic" or "open".
        frame_duration_s: seconds from frame to frame, where the files do not say.
        with_ids: name cases and subjects by the patient ids in the files, which are left out otherwise.
    """

    pattern: str | None = None
    labels: Mapping[str, int] | None = None
    time: str | None = None
    frame_duration_s: float | None = None
    with_ids: bool = False


def find(kind: str, root: Path, options: Options) -> Source:
    """The studies of a source, in this layout; voxels are not read.

    Raises:
        InputError: nothing of this layout is there, or what is there contradicts itself; says what came.
    """
    source: Source = import_module(f"unet4d.data.convert.{kind}").find(root, options)
    return source


def detected(root: Path) -> str | None:
    """The layout that a file or folder is in; None for none of them."""
    return next((kind for kind in KINDS if import_module(f"unet4d.data.convert.{kind}").is_kind(root)), None)
