"""Studies that are NIfTI files: the cases of a dataset, and bare files, one per study or one per channel."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from unet4d.datasets.case_labels import read_labelled
from unet4d.datasets.cases import Case, Dataset
from unet4d.datasets.study import FrameReader, Source, Study, StudyLabel
from unet4d.errors import InputError
from unet4d.images.channels import SIGNAL
from unet4d.images.image4d import Image4D, read_frames
from unet4d.images.nifti import case_name, find_nifti_files, is_nifti
from unet4d.system.text import count

CHANNEL_NUMBER = re.compile(r"(.+)_(\d{4})")
"""A file name that ends in the number of a channel: CASE_0000."""


def make_study(case: Case, dataset: Dataset | None = None, *, is_test: bool = False) -> Study:
    """Return a case of a dataset, or one made of files alone, as a study to read."""

    def label(image: Image4D) -> StudyLabel:
        assert dataset is not None
        return read_labelled(case, dataset, image)[0], case.labelled_frames

    study = Study(
        case.name,
        case.subject,
        case.files,
        case.image,
        label if dataset and case.label is not None else None,
        dataset.time if dataset else None,
        is_test=is_test,
        vitals=case.vitals,
        partial=case.partial,
        velocity_unit=dataset.velocity_unit if dataset else None,
    )
    if case.channels_last:
        return study
    frames = partial(read_frames, case.images, kinds=case.channel_kinds)
    return replace(study, nifti=case.images, stream=FrameReader(case.info, frames))


def open_dataset_source(dataset: Dataset) -> Source:
    """Return a dataset's cases as studies, those of "training" first."""
    training = [make_study(case, dataset) for case in dataset.training]
    test = [make_study(case, dataset, is_test=True) for case in dataset.test]
    about = (dataset.name, dataset.channel_names, dict(dataset.labels))
    has_ignored = dataset.ignore is not None or any(case.partial.has_slices for case in dataset.cases)
    source = Source(*about, (*training, *test), dataset.channel_kinds, dataset.time, dataset.roles)
    return replace(source, ignore=dataset.ignored_value if has_ignored else None, regions=dataset.regions)


def open_nifti_source(
    path: Path, channel_names: Sequence[str] | None = None, channel_kinds: Sequence[str] = ()
) -> Source:
    """Return the study of a file, or the studies of a folder, without a dataset.json.

    Args:
        path: a file, or a folder of files: one per study, or one per channel, CASE_0000.nii.gz, CASE_0001.nii.gz, ...
        channel_names: of the channels; None: each study is read from one file, its first channel's.
        channel_kinds: of the channels, see images/channels.py; empty: all are signal.

    Raises:
        InputError: no NIfTI file is there, or a study has too few channels or too many.
    """
    channels = len(channel_names or ("image",))
    kinds = tuple(channel_kinds) or (SIGNAL,) * channels
    studies = (
        make_study(Case(name, name, tuple(files), channels=channels, channel_kinds=kinds))
        for name, files in _bare_files(path, channels, channel_names is None)
    )
    return Source(path.absolute().name, tuple(channel_names or ("image",)), {}, tuple(studies), kinds)


def group_by_channel(files: Mapping[str, Path]) -> dict[str, dict[str, Path]]:
    """Map each case to its files by channel number, from file names CASE_0000, CASE_0001, ...; others have the number ""."""
    cases: dict[str, dict[str, Path]] = {}
    for name, file in files.items():
        numbered = CHANNEL_NUMBER.fullmatch(name)
        case, number = numbered.groups() if numbered else (name, "")
        cases.setdefault(case, {})[number] = file
    return cases


def order_channels(case: str, folder: Path, found: Mapping[str, Path], channels: int) -> list[Path]:
    """Return the files of a case in the order of their channels. Raises InputError unless there is one per channel."""
    numbers = [f"{i:04d}" for i in range(channels)]
    if sorted(found) != numbers:
        last = f" to CASE_{numbers[-1]}" if channels > 1 else ""
        got = ", ".join(file.name for file in found.values()) or "no file"
        raise InputError(f"{folder}: got {got} for {case}, expected one file per channel, CASE_0000{last}; rename them")
    return [found[number] for number in numbers]


def _bare_files(path: Path, channels: int, first_only: bool) -> Iterator[tuple[str, list[Path]]]:
    """Yield study names with their files."""
    if path.is_file():
        if not is_nifti(path):
            raise InputError(
                f"{path} is not a study, expected .nii, .nii.gz or a sequence of frames (a NRRD of four axes, DICOM); of 3D "
                "files, one per frame, give the folder: unet4d predict with --layout frames"
            )
        if channels > 1:
            raise InputError(
                f"{path} is one file, expected {count(channels, 'channel')}; give the folder or the dataset"
            )
        yield case_name(path), [path]
        return
    files = find_nifti_files(path)
    if not files:
        raise InputError(
            f"{path} holds no .nii or .nii.gz file, and no layout that unet4d detects; give a study, a folder of studies or a "
            "dataset folder, or name its layout with --layout (3D NRRD, one per frame: --layout frames)"
        )
    if channels > 1:
        for name, found in group_by_channel(files).items():
            yield name, order_channels(name, path, found, channels)
        return
    if first_only:
        firsts = {name: found["0000"] for name, found in group_by_channel(files).items() if "0000" in found}
        files = firsts | files
    for name, file in files.items():
        yield name, [file]
