"""Errors of volumes split into those of extent and those of the border, on areas drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.real_cine.slice_extent import markdown, score_case, with_known_extent
from unet4d.datasets.case_labels import read_labelled
from unet4d.datasets.dataset import read_dataset
from unet4d.images.image4d import write_image
from unet4d.phantom import write_phantom


def test_the_area_of_the_reference_is_taken_where_only_one_of_both_holds_the_structure():
    reference = np.array([[0, 4, 6, 3], [0, 0, 5, 2]])
    prediction = np.array([[2, 5, 6, 0], [1, 3, 4, 2]])
    np.testing.assert_array_equal(with_known_extent(reference, prediction), [[0, 5, 6, 3], [0, 0, 4, 2]])


@pytest.fixture
def study(tmp_path):
    dataset = read_dataset(write_phantom(tmp_path / "phantom", 1, 10, shape=(32, 32, 6), labelled="two").parent)
    (case,) = dataset.training
    image = case.image()
    label, labelled = read_labelled(case, dataset, image)
    return dataset, case, image, label, labelled


def test_errors_of_extent_alone_vanish_once_the_extent_is_known(study, tmp_path):
    """The right ventricle is drawn in one slice more at end-systole, the left one is exact."""
    dataset, case, image, label, labelled = study
    value = dict(dataset.labels)["right ventricle"]
    es = min(np.flatnonzero(labelled), key=lambda t: (label[t] == value).sum())
    (empty, *_) = np.flatnonzero((label[es] == value).sum((0, 1)) == 0)
    prediction = label.copy()
    prediction[es, :10, :10, empty] = value
    write_image(tmp_path / "predicted.nii.gz", prediction, like=image)
    rows = {row["class"]: row for row in score_case(case, dataset, tmp_path / "predicted.nii.gz")}
    right, left = rows["right ventricle"], rows["left ventricle"]
    assert right["esv_error_ml"] == pytest.approx(100 * abs(np.linalg.det(image.affine[:3, :3])) / 1000)
    assert right["ef_error_percent"] > 0
    assert (right["extra_slices"], right["missed_slices"], right["slices"]) == (1, 0, 12)
    assert right["known_extent_esv_error_ml"] == right["known_extent_ef_error_percent"] == 0
    assert left["ef_error_percent"] == left["extra_slices"] == 0
    text = markdown([{"arm": "clstm", "seed": 0} | row for row in rows.values()])
    assert f"| clstm | right ventricle | {right['ef_error_percent']:.1f}, 0.0 |" in text
    assert text.splitlines()[2].endswith("| 1 | 0 | 12 |")


def test_errors_of_the_border_stay(study, tmp_path):
    dataset, case, image, label, labelled = study
    value = dict(dataset.labels)["left ventricle"]
    t = int(np.flatnonzero(labelled)[0])
    z = int((label[t] == value).sum((0, 1)).argmax())
    x, y = np.argwhere(label[t, :, :, z] == value)[0]
    prediction = label.copy()
    prediction[t, x, y, z] = 0
    write_image(tmp_path / "predicted.nii.gz", prediction, like=image)
    (left,) = [r for r in score_case(case, dataset, tmp_path / "predicted.nii.gz") if r["class"] == "left ventricle"]
    assert left["ef_error_percent"] == left["known_extent_ef_error_percent"] > 0
    assert left["extra_slices"] == left["missed_slices"] == 0
