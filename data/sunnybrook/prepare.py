"""Sunnybrook Cardiac Data as downloaded (DICOM and text contours) to a dataset folder with the left ventricle's cavity as label.

    python data/sunnybrook/prepare.py DICOM_FOLDER CONTOURS_FOLDER DATASET

Both folders hold one folder a case, SC-HF-I-01 and the like, wherever in them; a contour belongs to the DICOM file of its name:
IM-0001-0048-icontour-manual.txt to IM-0001-0048.dcm.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.path import Path as Polygon

from unet4d.datasets.writer import fill_dataset_folder
from unet4d.errors import InputError, Unet4DError
from unet4d.images.dicom.file_search import search_dicom_files
from unet4d.images.dicom.grouping import group_into_studies
from unet4d.images.dicom.volume4d import read_dicom_voxels, stack_planes
from unet4d.images.image4d import Image4D, write_image
from unet4d.system.files import write_json
from unet4d.system.progress_bar import ProgressBar

_CASE = re.compile(r"SC-(?:HF-I|HF-NI|HYP|N)-\d+")
_SUFFIX = "-icontour-manual.txt"


def prepare(dicom: Path, contours: Path, out: Path) -> Path:
    """Write a 4D study and a 4D label for every case with inner contours.

    Raises:
        InputError: no contours, a contour without its DICOM file, or a series that is no 4D study.
    """
    drawn = _by_case(contours.rglob(f"*{_SUFFIX}"))
    if not drawn:
        raise InputError(f"{contours} holds no SC-*/**/*{_SUFFIX}; give the folder of the manual contours")
    files = _by_case(dicom.rglob("*.dcm"))
    training = []
    with fill_dataset_folder(out):
        for case, texts in ProgressBar(sorted(drawn.items()), "sunnybrook", unit="case"):
            known = {file.stem: file for file in files.get(case, [])}
            missing = [text for text in texts if text.name.removesuffix(_SUFFIX) not in known]
            if missing:
                raise InputError(
                    f"{missing[0]}: {dicom} has no DICOM file of this name for {case}; download both parts whole"
                )
            pairs = [(known[text.name.removesuffix(_SUFFIX)], text) for text in texts]
            image, label = _drawn(pairs)
            frames = np.flatnonzero(label.any((1, 2, 3))).tolist()
            name = f"{case}.nii.gz"
            write_image(out / "images" / name, image.array[0], like=image)
            write_image(out / "labels" / name, label, like=image)
            entry: dict[str, Any] = {
                "case": case,
                "subject": case,
                "image": f"images/{name}",
                "label": f"labels/{name}",
            }
            training.append({**entry, "labelled_frames": frames})
        about = {
            "name": "Sunnybrook Cardiac Data",
            "licence": "CC0-1.0",
            "reference": "Radau et al., The MIDAS Journal, Cardiac MR Left Ventricle Segmentation Challenge, hdl 10380/3070",
            "channel_names": {"0": "cine MRI"},
            "labels": {"background": 0, "left ventricle": 1},
            "time": "cyclic",
            "training": training,
        }
        write_json(out / "dataset.json", about)
    return out / "dataset.json"


def _by_case(files: Any) -> dict[str, list[Path]]:
    """Map each case to the files in its folder; SC-HF-I-1 and SC-HF-I-01 are one."""
    found: dict[str, list[Path]] = {}
    for file in sorted(files):
        names = [part for part in file.parts if _CASE.fullmatch(part)]
        if names:
            kind, number = names[-1].rsplit("-", 1)
            found.setdefault(f"{kind}-{int(number):02d}", []).append(file)
    return found


def _drawn(pairs: list[tuple[Path, Path]]) -> tuple[Image4D, np.ndarray]:
    """Read the study of these DICOM files, and its label (T, X, Y, Z) from their contours: X counts columns, Y rows."""
    folder = pairs[0][0].parent
    holds = [one for one in group_into_studies(search_dicom_files(folder)) if pairs[0][0] in one.files]
    if len(holds) != 1:
        raise InputError(f"{folder}: {len(holds)} series hold {pairs[0][0].name}; wanted one; remove the others")
    stack = stack_planes(holds[0].planes, str(folder))
    image = Image4D.from_array(read_dicom_voxels(stack), stack.affine, stack.frame_duration_s)
    places = {plane.file: (t, z) for t, frame in enumerate(stack.planes) for z, plane in enumerate(frame)}
    label = np.zeros(image.array.shape[1:], np.uint8)
    for file, text in pairs:
        if file not in places:
            raise InputError(
                f"{file} is not of the series of {pairs[0][0]}; wanted one series a case; move the others away"
            )
        t, z = places[file]
        label[t, :, :, z] |= _filled(text, image.grid[:2])
    return image, label


def _filled(text: Path, size: tuple[int, ...]) -> np.ndarray:
    """Return whether the center of each pixel (X, Y) lies inside a contour."""
    try:
        points = np.loadtxt(text, ndmin=2)
    except ValueError as error:
        raise InputError(
            f"{text} is no contour ({error}); wanted a column and a row a line; download it again"
        ) from error
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3:
        raise InputError(f"{text} holds {points.shape} numbers; wanted three points or more; download it again")
    pixels = np.stack([axis.ravel() for axis in np.indices(size)], 1)
    return Polygon(points).contains_points(pixels).reshape(size)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("dicom", "contours", "out"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args()
    try:
        print(prepare(given.dicom, given.contours, given.out))
    except Unet4DError as error:
        parser.error(str(error))
