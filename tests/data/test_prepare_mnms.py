"""The script of data/mnms on files laid out as the challenge lays them out."""

from __future__ import annotations

import numpy as np
import pytest

from tests.scripts import script
from unet4d.datasets.case_labels import read_labelled
from unet4d.datasets.dataset import read_dataset
from unet4d.errors import InputError
from unet4d.images.image4d import Image4D, write_image

prepare_mnms = script("mnms")


@pytest.fixture
def download(tmp_path):
    """Three studies of 5 frames; ED and ES of each differ."""
    root = tmp_path / "OpenDataset"
    like = Image4D.from_array(np.zeros((5, 4, 3, 2)), np.diag([1.0, 1.0, 8.0, 1.0]))
    rows = ["index,External code,Vendor,ED,ES"]
    for number, (part, code) in enumerate([("Training/Labeled", "A1"), ("Training/Labeled", "B2"), ("Testing", "C3")]):
        label = np.zeros((5, 4, 3, 2), np.uint8)
        label[[number, number + 2]] = 3
        folder = root / part / code
        folder.mkdir(parents=True)
        write_image(folder / f"{code}_sa.nii.gz", np.full((5, 4, 3, 2), number, np.int16), like=like)
        write_image(folder / f"{code}_sa_gt.nii.gz", label, like=like)
        rows.append(f"{number},{code},A,{number},{number + 2}")
    (root / "211230_M&Ms_Dataset_information_diagnosis_opendataset.csv").write_text("\n".join(rows) + "\n")
    return root


def test_studies_parts_labels_and_frames_arrive(download, tmp_path):
    prepare_mnms.prepare(download, tmp_path / "out")
    dataset = read_dataset(tmp_path / "out")
    assert [case.name for case in dataset.training] == ["A1", "B2"]
    assert [case.name for case in dataset.test] == ["C3"]
    assert dataset.cyclic
    assert dict(dataset.labels)["right ventricle"] == 3
    case = dataset.test[0]
    image = case.image()
    label, labelled = read_labelled(case, dataset, image)
    assert (image.array == 2).all()
    assert np.flatnonzero(labelled).tolist() == np.flatnonzero(label.any((1, 2, 3))).tolist() == [2, 4]


def _renamed(root):
    for file in (root / "Testing/A1").iterdir():
        file.rename(file.with_name(file.name.replace("C3", "A1")))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda root: next(root.glob("*.csv")).unlink(), "opendataset"),
        (lambda root: next(root.glob("*.csv")).write_text("a,b\n1,2\n"), "External code"),
        (lambda root: next(root.glob("*.csv")).write_text("External code,ED,ES\nA1,0,2\n"), "no ED and ES for B2"),
        (lambda root: (root / "Testing/C3").rename(root / "Testing/A1") and _renamed(root), "another part has a study"),
        (lambda root: (root / "Testing/C3/C3_sa_gt.nii.gz").unlink(), "C3_sa_gt.nii.gz is missing"),
    ],
)
def test_what_is_not_there_is_reported(download, tmp_path, spoil, words):
    spoil(download)
    with pytest.raises(InputError, match=words):
        prepare_mnms.prepare(download, tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.json").exists()
