"""Phantom studies written as others lay them out: ACDC's archive, nnU-Net's raw data."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np

from unet4d.images.image4d import Image4D, write_image
from unet4d.phantom.cine import CINE_LABELS as LABELS
from unet4d.phantom.cine import make_cine
from unet4d.phantom.phantom_study import PhantomStudy

FRAMES, SHAPE = 4, (32, 32, 4)


@cache
def phantom_study(seed: int) -> PhantomStudy:
    """One subject, 4 frames of 32 x 32 x 4 voxels."""
    return make_cine((7, seed), FRAMES, shape=SHAPE)


def image_of(seed: int, frame_duration_s: float | None = None) -> Image4D:
    study = phantom_study(seed)
    return Image4D.from_array(study.image, study.affine, frame_duration_s)


def frame_of(image: Image4D, t: int) -> Image4D:
    """One frame under a header of three axes."""
    return Image4D.from_array(image.array[:, t : t + 1], image.affine)


def write(path: Path, array: np.ndarray, like: Image4D) -> Path:
    write_image(path, array, like=like)
    return path


def write_patient(
    folder: Path,
    seed: int = 0,
    drawn: tuple[int, ...] = (0, 2),
    info: str = "ED: 1\nES: 3\nGroup: DCM\nHeight: 184.0\nNbFrame: 4\nWeight: 95.0\n",
    suffix: str = ".nii.gz",
    frame_duration_s: float | None = None,
) -> Path:
    """A patient's folder of ACDC; `drawn` counts from 0."""
    study, image, name = phantom_study(seed), image_of(seed, frame_duration_s), folder.name
    write(folder / f"{name}_4d{suffix}", study.image.astype(np.int16), image)
    for t in drawn:
        one = frame_of(image, t)
        write(folder / f"{name}_frame{t + 1:02d}{suffix}", study.image[t].astype(np.int16), one)
        write(folder / f"{name}_frame{t + 1:02d}_gt{suffix}", study.label[t], one)
    (folder / "Info.cfg").write_text(info)
    (folder / "MANDATORY_CITATION.md").write_text("cite")
    (folder / f"._{name}_4d.nii.gz").write_bytes(b"left by a Mac")
    return folder


def nnunet_json(root: Path, cases: int, **changes) -> Path:
    """dataset.json of nnU-Net; a change to None takes the key out."""
    entry = {"channel_names": {"0": "cine MRI"}, "labels": LABELS, "numTraining": cases, "file_ending": ".nii.gz"}
    entry |= changes
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps({k: v for k, v in entry.items() if v is not None}))
    return root


def write_nnunet_frames(root: Path, first: int = 1, step: int = 1, drawn: tuple[int, ...] = (0, 2)) -> Path:
    """Write two subjects, their frames as cases: anna_frame01_0000.nii.gz, ...; `drawn` counts from 0."""
    for seed, subject in enumerate(("anna", "ben")):
        image, study = image_of(seed), phantom_study(seed)
        for t in range(FRAMES):
            case, one = f"{subject}_frame{first + t * step:02d}", frame_of(image, t)
            write(root / "imagesTr" / f"{case}_0000.nii.gz", study.image[t].astype(np.int16), one)
            if t in drawn:
                write(root / "labelsTr" / f"{case}.nii.gz", study.label[t], one)
    return nnunet_json(root, 2 * FRAMES)


def write_nnunet_4d(root: Path, ending: str = ".nii.gz", channels: int = 1) -> Path:
    """Write two 4D training cases and a test case, one file per channel, with frame durations in the headers."""
    for seed, name in enumerate(("anna", "ben", "carl")):
        study, image = phantom_study(seed), image_of(seed, 0.05)
        part = "Ts" if name == "carl" else "Tr"
        for channel in range(channels):
            scaled = (study.image * (channel + 1)).astype(np.float32)
            write(root / f"images{part}" / f"{name}_{channel:04d}{ending}", scaled, image)
        if part == "Tr":
            write(root / "labelsTr" / f"{name}{ending}", study.label, image)
    (root / "imagesTr" / f"._anna_0000{ending}").write_bytes(b"left by a Mac")
    names = {str(i): ("cine MRI" if i == 0 else f"channel {i}") for i in range(channels)}
    return nnunet_json(root, 2, channel_names=names, file_ending=ending)
