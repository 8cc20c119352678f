"""The script of data/airway on pictures drawn by hand."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from tests.scripts import script
from unet4d.datasets.dataset import read_dataset
from unet4d.errors import InputError

prepare_airway = script("airway")


def draw(folder: Path, *pictures: np.ndarray) -> None:
    folder.mkdir(parents=True)
    for number, picture in enumerate(pictures, 1):
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{number:05d}.png")


def test_a_face_that_looks_left_lies_as_it_should(tmp_path):
    nose, crown = np.zeros((6, 4)), np.zeros((6, 4))
    nose[3, 0] = 200  # left edge of the picture: anterior
    crown[0, 2] = 100  # top edge: superior
    draw(tmp_path / "frames" / "sub001_a", nose, crown)
    draw(tmp_path / "frames" / "sub001_b", crown)
    prepare_airway.prepare(tmp_path / "frames", tmp_path / "out", 2.4, 6.0, 0.012)
    dataset = read_dataset(tmp_path / "out")
    assert [(case.name, case.subject) for case in dataset.test] == [("sub001_a", "sub001"), ("sub001_b", "sub001")]
    image = dataset.test[0].image()
    assert (image.frames, image.grid, image.spacing) == (2, (4, 6, 1), pytest.approx((2.4, 2.4, 6.0)))
    assert image.frame_duration_s == pytest.approx(0.012)
    assert nib.aff2axcodes(image.affine) == ("P", "S", "R")
    assert np.argwhere(image.array[0, 0] == 200).tolist() == [[0, 2, 0]]  # X = 0 is the most anterior
    assert np.argwhere(image.array[0, 1] == 100).tolist() == [[2, 5, 0]]  # Y = 5 is the most superior


def test_what_cannot_be_used_is_reported(tmp_path):
    (tmp_path / "frames").mkdir()
    with pytest.raises(InputError, match=r"no folder of \.png"):
        prepare_airway.prepare(tmp_path / "frames", tmp_path / "out", 2.4, 6.0, 0.012)
    draw(tmp_path / "frames" / "a", np.zeros((6, 4)), np.zeros((5, 4)))
    with pytest.raises(InputError, match="wanted one size a video"):
        prepare_airway.prepare(tmp_path / "frames", tmp_path / "out", 2.4, 6.0, 0.012)
