"""Phantom subjects as a dataset folder, with the truth beside it.

OUT/images/phantom001.nii.gz    the study; of several channels phantom001_0000.nii.gz, phantom001_0001.nii.gz, ...
OUT/labels/phantom001.nii.gz    what training may see; with two labelled frames the others are zero, as in ACDC
OUT/truth/phantom001.nii.gz     the exact label of every frame
OUT/truth/volumes.csv           case, frame, time_s, class, volume_ml (of the label), shape_volume_ml (of the shape)
OUT/truth/subjects.json         per subject: what else is known, such as the ejection fraction, and how it was made
OUT/dataset.json                written last: a folder without it is incomplete
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unet4d.config import Size
from unet4d.datasets.writer import fill_dataset_folder
from unet4d.errors import InputError
from unet4d.images.channels import SIGNAL, VELOCITIES, channels_of_kind
from unet4d.images.image4d import Image4D, write_image
from unet4d.images.nifti import header_for, write_nifti
from unet4d.phantom.cine import CINE_LABELS, check_cine, make_cine
from unet4d.phantom.phantom_study import Array, PhantomStudy, PhantomType
from unet4d.system.csv_file import Table
from unet4d.system.documents import write_document
from unet4d.system.files import replacing, write_json, write_text
from unet4d.system.progress_bar import ProgressBar
from unet4d.system.text import short_repr

TRUE_VOLUMES = Table(
    "truth/volumes.csv",
    "case, frame and class",
    {
        "case": "name of the study",
        "frame": "number of the frame, from 0",
        "time_s": "time of the frame from the first, s",
        "class": "name of the class",
        "volume_ml": "volume of the label, mL",
        "shape_volume_ml": "volume of the shape before it was sampled into voxels, mL",
    },
)
MOST_SUBJECTS = 100_000


def write_phantom(
    out_dir: str | os.PathLike[str],
    subjects: int,
    frames: int,
    labelled: str = "all",
    ambiguous: float = 0.0,
    seed: int = 0,
    shape: Size | None = None,
) -> Path:
    """Write a dataset of beating hearts and return the path of its dataset.json.

    Args:
        out_dir: a new or empty folder, or one that was stopped before its dataset.json.
        subjects: number of subjects; a subject does not depend on how many others there are.
        frames: T.
        labelled: "all" frames, or "two" (end-diastole and end-systole).
        ambiguous: fraction of frames that hide the heart's borders, see `make_cine`.
        seed: 0 or above; the same arguments give the same arrays.
        shape: (X, Y, Z); drawn for each subject if None.

    Raises:
        InputError: a folder in use, or numbers out of range.
    """
    check_cine(frames, ambiguous, shape)
    cine = PhantomType(
        "beating heart phantom",
        "Synthetic short-axis cine MRI with exact labels",
        ("cine MRI",),
        (SIGNAL,),
        CINE_LABELS,
        "cyclic",
        lambda source: make_cine(source, frames, ambiguous, shape),
    )
    return write_subjects(out_dir, cine, subjects, labelled, seed)


def write_subjects(
    out_dir: str | os.PathLike[str], phantom: PhantomType, subjects: int, labelled: str = "all", seed: int = 0
) -> Path:
    """Write a dataset of one type of phantom; arguments, result and errors as `write_phantom`."""
    out = Path(out_dir)
    _check(subjects, labelled, seed)
    rows: list[Sequence[Any]] = []
    truth, training = {}, []
    with fill_dataset_folder(out):
        for index in ProgressBar(range(subjects), desc="phantom", unit="subject"):
            case = f"phantom{index + 1:03d}"
            study = phantom.make((seed, index))
            training.append(_write_subject(out, case, study, labelled))
            rows += _volume_rows(case, study, phantom)
            truth[case] = study.truth
        write_text(out / TRUE_VOLUMES.file, TRUE_VOLUMES.text(rows))
        write_json(out / "truth" / "subjects.json", truth)
        write_document(out / "dataset.json", "dataset", _description(phantom, training, seed))
    return out / "dataset.json"


def _check(subjects: int, labelled: str, seed: int) -> None:
    if subjects < 1:
        raise InputError(f"subjects is {subjects}, expected at least 1; give --subjects 1 or more")
    if subjects > MOST_SUBJECTS:
        raise InputError(f"subjects is {short_repr(subjects)}, expected at most {MOST_SUBJECTS}; give fewer --subjects")
    if labelled not in ("all", "two"):
        raise InputError(f"labelled is {labelled!r}, expected all (every frame) or two; choose one of them")
    if not 0 <= seed < 2**64:
        raise InputError(f"seed is {short_repr(seed)}, expected 0 or above, and below 2**64; give another --seed")


def _write_subject(out: Path, case: str, study: PhantomStudy, labelled: str) -> dict[str, Any]:
    """Write images, label and truth; return the subject's entry in dataset.json."""
    like = Image4D.from_array(study.image, study.affine, study.frame_duration_s)
    images = [f"images/{case}_{channel:04d}.nii.gz" for channel in range(len(study.channels))]
    if len(images) == 1:
        images = [f"images/{case}.nii.gz"]
    name = f"{case}.nii.gz"
    entry: dict[str, Any] = {"case": case, "subject": case}
    entry |= {"image": images if len(images) > 1 else images[0], "label": f"labels/{name}"}
    label = study.label
    if labelled == "two":
        entry["labelled_frames"] = sorted(set(study.labelled_frames))
        label = np.zeros_like(study.label)
        label[entry["labelled_frames"]] = study.label[entry["labelled_frames"]]
    for path, channel in zip(images, study.channels, strict=True):
        _write_channel(out / path, channel, like)
    write_image(out / "labels" / name, label, like=like)
    write_image(out / "truth" / name, study.label, like=like)
    return {**entry, "frame_duration_s": study.frame_duration_s}


def _write_channel(path: Path, channel: Array, like: Image4D) -> None:
    """Write (T, X, Y, Z) as a 4D file, or a map (X, Y, Z) as a 3D one."""
    values = channel.astype(np.int16)
    if values.ndim == 4:
        write_image(path, values, like=like)
        return
    with replacing(path) as temporary:
        write_nifti(temporary, header_for(like.header, values.shape, values.dtype), [values])


def _volume_rows(case: str, study: PhantomStudy, phantom: PhantomType) -> list[Sequence[Any]]:
    """Return one CSV row per frame and foreground class."""
    foreground = [(name, value) for name, value in phantom.labels.items() if value]
    volumes = np.stack([study.volumes_ml, study.shape_volumes_ml], axis=-1)  # (T, K, 2)
    return [
        (case, t, f"{t * study.frame_duration_s:.6g}", name, *(f"{ml:.6g}" for ml in volumes[t, value]))
        for t in range(len(study.image))
        for name, value in foreground
    ]


def _description(phantom: PhantomType, training: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    kinds = {str(channel): kind for channel, kind in enumerate(phantom.channel_kinds) if kind != SIGNAL}
    return {
        "name": phantom.name,
        "description": f"{phantom.description}, seed {seed}",
        "licence": "Apache-2.0",
        "reference": "made by unet4d phantom",
        "channel_names": {str(channel): name for channel, name in enumerate(phantom.channel_names)},
        **({"channel_kinds": kinds} if kinds else {}),
        **({"velocity_unit": "mm/s"} if channels_of_kind(phantom.channel_kinds, *VELOCITIES) else {}),
        "labels": phantom.labels,
        "time": phantom.time,
        "training": training,
    }
