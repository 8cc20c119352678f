"""`unet4d convert`: studies in any layout in, a dataset folder out: images/, labels/ and dataset.json."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unet4d.datasets.case_json import can_name_a_file
from unet4d.datasets.convert.layout_options import NO_LAYOUT_OPTIONS, LayoutOptions
from unet4d.datasets.convert.layouts import LAYOUTS, open_layout
from unet4d.datasets.dataset import open_dataset
from unet4d.datasets.dataset_json import parse_dataset
from unet4d.datasets.key_file import check_key_file, write_key_file
from unet4d.datasets.study import Source, Study
from unet4d.datasets.writer import check_fillable, fill_dataset_folder
from unet4d.errors import InputError
from unet4d.images.channels import SIGNAL
from unet4d.images.image4d import Image4D, write_image
from unet4d.images.time_axis import TimeAxis
from unet4d.metrics.regions import regions_entry
from unet4d.system.class_values import IGNORE_NAME
from unet4d.system.documents import write_document
from unet4d.system.failures import failure_of_study
from unet4d.system.files import PathLike, replacing
from unet4d.system.progress_bar import ProgressBar
from unet4d.system.signals import stop_signals
from unet4d.system.text import count, short_repr

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _WrittenStudy:
    """A written study: its entry in dataset.json, and its numbers in the summary."""

    entry: dict[str, Any]
    is_training: bool
    frames: int
    labelled: int
    spacing: tuple[float, float, float]


@stop_signals()
def convert(
    layout: str,
    source: PathLike,
    out_dir: PathLike,
    options: LayoutOptions = NO_LAYOUT_OPTIONS,
    name: str | None = None,
    key_file: PathLike | None = None,
) -> Path:
    """Write the studies of a source as a dataset, one after another, and print a summary.

    4D NIfTI files are copied as they are; all else is written without loss. Labels on unlabelled frames are left out. A
    study without any label is a test case; where its subject is trained on it is not written, which is reported. Stopped
    before its end, the same call begins anew in the same folder.

    Args:
        layout: of the source: acdc, nnunet, frames, sequence or dicom.
        source: the file or folder.
        out_dir: a new or empty folder, outside the source.
        options: statements about the source that its files lack.
        name: of the dataset; None is the source's.
        key_file: a CSV file that links anonymized cases to patients, which only its owner may read; it is written only
            where it is given, outside of the dataset and of the source.

    Returns:
        The path of dataset.json.

    Raises:
        InputError: the source, the options or the folder are not usable; or (after all others were written, with a
            dataset.json of them) some studies were not, each with its reason.
        Stopped: a stop signal came; checked before and after each study.
        Unet4DError: the disk is full, or the folder cannot be written to; nothing half-written is left.
    """
    root, out = Path(source), Path(out_dir)
    if out.resolve().is_relative_to(root.resolve()):
        raise InputError(f"{out} is inside the source {root}, expected a folder outside of it; choose another --out")
    check_fillable(out)
    if key_file is not None:
        check_key_file(Path(key_file), out, [root])
    if layout in LAYOUTS and layout != "nnunet" and _is_dataset(root):  # the dataset.json of nnU-Net is another
        raise InputError(f"{root} is a dataset already, expected another layout; use it without unet4d convert")
    found = open_layout(layout, root, options)
    time = _common_time(found)
    _check_source(found, root)
    _check_description(found, name, time, root)
    for note in found.notes:
        logger.info(note)
    if key_file is not None:
        write_key_file(Path(key_file), found.studies, layout)
    with fill_dataset_folder(out):
        written, failed = _write_studies(found, out)
        reasons = "; ".join(f"{study}: {reason}" for study, reason in failed.items())
        if not written:
            raise InputError(f"none of {count(len(failed), 'study', 'studies')} of {root} could be read: {reasons}")
        units = {study.velocity_unit for study in found.studies}
        unit = units.pop() if len(units) == 1 else None
        about = _description(found, name, time, written) | ({"velocity_unit": unit} if unit else {})
        write_document(out / "dataset.json", "dataset", about)
    _print_summary(written, time, out)
    if failed:
        raise InputError(
            f"{len(failed)} of {count(len(failed) + len(written), 'study', 'studies')} were left out, the other {len(written)} "
            f"are in {out}: {reasons}"
        )
    return out / "dataset.json"


def _is_dataset(root: Path) -> bool:
    try:
        open_dataset(root)
    except InputError:
        return False
    return True


def _common_time(source: Source) -> TimeAxis | None:
    """Return the time of all studies. Raises InputError where it differs, because a dataset has one."""
    times = {study.time for study in source.studies}
    if len(times) > 1:
        raise InputError(f"some studies of {source.name} are cyclic and others open, expected the same; give --time")
    return next(iter(times), None)


def _check_source(source: Source, root: Path) -> None:
    """Raise InputError, before any work, for a source that no dataset can be made of."""
    labels = "--labels '{left ventricle: 1}'"
    if len(source.labels) < 2 and any(study.label for study in source.studies):
        raise InputError(f"{root}: its label maps name no classes; give them: {labels}")
    if len(source.labels) < 2:
        raise InputError(
            f"no study in {root} has a label, expected classes for a dataset; name them, {labels}, or segment the studies without "
            f"converting: unet4d predict RUN -i {root}"
        )
    for name in (name for study in source.studies for name in (study.name, study.subject)):
        if not can_name_a_file(name):
            raise InputError(
                f"{root}: {short_repr(name)} would name a study or subject, expected a text that can name a file, without slashes; "
                "rename it"
            )
    tests = {study.subject for study in source.studies if study.is_test}
    both = sorted({study.subject for study in source.studies if not study.is_test} & tests)
    if both:
        by_name = f" ({'; '.join(source.notes)})" if source.notes else ""
        raise InputError(
            f"{root}: subject {both[0]} is in training and test, expected either; move its studies{by_name}"
        )


def _write_studies(source: Source, out: Path) -> tuple[list[_WrittenStudy], dict[str, str]]:
    """Write the files of every study; return the written ones, and the reasons of the others by name."""
    written: list[_WrittenStudy] = []
    failed: dict[str, str] = {}
    for study in ProgressBar(_drop_unlabelled_of_trained(source), "converting", unit="study"):
        try:
            written.append(_write_study(study, source, out))
        except Exception as error:
            failed[study.name] = str(failure_of_study(error))
    return written, failed


def _write_study(study: Study, source: Source, out: Path) -> _WrittenStudy:
    """Read one study and write its files; the label first, because it must fit the image."""
    image = study.image()
    if image.channels != len(source.channel_names):
        raise InputError(
            f"{image.source or study.name} has {count(image.channels, 'channel')}, expected {', '.join(source.channel_names)}; "
            "correct it"
        )
    entry: dict[str, Any] = {"case": study.name, "subject": study.subject}
    labelled: Sequence[int] = ()
    if study.label:
        label, frames = study.label(image)
        labelled = range(image.frames) if frames is None else frames
        if not labelled:
            raise InputError(f"{study.name}: its labels are of no frame, expected one or more; label one, or remove it")
        label = np.where(np.isin(np.arange(image.frames), labelled)[:, None, None, None], label, 0)
        write_image(out / "labels" / f"{study.name}.nii.gz", label, like=image)
    images = _write_channels(study, image, out)
    entry["image"] = images if len(images) > 1 else images[0]
    if labelled:
        entry["label"] = f"labels/{study.name}.nii.gz"
        if len(labelled) < image.frames:
            entry["labelled_frames"] = list(labelled)
    if image.frame_duration_s is not None:
        entry["frame_duration_s"] = image.frame_duration_s
    entry |= study.vitals.known()
    is_training = bool(labelled) and not study.is_test
    return _WrittenStudy(entry, is_training, image.frames, len(labelled), image.spacing)


def _write_channels(study: Study, image: Image4D, out: Path) -> list[str]:
    """Copy or write the image, one file per channel; return their paths in the dataset."""
    paths = []
    for channel in range(image.channels):
        number = f"_{channel:04d}" if image.channels > 1 else ""
        source = study.nifti[channel] if study.nifti else None
        suffix = ".nii" if source and not source.name.lower().endswith(".gz") else ".nii.gz"
        path = f"images/{study.name}{number}{suffix}"
        if source:
            with replacing(out / path) as temporary:
                shutil.copyfile(source, temporary)
        else:
            write_image(out / path, _to_integers(image.array[channel]), like=image)
        paths.append(path)
    return paths


def _to_integers(array: np.ndarray) -> np.ndarray:
    """Return int32 where all values are whole and fit, which `write_image` stores as the smallest integer; else float32."""
    if np.abs(array).max() < 2**31 and np.array_equal(array, np.rint(array)):
        return array.astype(np.int32)
    return array


def _drop_unlabelled_of_trained(source: Source) -> list[Study]:
    """Drop and report unlabelled studies of subjects that are trained on: these can be neither trained on nor tested with."""
    trained = {study.subject for study in source.studies if study.label and not study.is_test}
    dropped = [study for study in source.studies if study.label is None and study.subject in trained]
    for study in dropped:
        logger.warning(f"{study.name}: not written, because it has no label and {study.subject} is trained on")
    return [study for study in source.studies if study not in dropped]


def _check_description(source: Source, name: str | None, time: TimeAxis | None, root: Path) -> None:
    """Raise InputError, before any work, for labels and channels that dataset.json cannot have; it names the source."""
    case = {"case": "any", "image": [f"any_{channel}.nii" for channel in range(len(source.channel_names))]}
    parse_dataset({**_description(source, name, time, []), "test": [case]}, root)


def _description(
    source: Source, name: str | None, time: TimeAxis | None, studies: Sequence[_WrittenStudy]
) -> dict[str, Any]:
    """Return the content of dataset.json."""
    entry: dict[str, Any] = {"name": name or source.name, **source.about}
    entry["channel_names"] = {str(i): channel for i, channel in enumerate(source.channel_names)}
    kinds = {str(i): kind for i, kind in enumerate(source.channel_kinds) if kind != SIGNAL}
    if kinds:
        entry["channel_kinds"] = kinds
    if source.regions:
        entry |= regions_entry(source.regions)
    else:
        entry["labels"] = dict(sorted(source.labels.items(), key=lambda label: label[1]))
    if source.ignore is not None:
        entry["labels"][IGNORE_NAME] = source.ignore
    if source.roles:
        entry["roles"] = dict(source.roles)
    if time:
        entry["time"] = time
    entry["training"] = [study.entry for study in studies if study.is_training]
    entry["test"] = [study.entry for study in studies if not study.is_training]
    return entry


def _print_summary(studies: Sequence[_WrittenStudy], time: TimeAxis | None, out: Path) -> None:
    """Print the numbers of the dataset, and what to do next."""
    training = sum(study.is_training for study in studies)
    subjects = len({study.entry["subject"] for study in studies})
    what = f"{count(len(studies), 'study', 'studies')} of {count(subjects, 'subject')}"
    logger.info(f"{what}: {training} for training, {len(studies) - training} for test")
    frames, labelled = [study.frames for study in studies], sum(study.labelled for study in studies)
    durations = [study.entry["frame_duration_s"] for study in studies if "frame_duration_s" in study.entry]
    unknown = len(studies) - len(durations)
    lasting = f"of {_range(durations)} s" if durations else "of unknown duration (--frame_duration_s gives it)"
    lasting += f" (unknown in {count(unknown, 'study', 'studies')})" if durations and unknown else ""
    each = f"{_range(frames)} frame{'s' * (max(frames) > 1)}"
    logger.info(f"{each} per study, {lasting}; {labelled} of {count(sum(frames), 'frame')} labelled")
    spacing = zip(*(study.spacing for study in studies), strict=True)
    logger.info("spacing " + " x ".join(map(_range, spacing)) + " mm")
    if max(frames) == 1:
        logger.info(
            "every study has one frame; if some are frames of one subject, join them: --pattern of unet4d convert"
        )
    if not training:
        logger.info('nothing to train on yet: label some of the images, and list them under "training" in dataset.json')
    if time is None:
        logger.info(
            "it is unknown whether the last frame leads into the first, so time is open; --time cyclic states that it does"
        )
    logger.info(f"written: {out / 'dataset.json'}; check it: unet4d verify {out}")


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.4g}", f"{max(values):.4g}"
    return low if low == high else f"{low} to {high}"
