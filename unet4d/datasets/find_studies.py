"""The studies that inputs name: datasets, NIfTI files, folders of them, and every layout that `unet4d convert` knows."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from unet4d.datasets.convert import NO_OPTIONS, Options, detected, find, readable
from unet4d.datasets.convert.nnunet import is_kind as is_nnunet
from unet4d.datasets.dataset import read_dataset
from unet4d.datasets.nifti_studies import bare_source, dataset_source
from unet4d.datasets.study import Source, Study
from unet4d.errors import InputError
from unet4d.images.channels import CHANNEL_KINDS
from unet4d.images.nifti import NIFTI_SUFFIXES, studies_in
from unet4d.system.progress_bar import print_line
from unet4d.system.regular_files import check_file_or_folder
from unet4d.system.text import suggest_names

AUTO = "auto"
LIST = ".txt"
"""A file of this name lists inputs, one a line."""
_NIFTI_LAYOUTS = ("acdc", "nnunet")
"""In which a folder of NIfTI files is more than a study a file."""


def is_dataset(path: Path) -> bool:
    """Whether a path is a dataset.json, or a folder that holds one; nnU-Net's, which is another layout, is none."""
    with readable(path):
        return (path.name == "dataset.json" or (path / "dataset.json").is_file()) and not is_nnunet(path)


def expanded(inputs: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The inputs, each list of inputs (a .txt file) replaced by what it names.

    A list has one path a line, relative to the list's folder or absolute; empty lines and those that begin with # are passed by.

    Raises:
        InputError: a list cannot be read or names nothing; a path in it is missing.
    """
    found: list[Path] = []
    for given in map(Path, inputs):
        if given.suffix.lower() != LIST or not given.is_file():
            found.append(given)
            continue
        try:
            lines = [line.strip() for line in given.read_text(encoding="utf-8-sig").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{given} cannot be read as a list of inputs ({error}); wanted one path a line, in UTF-8"
            ) from error
        named = {
            number: given.parent / line for number, line in enumerate(lines, 1) if line and not line.startswith("#")
        }
        missing = [number for number, path in named.items() if not os.path.lexists(path)]
        if missing or not named:
            came = (
                f"line {missing[0]} of {given} names {named[missing[0]]}, which is missing"
                if missing
                else f"{given} is empty"
            )
            raise InputError(
                f"{came}; wanted a list of inputs, one path a line, relative to the list's folder; correct it"
            )
        found += named.values()
    return found


def check_there(path: Path) -> None:
    """See that an input is there, without looking into it.

    Raises:
        InputError: it is missing, may not be read, or is neither file nor folder.
    """
    with readable(path):
        if not path.exists():
            raise InputError(f"{path} is missing; give a NIfTI file, a folder of them or a dataset folder")
        check_file_or_folder(path)


def check_choice(cases: Sequence[str] | None, held_out: bool) -> None:
    """See that cases are chosen in one way at most. Raises InputError where both came."""
    if cases is not None and held_out:
        raise InputError("cases and held_out came together; wanted one of them; leave the other out")


def source_at(
    path: Path,
    *,
    kind: str = AUTO,
    options: Options = NO_OPTIONS,
    channel_names: Sequence[str] | None = None,
    channel_kinds: Sequence[str] = (),
) -> Source:
    """What lies at a path. A folder that holds NIfTI files is a folder of studies, unless `kind` says otherwise.

    What another layout was taken as is said on stderr, for it is a guess.

    Args:
        path: a file or folder.
        kind: "auto", or one of `CHANNEL_KINDS`.
        options: for a layout of `CHANNEL_KINDS`.
        channel_names: of bare NIfTI files, which do not say; None: of each study its first channel is read.
        channel_kinds: likewise; empty: all are signal.

    Raises:
        InputError: nothing is there, nothing that is known or that may be read; options came for files that have no use for them.
    """
    check_there(path)
    with readable(path):
        layout = _layout(path) if kind == AUTO else kind
    if layout:
        source = find(layout, path, options)
        if kind == AUTO:
            _tell(path, layout, source)
        return source
    if options != NO_OPTIONS:
        raise InputError(
            f"{path} came with a pattern or keep_patient_ids, which its layout has no use for; name it with --layout"
        )
    if is_dataset(path):
        return dataset_source(read_dataset(path))
    return bare_source(path, channel_names, channel_kinds)


def find_studies(
    inputs: Sequence[str | os.PathLike[str]],
    channel_names: Sequence[str],
    *,
    channel_kinds: Sequence[str] = (),
    cases: Sequence[str] | None = None,
    subjects: Sequence[str] | None = None,
    kind: str = AUTO,
    options: Options = NO_OPTIONS,
) -> list[Study]:
    """Every study that the inputs name, in their order and then by name, or as the dataset lists them.

    Args:
        inputs: datasets, or other layouts, whose test cases are taken, or all their cases if they have no test cases;
            files; folders of files (with several channels: CASE_0000.nii.gz, CASE_0001.nii.gz, ...); lists of inputs, see
            `expanded`.
        channel_names: those of the model.
        channel_kinds: those of the model, which bare files are taken to be of; empty: all are signal.
        cases: take the training or test cases of these names instead.
        subjects: take the training cases of these subjects, whom a run held out, instead.
        kind: of every input; "auto" finds it out.
        options: for inputs of that kind.

    Raises:
        InputError: an input is missing or holds no study, has other channels, or is a bare file where cases of a
            dataset are asked for; a case that no dataset has; nobody was held out.
    """
    check_choice(cases, subjects is not None)
    unknown_kinds = [kind for kind in channel_kinds if kind not in CHANNEL_KINDS]
    if unknown_kinds:
        raise InputError(
            f"got the channel kind {unknown_kinds[0]!r}, expected one of {', '.join(CHANNEL_KINDS)}; train again"
        )
    found: list[Study] = []
    known: list[str] = []
    for given in expanded(inputs):
        source = source_at(given, kind=kind, options=options, channel_names=channel_names, channel_kinds=channel_kinds)
        _check_channels(given, source, channel_names)
        if not source.labels and (cases is not None or subjects is not None):
            option = "held_out" if cases is None else "cases"
            raise InputError(f"{given} is no dataset; {option} wants a dataset folder; leave {option} out, or give one")
        known += [study.name for study in source.studies]
        found += _taken(given, source, cases, subjects)
    unknown = [name for name in cases or () if name not in known]
    if unknown:
        raise InputError(
            f"there is no case {unknown[0]!r}{suggest_names(unknown[0], known)} in {', '.join(map(str, inputs))}; wanted names "
            f"among the {len(known)} that are there"
        )
    if not found:
        raise InputError("no study came; wanted one or more; give inputs, or the names of cases in them")
    return found


def _layout(path: Path) -> str | None:
    """The layout of `CHANNEL_KINDS` that a path is in; None for a dataset, for NIfTI, and for what nobody knows."""
    if is_dataset(path):
        return None
    is_nifti = path.name.lower().endswith(NIFTI_SUFFIXES) if path.is_file() else bool(studies_in(path))
    layout = detected(path)
    return layout if not is_nifti or layout in _NIFTI_LAYOUTS else None


def _tell(path: Path, layout: str, source: Source) -> None:
    studies, files = len(source.studies), sum(len(study.files) for study in source.studies)
    came = f"{studies} {'study' if studies == 1 else 'studies'} of {files} file{'s' * (files != 1)}"
    print_line(f"{path}: taken as {layout}, {came}; --layout says otherwise", sys.stderr)


def _taken(path: Path, source: Source, names: Sequence[str] | None, subjects: Sequence[str] | None) -> Sequence[Study]:
    """The studies of one source: those named, those of the subjects, else the test cases, else all."""
    if names is not None:
        return [study for study in source.studies if study.name in names]
    if subjects is None:
        return [study for study in source.studies if study.is_test] or source.studies
    held_out = [study for study in source.studies if not study.is_test and study.subject in subjects]
    if not held_out:
        raise InputError(
            f"the run of this model held nobody of {path} out; wanted a run with validation cases; name cases"
        )
    return held_out


def _check_channels(path: Path, source: Source, names: Sequence[str]) -> None:
    """Refuse a source with other channels than the model's, or the same ones in another order."""
    came, wanted = list(source.channel_names), list(names)
    if len(came) != len(wanted) or (came != wanted and sorted(came) == sorted(wanted)):
        raise InputError(
            f"{path} has the channels {', '.join(came)}; the model wants {', '.join(wanted)}, in this order"
        )
