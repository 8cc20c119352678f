"""Files of one propagated case: a label map per frame, and a record that tells a corrected frame from a propagated one.

labels/CASE/frame_007.nii.gz        the label of frame 7, drawn or propagated; corrected in place, it is a drawn one
labels/CASE/frame_007.seg.nrrd      a segmentation that 3D Slicer saved beside it, which has precedence: a drawn one

The record has a digest of every label that was written here. A label map with another content was corrected. It is written before
the label maps and once more after them, so that a process killed in between takes no file of its own for a correction.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unet4d.datasets.propagation.checks import RECORDS
from unet4d.errors import InputError
from unet4d.images.image4d import Image4D, read_label, write_image
from unet4d.images.segmentations import read_segmentation
from unet4d.system.documents import write_document
from unet4d.system.files import read_json, remove_partial

SLICER = ".seg.nrrd"
_FRAME = re.compile(r"frame_(\d{3,9})(\.nii\.gz|\.seg\.nrrd)")


@dataclass(frozen=True)
class CaseRecord:
    """The record of a case.

    Attributes:
        key: of all that the labels were made from; empty while they are being written.
        entry: of the case in dataset.json.
        rows: frame, "drawn", "corrected" or "propagated", class and confidence, for the table of the dataset.
        written: digests of all labels ever propagated to, or copied for, each frame.
        corrected: digest of each corrected frame.
    """

    key: str
    entry: Mapping[str, Any]
    rows: list[list[Any]] = field(default_factory=list)
    written: Mapping[str, list[str]] = field(default_factory=dict)
    corrected: Mapping[str, str] = field(default_factory=dict)


class CaseFiles:
    """The label maps and the record of one case.

    Args:
        out: the dataset's folder.
        case: name of the case.
    """

    def __init__(self, out: Path, case: str):
        self.folder, self._record = out / "labels" / case, out / RECORDS / f"{case}.json"
        self.record = CaseRecord("", {})
        with contextlib.suppress(InputError, TypeError, AttributeError):
            known = read_json(self._record).items()
            self.record = CaseRecord(**{name: value for name, value in known if name != "schema"})

    def read_corrected(self, like: Image4D, labels: Mapping[str, int]) -> dict[int, np.ndarray]:
        """Return the label (X, Y, Z) of each frame that was corrected since it was written here.

        Args:
            like: the image.
            labels: class name to value.

        Raises:
            InputError: a label map that does not fit the image or the classes; names the file.
        """
        found: dict[int, np.ndarray] = {}
        files = sorted(self.folder.glob("frame_*")) if self.record.written else []
        for path in files:  # .seg.nrrd comes after .nii.gz
            if not (match := _FRAME.fullmatch(path.name)):
                continue
            frame = int(match[1])
            if frame >= like.frames:
                raise InputError(
                    f"{path}: got frame {frame}, expected one of 0 to {like.frames - 1}; rename or remove it"
                )
            if match[2] == SLICER:
                found[frame] = read_segmentation(path, labels, like)
                continue
            label = read_label(path, like=like)
            if len(label) != 1:
                raise InputError(f"{path}: got {len(label)} frames, expected the label of one; correct it")
            if _digest(label[0]) not in self.record.written.get(str(frame), ()):
                found[frame] = label[0]
        for frame, label in found.items():
            if other := sorted(set(np.unique(label).tolist()) - set(labels.values())):
                path = self.path(frame)
                raise InputError(
                    f"{path}: got label value {other[0]}, expected some of {list(labels.values())}; correct it"
                )
        return found

    def path(self, frame: int, suffix: str = ".nii.gz") -> Path:
        """Return the path of the label map of a frame, or of its segmentation by 3D Slicer."""
        return self.folder / f"frame_{frame:03d}{suffix}"

    def is_done(self, key: str) -> bool:
        """Return whether the case was made from what the key stands for, and all its label maps are there."""
        return self.record.key == key and all(self.path(int(t)).is_file() for t in self.record.entry["label"])

    def write(
        self,
        key: str,
        entry: Mapping[str, Any],
        rows: list[list[Any]],
        labels: Mapping[int, np.ndarray],
        corrected: Mapping[int, np.ndarray],
        like: Image4D,
    ) -> None:
        """Write the label maps (X, Y, Z) and the record; label maps of other frames are removed."""
        written = {str(t): list(self.record.written.get(str(t), [])) for t in range(like.frames)}
        for t, label in labels.items():
            is_own = (
                t not in corrected or self.path(t, SLICER).is_file()
            )  # a copy of Slicer's is no correction without it
            if is_own and (digest := _digest(label)) not in written[str(t)]:
                written[str(t)].append(digest)
        marks = {str(t): _digest(label) for t, label in corrected.items()}
        self.record = CaseRecord("", entry, rows, written, marks)
        write_document(self._record, "propagation-record", asdict(self.record))
        geometry = Image4D(
            np.broadcast_to(np.float32(0), (1, 1, *like.grid)), like.header, like.frame_duration_s, like.source
        )
        for t, label in labels.items():
            write_image(self.path(t), label, like=geometry)
        for path in self.folder.glob("frame_*.nii.gz"):
            if path not in [self.path(t) for t in labels]:
                path.unlink()
        remove_partial(self.folder, "frame_*")
        self.record = CaseRecord(key, entry, rows, written, marks)
        write_document(self._record, "propagation-record", asdict(self.record))


def _digest(label: np.ndarray) -> str:
    """Return a digest of a label's values, the same after a program has saved it unchanged."""
    return hashlib.sha256(np.ascontiguousarray(label, np.uint8).tobytes()).hexdigest()[:32]
