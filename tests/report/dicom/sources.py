"""DICOM studies of many kinds and geometries, random label maps on their grids, and what independent readers make of results."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import Dataset
from scipy.spatial.transform import Rotation

from tests.datasets.convert import dicom_files as files
from unet4d.datasets.convert.layout_options import LayoutOptions
from unet4d.datasets.convert.layouts import open_layout
from unet4d.report.dicom.result import Algorithm, DicomResult

LABELS = {"background": 0, "right ventricle": 1, "myocardium": 3, "left ventricle": 4, "scar": 7}
SHAPE = (4, 11, 9, 4)  # (T, X, Y, Z); the bits of a plane fill no whole bytes
ARRAY = np.random.default_rng(3).integers(0, 4096, SHAPE, dtype=np.uint16)


def _turned(*degrees: float) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() * (1.75, 1.25, 8.0)
    affine[:3, 3] = (-31.5, 12.25, 40.0)
    return affine


def _permuted(*order: int) -> np.ndarray:
    return _turned(0, 0, 0)[:, [*order, 3]]


GEOMETRIES = {
    "axial": _turned(0, 0, 0),
    "oblique": files.AFFINE,
    "mirrored": _turned(0, 0, 0) @ np.diag([-1.0, 1.0, 1.0, 1.0]),
    "mirrored twice": _turned(10, 0, 5) @ np.diag([-1.0, -1.0, 1.0, 1.0]),
    "sagittal": _permuted(1, 2, 0),
    "coronal": _permuted(0, 2, 1),
}


def classic(affine: np.ndarray, **more: object) -> list[Dataset]:
    return files.single_frames(ARRAY, affine, files.by_trigger, **more)


def by_position(affine: np.ndarray, **more: object) -> list[Dataset]:
    return files.single_frames(ARRAY, affine, files.by_position, **more)


def by_number(affine: np.ndarray, **more: object) -> list[Dataset]:
    return files.single_frames(ARRAY, affine, files.by_instance, **more)


def series_a_slice(affine: np.ndarray, **more: object) -> list[Dataset]:
    return files.single_frames(ARRAY, affine, files.series_a_slice, **more)


def enhanced(affine: np.ndarray, **more: object) -> list[Dataset]:
    return [files.enhanced(ARRAY, affine, 40.0, **more)]


SOURCES: dict[str, Callable[..., list[Dataset]]] = {
    made.__name__: made for made in (classic, by_position, by_number, series_a_slice, enhanced)
}


def result_of(folder: Path, made: Sequence[Dataset], label: np.ndarray | None = None, **more: object) -> DicomResult:
    """Save datasets, find the one study of them, and give it a label map, random where none is given."""
    files.save(made, folder)
    [study] = open_layout("dicom", folder, LayoutOptions()).studies
    assert study.dicom is not None
    if label is None:
        label = np.random.default_rng(7).choice(np.array([0, 0, 1, 3, 4], np.uint8), study.dicom.shape)
        label[1, :, :, 2] = 0
    algorithm = Algorithm({"models": ["1f2e"], "settings": {"overlap": 0.5}})
    settings = {"labels": LABELS, "algorithm": algorithm, "cyclic": True, **more}
    return DicomResult(label, study.dicom, **settings)  # type: ignore[arg-type]


def program(name: str) -> str:
    """The path of a program of Debian's; the test is skipped where it is missing."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs the program {name}")
    return found


def dciodvfy_errors(file: Path) -> list[str]:
    done = subprocess.run([program("dciodvfy"), "-new", str(file)], capture_output=True, text=True)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]


def highdicom_label(file: Path, result: DicomResult, frames: Sequence[int]) -> np.ndarray:
    """Read a segmentation by the images that it refers to: (T, X, Y, Z) label values of these frames."""
    import highdicom

    read = highdicom.seg.segread(file)
    planes = list(result.planes(frames))
    common = {"combine_segments": True, "assert_missing_frames_are_empty": True}
    if result.has_frame_numbers:
        numbers = [plane.index + 1 for plane in planes]
        found = read.get_pixels_by_source_frame(planes[0].instance, numbers, **common)
    else:
        found = read.get_pixels_by_source_instance([plane.instance for plane in planes], **common)
    values = np.array([0, *result.classes.values()], np.uint8)[found]
    slices, (columns, rows) = result.source.shape[3], planes[0].size
    return values.reshape(len(frames), slices, rows, columns).transpose(0, 3, 2, 1)


def dcmqi_label(file: Path, folder: Path, result: DicomResult, affine: np.ndarray) -> np.ndarray:
    """Read a segmentation of one frame by dcmqi: (X, Y, Z) label values, put on the study's grid by their place in space."""
    dcmqi = pytest.importorskip("dcmqi", reason="needs the package dcmqi")
    folder.mkdir()
    words = ["--inputDICOM", file, "--outputDirectory", folder, "--outputType", "nii"]
    tool = Path(dcmqi.__file__).parent / "bin" / "segimage2itkimage"
    done = subprocess.run([tool, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    label = np.zeros(result.source.shape[1:], np.uint8)
    for number, value in enumerate(result.classes.values(), 1):
        image = nib.load(folder / f"{number}.nii.gz")
        drawn = np.argwhere(np.asarray(image.dataobj) > 0)
        there = nib.affines.apply_affine(np.linalg.inv(affine) @ image.affine, drawn)
        np.testing.assert_allclose(there, np.rint(there), atol=0.02)
        at = tuple(np.rint(there).astype(int).T)
        assert not label[at].any()  # segments do not overlap
        label[at] = value
    return label
