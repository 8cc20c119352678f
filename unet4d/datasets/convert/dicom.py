"""DICOM: cine and dynamic series as scanners and PACS leave them, in any folders, under any names.

One study is one series, single-frame or enhanced multi-frame, or many series of one slice each (see images/dicom/grouping.py).
Different series of a patient are studies of one subject. The magnitude and the velocities of a 4D flow acquisition are channels of
one study where the user names channels with velocities, or where nothing else is there (dicom_flow.py); else they are studies of
their own, which is reported.

Ignored and reported: series of one time point where others have many (scouts), images in color or without a position.
Segmentations and structure sets are labels of the studies that they refer to (dicom_labels.py); other
objects that are no images (reports, ...) are counted by kind. A Siemens MOSAIC without its CSA header is refused.
Refused with a list of reasons when its image is read: a series with gaps, duplicates, mixed geometry or damaged files.

Patient names and ids stay in the files. A case is named by a hash of its SeriesInstanceUID, series-1a2b3c4d (of the first
series of a joined stack; with the component, if that is not the magnitude), a subject by one of its smallest
SeriesInstanceUID, subject-1a2b3c4d: a series has the same name in every folder, and a name of its own. PatientID is not
hashed, because it has so few values that they can be tried. The link from cases to patients is printed on the terminal, and
written to a file only where `--key_file` names one. The path, which often carries names, is not kept either.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from unet4d.datasets.convert.dicom_flow import FLOW_KINDS, channel_stacks, describe_flow, find_flow_sets, velocity_unit
from unet4d.datasets.convert.dicom_labels import files_of, find_labels
from unet4d.datasets.convert.file_names import natural_key
from unet4d.datasets.convert.layout_options import LayoutOptions
from unet4d.datasets.study import Source, Study
from unet4d.errors import InputError
from unet4d.images.channels import VELOCITIES
from unet4d.images.dicom.file_search import FoundDicom, RejectedFile, files_under, is_dicom, search_dicom_files
from unet4d.images.dicom.grouping import StudyCandidate, group_into_studies
from unet4d.images.dicom.instance import Series
from unet4d.images.dicom.volume4d import SliceStack, read_dicom_voxels, stack_error, stack_planes
from unet4d.images.image4d import Image4D
from unet4d.images.time_axis import TimeAxis
from unet4d.system.text import count, shorten_list

logger = logging.getLogger(__name__)

_FIRST_FILES = 64
_KEY = ("case", "subject", "patient", "study_uid", "series", "series_uid", "description", "folder")


def is_dicom_source(root: Path) -> bool:
    """Return whether a path is a DICOM file, or a folder with one among its first files, at any depth."""
    return any(map(is_dicom, itertools.islice(files_under(root), _FIRST_FILES)))


def find_dicom(root: Path, options: LayoutOptions) -> Source:
    """Find the 4D studies under a folder, or in a file; headers are read, pixels are not.

    Where no series has more than one time point, each is a study of one frame.

    Raises:
        InputError: pydicom is not installed; nothing here can be a study, each file with its reason.
    """
    found = search_dicom_files(root)
    taken = group_into_studies(found)
    if any(candidate.frames > 1 for candidate in taken):
        still = [candidate for candidate in taken if candidate.frames == 1]
        taken = [candidate for candidate in taken if candidate.frames != 1]
        _report_ignored(
            [f"{candidate.title} in {candidate.planes[0].file.parent}: one time point" for candidate in still]
        )
    if not taken:
        raise InputError(_nothing_message(root, found))
    refused = {file.file for candidate in taken for file in candidate.rejected}
    _report_ignored(_group_by_reason([file for file in (*found.others, *found.damaged) if file.file not in refused]))
    if found.ignored:
        _report([f"ignored, because they are no images: {_count_by_kind(found.ignored)}"])
    stacks = [_stack(candidate, root) for candidate in taken]
    found_studies, kinds = _join_flow(taken, stacks, options, root)
    first = [one.parts[0] for one in found_studies]
    labels, values = find_labels(found.drawings, [one.stacks for one in found_studies], options)
    cases, subjects = _name_cases(first, options.keep_patient_ids)
    _report([f"{case}: {_describe(candidate)}" for case, candidate in zip(cases, first, strict=True)])
    studies = [
        Study(
            name=case,
            subject=subject,
            files=(*(file for part in one.parts for file in part.files), *files_of(label)),
            image=partial(_image, one.stacks, root if options.keep_patient_ids else Path(case)),
            label=label,
            time=_common_time(one.stacks[:1]),
            dicom=one.stacks[0] if isinstance(one.stacks[0], SliceStack) else None,
            key=_key(case, subject, one.parts[0]),
            velocity_unit=velocity_unit(one.stacks),
        )
        for case, subject, one, label in zip(cases, subjects, found_studies, labels, strict=True)
    ]
    modalities = {series.modality for candidate in taken for series in candidate.series}
    channel = "MRI" if modalities <= {"MR", ""} else ", ".join(sorted(modalities))
    in_order = sorted(studies, key=lambda study: natural_key(study.name))
    time = _common_time([one.stacks[0] for one in found_studies])
    if kinds:
        return Source("DICOM series", tuple(kinds), values, tuple(in_order), tuple(kinds.values()), time)
    return Source("DICOM series", (channel,), values, tuple(in_order), time=time)


@dataclass(frozen=True, eq=False)
class _Found:
    """A study: its candidates, of which the first names it, and its stacks, one per channel."""

    parts: tuple[StudyCandidate, ...]
    stacks: tuple[SliceStack | InputError, ...]


def _join_flow(
    taken: Sequence[StudyCandidate], stacks: Sequence[SliceStack | InputError], options: LayoutOptions, root: Path
) -> tuple[list[_Found], Mapping[str, str]]:
    """Return the studies, with 4D flow joined where the user names its channels or nothing else is there; and those channels."""
    given = options.channels or {}
    velocities = sum(kind in VELOCITIES for kind in given.values())
    alone = [_Found((one,), (stack,)) for one, stack in zip(taken, stacks, strict=True)]
    if given and not velocities:
        return alone, {}
    sets, notes = find_flow_sets(taken, stacks, velocities or 3)
    members = {place for flow in sets for place in flow.members}
    if velocities and not sets:
        raise InputError(
            f"{root}: got channels with velocities, expected series of them with a magnitude; {'; '.join(notes) or 'none is there'}"
        )
    _report(notes)
    others = [one.title for place, one in enumerate(taken) if place not in members]
    if not sets or (others and not velocities):
        if sets:
            example = "--channels '{magnitude: signal, vx: velocity X, vy: velocity Y, vz: velocity Z}'"
            _report(
                [f"{count(len(sets), '4D flow study', '4D flow studies')} among other series: {example} joins them"]
            )
        return alone, {}
    _report_ignored([f"{title}: no part of a 4D flow study" for title in others])
    kinds = given or FLOW_KINDS
    for flow in sets:
        _report(list(describe_flow(flow, taken, stacks)))
    joined = [
        _Found(tuple(taken[place] for place in flow.members), channel_stacks(flow, stacks, list(kinds.values())))
        for flow in sets
    ]
    return joined, kinds


def _key(case: str, subject: str, candidate: StudyCandidate) -> dict[str, str]:
    """Return which patient and which series a case is of."""
    series = candidate.series
    numbers, uids = " ".join(str(one.number) for one in series), " ".join(one.uid for one in series)
    folder = os.path.commonpath([file.parent.absolute() for file in candidate.files])
    values = case, subject, series[0].patient, series[0].study, numbers, uids, series[0].description, folder
    return dict(zip(_KEY, values, strict=True))


def _stack(candidate: StudyCandidate, root: Path) -> SliceStack | InputError:
    """Return the sorted planes of a candidate, or the error that there is no such stack."""
    title = f"{root}: {candidate.title}"
    try:
        if candidate.rejected:
            raise stack_error(title, _group_by_reason(candidate.rejected))
        return stack_planes(candidate.planes, title)
    except InputError as error:
        return error
    except (ArithmeticError, ValueError, TypeError) as error:  # numbers of a damaged header that no check covers
        return stack_error(title, [f"its header is damaged ({' '.join(str(error).split())})"])


def _common_time(stacks: Sequence[SliceStack | InputError]) -> TimeAxis | None:
    """Return the time of all stacks that can be read, if it is the same."""
    times = {stack.time for stack in stacks if isinstance(stack, SliceStack)}
    return times.pop() if len(times) == 1 else None


def _image(stacks: Sequence[SliceStack | InputError], source: Path) -> Image4D:
    """Read a study; `source` is its path in messages: without patient ids the case's name, because folders carry names."""
    channels = []
    for stack in stacks:
        if isinstance(stack, InputError):
            raise InputError(str(stack)) from stack
        channels.append(Image4D.from_array(read_dicom_voxels(stack), stack.affine, stack.frame_duration_s))
    array = np.concatenate([channel.array for channel in channels]) if len(channels) > 1 else channels[0].array
    return replace(channels[0], array=array, source=source)


def _name_cases(taken: Sequence[StudyCandidate], keep_patient_ids: bool) -> tuple[list[str], list[str]]:
    """Name the case and the subject of each candidate: by hashes, or by the ids in the files."""
    subjects = _name_subjects(taken, keep_patient_ids)
    of_each = [subjects[candidate.series[0].patient] for candidate in taken]
    if keep_patient_ids:
        cases = [f"{of}_series{one.series[0].number:03d}" for of, one in zip(of_each, taken, strict=True)]
    else:
        cases = [_hash_name("series", _uid(one.series[0])) + _suffix(one.component) for one in taken]
    return _make_distinct(cases), of_each


def _name_subjects(taken: Sequence[StudyCandidate], keep_patient_ids: bool) -> dict[str, str]:
    series: dict[str, list[str]] = {}
    for one in (one for candidate in taken for one in candidate.series):
        series.setdefault(one.patient, []).append(_uid(one))
    names = [
        _clean_name(patient) if keep_patient_ids else _hash_name("subject", min(uids))
        for patient, uids in series.items()
    ]
    return dict(zip(series, _make_distinct(names), strict=True))


def _uid(series: Series) -> str:
    """Return the SeriesInstanceUID; where it is missing, against the standard, study and number."""
    return series.uid or f"{series.study} {series.number}"


def _hash_name(stem: str, uid: str) -> str:
    return f"{stem}-{hashlib.sha256(uid.encode()).hexdigest()[:8]}"


def _suffix(component: str) -> str:
    """Return the end of a case's name: its component, if that is not the magnitude."""
    return "" if component in ("", "magnitude") else f"-{_clean_name(component)}"


def _describe(candidate: StudyCandidate) -> str:
    folder = os.path.commonpath([file.parent for file in candidate.files])
    return f"{candidate.title}, {candidate.frames} frame{'s' * (candidate.frames != 1)}, in {folder}"


def _clean_name(text: str) -> str:
    """Turn an id into a file name."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-.") or "unknown"


def _make_distinct(names: Sequence[str]) -> list[str]:
    """Return the names, with a number behind each that came before."""
    given: dict[str, None] = {}
    for name in names:
        numbers = ("", *(f"-{i}" for i in range(2, len(names) + 1)))
        given[next(f"{name}{n}" for n in numbers if f"{name}{n}".lower() not in map(str.lower, given))] = None
    return list(given)


def _nothing_message(root: Path, found: FoundDicom) -> str:
    reasons = _group_by_reason([*found.damaged, *found.others])
    kinds = found.ignored + Counter(drawing.kind for drawing in found.drawings)
    if not reasons and kinds:
        return f"{root} holds no DICOM image, but {_count_by_kind(kinds)}, expected images; give another folder"
    if not reasons:
        return f"{root} holds no DICOM image, expected a file or folder of them; give another"
    return f"{root} holds no DICOM image that can be used: {shorten_list(reasons, 3, '; ')}; give another"


def _count_by_kind(kinds: Counter[str]) -> str:
    """Count the objects that are no images by kind; their paths and texts may name patients, and stay out."""
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))


def _group_by_reason(faults: Sequence[RejectedFile]) -> list[str]:
    """Return a text for each file, or for all files of a folder that were rejected for the same reason."""
    alike: dict[tuple[Path, str], list[RejectedFile]] = {}
    for fault in faults:
        alike.setdefault((fault.file.parent, fault.reason), []).append(fault)
    return [
        str(group[0]) if len(group) == 1 else f"{len(group)} images in {folder} (first {group[0].file.name}): {reason}"
        for (folder, reason), group in alike.items()
    ]


def _report_ignored(lines: Sequence[str]) -> None:
    _report([f"ignored: {line}" for line in lines])


def _report(lines: Sequence[str]) -> None:
    for line in lines:
        logger.warning(line)
