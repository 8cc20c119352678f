"""`Issue`: a mistake in a dataset, with its kind, severity, file and advice; and the list of all kinds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ERROR, WARNING = "error", "warning"

ISSUE_KINDS: Mapping[str, tuple[str, str]] = {
    "dataset-json": (ERROR, "dataset.json cannot be understood"),
    "case-twice": (ERROR, "several studies share a case's name"),
    "subject-split": (ERROR, "a subject is in training and in test"),
    "missing-file": (ERROR, "a file is not there"),
    "unreadable": (ERROR, "a file is truncated, no NIfTI, or its header is damaged"),
    "channels": (ERROR, "channels that are not those dataset.json names, or lack one of their velocities"),
    "frames": (ERROR, "numbers of frames that do not fit one another"),
    "shape": (ERROR, "images, channels or labels of one study differ in shape"),
    "spacing": (ERROR, "images, channels or labels of one study differ in voxel size"),
    "affine": (ERROR, "images, channels or labels of one study differ in position"),
    "not-finite": (ERROR, "voxels that are NaN or infinite"),
    "label-not-whole": (ERROR, "labels that are no whole numbers from 0 to 255"),
    "partial-label": (ERROR, "statements of dataset.json about partly drawn labels that do not fit the study"),
    "label-value": (ERROR, "label values that dataset.json does not name"),
    "same-image": (ERROR, "one image under several subjects, so that a split would not separate them"),
    "stem-split": (WARNING, "names that seem to be frames of one subject, under several subjects"),
    "frame-duration": (WARNING, "no true frame duration; volumes over time have no time axis"),
    "units": (WARNING, "a header in another unit than mm"),
    "forms": (WARNING, "a header's qform cannot be computed, or places the study elsewhere than its sform"),
    "constant-frame": (WARNING, "frames, channels or maps of one value"),
    "duplicate-frame": (WARNING, "frames that repeat another one"),
    "frame-order": (WARNING, "frames that seem to be at the wrong position"),
    "labelled-frames": (WARNING, "most frames are empty and dataset.json names no labelled_frames"),
    "no-drawn-frame": (WARNING, "studies with propagated labels alone, which train and are never evaluated"),
    "empty-label": (WARNING, "labelled frames without any label"),
    "unlabelled-drawn": (WARNING, "labels on frames that count as unlabelled, and so are not trained on"),
    "class-absent": (WARNING, "a class that no labelled frame has"),
    "region-hidden": (WARNING, "a region that a later one with all of its values paints over"),
    "image-twice": (WARNING, "one image under several cases of a subject, or as several channels"),
    "same-label": (WARNING, "one label under several images"),
    "frames-contradict": (WARNING, "drawn frames of one study that contradict one another"),
    "label-mirrored": (WARNING, "a label that fits its image far better mirrored"),
    "outlier-intensity": (WARNING, "intensities far from those of the other studies"),
    "outlier-spacing": (WARNING, "a voxel size far from that of the other studies"),
    "outlier-size": (WARNING, "a size far from that of the other studies"),
    "outlier-orientation": (WARNING, "axes that point elsewhere than those of the other studies"),
    "outlier-duration": (WARNING, "a frame duration far from that of the other studies"),
    "outlier-volume": (WARNING, "a class far larger or smaller than in the other studies"),
}
"""Kind to its severity and its meaning, in the order of the report."""

EXPLAINED_BY: Mapping[str, tuple[str, ...]] = {
    "outlier-duration": ("frame-duration",),
    "outlier-spacing": ("units",),
    "outlier-volume": ("outlier-spacing", "units", "labelled-frames", "frames"),
    "outlier-intensity": ("not-finite", "constant-frame", "frames", "unreadable", "image-twice"),
}
"""Kind to the kinds that explain it: it is left out where the same case has one of them."""

_POSITION = {kind: position for position, kind in enumerate(ISSUE_KINDS)}


@dataclass(frozen=True)
class Issue:
    """One mistake in a dataset.

    Attributes:
        kind: a key of `ISSUE_KINDS`.
        message: one line: what was found, what was expected, what to do.
        file: the file with the mistake.
        case: the case that it concerns; empty where it concerns the whole dataset.
    """

    kind: str
    message: str
    file: str
    case: str = ""

    @classmethod
    def of(cls, kind: str, file: Path, text: str, case: str = "") -> Issue:
        """Make the issue of a file; the message is the file's path and the text."""
        return cls(kind, f"{file}: {text}", str(file), case)

    @property
    def severity(self) -> str:
        """Return "error" (no training starts) or "warning" (one does, and the user should look)."""
        return ISSUE_KINDS[self.kind][0]

    def below(self, root: Path) -> Issue:
        """Return the same issue with paths below the dataset's folder, true from any working folder."""
        prefix = f"{root}/"
        message = re.sub(rf"(?<![\w./-]){re.escape(prefix)}", "", self.message)
        return Issue(self.kind, message, self.file.removeprefix(prefix), self.case)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values: severity, kind, case, file, message."""
        return {name: getattr(self, name) for name in ("severity", "kind", "case", "file", "message")}


def sort_issues(issues: Iterable[Issue]) -> list[Issue]:
    """Sort errors first, by kind as `ISSUE_KINDS` lists them, then by file; leave out what another issue explains."""
    issues = list(issues)
    found = {(issue.case, issue.kind) for issue in issues}
    own = [i for i in issues if not any((i.case, cause) in found for cause in EXPLAINED_BY.get(i.kind, ()))]
    return sorted(own, key=lambda issue: (issue.severity, _POSITION[issue.kind], issue.file, issue.message))
