"""nnU-Net's raw data, version 2 of its dataset.json (Isensee et al., Nat Methods 18:203, 2021).

dataset.json                     channel_names, labels, numTraining, file_ending; "dataset" may list files that lie elsewhere
imagesTr/CASE_0000.nii.gz        a channel of a case; labelsTr/CASE.nii.gz is its label
imagesTs/CASE_0000.nii.gz        test cases; labelsTs is read where it is there

Each case is a study, 4D or of one frame. nnU-Net knows no time, so the frames of one subject often are cases of their own:
names that share the stem of a frame, such as patient001_frame01 and patient001_ES, are cases of one subject, unless
`subject_per_case` is set (names.py). The option `pattern` is matched instead against the whole name of every case. Its group
`subject` names the subject. With a group `frame`, a number, the 3D cases of a subject become one study, named by the subject;
its frames without a label file are unlabelled. Frame numbers may start anywhere, and rise by 1 (or, three frames or more, by
another constant step).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from unet4d.datasets.convert import Options
from unet4d.datasets.convert.names import listed, missing_numbers, natural_key, shared_stems
from unet4d.datasets.dataset import Case, Dataset
from unet4d.datasets.nifti_studies import all_channels, by_channel, study_of
from unet4d.datasets.study import Source, Study
from unet4d.errors import InputError
from unet4d.images.image4d import Image4D, read_image
from unet4d.images.nifti import NIFTI_SUFFIXES, check_same_grid, header_for
from unet4d.system.class_values import class_fault, is_name
from unet4d.system.files import read_json
from unet4d.system.text import count, short_repr

_ABOUT = {"description": "description", "reference": "reference", "licence": "licence", "license": "licence"}


@dataclass(frozen=True)
class _Scan:
    """What nnU-Net calls a case: its files by channel number, and its label; either may be missing on disk."""

    name: str
    folder: Path
    found: Mapping[str, Path]
    label: Path | None
    is_test: bool


def is_kind(root: Path) -> bool:
    """Whether it is nnU-Net's dataset.json, or a folder that holds one; the Decathlon's lists its cases, as ours does."""
    try:
        entry = read_json(root if root.name == "dataset.json" else root / "dataset.json")
    except InputError:
        return False
    is_one = isinstance(entry, dict) and bool({"file_ending", "numTraining"} & set(entry))
    return is_one and not isinstance(entry.get("training"), list)


def find(root: Path, options: Options) -> Source:
    """The cases of a dataset, or what `pattern` joins them to.

    Raises:
        InputError: dataset.json is missing, wrong, or not of this layout; regions, or an ignore label; another file
            format than NIfTI; another number of training cases than it says; a pattern that does not fit.
    """
    path = root if root.name == "dataset.json" else root / "dataset.json"
    entry = read_json(path)
    if not is_kind(path):
        raise InputError(f'{path} is not of nnU-Net, version 2; wanted "channel_names", "numTraining", "file_ending"')
    ending, channels = _file_ending(entry, path), _channel_names(entry, path)
    labels = {"background": 0, **options.labels} if options.labels else _labels(entry, path)
    scans = [*_training(entry, path, ending), *_scans(path.parent, "Ts", ending)]
    if not scans:
        raise InputError(f"{path.parent} holds no case; wanted imagesTr/CASE_0000{ending}; add some")
    name = next((entry[key] for key in ("name", "dataset_name") if isinstance(entry.get(key), str)), "")
    name = name or path.absolute().parent.name
    dataset = Dataset(path.parent, name, channels, tuple(sorted(labels.items(), key=lambda pair: pair[1])), None, ())
    stems = {} if options.pattern or options.subject_per_case else shared_stems(scan.name for scan in scans)
    studies = _studies(scans, dataset, options.pattern, stems)
    about = {_ABOUT[key]: text for key, text in entry.items() if key in _ABOUT and isinstance(text, str) and text}
    return Source(
        name,
        channels,
        labels,
        tuple(sorted(studies, key=lambda s: natural_key(s.name))),
        about=about,
        notes=_notes(stems),
    )


def _file_ending(entry: Mapping[str, Any], path: Path) -> str:
    ending = entry.get("file_ending")
    if ending not in NIFTI_SUFFIXES:
        raise InputError(
            f'{path}: "file_ending" is {short_repr(ending)}; wanted .nii.gz or .nii; convert the files to NIfTI first'
        )
    return str(ending)


def _channel_names(entry: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    names = entry.get("channel_names")
    known = names if isinstance(names, dict) else {}
    numbers = [str(i) for i in range(len(known))]
    if not numbers or set(known) != set(numbers) or not all(is_name(name) for name in known.values()):
        raise InputError(
            f'{path}: "channel_names" is {short_repr(names)}; wanted names by channel number, {{"0": "cine MRI"}}'
        )
    return tuple(known[number] for number in numbers)


def _labels(entry: Mapping[str, Any], path: Path) -> dict[str, int]:
    """Class name to value. Raises InputError for what a label map of plain classes does not have."""
    labels = entry.get("labels")
    if not isinstance(labels, dict):
        raise InputError(
            f'{path}: "labels" is {short_repr(labels)}; wanted values by name, {{"background": 0, "heart": 1}}'
        )
    regions = [name for name, value in labels.items() if isinstance(value, list)]
    if regions:
        raise InputError(
            f'{path}: "labels" has regions ({listed(regions)}), which overlap; wanted classes; name each value of the label '
            "maps with --labels, such as '{edema: 1, core: 2}'"
        )
    if "ignore" in labels:
        raise InputError(
            f'{path}: "labels" has {labels["ignore"]} for ignore, voxels that nobody judged; wanted every voxel of a labelled '
            "frame judged; draw them, or remove the label maps of those cases, and take ignore out of labels"
        )
    fault = class_fault(labels.items()) or ("" if 0 in labels.values() else "background at 0")
    if fault:
        raise InputError(
            f'{path}: "labels" is {short_repr(labels)}; wanted whole numbers by name, and background at 0: {fault}'
        )
    return dict(labels)


def _training(entry: Mapping[str, Any], path: Path, ending: str) -> list[_Scan]:
    """The training cases: of imagesTr, or as "dataset" lists them; as many as "numTraining" says."""
    listing = entry.get("dataset")
    scans = list(_scans(path.parent, "Tr", ending) if listing is None else _listed_scans(listing, path))
    wanted = entry.get("numTraining", len(scans))
    if len(scans) != wanted:
        came = count(len(scans), "training case")
        raise InputError(
            f'{path}: "numTraining" is {short_repr(wanted)}, {came} came; add what is missing, or correct it'
        )
    return scans


def _scans(root: Path, part: str, ending: str) -> Iterator[_Scan]:
    """The cases of imagesTr and labelsTr, or of imagesTs and labelsTs; also those of which there is a label alone."""
    folder, is_test = root / f"images{part}", part == "Ts"
    cases, labels = by_channel(_files(folder, ending)), _files(root / f"labels{part}", ending)
    for name in sorted({*cases, *labels}, key=natural_key):
        label = labels.get(name, None if is_test else root / "labelsTr" / f"{name}{ending}")
        yield _Scan(name, folder, cases.get(name, {}), label, is_test)


def _files(folder: Path, ending: str) -> dict[str, Path]:
    """Name to file, of this ending."""
    found = folder.iterdir() if folder.is_dir() else ()
    return {
        file.name.removesuffix(ending): file
        for file in found
        if file.name.endswith(ending) and not file.name.startswith(".")
    }


def _listed_scans(listing: Any, path: Path) -> Iterator[_Scan]:
    """The cases of "dataset": {CASE: {"images": [a file a channel], "label": file}}, paths relative to the folder."""
    for name, entry in listing.items() if isinstance(listing, dict) else [("", None)]:
        known = entry if isinstance(entry, dict) else {}
        images = known.get("images")
        files = [*images, known.get("label")] if isinstance(images, list) else [None]
        if not all(isinstance(file, str) for file in files):
            wanted = '{"images": ["a file a channel"], "label": "a file"}'
            raise InputError(f'{path}: "dataset" has {short_repr(entry)} for {short_repr(name)}; wanted {wanted}')
        *found, label = (path.parent / str(file) for file in files)
        yield _Scan(name, path.parent, {f"{i:04d}": file for i, file in enumerate(found)}, label, False)


def _notes(stems: Mapping[str, str]) -> tuple[str, ...]:
    """Return what to print of subjects that were taken from the names of cases."""
    if not stems:
        return ()
    subjects = dict.fromkeys(stems.values())
    first = next(stem for stem in subjects if list(stems.values()).count(stem) > 1)
    example = listed(natural for natural in sorted(stems, key=natural_key) if stems[natural] == first)
    return (
        f"{count(len(stems), 'case')} are of {count(len(subjects), 'subject')}, by the stems of their names "
        f"({first}: {example}); --subject_per_case makes each case a subject of its own",
    )


def _studies(scans: Sequence[_Scan], dataset: Dataset, pattern: str | None, stems: Mapping[str, str]) -> list[Study]:
    """Return one study per case, its subject from `stems`; with the group `frame` in the pattern, one per subject."""
    if pattern is None:
        return [_study(scan, stems.get(scan.name, scan.name), dataset) for scan in scans]
    example = r"such as '(?P<subject>.+)_frame(?P<frame>\d+)'"
    matches = [(scan, re.fullmatch(pattern, scan.name)) for scan in scans]
    others = [scan.name for scan, match in matches if not (match and match["subject"])]
    if others:
        raise InputError(
            f"pattern {pattern!r} finds no subject in {len(others)} of {count(len(scans), 'case')}: "
            f"{listed(others)}; wanted a match of "
            f"the whole name of each, {example}"
        )
    named = [(scan, match.groupdict()) for scan, match in matches if match]
    if "frame" not in re.compile(pattern).groupindex:
        return [_study(scan, groups["subject"], dataset) for scan, groups in named]
    subjects: dict[str, list[tuple[int, _Scan]]] = {}
    for scan, groups in named:
        if not (groups["frame"] or "").isdecimal():
            raise InputError(
                f"pattern {pattern!r} finds no frame's number in the case {scan.name}; wanted one, {example}"
            )
        subjects.setdefault(groups["subject"], []).append((int(groups["frame"]), scan))
    return [_joined(subject, frames, dataset) for subject, frames in subjects.items()]


def _study(scan: _Scan, subject: str, dataset: Dataset) -> Study:
    """A case as it is."""
    files = tuple(scan.found[number] for number in sorted(scan.found))
    study = study_of(Case(scan.name, subject, files, scan.label), dataset, is_test=scan.is_test)
    return replace(study, image=partial(_read, scan, len(dataset.channel_names)), stream=None)


def _joined(subject: str, frames: list[tuple[int, _Scan]], dataset: Dataset) -> Study:
    """The study whose frames are these cases, each with its number."""
    frames = sorted(frames, key=lambda frame: frame[0])
    scans = [scan for _, scan in frames]
    if len({scan.is_test for scan in scans}) > 1:
        raise InputError(
            f"{dataset.root}: frames of {subject} are in imagesTr and in imagesTs; wanted all in one of them; move them"
        )
    label = {t: scan.label for t, scan in enumerate(scans) if scan.label and scan.label.is_file()} or None
    files = tuple(file for scan in scans for file in scan.found.values())
    case = Case(subject, subject, files, label, tuple(label) if label else None)
    study = study_of(case, dataset, is_test=scans[0].is_test)
    return replace(
        study,
        image=partial(_read_frames, subject, frames, len(dataset.channel_names)),
        nifti=(),
        stream=None,
    )


def _read(scan: _Scan, channels: int) -> Image4D:
    return read_image(all_channels(scan.name, scan.folder, scan.found, channels))


def _read_frames(subject: str, frames: Sequence[tuple[int, _Scan]], channels: int) -> Image4D:
    """One study of 3D cases, which lie on the grid of the first."""
    _check_numbers(subject, frames)
    first = _read(frames[0][1], channels)
    array = np.empty((channels, len(frames), *first.grid), dtype=np.float32)
    for t, (_, scan) in enumerate(frames):
        image = _read(scan, channels) if t else first
        if image.frames > 1:
            raise InputError(
                f"{image.source} has {image.frames} frames; wanted a 3D file, for the pattern calls it a frame of {subject}; leave "
                "the pattern out"
            )
        assert image.source is not None
        assert first.source is not None
        check_same_grid(image.source, image.header, image.grid, first.source, first.header, first.grid)
        array[:, t] = image.array[:, 0]
    header = header_for(first.header, (*first.grid, len(frames)), array.dtype)
    header["pixdim"][4] = 1
    header["xyzt_units"] = int(header["xyzt_units"]) & 0x07  # of space alone: a 3D file says nothing of the frames
    return Image4D(array, header, None, first.source)


def _check_numbers(subject: str, frames: Sequence[tuple[int, _Scan]]) -> None:
    """Raise InputError for a frame that is missing or comes twice."""
    numbers = [number for number, _ in frames]
    where = frames[0][1].folder
    for (number, one), (next_number, other) in pairwise(frames):
        if number == next_number:
            raise InputError(
                f"{where}: {one.name} and {other.name} are both frame {number} of {subject}; wanted one; remove the other"
            )
    missing = missing_numbers(numbers)
    if missing:
        raise InputError(
            f"{where}: {subject} has the frames {listed(numbers, 10)}, and {listed(missing, 10)} are missing; wanted every "
            "frame's image (labels may be missing); add them, or leave the group frame out of the pattern: a study a frame"
        )
