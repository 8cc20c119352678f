"""DICOM: cine and dynamic series as scanners and PACS leave them, in any folders, under any names.

One study is one series, single-frame or enhanced multi-frame, or many series of one slice each (images/dicom/grouping.py says
which). Different series of a patient are studies of one subject; phase images (velocity) of a 4D flow or phase contrast
acquisition are studies of their own beside the magnitude.

Skipped and reported: series of one time point where others have many (scouts), images in colour or without a place in space.
Objects that are no images (segmentations, structure sets, reports, ...) are counted by kind. A Siemens MOSAIC is refused.
Refused, with the list of what is wrong, when its image is read: a series with gaps, duplicates, mixed geometry or damaged files.

Patient names and ids stay in the files. A case is named by a hash of its SeriesInstanceUID, series-1a2b3c4d (of the first
series of a joined stack; with the component, if that is not the magnitude), a subject by one of the smallest SeriesInstanceUID
found of it, subject-1a2b3c4d: a series has the same name wherever it lies, and none of another source has it too. PatientID is
not hashed: what has so few values can be found by trying them all. Which case is which is printed on the terminal, and written
to a file only where `--key_file` names one. The path, which often carries names, is not kept either.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from unet4d.datasets.convert import Options
from unet4d.datasets.convert.names import natural_key
from unet4d.datasets.study import Source, Study
from unet4d.errors import InputError
from unet4d.images.dicom.file_search import FoundDicom, RejectedFile, files_under, is_dicom, search_dicom_files
from unet4d.images.dicom.grouping import StudyCandidate, group_into_studies
from unet4d.images.dicom.instance import Series
from unet4d.images.dicom.pixels import read_dicom_voxels
from unet4d.images.dicom.volume4d import SliceStack, stack_error, stack_planes
from unet4d.images.image4d import Image4D
from unet4d.images.time_axis import TimeAxis
from unet4d.system.progress_bar import print_line

_FIRST_FILES = 64
_KEY = ("case", "subject", "patient", "study_uid", "series", "series_uid", "description", "folder")


def is_kind(root: Path) -> bool:
    """Whether it is a DICOM file, or a folder with one among its first files, at any depth."""
    return any(map(is_dicom, itertools.islice(files_under(root), _FIRST_FILES)))


def find(root: Path, options: Options) -> Source:
    """The 4D studies under a folder, or in a file; headers are read, pixels are not.

    Where no series has more than one time point, each is a study of one frame.

    Raises:
        InputError: pydicom is not installed; nothing here can be a study; says what came.
    """
    found = search_dicom_files(root)
    taken = group_into_studies(found)
    if any(candidate.frames > 1 for candidate in taken):
        still = [candidate for candidate in taken if candidate.frames == 1]
        taken = [candidate for candidate in taken if candidate.frames != 1]
        _pass_by([f"{candidate.title} in {candidate.planes[0].file.parent}: one time point" for candidate in still])
    if not taken:
        raise InputError(_nothing(root, found))
    refused = {fault.file for candidate in taken for fault in candidate.faults}
    _pass_by(_summed_up([fault for fault in (*found.others, *found.damaged) if fault.file not in refused]))
    if found.ignored:
        _tell([f"ignored, because they are no images: {_counted(found)}; what is drawn in them is not read"])
    stacks = [_stack(candidate, root) for candidate in taken]
    cases, subjects = _names(taken, options.keep_patient_ids)
    _tell([f"{case}: {_described(candidate)}" for case, candidate in zip(cases, taken, strict=True)])
    studies = [
        Study(
            name=case,
            subject=subject,
            files=candidate.files,
            image=partial(_image, stack, root if options.keep_patient_ids else Path(case)),
            time=_time([stack]),
        )
        for case, subject, candidate, stack in zip(cases, subjects, taken, stacks, strict=True)
    ]
    modalities = {series.modality for candidate in taken for series in candidate.series}
    channel = "MRI" if modalities <= {"MR", ""} else ", ".join(sorted(modalities))
    in_order = sorted(studies, key=lambda study: natural_key(study.name))
    rows = [_key_row(case, subject, one) for case, subject, one in zip(cases, subjects, taken, strict=True)]
    return Source("DICOM series", (channel,), {}, tuple(in_order), time=_time(stacks), key=(_KEY, *rows))


def _key_row(case: str, subject: str, candidate: StudyCandidate) -> tuple[str, ...]:
    """Return what a case is of, under the columns of `_KEY`."""
    series = candidate.series
    numbers, uids = " ".join(str(one.number) for one in series), " ".join(one.uid for one in series)
    folder = os.path.commonpath([file.parent.absolute() for file in candidate.files])
    return case, subject, series[0].patient, series[0].study, numbers, uids, series[0].description, folder


def _stack(candidate: StudyCandidate, root: Path) -> SliceStack | InputError:
    """The sorted planes of a candidate, or why there is no such stack."""
    title = f"{root}: {candidate.title}"
    try:
        if candidate.faults:
            raise stack_error(title, _summed_up(candidate.faults))
        return stack_planes(candidate.planes, title)
    except InputError as error:
        return error
    except (ArithmeticError, ValueError, TypeError) as error:  # numbers of a damaged header, beyond all that is checked
        return stack_error(title, [f"its header is damaged ({' '.join(str(error).split())})"])


def _time(stacks: Sequence[SliceStack | InputError]) -> TimeAxis | None:
    """What all that can be read say of time, if they say the same."""
    times = {stack.time for stack in stacks if isinstance(stack, SliceStack)}
    return times.pop() if len(times) == 1 else None


def _image(stack: SliceStack | InputError, source: Path) -> Image4D:
    """Read a study; `source` is what it says it is read from. Folders carry names: without ids it is the case's name."""
    if isinstance(stack, InputError):
        raise InputError(str(stack)) from stack
    image = Image4D.from_array(read_dicom_voxels(stack), stack.affine, stack.frame_duration_s)
    return replace(image, source=source)


def _names(taken: Sequence[StudyCandidate], keep_patient_ids: bool) -> tuple[list[str], list[str]]:
    """The case and the subject of each candidate: by hashes, or by the ids in the files."""
    subjects = _subjects(taken, keep_patient_ids)
    of_each = [subjects[candidate.series[0].patient] for candidate in taken]
    if keep_patient_ids:
        cases = [f"{of}_series{one.series[0].number:03d}" for of, one in zip(of_each, taken, strict=True)]
    else:
        cases = [_hashed("series", _uid(one.series[0])) + _suffix(one.component) for one in taken]
    return _distinct(cases), of_each


def _subjects(taken: Sequence[StudyCandidate], keep_patient_ids: bool) -> dict[str, str]:
    """The name of each patient."""
    series: dict[str, list[str]] = {}
    for one in (one for candidate in taken for one in candidate.series):
        series.setdefault(one.patient, []).append(_uid(one))
    names = [
        _cleaned(patient) if keep_patient_ids else _hashed("subject", min(uids)) for patient, uids in series.items()
    ]
    return dict(zip(series, _distinct(names), strict=True))


def _uid(series: Series) -> str:
    """SeriesInstanceUID; where it is missing, against the standard, study and number."""
    return series.uid or f"{series.study} {series.number}"


def _hashed(stem: str, uid: str) -> str:
    return f"{stem}-{hashlib.sha256(uid.encode()).hexdigest()[:8]}"


def _suffix(component: str) -> str:
    """Of a case: what it holds of its series, if that is not the magnitude."""
    return "" if component in ("", "magnitude") else f"-{_cleaned(component)}"


def _described(candidate: StudyCandidate) -> str:
    """For the terminal."""
    folder = os.path.commonpath([file.parent for file in candidate.files])
    return f"{candidate.title}, {candidate.frames} frame{'s' * (candidate.frames != 1)}, in {folder}"


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


def _nothing(root: Path, found: FoundDicom) -> str:
    reasons = _summed_up([*found.damaged, *found.others])
    if not reasons and found.ignored:
        return f"{root} holds no DICOM image, but {_counted(found)}, expected images; give another folder"
    if not reasons:
        return f"{root} holds no DICOM image; wanted a file or folder of them; give another"
    more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    return f"{root} holds no DICOM image that can be used: {'; '.join(reasons[:3])}{more}; give another"


def _counted(found: FoundDicom) -> str:
    """Return how many objects of each kind are no images; not which, because their paths and texts may name patients."""
    return ", ".join(f"{count} {kind}" for kind, count in sorted(found.ignored.items()))


def _summed_up(faults: Sequence[RejectedFile]) -> list[str]:
    """A text for each file, or for all files of a folder with which the same is wrong."""
    alike: dict[tuple[Path, str], list[RejectedFile]] = {}
    for fault in faults:
        alike.setdefault((fault.file.parent, fault.reason), []).append(fault)
    return [
        str(group[0]) if len(group) == 1 else f"{len(group)} images in {folder} (first {group[0].file.name}): {reason}"
        for (folder, reason), group in alike.items()
    ]


def _pass_by(passed_by: Sequence[str]) -> None:
    _tell([f"ignored: {line}" for line in passed_by])


def _tell(lines: Sequence[str]) -> None:
    for line in lines:
        print_line(line, sys.stderr)
