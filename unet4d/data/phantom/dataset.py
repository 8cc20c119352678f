"""Phantom subjects as a dataset folder, with the truth beside it.

OUT/images/phantom001.nii.gz    the study
OUT/labels/phantom001.nii.gz    what training may see; with two labelled frames the others are zero, as in ACDC
OUT/truth/phantom001.nii.gz     the exact label of every frame
OUT/truth/volumes.csv           case, frame, time_s, class, volume_ml (of the label), shape_volume_ml (of the shape)
OUT/truth/subjects.json         per subject: ED and ES frame, ejection fraction, ambiguous frames, how it was made
OUT/dataset.json                written last: a folder without it is incomplete
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from unet4d.data.image4d import Image4D, write_image
from unet4d.data.phantom.study import LABELS, PhantomStudy, check_request, make_study
from unet4d.errors import InputError, Unet4DError
from unet4d.files import write_json, write_text

CSV_HEADER = "case,frame,time_s,class,volume_ml,shape_volume_ml"


def write_phantom(
    out_dir: str | os.PathLike[str],
    subjects: int,
    frames: int,
    labelled: str = "all",
    ambiguous: float = 0.0,
    seed: int = 0,
    shape: tuple[int, int, int] | None = None,
) -> Path:
    """Write a phantom dataset and give the path of its dataset.json.

    Args:
        out_dir: a new or empty folder.
        subjects: how many; a subject does not depend on how many others there are.
        frames: T.
        labelled: "all" frames, or "two" (end-diastole and end-systole).
        ambiguous: fraction of frames whose own picture does not suffice, see `make_study`.
        seed: 0 or above; the same arguments give the same arrays.
        shape: (X, Y, Z); drawn for each subject if None.

    Raises:
        InputError: a folder in use, or numbers out of range.
    """
    out = Path(out_dir)
    _check(subjects, frames, labelled, ambiguous, seed, shape)
    _claim(out)
    rows, truth, training = [CSV_HEADER], {}, []
    for index in tqdm(range(subjects), desc="phantom", unit="subject", disable=None):
        case = f"phantom{index + 1:03d}"
        study = make_study((seed, index), frames, ambiguous, shape)
        training.append(_write_subject(out, case, study, labelled))
        rows += _volume_rows(case, study)
        truth[case] = _truth(study)
    write_text(out / "truth" / "volumes.csv", "\n".join(rows) + "\n")
    write_json(out / "truth" / "subjects.json", truth)
    write_json(out / "dataset.json", _description(training, seed))
    return out / "dataset.json"


def _check(
    subjects: int, frames: int, labelled: str, ambiguous: float, seed: int, shape: tuple[int, int, int] | None
) -> None:
    if subjects < 1:
        raise InputError(f"subjects is {subjects}; wanted at least 1: give --subjects 1 or more")
    if labelled not in ("all", "two"):
        raise InputError(f"labelled is {labelled!r}; wanted all (every frame) or two (end-diastole and end-systole)")
    if seed < 0:
        raise InputError(f"seed is {seed}; wanted 0 or above")
    check_request(frames, ambiguous, shape)


def _claim(out: Path) -> None:
    """Make the folder; refuse one that holds anything."""
    if (out / "dataset.json").exists():
        raise InputError(f"{out} holds a dataset already; give a new folder, or remove this one first")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; wanted a new or empty folder: give another path")
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty; wanted a new or empty folder: give another path or empty it first")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unet4DError(f"could not make {out}: {error.strerror}; choose another folder") from error


def _write_subject(out: Path, case: str, study: PhantomStudy, labelled: str) -> dict[str, Any]:
    """Write image, label and truth; give the subject's entry in dataset.json."""
    image = Image4D.from_array(study.image, study.affine, study.frame_duration_s)
    name = f"{case}.nii.gz"
    entry: dict[str, Any] = {"case": case, "subject": case, "image": f"images/{name}", "label": f"labels/{name}"}
    label = study.label
    if labelled == "two":
        entry["labelled_frames"] = sorted({study.ed_frame, study.es_frame})
        label = np.zeros_like(study.label)
        label[entry["labelled_frames"]] = study.label[entry["labelled_frames"]]
    write_image(out / "images" / name, study.image.astype(np.int16), like=image)
    write_image(out / "labels" / name, label, like=image)
    write_image(out / "truth" / name, study.label, like=image)
    return {**entry, "frame_duration_s": study.frame_duration_s}


def _volume_rows(case: str, study: PhantomStudy) -> list[str]:
    """One CSV row a frame and foreground class."""
    return [
        f"{case},{t},{t * study.frame_duration_s:.6g},{name},"
        f"{study.volumes_ml[t, value]:.6g},{study.shape_volumes_ml[t, value]:.6g}"
        for t in range(len(study.image))
        for name, value in LABELS.items()
        if value
    ]


def _truth(study: PhantomStudy) -> dict[str, Any]:
    return {
        "ed_frame": study.ed_frame,
        "es_frame": study.es_frame,
        "ejection_fraction": round(study.ejection_fraction, 4),
        "heart_rate_bpm": round(study.heart_rate_bpm, 2),
        "frame_duration_s": study.frame_duration_s,
        "ambiguous_frames": list(study.ambiguous),
        "ambiguous_kinds": list(study.ambiguous_kinds),
        "affine": study.affine.tolist(),
        "parameters": study.parameters,
    }


def _description(training: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    return {
        "name": "beating heart phantom",
        "description": f"Synthetic short-axis cine MRI with exact labels, seed {seed}",
        "licence": "Apache-2.0",
        "reference": "made by unet4d phantom",
        "channel_names": {"0": "cine MRI"},
        "labels": LABELS,
        "time": "cyclic",
        "training": training,
    }
