"""The ACDC challenge's layout, as its archive unpacks (Bernard et al., IEEE Trans Med Imaging 37:2514, 2018).

training/patient001/patient001_4d.nii.gz           the study
                    patient001_frame01.nii.gz      frame 0 of it, because file names count from 1
                    patient001_frame01_gt.nii.gz   its label
                    Info.cfg                       ED: 1, ES: 12, Group: DCM, Height: 184.0, NbFrame: 30, Weight: 95.0
testing/patient101/...                             test cases

The time step in ACDC's headers is 1 without a unit, which is no frame duration. Height is in cm, weight in kg.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from unet4d.datasets.cases import Case, Dataset
from unet4d.datasets.convert.layout_options import LayoutOptions
from unet4d.datasets.nifti_studies import make_study
from unet4d.datasets.study import Source, Study
from unet4d.errors import InputError
from unet4d.images.image4d import Image4D, read_image
from unet4d.images.nifti import case_name, find_nifti_files, is_nifti
from unet4d.metrics.vitals import Vitals, is_vital
from unet4d.system.text import count

ACDC_CHANNELS = ("cine MRI",)
ACDC_LABELS = {"background": 0, "right ventricle": 1, "myocardium": 2, "left ventricle": 3}
_ABOUT = {
    "description": "Cardiac cine MRI, short axis; end-diastole and end-systole are labelled",
    "reference": "Bernard et al., IEEE Trans Med Imaging 37:2514, 2018, doi 10.1109/TMI.2018.2837502",
}
_VITALS = {"Height": "height_cm", "Weight": "weight_kg"}
_PATIENT = re.compile(r"patient\d+")
_FILE = re.compile(r"_(4d|frame\d+)(_gt)?\.nii(\.gz)?", re.IGNORECASE)
_TOLERANCE = 1e-4  # of the largest value: a file with a scale slope rounds otherwise than one without


def is_acdc(root: Path) -> bool:
    """Return whether a folder is a patient's, or has such folders and no NIfTI files beside them."""
    return bool(_patients(root)) and (_is_patient(root.absolute()) or not find_nifti_files(root))


def find_acdc(root: Path, options: LayoutOptions) -> Source:
    """Find the patients of a folder, of training/ and testing/ in it; or the one patient that the folder is of.

    Raises:
        InputError: there is none.
    """
    patients = _patients(root)
    if not patients:
        raise InputError(
            f"{root} holds no patient's folder, patient001/patient001_4d.nii.gz; give the folder of training and testing, or one"
        )
    dataset = Dataset(root, "ACDC", ACDC_CHANNELS, tuple(ACDC_LABELS.items()), "cyclic", ())
    studies = tuple(_study(folder, dataset) for folder in patients)
    return Source("ACDC", ACDC_CHANNELS, ACDC_LABELS, studies, time="cyclic", about=_ABOUT)


def _patients(root: Path) -> list[Path]:
    parts = [root, root / "training", root / "testing"]
    folders = [folder for part in parts if part.is_dir() for folder in part.iterdir()]
    folders = [root] if _is_patient(root.absolute()) else [folder for folder in folders if _is_patient(folder)]
    return sorted(folders, key=lambda folder: (len(folder.name), folder.name))


def _is_patient(folder: Path) -> bool:
    """Return whether a folder is named as a patient's, and has a study or a frame of that name."""
    is_named = _PATIENT.fullmatch(folder.name) is not None and folder.is_dir()
    return is_named and any(_FILE.fullmatch(file.name.removeprefix(folder.name)) for file in folder.iterdir())


def _study(folder: Path, dataset: Dataset) -> Study:
    """Return one patient; contradictions between its files are found when the image is read."""
    name = folder.absolute().name
    files = {case_name(file): file for file in sorted(folder.iterdir()) if is_nifti(file)}
    image = files.get(f"{name}_4d", folder / f"{name}_4d.nii.gz")
    frames, labels = _by_frame(files, f"{name}_frame"), _by_frame(files, f"{name}_frame", "_gt")
    label = dict(sorted(labels.items())) or None
    case = Case(name, name, (image,), label, tuple(label) if label else None)
    study = make_study(case, dataset, is_test=folder.absolute().parent.name == "testing")
    return replace(
        study,
        files=(*study.files, *frames.values()),
        image=partial(_read_checked, folder, case, frames, labels),
        vitals=_read_vitals(folder / "Info.cfg"),
    )


def _read_vitals(path: Path) -> Vitals:
    """Return height and weight of Info.cfg, where it is there and has possible ones."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    found = dict(re.findall(r"^\s*(Height|Weight)\s*:\s*(\d+(?:\.\d+)?)\s*$", text, re.MULTILINE))
    known = {field: float(found[name]) for name, field in _VITALS.items() if name in found}
    return Vitals(**{field: value for field, value in known.items() if is_vital(field, value)})


def _by_frame(files: dict[str, Path], start: str, end: str = "") -> dict[int, Path]:
    """Map each frame, from 0, to the file that its number names."""
    matches = {file: re.fullmatch(rf"{start}(\d+){end}", name) for name, file in files.items()}
    return {int(match[1]) - 1: file for file, match in matches.items() if match}


def _read_checked(folder: Path, case: Case, frames: dict[int, Path], labels: dict[int, Path]) -> Image4D:
    """Read the study. Raises InputError where the patient's files contradict one another."""
    find_nifti_files(folder)  # raises where two files have one name
    image = case.image()
    for t, file in sorted((frames | labels).items()):
        if not 0 <= t < image.frames:
            raise InputError(
                f"{file} is named as frame {t + 1}, expected 1 to {image.frames}, the frames of {case.images[0]}; correct or "
                "remove it"
            )
    for t, file in frames.items():
        frame, same = read_image(file).array[0], image.array[0, t]  # (1, X, Y, Z), (X, Y, Z)
        if frame.shape != (1, *image.grid) or np.abs(frame[0] - same).max() > _TOLERANCE * np.abs(same).max():
            raise InputError(
                f"{file} is not frame {t} (from 0) of {case.images[0]}, expected equal voxels; download both"
            )
    if (folder / "Info.cfg").is_file():
        _check_info(folder / "Info.cfg", case, image.frames, labels)
    return image


def _check_info(path: Path, case: Case, frames: int, labels: dict[int, Path]) -> None:
    """Raise InputError where Info.cfg contradicts the files."""
    text = path.read_text(encoding="utf-8", errors="replace")
    info = {name: int(number) for name, number in re.findall(r"^\s*(\w+)\s*:\s*(\d+)\s*$", text, re.MULTILINE)}
    if info.get("NbFrame", frames) != frames:
        raise InputError(
            f"{path} says NbFrame: {info['NbFrame']}, {case.images[0]} has {count(frames, 'frame')}; correct the one that is wrong"
        )
    for name in ("ED", "ES"):
        if labels and name in info and info[name] - 1 not in labels:
            drawn = ", ".join(str(t + 1) for t in sorted(labels))
            raise InputError(
                f"{path} says {name}: {info[name]}, and label maps are there for the frames {drawn} (from 1); correct it, "
                f"or add {case.name}_frame{info[name]:02d}_gt.nii.gz"
            )
