"""Phantom subjects as a dataset folder, with the truth beside it.

OUT/images/phantom001.nii.gz    the study; of several channels phantom001_0000.nii.gz, phantom001_0001.nii.gz, ...
OUT/labels/phantom001.nii.gz    what training may see; with two labelled frames the others are zero, as in ACDC
OUT/truth/phantom001.nii.gz     the exact label of every frame
OUT/truth/volumes.csv           case, frame, time_s, class, volume_ml (of the label), shape_volume_ml (of the shape)
OUT/truth/subjects.json         per subject: what else is known, such as the ejection fraction or the flow, and how it was made
OUT/dataset.json                written last: a folder without it is incomplete
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unet4d.datasets.writer import filling
from unet4d.errors import InputError
from unet4d.images.channels import SIGNAL
from unet4d.images.image4d import Image4D, write_image
from unet4d.images.nifti import header_for, write_nifti
from unet4d.phantom.cine import CINE
from unet4d.phantom.dce import DCE
from unet4d.phantom.flow import FLOW
from unet4d.phantom.study import Array, Kind, PhantomStudy, Shape
from unet4d.system.csv_file import csv_text
from unet4d.system.files import replacing, write_json, write_text
from unet4d.system.progress_bar import ProgressBar
from unet4d.system.text import short_repr

KINDS = {"cine": CINE, "flow": FLOW, "dce": DCE}
CSV_HEADER = ("case", "frame", "time_s", "class", "volume_ml", "shape_volume_ml")
MOST_SUBJECTS = 100_000


def write_phantom(
    out_dir: str | os.PathLike[str],
    subjects: int,
    frames: int,
    labelled: str = "all",
    ambiguous: float = 0.0,
    seed: int = 0,
    shape: Shape | None = None,
    kind: str = "cine",
) -> Path:
    """Write a phantom dataset and give the path of its dataset.json.

    Args:
        out_dir: a new or empty folder, or one that was stopped before its dataset.json.
        subjects: how many; a subject does not depend on how many others there are.
        frames: T.
        labelled: "all" frames, or "two" (cine: end-diastole and end-systole; flow: the fastest and the slowest; dce: the one in
            which most of the contrast agent is in the arteries, and the last).
        ambiguous: cine only: fraction of frames whose own picture does not suffice, see `make_cine`.
        seed: 0 or above; the same arguments give the same arrays.
        shape: (X, Y, Z); drawn for each subject if None.
        kind: "cine" (a beating heart), "flow" (4D flow of the great vessels) or "dce" (contrast uptake of the kidneys).

    Raises:
        InputError: a folder in use, or numbers out of range.
    """
    out = Path(out_dir)
    _check(subjects, labelled, seed, kind)
    made = KINDS[kind]
    made.check(frames, ambiguous, shape)
    rows: list[Sequence[Any]] = [CSV_HEADER]
    truth, training = {}, []
    with filling(out):
        for index in ProgressBar(range(subjects), desc="phantom", unit="subject"):
            case = f"phantom{index + 1:03d}"
            study = made.make((seed, index), frames, ambiguous, shape)
            training.append(_write_subject(out, case, study, labelled))
            rows += _volume_rows(case, study, made)
            truth[case] = study.truth
        write_text(out / "truth" / "volumes.csv", csv_text(rows))
        write_json(out / "truth" / "subjects.json", truth)
        write_json(out / "dataset.json", _description(made, training, seed))
    return out / "dataset.json"


def _check(subjects: int, labelled: str, seed: int, kind: str) -> None:
    if kind not in KINDS:
        raise InputError(f"kind is {kind!r}; wanted one of {', '.join(KINDS)}")
    if subjects < 1:
        raise InputError(f"subjects is {subjects}; wanted at least 1: give --subjects 1 or more")
    if subjects > MOST_SUBJECTS:
        raise InputError(f"subjects is {short_repr(subjects)}, expected at most {MOST_SUBJECTS}; give fewer --subjects")
    if labelled not in ("all", "two"):
        raise InputError(
            f"labelled is {labelled!r}; wanted all (every frame) or two (such as end-diastole and end-systole)"
        )
    if not 0 <= seed < 2**64:
        raise InputError(f"seed is {short_repr(seed)}; wanted 0 or above, and below 2**64")


def _write_subject(out: Path, case: str, study: PhantomStudy, labelled: str) -> dict[str, Any]:
    """Write images, label and truth; give the subject's entry in dataset.json."""
    like = Image4D.from_array(study.image, study.affine, study.frame_duration_s)
    images = [f"images/{case}_{channel:04d}.nii.gz" for channel in range(len(study.channels))]
    if len(images) == 1:
        images = [f"images/{case}.nii.gz"]
    name = f"{case}.nii.gz"
    entry: dict[str, Any] = {
        "case": case,
        "subject": case,
        "image": images if len(images) > 1 else images[0],
        "label": f"labels/{name}",
    }
    label = study.label
    if labelled == "two":
        entry["labelled_frames"] = sorted(set(study.drawn_frames))
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


def _volume_rows(case: str, study: PhantomStudy, kind: Kind) -> list[Sequence[Any]]:
    """Return one CSV row per frame and foreground class."""
    return [
        (
            case,
            t,
            f"{t * study.frame_duration_s:.6g}",
            name,
            f"{study.volumes_ml[t, value]:.6g}",
            f"{study.shape_volumes_ml[t, value]:.6g}",
        )
        for t in range(len(study.image))
        for name, value in kind.labels.items()
        if value
    ]


def _description(kind: Kind, training: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    kinds = {str(channel): name for channel, name in enumerate(kind.channel_kinds) if name != SIGNAL}
    return {
        "name": kind.name,
        "description": f"{kind.description}, seed {seed}",
        "licence": "Apache-2.0",
        "reference": "made by unet4d phantom",
        "channel_names": {str(channel): name for channel, name in enumerate(kind.channel_names)},
        **({"channel_kinds": kinds} if kinds else {}),
        "labels": kind.labels,
        "time": kind.time,
        "training": training,
    }
