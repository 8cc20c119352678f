"""The files of a case.

OUT/<case>.nii.gz                                       nifti: 4D label map under the study's own header
OUT/<case>.seq.nrrd                                     seq.nrrd: 3D Slicer's sequence of label volumes
OUT/<case>_seg/<case>_frame000.seg.nrrd                 seg.nrrd: 3D Slicer's segmentations, one a frame
OUT/<case>_probabilities/<value>_<class>.nii.gz         (X, Y, Z, T) float32, one a class, background included

Probabilities have a folder of their own, so that no command takes them for label maps; a file a class, so that each opens in any
viewer as a 4D image and none is larger than the study itself.
"""

from __future__ import annotations

import contextlib
import glob
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from unet4d.images.image4d import ImageInfo, write_image
from unet4d.images.label_writers import LabelClass, write_segmentation, write_sequence
from unet4d.report.pictures.render import class_color
from unet4d.system.files import remove_partial

Format = Literal["nifti", "seq.nrrd", "seg.nrrd"]
FORMATS: tuple[Format, ...] = get_args(Format)
PROBABILITIES = "probabilities"
"""Stands beside the formats where `places` is asked for the files of probabilities."""


def shown_classes(labels: Mapping[str, int]) -> list[LabelClass]:
    """The classes but the background, in the colours of every picture."""
    return [LabelClass(name, value, class_color(value)) for name, value in labels.items() if value]


def places(out: Path, case: str, formats: Sequence[str]) -> list[Path]:
    """The file or folder of a case in each of the formats."""
    names = {
        "nifti": f"{case}.nii.gz",
        "seq.nrrd": f"{case}.seq.nrrd",
        "seg.nrrd": f"{case}_seg",
        PROBABILITIES: f"{case}_probabilities",
    }
    return [out / names[one] for one in formats]


def write_label(
    out: Path, case: str, label: np.ndarray, like: ImageInfo, labels: Mapping[str, int], formats: Sequence[str]
) -> list[Path]:
    """Write a label map in each of the formats, each file whole or not at all.

    Args:
        label: (T, X, Y, Z) uint8, label values.
        like: the study.
        labels: class name to value.

    Returns:
        The files written.
    """
    written: list[Path] = []
    for one, place in zip(formats, places(out, case, formats), strict=True):
        remove_partial(place.parent, glob.escape(place.name))
        if one == "nifti":
            write_image(place, label, like=like)
            written.append(place)
        elif one == "seq.nrrd":
            write_sequence(place, label, like.affine, shown_classes(labels), like.frame_duration_s)
            written.append(place)
        else:
            written += _write_frames(place, case, label, like, labels)
    return written


def write_probabilities(
    out: Path, case: str, probabilities: np.ndarray, like: ImageInfo, labels: Mapping[str, int]
) -> list[Path]:
    """Write each class's probability (K, T, X, Y, Z), in the order of `labels`; gives the files."""
    [folder] = places(out, case, [PROBABILITIES])
    written: list[Path] = []
    for (name, value), probability in zip(labels.items(), probabilities, strict=True):
        written.append(folder / f"{value}_{_slug(name)}.nii.gz")
        write_image(written[-1], probability, like=like)
    remove_partial(folder, "*")
    return written


def probability_bytes(like: ImageInfo, classes: int) -> int:
    """The most that the files of probabilities of a study can take; compressed they take less."""
    x, y, z = like.grid
    return 4 * classes * like.frames * x * y * z


def _write_frames(folder: Path, case: str, label: np.ndarray, like: ImageInfo, labels: Mapping[str, int]) -> list[Path]:
    digits = max(3, len(str(len(label) - 1)))
    written = [folder / f"{case}_frame{t:0{digits}d}.seg.nrrd" for t in range(len(label))]
    for path, frame in zip(written, label, strict=True):
        write_segmentation(path, frame, like.affine, shown_classes(labels))
    remove_partial(folder, "*")
    for path in folder.glob(f"{glob.escape(case)}_frame*.seg.nrrd"):
        if path not in written:  # of an earlier prediction, with more frames
            with contextlib.suppress(OSError):
                path.unlink()
    return written


def _slug(name: str) -> str:
    """A class's name as part of a file's."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "class"
