"""`unet4d predict`: new studies in, 4D label maps with the study's own header out."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import unet4d
from unet4d.config import Precision
from unet4d.data.dataset import Case, Dataset, read_dataset, to_values
from unet4d.data.grid import WorkingGrid
from unet4d.data.image4d import Image4D, write_image
from unet4d.data.transforms import normalised
from unet4d.errors import InputError, Unet4DError
from unet4d.files import check_writable, write_json, write_text
from unet4d.metrics import volumes_ml, voxel_volume_ml
from unet4d.model.checkpoint import TrainedModel, load_model
from unet4d.model.device import find_device, resolve_precision
from unet4d.model.inference import sliding_window

SUFFIXES = (".nii.gz", ".nii")
ABOUT, VOLUMES = "prediction.json", "volumes.csv"


def segment(
    model: TrainedModel, image: Image4D, *, time: str | None = None, precision: Precision = "auto"
) -> np.ndarray:
    """Segment one study.

    Args:
        model: from `load_model`; computes on the device its network lies on.
        image: the study; any number of frames.
        time: "cyclic" or "open"; None is what the model was trained with.
        precision: "auto", "bf16", "fp16" or "fp32".

    Returns:
        Label values (T, X, Y, Z) uint8 on the study's own grid.

    Raises:
        InputError: the study has other channels than the model was trained with.
        Unet4DError: the network answers with infinite numbers or NaN.
    """
    wanted = model.task.channel_names
    if image.channels != len(wanted):
        raise InputError(
            f"{image.source or 'the image'} has {image.channels} channels; the model wants {len(wanted)} ({', '.join(wanted)})"
        )
    _check_time(time)
    data = model.config.data
    device = next(model.network.parameters()).device
    grid = WorkingGrid.of(image.affine, image.grid, data.plane_spacing_mm, data.slice_spacing_mm)
    logits = sliding_window(
        model.network,
        torch.from_numpy(normalised(grid.image(image.array), data.normalisation)),
        data.patch_size or (),
        model.config.inference,
        cyclic=model.task.cyclic if time is None else time == "cyclic",
        device=device,
        precision=resolve_precision(precision, device),
    )
    if not all(bool(frame.sum().isfinite()) for frame in logits):
        raise Unet4DError(
            f"the network's answer to {image.source or 'the image'} is not a number somewhere; wanted finite numbers; set "
            "precision fp32, or take another checkpoint"
        )
    return to_values(grid.native_label(logits), tuple(model.task.labels.values()))


def predict(
    model: str | os.PathLike[str],
    inputs: Sequence[str | os.PathLike[str]],
    out_dir: str | os.PathLike[str],
    *,
    device: str = "auto",
    time: str | None = None,
    overlap: float | None = None,
    sw_batch_size: int | None = None,
    precision: Precision = "auto",
) -> list[Path]:
    """Segment studies and write `out_dir/<case>.nii.gz` for each, `volumes.csv` and `prediction.json`.

    Args:
        model: run folder or checkpoint file.
        inputs: files, folders of files (with several channels: CASE_0000.nii.gz, CASE_0001.nii.gz, ...), or dataset folders, whose
            test cases are taken, or all their cases if they have no test cases.
        out_dir: a label map a study, made with the study's header; label maps there already are replaced.
        device: "auto", "cpu", "cuda" or "cuda:N".
        time: "cyclic" or "open", for every study; None is what its dataset.json says, else what the model was trained with.
        overlap: share of a window its neighbour covers; None is what the model was trained with.
        sw_batch_size: windows at once; None is what the model was trained with.
        precision: "auto", "bf16", "fp16" or "fp32".

    Returns:
        The label maps written.

    Raises:
        InputError: the model or the inputs are not usable, or (after all others were done) some studies were not.
    """
    where = find_device(device)
    precision = resolve_precision(precision, where)
    _check_time(time)
    trained = _with_window(load_model(model, where), overlap, sw_batch_size)
    out_dir = Path(out_dir)
    studies = list(_studies(inputs, trained.task.channel_names))
    _check_names(studies, out_dir)
    check_writable(out_dir)
    written: list[Path] = []
    tables = _Tables(trained)
    failed: dict[str, Unet4DError] = {}
    try:
        for study in tqdm(studies, "segmenting", unit="study", disable=None):
            name, order = study.case.name, time or study.time
            try:
                image = study.case.image()
                label = segment(trained, image, time=order, precision=precision)
            except Unet4DError as error:
                failed[name] = error
                continue
            written.append(out_dir / f"{name}.nii.gz")
            write_image(written[-1], label, like=image)
            tables.add(name, label, image, order)
    finally:  # also when the disk is full or somebody stops it, what is done is told
        if tables.cases:
            tables.write(out_dir)
    _raise_failed(failed, len(studies), out_dir)
    return written


def _check_time(time: str | None) -> None:
    if time not in (None, "cyclic", "open"):
        raise InputError(f"time is {time!r}; wanted cyclic or open")


def _with_window(model: TrainedModel, overlap: float | None, sw_batch_size: int | None) -> TrainedModel:
    """The model with another sliding window; None leaves what it was trained with."""
    given: dict[str, Any] = {"overlap": overlap, "sw_batch_size": sw_batch_size}
    window = replace(model.config.inference, **{name: value for name, value in given.items() if value is not None})
    return replace(model, config=replace(model.config, inference=window))


def _raise_failed(failed: dict[str, Unet4DError], studies: int, out_dir: Path) -> None:
    """Say which studies failed and why, once all others are done."""
    if not failed:
        return
    errors = list(failed.values())
    kind = InputError if any(isinstance(error, InputError) for error in errors) else Unet4DError
    if studies == 1:
        raise kind(str(errors[0])) from errors[0]
    rest = f"the other {studies - len(failed)} are in {out_dir}" if len(failed) < studies else "nothing was written"
    listed = "; ".join(f"{name}: {error}" for name, error in failed.items())
    raise kind(f"{len(failed)} of {studies} studies could not be segmented, {rest}: {listed}") from errors[0]


@dataclass(frozen=True)
class _Study:
    case: Case
    time: str | None


def _studies(inputs: Sequence[str | os.PathLike[str]], channel_names: Sequence[str]) -> Iterator[_Study]:
    """Every study that the inputs name, in a stable order."""
    channels = len(channel_names)
    for given in map(Path, inputs):
        if not given.exists():
            raise InputError(f"{given} is missing; give a NIfTI file, a folder of them or a dataset folder")
        if given.name == "dataset.json" or (given / "dataset.json").is_file():
            dataset = read_dataset(given)
            _check_channels(dataset, channel_names)
            for case in dataset.test or dataset.training:
                yield _Study(case, dataset.time)
        elif given.is_dir():
            yield from _folder(given, channels)
        elif channels > 1:
            raise InputError(
                f"{given} is one file and the model wants {channels} channels; give the folder or the dataset instead"
            )
        else:
            yield _Study(_case(_stem(given), (given,)), None)


def _check_channels(dataset: Dataset, wanted: Sequence[str]) -> None:
    """Refuse a dataset with other channels than the model's, or the same ones in another order."""
    came = list(dataset.channel_names)
    if len(came) != len(wanted) or (came != list(wanted) and sorted(came) == sorted(wanted)):
        raise InputError(
            f"{dataset.root} has the channels {', '.join(came)}; the model wants {', '.join(wanted)}, in this order"
        )


def _folder(folder: Path, channels: int) -> Iterator[_Study]:
    files = sorted(p for p in folder.iterdir() if p.name.endswith(SUFFIXES) and not p.name.startswith("."))
    if not files:
        raise InputError(
            f"{folder} holds no .nii or .nii.gz file; give a study, a folder of studies or a dataset folder"
        )
    if channels == 1:
        for file in files:
            yield _Study(_case(_stem(file), (file,)), None)
        return
    cases: dict[str, dict[str, Path]] = {}
    for file in files:
        name, _, number = _stem(file).rpartition("_")
        cases.setdefault(name, {})[number] = file
    wanted = [f"{i:04d}" for i in range(channels)]
    for name, found in cases.items():
        if sorted(found) != wanted:
            raise InputError(
                f"{folder}: {name or 'files'} with the endings {sorted(found)}; wanted one file a channel, named CASE_0000 to "
                f"CASE_{channels - 1:04d}"
            )
        yield _Study(_case(name, tuple(found[number] for number in wanted)), None)


def _case(name: str, images: tuple[Path, ...]) -> Case:
    return Case(name=name, subject=name, images=images, channels=len(images))


def _stem(path: Path) -> str:
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix)
    raise InputError(f"{path} is not a .nii or .nii.gz file; give NIfTI studies")


def _check_names(studies: Sequence[_Study], out_dir: Path) -> None:
    """Refuse names that come twice, and label maps that would replace the studies they are made from."""
    names = [study.case.name for study in studies]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise InputError(
            f"several inputs are named {doubled[0]}, and would overwrite one another; predict them to folders of their own"
        )
    sources = {path.resolve() for study in studies for path in study.case.images}
    for name in names:
        if (out_dir / f"{name}.nii.gz").resolve() in sources:
            raise InputError(
                f"{out_dir / name}.nii.gz is an input, and its label map would replace it; choose another -o"
            )


class _Tables:
    """What goes beside the label maps: volumes.csv, a row a frame and class, and prediction.json."""

    def __init__(self, model: TrainedModel):
        self.model = model
        self.rows: list[list[object]] = [["case", "frame", "time_s", "class", "value", "volume_ml"]]
        self.cases: dict[str, dict[str, str]] = {}

    def add(self, case: str, label: np.ndarray, image: Image4D, time: str | None) -> None:
        """Take in one segmented study: its label (T, X, Y, Z) in label values."""
        named = list(self.model.task.labels.items())[1:]
        volumes = volumes_ml(label, [value for _, value in named], voxel_volume_ml(image.affine))
        step = image.frame_duration_s
        self.rows += [
            [case, t, "" if step is None else round(t * step, 6), name, value, round(float(volumes[t, k]), 6)]
            for t in range(len(label))
            for k, (name, value) in enumerate(named)
        ]
        self.cases[case] = {"image": str(image.source), "time": time or self._time()}

    def write(self, out_dir: Path) -> None:
        """Write both files."""
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows(self.rows)
        write_text(out_dir / VOLUMES, table.getvalue())
        about = {
            "labels": self.model.task.labels,
            "model": str(self.model.path),
            "version": unet4d.__version__,
            "cases": self.cases,
        }
        write_json(out_dir / ABOUT, about)

    def _time(self) -> str:
        return "cyclic" if self.model.task.cyclic else "open"
