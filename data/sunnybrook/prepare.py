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
import pydicom
from matplotlib.path import Path as Polygon
from tqdm import tqdm

from unet4d.data.convert import Options, find
from unet4d.data.image4d import Image4D, write_image
from unet4d.errors import InputError
from unet4d.files import write_json

_CASE = re.compile(r"SC-(?:HF-I|HF-NI|HYP|N)-\d+")
_SUFFIX = "-icontour-manual.txt"


def prepare(dicom: Path, contours: Path, out: Path) -> Path:
    """Write a 4D study and a 4D label for every case with inner contours.

    Raises:
        InputError: no contours, a contour without its DICOM file, or a series that is no 4D study.
    """
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty; wanted a new or empty folder; choose another")
    drawn = _by_case(contours.rglob(f"*{_SUFFIX}"))
    if not drawn:
        raise InputError(f"{contours} holds no SC-*/**/*{_SUFFIX}; give the folder of the manual contours")
    files = _by_case(dicom.rglob("*.dcm"))
    training = []
    for case, texts in tqdm(sorted(drawn.items()), "sunnybrook", unit="case", disable=None):
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
        entry: dict[str, Any] = {"case": case, "subject": case, "image": f"images/{name}", "label": f"labels/{name}"}
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
    """Files by the case whose folder they lie in; SC-HF-I-1 and SC-HF-I-01 are one."""
    found: dict[str, list[Path]] = {}
    for file in sorted(files):
        names = [part for part in file.parts if _CASE.fullmatch(part)]
        if names:
            kind, number = names[-1].rsplit("-", 1)
            found.setdefault(f"{kind}-{int(number):02d}", []).append(file)
    return found


def _drawn(pairs: list[tuple[Path, Path]]) -> tuple[Image4D, np.ndarray]:
    """The study that holds these DICOM files, and its label (T, X, Y, Z) from their contours."""
    folder = pairs[0][0].parent
    holds = [study for study in find("dicom", folder, Options()).studies if pairs[0][0] in study.files]
    if len(holds) != 1:
        raise InputError(f"{folder}: {len(holds)} series hold {pairs[0][0].name}; wanted one; remove the others")
    image = holds[0].image()
    label = np.zeros(image.array.shape[1:], np.uint8)
    for file, text in pairs:
        plane, pixels = _plane(file, image)
        frames = [t for t, frame in enumerate(image.array[0]) if np.array_equal(frame[plane], pixels)]
        if not frames:
            raise InputError(f"{file}: its pixels are in no frame of its series; wanted one; download it again")
        columns, rows = np.indices(pixels.shape)
        inside = Polygon(np.loadtxt(text, ndmin=2)).contains_points(np.stack([columns.ravel(), rows.ravel()], 1))
        label[frames[0]][plane] |= inside.reshape(pixels.shape)
    return image, label


def _plane(file: Path, image: Image4D) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Where the pixels (column, row) of a file lie in the study, as indices into (X, Y, Z), and their values."""
    header = pydicom.dcmread(file)
    stored = header.pixel_array.T.astype(np.float32)
    values = stored * float(header.get("RescaleSlope", 1)) + float(header.get("RescaleIntercept", 0))
    across, down = np.reshape([float(x) for x in header.ImageOrientationPatient], (2, 3))
    row_mm, column_mm = (float(x) for x in header.PixelSpacing)
    columns, rows = np.indices(values.shape)
    places = across * column_mm * columns[..., None] + down * row_mm * rows[..., None]
    world = (places + [float(x) for x in header.ImagePositionPatient]) * [-1, -1, 1]  # LPS to RAS
    back = np.linalg.inv(image.affine)
    voxels = np.rint(world @ back[:3, :3].T + back[:3, 3]).astype(int)
    return tuple(np.moveaxis(voxels, -1, 0)), values


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("dicom", "contours", "out"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args()
    try:
        print(prepare(given.dicom, given.contours, given.out))
    except InputError as error:
        parser.error(str(error))
