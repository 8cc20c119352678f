"""The files of a case, in each output format.

OUT/<case>.nii.gz                                       nifti: 4D label map under the study's own header
OUT/<case>.seq.nrrd                                     seq.nrrd: 3D Slicer's sequence of label volumes
OUT/<case>_seg/<case>_frame000.seg.nrrd                 seg.nrrd: 3D Slicer's segmentations, one per frame
OUT/<case>_seg.dcm, ...                                 dicom-seg, dicom-seg-frames, dicom-sr, dicom-sc: see report/dicom/write.py
OUT/<case>_probabilities/<value>_<class>.nii.gz         (X, Y, Z, T) float32, one per class, background included; or one
                                                        per region, numbered from 1

Probabilities have a folder of their own, so that no command takes them for label maps. One file per class opens in any viewer as a
4D image, and none is larger than the study itself.
"""

from __future__ import annotations

import contextlib
import glob
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from unet4d.images.image4d import ImageInfo, write_image
from unet4d.images.label_writers import LabelClass, write_segmentation, write_sequence
from unet4d.report.dicom.result import DicomResult
from unet4d.report.dicom.write import DICOM_FORMATS, DICOM_NAMES, write_dicom
from unet4d.report.pictures.render import class_color
from unet4d.system.files import remove_partial

LABEL_FORMATS = ("nifti", "seq.nrrd", "seg.nrrd", *DICOM_FORMATS)
PROBABILITIES = "probabilities"
"""An output beside the formats of label maps."""
_NAMES = {
    "nifti": "{}.nii.gz", "seq.nrrd": "{}.seq.nrrd", "seg.nrrd": "{}_seg", PROBABILITIES: "{}_probabilities", **DICOM_NAMES,
}  # fmt: skip


def foreground_classes(labels: Mapping[str, int]) -> list[LabelClass]:
    """Return the classes but the background, in the colors of every picture."""
    return [LabelClass(name, value, class_color(value)) for name, value in labels.items() if value]


def case_paths(out: Path, case: str, outputs: Sequence[str]) -> list[Path]:
    """Return the file or folder of a case in each of the outputs."""
    return [out / _NAMES[output].format(case) for output in outputs]


def write_label(
    out: Path,
    case: str,
    label: np.ndarray,
    info: ImageInfo,
    labels: Mapping[str, int],
    formats: Sequence[str],
    dicom: DicomResult | None = None,
) -> list[Path]:
    """Write a label map (T, X, Y, Z) uint8 in each of the formats, each file whole or not at all; return the files.

    `dicom` is the same label map with the images that it is of; None writes no DICOM.
    """
    written: list[Path] = []
    if dicom is not None:
        written += write_dicom(out, case, dicom, [name for name in formats if name in DICOM_FORMATS])
    for name, path in zip(formats, case_paths(out, case, formats), strict=True):
        remove_partial(path.parent, glob.escape(path.name))
        if name in DICOM_FORMATS:
            remove_partial(path, "*")
            continue
        if name == "nifti":
            write_image(path, label, like=info)
            written.append(path)
        elif name == "seq.nrrd":
            write_sequence(path, label, info.affine, foreground_classes(labels), info.frame_duration_s)
            written.append(path)
        else:
            written += _write_frames(path, case, label, info, labels)
    return written


def write_probabilities(
    out: Path, case: str, probabilities: np.ndarray, info: ImageInfo, outputs: Mapping[str, int]
) -> list[Path]:
    """Write the probability (K, T, X, Y, Z) of each class, or region, by name with its number; return the files."""
    [folder] = case_paths(out, case, [PROBABILITIES])
    written: list[Path] = []
    for (name, value), probability in zip(outputs.items(), probabilities, strict=True):
        slug = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "class"
        written.append(folder / f"{value}_{slug}.nii.gz")
        write_image(written[-1], probability, like=info)
    remove_partial(folder, "*")
    return written


def _write_frames(folder: Path, case: str, label: np.ndarray, info: ImageInfo, labels: Mapping[str, int]) -> list[Path]:
    digits = max(3, len(str(len(label) - 1)))
    written = [folder / f"{case}_frame{t:0{digits}d}.seg.nrrd" for t in range(len(label))]
    for path, frame in zip(written, label, strict=True):
        write_segmentation(path, frame, info.affine, foreground_classes(labels))
    remove_partial(folder, "*")
    for path in folder.glob(f"{glob.escape(case)}_frame*.seg.nrrd"):
        if path not in written:  # of an earlier prediction with more frames
            with contextlib.suppress(OSError):
                path.unlink()
    return written
