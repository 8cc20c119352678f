"""The search for the studies of inputs: datasets, NIfTI files, folders of them, and every layout of `unet4d convert`."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from unet4d.datasets.convert.layout_options import NO_LAYOUT_OPTIONS, LayoutOptions
from unet4d.datasets.convert.layouts import detect_layout, open_layout, report_unreadable
from unet4d.datasets.convert.nnunet import is_nnunet
from unet4d.datasets.dataset import read_dataset
from unet4d.datasets.nifti_studies import open_dataset_source, open_nifti_source
from unet4d.datasets.study import Source, Study
from unet4d.errors import InputError
from unet4d.images.channels import CHANNEL_KINDS, MAP, SIGNAL, VELOCITIES, channels_of_kind
from unet4d.images.nifti import find_nifti_files, is_nifti
from unet4d.system.files import PathLike
from unet4d.system.regular_files import check_file_or_folder
from unet4d.system.text import count, suggest_names

logger = logging.getLogger(__name__)

AUTO_LAYOUT = "auto"
LIST_SUFFIX = ".txt"
"""A file of this name lists inputs, one per line."""
_NIFTI_LAYOUTS = ("acdc", "nnunet")
"""Layouts in which a folder of NIfTI files is more than one study per file."""


def is_dataset_path(path: Path) -> bool:
    """Return whether a path is a dataset.json, or a folder with one; nnU-Net's is another layout."""
    with report_unreadable(path):
        return (path.name == "dataset.json" or (path / "dataset.json").is_file()) and not is_nnunet(path)


def expand_input_lists(inputs: Sequence[PathLike]) -> list[Path]:
    """Return the inputs, each list of inputs (a .txt file) replaced by the paths in it.

    A list has one path per line, relative to the list's folder or absolute; empty lines and lines that begin with # are ignored.

    Raises:
        InputError: a list cannot be read or is empty; a path in it is missing.
    """
    found: list[Path] = []
    for given in map(Path, inputs):
        if given.suffix.lower() != LIST_SUFFIX or not given.is_file():
            found.append(given)
            continue
        try:
            lines = [line.strip() for line in given.read_text(encoding="utf-8-sig").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{given} cannot be read as a list of inputs ({error}), expected one path per line, in UTF-8; correct it"
            ) from error
        paths = {i: given.parent / line for i, line in enumerate(lines, 1) if line and not line.startswith("#")}
        missing = [
            f"line {i} of {given} names {path}, which is missing"
            for i, path in paths.items()
            if not os.path.lexists(path)
        ]
        if missing or not paths:
            raise InputError(
                f"{missing[0] if missing else f'{given} is empty'}; expected a list of inputs, one path per line, relative to the "
                "list's folder; correct it"
            )
        found += paths.values()
    return found


def check_input_exists(path: Path) -> None:
    """Check that an input is there, without looking into it.

    Raises:
        InputError: it is missing, may not be read, or is neither file nor folder.
    """
    with report_unreadable(path):
        if not path.exists():
            raise InputError(f"{path} is missing; give a NIfTI file, a folder of them or a dataset folder")
        check_file_or_folder(path)


def check_case_choice(cases: Sequence[str] | None, held_out: bool) -> None:
    """Raise InputError where cases are chosen in two ways."""
    if cases is not None and held_out:
        raise InputError("got both cases and held_out, expected one of them; leave the other out")


def open_source(
    path: Path,
    *,
    layout: str = AUTO_LAYOUT,
    options: LayoutOptions = NO_LAYOUT_OPTIONS,
    channel_names: Sequence[str] | None = None,
    channel_kinds: Sequence[str] = (),
) -> Source:
    """Return the source at a path. A folder of NIfTI files is a folder of studies, unless `layout` names another layout.

    A detected layout is reported on stderr.

    Args:
        path: a file or folder.
        layout: "auto", or one of `LAYOUTS`.
        options: for a layout of `LAYOUTS`.
        channel_names: of bare NIfTI files, which do not name them; None: of each study its first channel is read.
        channel_kinds: likewise; empty: all are signal.

    Raises:
        InputError: nothing is there, no known layout, or nothing that may be read; options came for files without use for them.
    """
    check_input_exists(path)
    with report_unreadable(path):
        chosen = _detect(path) if layout == AUTO_LAYOUT else layout
    if chosen:
        source = open_layout(chosen, path, _with_channels(chosen, options, channel_names, channel_kinds))
        if layout == AUTO_LAYOUT:
            studies, files = len(source.studies), sum(len(study.files) for study in source.studies)
            what = f"{count(studies, 'study', 'studies')} of {count(files, 'file')}"
            logger.warning(f"{path}: taken as {chosen}, {what}; --layout names another layout")
        return source
    if options != NO_LAYOUT_OPTIONS:
        raise InputError(f"got a pattern or keep_patient_ids for {path}, of no use in its layout; give --layout")
    if is_dataset_path(path):
        return open_dataset_source(read_dataset(path))
    return open_nifti_source(path, channel_names, channel_kinds)


def find_studies(
    inputs: Sequence[PathLike],
    channel_names: Sequence[str],
    *,
    channel_kinds: Sequence[str] = (),
    cases: Sequence[str] | None = None,
    subjects: Sequence[str] | None = None,
    layout: str = AUTO_LAYOUT,
    options: LayoutOptions = NO_LAYOUT_OPTIONS,
) -> list[Study]:
    """Find every study of the inputs, in their order and then by name, or as the dataset lists them.

    Args:
        inputs: datasets or other layouts, of which the test cases are taken, or all cases if there are no test cases;
            files; folders of files (with several channels: CASE_0000.nii.gz, CASE_0001.nii.gz, ...); lists of inputs.
        channel_names: those of the model.
        channel_kinds: those of the model, for bare files; empty: all are signal.
        cases: take the training or test cases of these names instead.
        subjects: take the training cases of these held-out subjects of a run instead.
        layout: of every input; "auto" detects it.
        options: for inputs of that layout.

    Raises:
        InputError: an input is missing or has no study, has other channels, or is a bare file where cases of a
            dataset are asked for; a case that no dataset has; no held-out subject.
    """
    check_case_choice(cases, subjects is not None)
    unknown_kinds = [kind for kind in channel_kinds if kind not in CHANNEL_KINDS]
    if unknown_kinds:
        raise InputError(f"got the channel kind {unknown_kinds[0]!r}, expected {', '.join(CHANNEL_KINDS)}; train again")
    found: list[Study] = []
    known: list[str] = []
    for given in expand_input_lists(inputs):
        source = open_source(
            given, layout=layout, options=options, channel_names=channel_names, channel_kinds=channel_kinds
        )
        _check_channels(given, source, channel_names)
        if not source.labels and (cases is not None or subjects is not None):
            option = "held_out" if cases is None else "cases"
            raise InputError(f"{given} is no dataset, expected one for {option}; leave {option} out")
        known += [study.name for study in source.studies]
        found += _select(given, source, cases, subjects)
    unknown = [name for name in cases or () if name not in known]
    if unknown:
        raise InputError(
            f"there is no case {unknown[0]!r}{suggest_names(unknown[0], known)} in {', '.join(map(str, inputs))}, expected names "
            f"among the {len(known)} that are there; correct it"
        )
    if not found:
        raise InputError("got no study, expected one or more; give inputs, or the names of cases in them")
    return found


def _detect(path: Path) -> str | None:
    """Return the layout of a path; None for a dataset, for NIfTI, and for an unknown one."""
    if is_dataset_path(path):
        return None
    holds_nifti = is_nifti(path) if path.is_file() else bool(find_nifti_files(path))
    layout = detect_layout(path)
    return layout if not holds_nifti or layout in _NIFTI_LAYOUTS else None


def _with_channels(
    layout: str, options: LayoutOptions, names: Sequence[str] | None, kinds: Sequence[str]
) -> LayoutOptions:
    """Return the options with the model's channels where DICOM needs them: series are channels of one study, or studies each."""
    if layout != "dicom" or options.channels is not None or not names:
        return options
    if channels_of_kind(kinds, *VELOCITIES) and MAP not in kinds:
        return replace(options, channels=dict(zip(names, kinds, strict=True)))
    return replace(options, channels={names[0]: SIGNAL}) if len(names) == 1 else options


def _select(path: Path, source: Source, names: Sequence[str] | None, subjects: Sequence[str] | None) -> Sequence[Study]:
    """Return the studies of these names, or of these subjects; else the test cases, or all."""
    if names is not None:
        return [study for study in source.studies if study.name in names]
    if subjects is None:
        return [study for study in source.studies if study.is_test] or source.studies
    held_out = [study for study in source.studies if not study.is_test and study.subject in subjects]
    if not held_out:
        raise InputError(
            f"the run of this model held out no subject of {path}; give a run with validation cases, or cases"
        )
    return held_out


def _check_channels(path: Path, source: Source, names: Sequence[str]) -> None:
    """Raise InputError for a source with other channels than the model's, or the same ones in another order."""
    got, expected = list(source.channel_names), list(names)
    if len(got) != len(expected) or (got != expected and sorted(got) == sorted(expected)):
        raise InputError(
            f"{path} has the channels {', '.join(got)}, expected {', '.join(expected)} in order; reorder them"
        )
