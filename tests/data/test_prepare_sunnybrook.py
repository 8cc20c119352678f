"""The script of data/sunnybrook on DICOM files and contours drawn by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="needs the extra dicom")

from tests.datasets.convert.dicom_files import single_frames
from tests.scripts import script
from unet4d.datasets.case_labels import read_labelled
from unet4d.datasets.dataset import read_dataset
from unet4d.errors import InputError

prepare = script("sunnybrook").prepare

IMAGE = np.random.default_rng(0).integers(0, 900, (4, 9, 7, 3), dtype=np.uint16)  # (T, X, Y, Z)
AFFINE = np.array([[-1.5, 0, 0, 20], [0, 0, 8.0, -10], [0, -1.25, 0, 30], [0, 0, 0, 1]])  # RAS, a pixel is no square
BOX = [(1.5, 2.5), (5.5, 2.5), (5.5, 4.5), (1.5, 4.5)]  # columns 2 to 5, rows 3 and 4


@pytest.fixture
def download(tmp_path: Path) -> Path:
    """One case; frames 0 and 2 are drawn in slice 1, frame 0 in slice 2 too; the folders write its number differently."""

    def place(dataset, t, z):
        dataset.TriggerTime = 40 * t
        dataset.InstanceNumber = 4 * z + t + 1  # slice by slice, as GE writes them

    dicom, contours = tmp_path / "dicom" / "SC-HYP-1" / "DICOM", tmp_path / "contours" / "SC-HYP-01" / "contours-manual"
    dicom.mkdir(parents=True)
    contours.mkdir(parents=True)
    for dataset in single_frames(IMAGE, AFFINE, place):
        dataset.save_as(dicom / f"IM-0001-{dataset.InstanceNumber:04d}.dcm", enforce_file_format=True)
    for t, z in ((0, 1), (2, 1), (0, 2)):
        np.savetxt(contours / f"IM-0001-{4 * z + t + 1:04d}-icontour-manual.txt", BOX, fmt="%.2f")
    np.savetxt(contours / "IM-0001-0005-ocontour-manual.txt", [(0, 0), (8, 0), (8, 6)], fmt="%.2f")
    return tmp_path


def test_contours_fill_their_pixels_in_their_frames(download):
    prepare(download / "dicom", download / "contours", download / "out")
    dataset = read_dataset(download / "out")
    case = dataset.training[0]
    image = case.image()
    label, labelled = read_labelled(case, dataset, image)
    assert (case.name, dataset.time, np.flatnonzero(labelled).tolist()) == ("SC-HYP-01", "cyclic", [0, 2])
    assert image.frame_duration_s == pytest.approx(0.04)
    # wherever the axes ended up: the drawn pixels are those of the file, at its place in the world
    expected = {(t, x, y, z) for t, z in ((0, 1), (2, 1), (0, 2)) for x in range(2, 6) for y in (3, 4)}
    back = np.linalg.inv(AFFINE) @ image.affine
    found = set()
    for t, *voxel in np.argwhere(label):
        x, y, z = np.rint((back @ [*voxel, 1])[:3]).astype(int)
        found.add((t, x, y, z))
        assert image.array[0, t, *voxel] == IMAGE[t, x, y, z]
    assert found == expected


def test_a_contour_without_its_image_is_reported(download):
    next((download / "dicom").rglob("IM-0001-0005.dcm")).unlink()
    with pytest.raises(InputError, match=r"IM-0001-0005-icontour-manual\.txt"):
        prepare(download / "dicom", download / "contours", download / "out")


def test_a_folder_without_contours_is_reported(download):
    with pytest.raises(InputError, match="holds no SC-"):
        prepare(download / "dicom", download / "dicom", download / "out")
