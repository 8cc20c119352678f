"""`unet4d predict`: new studies in, 4D label maps with the study's own header out."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import unet4d
from unet4d.config import Precision
from unet4d.data.dataset import Case, read_dataset, to_values
from unet4d.data.grid import WorkingGrid
from unet4d.data.image4d import Image4D, write_image
from unet4d.data.transforms import normalised
from unet4d.errors import InputError
from unet4d.files import write_json, write_text
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
    """
    wanted = model.task.channel_names
    if image.channels != len(wanted):
        raise InputError(
            f"{image.source or 'the image'} has {image.channels} channels; the model wants {len(wanted)} ({', '.join(wanted)})"
        )
    if time not in (None, "cyclic", "open"):
        raise InputError(f"time is {time!r}; wanted 'cyclic' or 'open'")
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
    trained = load_model(model, where)
    if overlap is not None:
        trained.config.inference.overlap = overlap
    if sw_batch_size is not None:
        trained.config.inference.sw_batch_size = sw_batch_size
    trained.config.inference.__post_init__()
    studies = list(_studies(inputs, len(trained.task.channel_names)))
    _check_names(studies)
    out_dir = Path(out_dir)
    written: list[Path] = []
    rows: list[list[object]] = []
    failed: list[str] = []
    for study in tqdm(studies, "segmenting", unit="study", disable=None):
        try:
            image = study.case.image()
            label = segment(trained, image, time=time or study.time, precision=precision)
            path = out_dir / f"{study.case.name}.nii.gz"
            write_image(path, label, like=image)
        except InputError as error:
            failed.append(f"{study.case.name}: {error}")
            continue
        written.append(path)
        rows += _volume_rows(study.case.name, label, image, trained.task.labels)
    if written:
        _write_tables(out_dir, trained, rows)
    if failed:
        listed = "; ".join(failed)
        raise InputError(
            f"{len(failed)} of {len(studies)} studies could not be segmented, the others are in {out_dir}: {listed}"
        )
    return written


@dataclass(frozen=True)
class _Study:
    case: Case
    time: str | None


def _studies(inputs: Sequence[str | os.PathLike[str]], channels: int) -> Iterator[_Study]:
    """Every study that the inputs name, in a stable order."""
    for given in map(Path, inputs):
        if given.name == "dataset.json" or (given / "dataset.json").is_file():
            dataset = read_dataset(given)
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


def _check_names(studies: Sequence[_Study]) -> None:
    names = [study.case.name for study in studies]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise InputError(
            f"several inputs are named {doubled[0]}, and would overwrite one another; predict them to folders of their own"
        )


def _volume_rows(case: str, label: np.ndarray, image: Image4D, labels: dict[str, int]) -> list[list[object]]:
    """Rows (case, frame, time_s, class, value, volume_ml) of every frame and foreground class."""
    named = list(labels.items())[1:]
    volumes = volumes_ml(label, [value for _, value in named], voxel_volume_ml(image.affine))
    step = image.frame_duration_s
    return [
        [case, t, "" if step is None else round(t * step, 6), name, value, round(float(volumes[t, k]), 4)]
        for t in range(len(label))
        for k, (name, value) in enumerate(named)
    ]


def _write_tables(out_dir: Path, model: TrainedModel, rows: list[list[object]]) -> None:
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(
        [["case", "frame", "time_s", "class", "value", "volume_ml"], *rows]
    )
    write_text(out_dir / VOLUMES, table.getvalue())
    about = {
        "labels": model.task.labels,
        "time": "cyclic" if model.task.cyclic else "open",
        "model": str(model.path),
        "version": unet4d.__version__,
    }
    write_json(out_dir / ABOUT, about)
