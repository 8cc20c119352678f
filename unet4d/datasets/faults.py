"""A fault of a dataset: what kind it is, how grave, where it lies, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ERROR, WARNING = "error", "warning"

KINDS: Mapping[str, tuple[str, str]] = {
    "dataset-json": (ERROR, "dataset.json cannot be understood"),
    "case-twice": (ERROR, "a case's name stands for several studies"),
    "subject-split": (ERROR, "a subject is in training and in test"),
    "missing-file": (ERROR, "a file is not there"),
    "unreadable": (ERROR, "a file is truncated, no NIfTI, or its header is damaged"),
    "channels": (ERROR, "channels that are not those dataset.json names, or lack one of their velocities"),
    "frames": (ERROR, "numbers of frames that do not fit one another"),
    "shape": (ERROR, "images, channels or labels of one study differ in shape"),
    "spacing": (ERROR, "images, channels or labels of one study differ in voxel size"),
    "affine": (ERROR, "images, channels or labels of one study do not lie at one place"),
    "not-finite": (ERROR, "voxels that are NaN or infinite"),
    "label-not-whole": (ERROR, "labels that are no whole numbers from 0 to 255"),
    "label-value": (ERROR, "label values that dataset.json does not name"),
    "same-image": (ERROR, "one image under several subjects, so that a split would not separate them"),
    "stem-split": (WARNING, "names that seem to be frames of one subject, under several subjects"),
    "frame-duration": (WARNING, "no true frame duration; volumes over time have no time axis"),
    "units": (WARNING, "a header in another unit than mm"),
    "forms": (WARNING, "a header's qform cannot be computed, or places the study elsewhere than its sform"),
    "constant-frame": (WARNING, "frames, channels or maps of one value"),
    "duplicate-frame": (WARNING, "frames that repeat another one"),
    "frame-order": (WARNING, "frames that seem to stand at the wrong place"),
    "labelled-frames": (WARNING, "most frames are empty and dataset.json does not say which are labelled"),
    "empty-label": (WARNING, "labelled frames without any label"),
    "unlabelled-drawn": (WARNING, "labels on frames that count as unlabelled, and so are not learnt from"),
    "class-absent": (WARNING, "a class that nobody drew"),
    "image-twice": (WARNING, "one image under several cases of a subject, or as several channels"),
    "same-label": (WARNING, "one label under several images"),
    "label-mirrored": (WARNING, "a label that fits its image far better mirrored"),
    "outlier-intensity": (WARNING, "intensities far from those of the other studies"),
    "outlier-spacing": (WARNING, "a voxel size far from that of the other studies"),
    "outlier-size": (WARNING, "a size far from that of the other studies"),
    "outlier-orientation": (WARNING, "axes that point elsewhere than those of the other studies"),
    "outlier-duration": (WARNING, "a frame duration far from that of the other studies"),
    "outlier-volume": (WARNING, "a class far larger or smaller than in the other studies"),
}
"""Kind to its severity and to what it means; told in this order."""

FOLLOWS: Mapping[str, tuple[str, ...]] = {
    "outlier-duration": ("frame-duration",),
    "outlier-spacing": ("units",),
    "outlier-volume": ("outlier-spacing", "units", "labelled-frames", "frames"),
    "outlier-intensity": ("not-finite", "constant-frame", "frames", "unreadable", "image-twice"),
}
"""Kinds that a fault of another kind in the same case explains, and that are then left out."""

_PLACES = {kind: place for place, kind in enumerate(KINDS)}


@dataclass(frozen=True)
class Issue:
    """One fault.

    Attributes:
        kind: a key of `KINDS`.
        message: one line: what came, what was wanted, what to do.
        file: the file it lies in.
        case: the case it concerns; empty where it concerns the whole dataset.
    """

    kind: str
    message: str
    file: str
    case: str = ""

    @property
    def severity(self) -> str:
        """ "error": no training will start; "warning": one will, and somebody should look."""
        return KINDS[self.kind][0]

    def below(self, root: Path) -> Issue:
        """The same with paths below the dataset's folder, so that it stays true wherever that is called from."""
        prefix = f"{root}/"
        message = re.sub(rf"(?<![\w./-]){re.escape(prefix)}", "", self.message)
        return Issue(self.kind, message, self.file.removeprefix(prefix), self.case)

    def as_dict(self) -> dict[str, Any]:
        """Plain values: severity, kind, case, file, message."""
        return {name: getattr(self, name) for name in ("severity", "kind", "case", "file", "message")}


def ordered(faults: Iterable[Issue]) -> list[Issue]:
    """Errors first, by kind as `KINDS` lists them, then by file; without what follows from another one."""
    faults = list(faults)
    found = {(fault.case, fault.kind) for fault in faults}
    own = [f for f in faults if not any((f.case, cause) in found for cause in FOLLOWS.get(f.kind, ()))]
    return sorted(own, key=lambda fault: (fault.severity, _PLACES[fault.kind], fault.file, fault.message))
