"""File names in the folders of users: image or label, stem, frame number, and natural order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from unet4d.images.nifti import NIFTI_SUFFIXES
from unet4d.images.nrrd import NRRD_SUFFIXES

SEGMENTATION = (".seg.nrrd", ".seg.nhdr")
SEQUENCE = (".seq.nrrd", ".seq.nhdr")
_SUFFIXES = (*SEGMENTATION, *SEQUENCE, *NRRD_SUFFIXES, *NIFTI_SUFFIXES)
LABEL_MARKS = ("_seg", "_label", "-label", ".seg")
"""Ends of the stem of a label file; 3D Slicer proposes "-label" for a label map."""

_STRONG = "frame|frm|phase|timepoint|timeframe|tp"
_WEAK = "t|time|vol|volume|dyn|dynamic|gate|bin"  # also the number of a patient, or a weighting (T1, T2)
_MOMENT = "(?:end[-_ ]?)?(?:diastole|diastolic|systole|systolic)|ed|es|dia|sys"
_FRAME = re.compile(
    rf"(?P<stem>.+?)(?:[-_. /]+|(?<=[0-9]))(?:(?:(?P<strong>{_STRONG})|(?P<weak>{_WEAK}))[-_. ]?[0-9]+(?:\.[0-9]+)?|{_MOMENT})"
    r"(?:[-_. ][^0-9/]+)?",
    re.IGNORECASE | re.DOTALL,
)
_NUMBER_AT_END = re.compile(r"((?s:.*?)(?<![0-9])(?<![0-9]\.))([0-9]+(?:\.[0-9]+)?)")  # not of 1.2.3, a version or UID


@dataclass(frozen=True)
class NamedFile:
    """A file and the parts of its name."""

    path: Path
    stem: str  # path below the source, with "/", without suffix and without the mark of a label
    suffix: str  # the longest known one, in small letters: ".seg.nrrd" rather than ".nrrd"
    is_label: bool  # a segmentation or a label map


def natural_key(text: str) -> tuple[tuple[str | int, ...], str]:
    """Return a sort key that puts "frame2" before "frame10"."""
    parts = re.split("([0-9]+)", text.casefold())  # numbers stand at the odd places
    return tuple(int(part) if place % 2 else part for place, part in enumerate(parts)), text


def missing_numbers(numbers: Sequence[int]) -> list[int]:
    """Return the frame numbers that a rising sequence lacks: none if it rises by 1 or, three or more, by a constant step."""
    steps = {after - before for before, after in pairwise(numbers)}
    if steps <= {1} or (len(steps) == 1 and len(numbers) > 2):
        return []
    return sorted(set(range(numbers[0], numbers[-1])) - set(numbers))


def sort_by_time(stems: Sequence[str]) -> list[str]:
    """Sort naturally; or by value if all end in different numbers behind the same text, "t_0.25" before "t_0.5"."""
    natural = sorted(stems, key=natural_key)
    ends = {stem: found for stem in stems if (found := _NUMBER_AT_END.fullmatch(stem))}
    values = [float(found[2]) for found in ends.values()]
    if len(ends) < len(stems) or len({found[1] for found in ends.values()}) > 1 or len(set(values)) < len(stems):
        return natural
    return sorted(natural, key=lambda stem: float(ends[stem][2]))


def shared_stems(names: Iterable[str]) -> dict[str, str]:
    """Return the stem of each name that looks like one frame of several: "patient001" of "patient001_frame01".

    A frame is a number behind frame, phase, timepoint, tp, t, time, vol and the like, or one of ED, ES, diastole and systole.
    There is no stem where no two names share one; nor where all names share one without a digit, because it may be that of
    the dataset. After t, time, vol and the other short words, which may number patients, a stem needs a digit, and there must
    be several.
    """
    found = {name: stem for name in names if (stem := _stem_of_frame(name))}
    groups: dict[str, list[str]] = {}
    for name, stem_and_strength in found.items():
        groups.setdefault(stem_and_strength[0].casefold(), []).append(name)
    stems: dict[str, str] = {}
    for group in groups.values():
        shared, is_strong = found[group[0]][0], all(found[name][1] for name in group)
        has_digit, has_others = any(map(str.isdigit, shared)), len(groups) > 1
        if (has_digit or has_others) if is_strong else (has_digit and has_others):
            stems.update(dict.fromkeys(group, shared))
    return stems if len(set(stems.values())) < len(stems) else {}


def _stem_of_frame(name: str) -> tuple[str, bool] | None:
    """Return the text before the words of a frame, and whether these can mean nothing else; None where there are none."""
    stem, is_strong = name, True
    while found := _FRAME.fullmatch(stem):  # "p1_ED_frame01" has two
        stem, is_strong = found["stem"], is_strong and not found["weak"]
    stem = stem.rstrip("-_. /")
    return (stem, is_strong) if stem and stem != name else None


def parse_file_name(path: Path, root: Path) -> NamedFile | None:
    """Parse the name of a file below `root`; None for another suffix than NRRD's and NIfTI's, and for hidden files."""
    relative = path.relative_to(root)
    suffix = next((end for end in _SUFFIXES if path.name.lower().endswith(end)), None)
    if suffix is None or any(part.startswith(".") for part in relative.parts):
        return None
    stem = relative.as_posix()[: -len(suffix)]
    mark = next((mark for mark in LABEL_MARKS if stem.lower().endswith(mark)), "")
    return NamedFile(path, stem[: -len(mark)] if mark else stem, suffix, bool(mark) or suffix in SEGMENTATION)


def find_named_files(root: Path) -> list[NamedFile]:
    """Return the images and labels below a folder, at any depth, in natural order of their paths."""
    return _named(root.rglob("*"), root)


def find_nearby_files(root: Path) -> list[NamedFile]:
    """Return the images and labels of a folder and of the folders in it, no deeper, in natural order."""
    return _named([*root.glob("*"), *root.glob("*/*")], root)


def _named(paths: Iterable[Path], root: Path) -> list[NamedFile]:
    files = [parse_file_name(path, root) for path in paths if not path.is_dir()]  # a pipe fails where it is read
    return sorted((f for f in files if f), key=lambda f: natural_key(f.path.relative_to(root).as_posix()))
