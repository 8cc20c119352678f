"""DICOM: cine and dynamic series as scanners and PACS leave them, in any folders, under any names.

One study is one series, single-frame or enhanced multi-frame, or many series of one slice each (data/dicom/candidates.py says
which). Different series of a patient are studies of one subject; phase images (velocity) of a 4D flow or phase contrast
acquisition are studies of their own beside the magnitude.

Passed by, and told: series of one time point where others have many (scouts), images in colour or without a place in space.
Refused, with the list of what is wrong, when its image is read: a series with gaps, duplicates, mixed geometry or damaged files.

Patient names and ids stay in the files: cases are case001, case002, ... and subjects subject001, ..., in the order of PatientID,
time of the study and series number, and the path below the source, which often carries names, is not kept either.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

from unet4d.data.convert import Options
from unet4d.data.convert.names import natural_key
from unet4d.data.dicom.candidates import Candidate, candidates
from unet4d.data.dicom.files import Fault, Found, files_under, is_dicom, scan
from unet4d.data.dicom.pixels import read_voxels
from unet4d.data.dicom.stack import Stack, refusal, stacked
from unet4d.data.image4d import Image4D
from unet4d.data.study import Source, Study
from unet4d.errors import InputError

_FIRST_FILES = 64


def is_kind(root: Path) -> bool:
    """Whether it is a DICOM file, or a folder with one among its first files, at any depth."""
    return any(map(is_dicom, itertools.islice(files_under(root), _FIRST_FILES)))


def find(root: Path, options: Options) -> Source:
    """The 4D studies under a folder, or in a file; headers are read, pixels are not.

    Where no series has more than one time point, each is a study of one frame.

    Raises:
        InputError: pydicom is not installed; nothing here can be a study; says what came.
    """
    found = scan(root)
    taken = candidates(found)
    if any(candidate.frames > 1 for candidate in taken):
        still = [candidate for candidate in taken if candidate.frames == 1]
        taken = [candidate for candidate in taken if candidate.frames != 1]
        _tell([f"{candidate.title} in {candidate.planes[0].file.parent}: one time point" for candidate in still])
    if not taken:
        raise InputError(_nothing(root, found))
    refused = {fault.file for candidate in taken for fault in candidate.faults}
    _tell(_summed_up([fault for fault in (*found.others, *found.damaged) if fault.file not in refused]))
    stacks = [_stack(candidate, root) for candidate in taken]
    studies = [
        Study(case, subject, candidate.files, partial(_image, stack, root), time=_time([stack]))
        for case, subject, candidate, stack in zip(*_names(taken, options.with_ids), taken, stacks, strict=True)
    ]
    modalities = {series.modality for candidate in taken for series in candidate.series}
    channel = "MRI" if modalities <= {"MR", ""} else ", ".join(sorted(modalities))
    in_order = sorted(studies, key=lambda study: natural_key(study.name))
    return Source("DICOM series", (channel,), {}, tuple(in_order), time=_time(stacks))


def _stack(candidate: Candidate, root: Path) -> Stack | InputError:
    """The sorted planes of a candidate, or why there is no such stack."""
    title = f"{root}: {candidate.title}"
    try:
        if candidate.faults:
            raise refusal(title, [str(fault) for fault in candidate.faults])
        return stacked(candidate.planes, title)
    except InputError as error:
        return error


def _time(stacks: Sequence[Stack | InputError]) -> str | None:
    """What all that can be read say of time, if they say the same."""
    times = {stack.time for stack in stacks if isinstance(stack, Stack)}
    return times.pop() if len(times) == 1 else None


def _image(stack: Stack | InputError, root: Path) -> Image4D:
    """Read a study. It keeps no path below the root: folders carry names."""
    if isinstance(stack, InputError):
        raise InputError(str(stack)) from stack
    image = Image4D.from_array(read_voxels(stack), stack.affine, stack.frame_duration_s)
    return replace(image, source=root)


def _names(taken: Sequence[Candidate], with_ids: bool) -> tuple[list[str], list[str]]:
    """The case and the subject of each candidate: numbers, or by the ids in the files."""
    series = [candidate.series[0] for candidate in taken]
    patients = list(dict.fromkeys(one.patient for one in series))
    subjects = (
        _distinct([_cleaned(patient) for patient in patients]) if with_ids else _numbered("subject", len(patients))
    )
    subject = dict(zip(patients, subjects, strict=True))
    cases = (
        [f"{subject[one.patient]}_series{one.number:03d}" for one in series]
        if with_ids
        else _numbered("case", len(taken))
    )
    return _distinct(cases), [subject[one.patient] for one in series]


def _numbered(stem: str, count: int) -> list[str]:
    width = max(3, len(str(count)))
    return [f"{stem}{i:0{width}d}" for i in range(1, count + 1)]


def _cleaned(text: str) -> str:
    """An id as a file name."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-.") or "unknown"


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, with a number behind each that came before."""
    given: dict[str, None] = {}
    for name in names:
        numbers = ("", *(f"-{i}" for i in range(2, len(names) + 1)))
        given[next(f"{name}{n}" for n in numbers if f"{name}{n}".lower() not in map(str.lower, given))] = None
    return list(given)


def _nothing(root: Path, found: Found) -> str:
    reasons = _summed_up([*found.damaged, *found.others])
    if not reasons:
        return f"{root} holds no DICOM image; wanted a file or folder of them; give another"
    more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    return f"{root} holds no DICOM image that can be used: {'; '.join(reasons[:3])}{more}; give another"


def _summed_up(faults: Sequence[Fault]) -> list[str]:
    """A text for each file, or for all files of a folder with which the same is wrong."""
    alike: dict[tuple[Path, str], list[Fault]] = {}
    for fault in faults:
        alike.setdefault((fault.file.parent, fault.reason), []).append(fault)
    return [
        str(group[0]) if len(group) == 1 else f"{len(group)} images in {folder}: {reason}"
        for (folder, reason), group in alike.items()
    ]


def _tell(passed_by: Sequence[str]) -> None:
    for line in passed_by:
        tqdm.write(f"passed by: {line}", file=sys.stderr)
