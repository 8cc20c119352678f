"""The studies that inputs name: NIfTI files, folders of them (one file a study or one a channel), datasets, and the layouts that
can be converted, read as they are."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from unet4d.data.channels import SIGNAL
from unet4d.data.dataset import Case, Dataset, read_dataset, read_labelled
from unet4d.data.dataset_json import nearest
from unet4d.data.image4d import Image4D
from unet4d.data.nifti import case_name, studies_in
from unet4d.data.study import Label, Study
from unet4d.errors import InputError

_CHANNEL = re.compile(r"(.+)_(\d{4})")


def is_dataset(path: Path) -> bool:
    """Whether a path is a dataset.json, or a folder that holds one."""
    return path.name == "dataset.json" or (path / "dataset.json").is_file()


def find_studies(
    inputs: Sequence[str | os.PathLike[str]],
    channel_names: Sequence[str],
    *,
    cases: Sequence[str] | None = None,
    subjects: Sequence[str] | None = None,
) -> list[Study]:
    """Every study that the inputs name, in their order and then by name, or as the dataset lists them.

    Args:
        inputs: files, folders of files (with several channels: CASE_0000.nii.gz, CASE_0001.nii.gz, ...), or datasets,
            whose test cases are taken, or all their cases if they have no test cases.
        channel_names: those of the model.
        cases: of the datasets, take the training or test cases of these names instead.
        subjects: of the datasets, take the training cases of these subjects, whom a run held out, instead.

    Raises:
        InputError: an input is missing or holds no study, has other channels, or is no dataset where cases of one are
            asked for; a case that no dataset has; nobody was held out.
    """
    if cases is not None and subjects is not None:
        raise InputError("cases and held_out came together; wanted one of them; leave the other out")
    chosen = cases is not None or subjects is not None
    found: list[Study] = []
    known: list[str] = []
    for given in map(Path, inputs):
        if is_dataset(given):
            dataset = read_dataset(given)
            _check_channels(dataset, channel_names)
            known += [case.name for case in (*dataset.training, *dataset.test)]
            found += [study_of(case, dataset) for case in _taken(dataset, cases, subjects)]
        elif not given.exists():
            raise InputError(f"{given} is missing; give a NIfTI file, a folder of them or a dataset folder")
        elif chosen:
            option = "held_out" if cases is None else "cases"
            raise InputError(f"{given} is no dataset; {option} wants a dataset folder; leave {option} out, or give one")
        else:
            found += [study_of(case) for case in _cases_at(given, len(channel_names))]
    unknown = [name for name in cases or () if name not in known]
    if unknown:
        raise InputError(
            f"there is no case {unknown[0]!r}{nearest(unknown[0], known)} in {', '.join(map(str, inputs))}; wanted names "
            f"among the {len(known)} that are there"
        )
    if not found:
        raise InputError("no study came; wanted one or more; give inputs, or the names of cases in them")
    return found


def study_of(case: Case, dataset: Dataset | None = None) -> Study:
    """A case of a dataset, or one made of files alone, as a study to read."""

    def label(image: Image4D) -> Label:
        assert dataset is not None
        return read_labelled(case, dataset, image)[0], case.labelled_frames

    return Study(
        case.name,
        case.subject,
        case.files,
        case.image,
        label if dataset and case.label is not None else None,
        dataset.time if dataset else None,
        is_test=dataset is not None and case in dataset.test,
        nifti=() if case.channels_last else case.images,
    )


def by_channel(files: Mapping[str, Path]) -> dict[str, dict[str, Path]]:
    """Case to its files by channel number, from file names CASE_0000, CASE_0001, ...; others have the number ""."""
    cases: dict[str, dict[str, Path]] = {}
    for name, file in files.items():
        numbered = _CHANNEL.fullmatch(name)
        case, number = numbered.groups() if numbered else (name, "")
        cases.setdefault(case, {})[number] = file
    return cases


def _taken(dataset: Dataset, names: Sequence[str] | None, subjects: Sequence[str] | None) -> Sequence[Case]:
    """The cases of one dataset: those named, those of the subjects, else the test cases, else all."""
    if names is not None:
        return [case for case in (*dataset.training, *dataset.test) if case.name in names]
    if subjects is None:
        return dataset.test or dataset.training
    held_out = [case for case in dataset.training if case.subject in subjects]
    if not held_out:
        raise InputError(
            f"the run of this model held nobody of {dataset.root} out; wanted a run with validation cases; name cases"
        )
    return held_out


def _check_channels(dataset: Dataset, wanted: Sequence[str]) -> None:
    """Refuse a dataset with other channels than the model's, or the same ones in another order."""
    came = list(dataset.channel_names)
    if len(came) != len(wanted) or (came != list(wanted) and sorted(came) == sorted(wanted)):
        raise InputError(
            f"{dataset.root} has the channels {', '.join(came)}; the model wants {', '.join(wanted)}, in this order"
        )


def _cases_at(path: Path, channels: int) -> Iterator[Case]:
    """The study of a file, or the studies of a folder."""
    if path.is_file():
        if channels > 1:
            raise InputError(
                f"{path} is one file and the model wants {channels} channels; give the folder or the dataset instead"
            )
        yield _case(case_name(path), [path])
        return
    files = studies_in(path)
    if not files:
        raise InputError(f"{path} holds no .nii or .nii.gz file; give a study, a folder of studies or a dataset folder")
    if channels == 1:
        for name, file in files.items():
            yield _case(name, [file])
        return
    wanted = [f"{i:04d}" for i in range(channels)]
    for name, found in by_channel(files).items():
        if sorted(found) != wanted:
            raise InputError(
                f"{path}: {', '.join(file.name for file in found.values())} came for {name}; wanted one file a channel, "
                f"named CASE_0000 to CASE_{channels - 1:04d}; add or rename them"
            )
        yield _case(name, [found[number] for number in wanted])


def _case(name: str, images: Sequence[Path]) -> Case:
    kinds = (SIGNAL,) * len(images)
    return Case(name=name, subject=name, images=tuple(images), channels=len(images), channel_kinds=kinds)
