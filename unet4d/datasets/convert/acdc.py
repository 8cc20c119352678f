"""The ACDC challenge's layout, as its archive unpacks (Bernard et al., IEEE Trans Med Imaging 37:2514, 2018).

training/patient001/patient001_4d.nii.gz           the study
                    patient001_frame01.nii.gz      frame 0 of it, for file names count from 1
                    patient001_frame01_gt.nii.gz   its label
                    Info.cfg                       ED: 1, ES: 12, Group: DCM, NbFrame: 30, ...
testing/patient101/...                             test cases

The step of time in ACDC's headers is 1 without a unit, which is no frame duration; none is made up.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from unet4d.datasets.convert import Options
from unet4d.datasets.dataset import Case, Dataset
from unet4d.datasets.nifti_studies import study_of
from unet4d.datasets.study import Source, Study
from unet4d.errors import InputError
from unet4d.images.image4d import Image4D, read_image
from unet4d.images.nifti import NIFTI_SUFFIXES, case_name, studies_in
from unet4d.system.text import count

CHANNELS = ("cine MRI",)
LABELS = {"background": 0, "right ventricle": 1, "myocardium": 2, "left ventricle": 3}
ABOUT = {
    "description": "Cardiac cine MRI, short axis; end-diastole and end-systole are labelled",
    "reference": "Bernard et al., IEEE Trans Med Imaging 37:2514, 2018, doi 10.1109/TMI.2018.2837502",
}
_PATIENT = re.compile(r"patient\d+")
_FILE = re.compile(r"_(4d|frame\d+)(_gt)?\.nii(\.gz)?", re.IGNORECASE)
_TOLERANCE = 1e-4  # of the largest value: a file with a scale slope rounds otherwise than one without


def is_kind(root: Path) -> bool:
    """Whether there are patients' folders in a folder, and no NIfTI files beside them; or it is one."""
    return bool(_patients(root)) and (_is_patient(root.absolute()) or not studies_in(root))


def find(root: Path, options: Options) -> Source:
    """The patients of a folder, of training/ and testing/ in it, or the one whose folder it is.

    Raises:
        InputError: there is none.
    """
    patients = _patients(root)
    if not patients:
        raise InputError(
            f"{root} holds no patient's folder, patient001/patient001_4d.nii.gz; give the folder that holds training and "
            "testing, or one of them"
        )
    dataset = Dataset(root, "ACDC", CHANNELS, tuple((name, value) for name, value in LABELS.items()), "cyclic", ())
    studies = tuple(_study(folder, dataset) for folder in patients)
    return Source("ACDC", CHANNELS, LABELS, studies, time="cyclic", about=ABOUT)


def _patients(root: Path) -> list[Path]:
    """The patients' folders, by name."""
    parts = [root, root / "training", root / "testing"]
    folders = [folder for part in parts if part.is_dir() for folder in part.iterdir()]
    folders = [root] if _is_patient(root.absolute()) else [folder for folder in folders if _is_patient(folder)]
    return sorted(folders, key=lambda folder: (len(folder.name), folder.name))


def _is_patient(folder: Path) -> bool:
    """Whether it is named as a patient's folder, and holds a study or a frame of that name."""
    is_named = _PATIENT.fullmatch(folder.name) is not None and folder.is_dir()
    return is_named and any(_FILE.fullmatch(file.name.removeprefix(folder.name)) for file in folder.iterdir())


def _study(folder: Path, dataset: Dataset) -> Study:
    """One patient; what contradicts itself is found out when the image is read."""
    name = folder.absolute().name
    files = {case_name(file): file for file in sorted(folder.iterdir()) if file.name.lower().endswith(NIFTI_SUFFIXES)}
    image = files.get(f"{name}_4d", folder / f"{name}_4d.nii.gz")
    frames, labels = _by_frame(files, f"{name}_frame"), _by_frame(files, f"{name}_frame", "_gt")
    label = dict(sorted(labels.items())) or None
    case = Case(name, name, (image,), label, tuple(label) if label else None)
    study = study_of(case, dataset, is_test=folder.absolute().parent.name == "testing")
    return replace(
        study, files=(*study.files, *frames.values()), image=partial(_read_checked, folder, case, frames, labels)
    )


def _by_frame(files: dict[str, Path], start: str, end: str = "") -> dict[int, Path]:
    """Frame, from 0, to the file that is named by it."""
    matches = {file: re.fullmatch(rf"{start}(\d+){end}", name) for name, file in files.items()}
    return {int(match[1]) - 1: file for file, match in matches.items() if match}


def _read_checked(folder: Path, case: Case, frames: dict[int, Path], labels: dict[int, Path]) -> Image4D:
    """The study, if the patient's files tell one story."""
    studies_in(folder)  # of each name one file
    image = case.image()
    for t, file in sorted((frames | labels).items()):
        if not 0 <= t < image.frames:
            raise InputError(
                f"{file} is named as frame {t + 1}; wanted 1 to {image.frames}, for {case.images[0]} has {image.frames} "
                "frames; correct or remove it"
            )
    for t, file in frames.items():
        one = read_image(file).array[0]  # (1, X, Y, Z)
        whole = image.array[0, t]
        if one.shape != (1, *image.grid) or np.abs(one[0] - whole).max() > _TOLERANCE * np.abs(whole).max():
            raise InputError(
                f"{file} is not frame {t} (from 0) of {case.images[0]}; wanted the same voxels; download both again"
            )
    if (folder / "Info.cfg").is_file():
        _check_info(folder / "Info.cfg", case, image.frames, labels)
    return image


def _check_info(path: Path, case: Case, frames: int, labels: dict[int, Path]) -> None:
    """Raise InputError where Info.cfg says otherwise than the files."""
    text = path.read_text(encoding="utf-8", errors="replace")
    said = {name: int(number) for name, number in re.findall(r"^\s*(\w+)\s*:\s*(\d+)\s*$", text, re.MULTILINE)}
    if said.get("NbFrame", frames) != frames:
        raise InputError(
            f"{path} says NbFrame: {said['NbFrame']}, {case.images[0]} has {count(frames, 'frame')}; correct the one that is wrong"
        )
    for name in ("ED", "ES"):
        if labels and name in said and said[name] - 1 not in labels:
            drawn = ", ".join(str(t + 1) for t in sorted(labels))
            raise InputError(
                f"{path} says {name}: {said[name]}, and label maps are there for the frames {drawn} (from 1); correct it, "
                f"or add {case.name}_frame{said[name]:02d}_gt.nii.gz"
            )
