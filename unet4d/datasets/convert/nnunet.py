"""nnU-Net's raw data, version 2 of its dataset.json (Isensee et al., Nat Methods 18:203, 2021).

dataset.json                     channel_names, labels, numTraining, file_ending; "dataset" may list files in other folders;
                                 "roles", which nnU-Net does not know, as in the dataset.json that is written
imagesTr/CASE_0000.nii.gz        a channel of a case; labelsTr/CASE.nii.gz is its label
imagesTs/CASE_0000.nii.gz        test cases; labelsTs is read where it is there

Each case is a study, 4D or of one frame. nnU-Net has no time, so the frames of one subject often are cases of their own:
names that share the stem of a frame, such as patient001_frame01 and patient001_ES, are cases of one subject, unless
`subject_per_case` is set (file_names.py). The option `pattern` is matched instead against the whole name of every case.
Its group `subject` names the subject. With a group `frame`, a number, the 3D cases of a subject become one study, named
by the subject; its frames without a label file are unlabelled. Frame numbers may start anywhere, and rise by 1 (or, three
frames or more, by another constant step).
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

from unet4d.datasets.cases import Case, Dataset
from unet4d.datasets.convert.file_names import missing_numbers, natural_key, shared_stems
from unet4d.datasets.convert.layout_options import LayoutOptions
from unet4d.datasets.dataset_json import parse_channel_names
from unet4d.datasets.nifti_studies import group_by_channel, make_study, order_channels
from unet4d.datasets.partial_labels import split_ignore
from unet4d.datasets.study import Source, Study
from unet4d.errors import InputError
from unet4d.images.image4d import Image4D, read_image
from unet4d.images.nifti import NIFTI_SUFFIXES, check_same_grid, header_for
from unet4d.metrics.cardiac_structures import parse_roles
from unet4d.metrics.regions import ORDER, classes_of, parse_regions
from unet4d.system.class_values import class_fault
from unet4d.system.files import read_json
from unet4d.system.text import count, short_repr, shorten_list

_ABOUT = {"description": "description", "reference": "reference", "licence": "licence", "license": "licence"}
_EXAMPLE = r"'(?P<subject>.+)_frame(?P<frame>\d+)'"


@dataclass(frozen=True)
class _RawCase:
    """A case of nnU-Net: its files by channel number, and its label; either may be missing on disk."""

    name: str
    folder: Path
    found: Mapping[str, Path]
    label: Path | None
    is_test: bool

    def read(self, channels: int) -> Image4D:
        return read_image(order_channels(self.name, self.folder, self.found, channels))


def is_nnunet(root: Path) -> bool:
    """Return whether a path is nnU-Net's dataset.json, or its folder; the Decathlon's lists its cases, as ours does."""
    try:
        entry = read_json(_json_of(root))
    except InputError:
        return False
    has_keys = isinstance(entry, dict) and bool({"file_ending", "numTraining"} & set(entry))
    return has_keys and not isinstance(entry.get("training"), list)


def find_nnunet(root: Path, options: LayoutOptions) -> Source:
    """Find the cases of a dataset, or the studies that `pattern` joins them to.

    Raises:
        InputError: dataset.json is missing, wrong, or not of this layout; another file format than NIfTI; another number of
            training cases than it gives; a pattern that does not fit.
    """
    path = _json_of(root)
    entry = read_json(path)
    if not is_nnunet(path):
        raise InputError(f'{path} is not of nnU-Net, version 2, expected "numTraining" and "file_ending"; correct it')
    ending = entry.get("file_ending")
    if ending not in NIFTI_SUFFIXES:
        raise InputError(f'{path}: "file_ending" is {short_repr(ending)}, expected .nii.gz or .nii; convert them first')
    channels = parse_channel_names(entry.get("channel_names"), f'{path}: "channel_names"')
    named = {"background": 0, **options.labels} if options.labels else entry.get("labels")
    one_each, regions = parse_regions(named, entry.get(ORDER), str(path))
    classes, ignore = split_ignore(list(_parse_labels(one_each, path).items()), f'{path}: "labels"')
    labels = dict(classes)
    cases = [*_training_cases(entry, path, ending), *_cases_of(path.parent, "Ts", ending)]
    if not cases:
        raise InputError(f"{path.parent} holds no case, expected imagesTr/CASE_0000{ending}; add some")
    roles = parse_roles(entry.get("roles", {}), list(classes_of(labels, regions)), f'{path}: "roles"')
    name = next((entry[key] for key in ("name", "dataset_name") if isinstance(entry.get(key), str)), "")
    name = name or path.absolute().parent.name
    in_order = tuple(sorted(labels.items(), key=lambda pair: pair[1]))
    dataset = Dataset(path.parent, name, channels, in_order, None, (), ignore=ignore)
    stems = {} if options.pattern or options.subject_per_case else shared_stems(case.name for case in cases)
    studies = sorted(_studies(cases, dataset, options.pattern, stems), key=lambda study: natural_key(study.name))
    about = {_ABOUT[key]: text for key, text in entry.items() if key in _ABOUT and isinstance(text, str) and text}
    source = Source(name, channels, labels, tuple(studies), roles=roles, about=about, notes=_notes(stems))
    return replace(source, ignore=ignore, regions=regions)


def _json_of(root: Path) -> Path:
    return root if root.name == "dataset.json" else root / "dataset.json"


def _parse_labels(labels: Any, path: Path) -> dict[str, int]:
    """Return class name to value, "ignore" among them."""
    wrong = f'{path}: "labels" is {short_repr(labels)}, expected whole numbers by name, {{"background": 0, "heart": 1}}'
    if not isinstance(labels, dict):
        raise InputError(f"{wrong}; correct it")
    fault = class_fault(labels.items()) or ("" if 0 in labels.values() else "background at 0")
    if fault:
        raise InputError(f"{wrong}: {fault}")
    return dict(labels)


def _training_cases(entry: Mapping[str, Any], path: Path, ending: str) -> list[_RawCase]:
    """Return the training cases: of imagesTr, or as "dataset" lists them; as many as "numTraining"."""
    listing = entry.get("dataset")
    cases = list(_cases_of(path.parent, "Tr", ending) if listing is None else _listed_cases(listing, path))
    expected = entry.get("numTraining", len(cases))
    if len(cases) != expected:
        raise InputError(
            f'{path}: got {count(len(cases), "training case")}, "numTraining" is {short_repr(expected)}; add what is missing, or '
            "correct it"
        )
    return cases


def _cases_of(root: Path, part: str, ending: str) -> Iterator[_RawCase]:
    """Yield the cases of imagesTr and labelsTr, or of imagesTs and labelsTs; also those with a label alone."""
    folder, is_test = root / f"images{part}", part == "Ts"
    cases, labels = group_by_channel(_files(folder, ending)), _files(root / f"labels{part}", ending)
    for name in sorted({*cases, *labels}, key=natural_key):
        label = labels.get(name, None if is_test else root / "labelsTr" / f"{name}{ending}")
        yield _RawCase(name, folder, cases.get(name, {}), label, is_test)


def _files(folder: Path, ending: str) -> dict[str, Path]:
    files = [file for file in (folder.iterdir() if folder.is_dir() else ()) if file.name.endswith(ending)]
    return {file.name.removesuffix(ending): file for file in files if not file.name.startswith(".")}


def _listed_cases(listing: Any, path: Path) -> Iterator[_RawCase]:
    """Yield the cases of "dataset": {CASE: {"images": [one file per channel], "label": file}}, paths relative to the folder."""
    for name, entry in listing.items() if isinstance(listing, dict) else [("", None)]:
        known = entry if isinstance(entry, dict) else {}
        images = known.get("images")
        files = [*images, known.get("label")] if isinstance(images, list) else [None]
        if not all(isinstance(file, str) for file in files):
            raise InputError(
                f'{path}: "dataset" has {short_repr(entry)} for {short_repr(name)}, expected {{"images": ["one file per channel"], '
                '"label": "a file"}; correct it'
            )
        *found, label = (path.parent / str(file) for file in files)
        yield _RawCase(name, path.parent, {f"{i:04d}": file for i, file in enumerate(found)}, label, False)


def _notes(stems: Mapping[str, str]) -> tuple[str, ...]:
    """Return lines to print about subjects that were taken from the names of cases."""
    if not stems:
        return ()
    subjects = dict.fromkeys(stems.values())
    first = next(stem for stem in subjects if list(stems.values()).count(stem) > 1)
    example = shorten_list(name for name in sorted(stems, key=natural_key) if stems[name] == first)
    return (
        f"{count(len(stems), 'case')} are of {count(len(subjects), 'subject')}, by the stems of their names "
        f"({first}: {example}); --subject_per_case makes each case a subject of its own",
    )


def _studies(cases: Sequence[_RawCase], dataset: Dataset, pattern: str | None, stems: Mapping[str, str]) -> list[Study]:
    """Return one study per case, its subject from `stems`; with the group `frame` in the pattern, one per subject."""
    if pattern is None:
        return [_study(case, stems.get(case.name, case.name), dataset) for case in cases]
    matches = [(case, re.fullmatch(pattern, case.name)) for case in cases]
    others = [case.name for case, match in matches if not (match and match["subject"])]
    if others:
        raise InputError(
            f"pattern {pattern!r} finds no subject in {len(others)} of {count(len(cases), 'case')}: {shorten_list(others)}; "
            f"expected a match of the whole name of each, such as {_EXAMPLE}; correct it"
        )
    named = [(case, match.groupdict()) for case, match in matches if match]
    if "frame" not in re.compile(pattern).groupindex:
        return [_study(case, groups["subject"], dataset) for case, groups in named]
    subjects: dict[str, list[tuple[int, _RawCase]]] = {}
    for case, groups in named:
        if not (groups["frame"] or "").isdecimal():
            raise InputError(
                f"pattern {pattern!r} finds no frame's number in the case {case.name}, expected one, such as {_EXAMPLE}; correct it"
            )
        subjects.setdefault(groups["subject"], []).append((int(groups["frame"]), case))
    return [_join(subject, frames, dataset) for subject, frames in subjects.items()]


def _study(case: _RawCase, subject: str, dataset: Dataset) -> Study:
    files = tuple(case.found[number] for number in sorted(case.found))
    study = make_study(Case(case.name, subject, files, case.label), dataset, is_test=case.is_test)
    return replace(study, image=partial(case.read, len(dataset.channel_names)), stream=None)


def _join(subject: str, numbered: list[tuple[int, _RawCase]], dataset: Dataset) -> Study:
    """Return the study with these cases as frames, each with its number."""
    numbered = sorted(numbered, key=lambda frame: frame[0])
    frames = [frame for _, frame in numbered]
    if len({frame.is_test for frame in frames}) > 1:
        raise InputError(
            f"{dataset.root}: frames of {subject} are in imagesTr and in imagesTs, expected one of them; move them"
        )
    label = {t: frame.label for t, frame in enumerate(frames) if frame.label and frame.label.is_file()} or None
    files = tuple(file for frame in frames for file in frame.found.values())
    case = Case(subject, subject, files, label, tuple(label) if label else None)
    study = make_study(case, dataset, is_test=frames[0].is_test)
    read = partial(_read_frames, subject, numbered, len(dataset.channel_names))
    return replace(study, image=read, nifti=(), stream=None)


def _read_frames(subject: str, numbered: Sequence[tuple[int, _RawCase]], channels: int) -> Image4D:
    """Read one study of 3D cases, which lie on the grid of the first."""
    _check_numbers(subject, numbered)
    first = numbered[0][1].read(channels)
    array = np.empty((channels, len(numbered), *first.grid), dtype=np.float32)
    for t, (_, case) in enumerate(numbered):
        image = case.read(channels) if t else first
        if image.frames > 1:
            raise InputError(
                f"{image.source} has {image.frames} frames, expected a 3D file, because the pattern makes it a frame of {subject}; "
                "leave the pattern out"
            )
        assert image.source is not None
        assert first.source is not None
        check_same_grid(image.source, image.header, image.grid, first.source, first.header, first.grid)
        array[:, t] = image.array[:, 0]
    header = header_for(first.header, (*first.grid, len(numbered)), array.dtype)
    header["pixdim"][4] = 1
    header["xyzt_units"] = int(header["xyzt_units"]) & 0x07  # of space alone: a 3D file has no time unit
    return Image4D(array, header, None, first.source)


def _check_numbers(subject: str, numbered: Sequence[tuple[int, _RawCase]]) -> None:
    """Raise InputError for a frame that is missing or comes twice."""
    folder = numbered[0][1].folder
    for (number, case), (next_number, other) in pairwise(numbered):
        if number == next_number:
            raise InputError(f"{folder}: {case.name} and {other.name} are both frame {number} of {subject}; remove one")
    numbers = [number for number, _ in numbered]
    if missing := missing_numbers(numbers):
        raise InputError(
            f"{folder}: {subject} has the frames {shorten_list(numbers, 10)}, and {shorten_list(missing, 10)} are missing; "
            "expected every frame's image (labels may be missing); add them, or leave the group frame out of the pattern"
        )
