"""Verification of partly drawn labels: statements that do not fit are errors, and what was drawn is measured as such."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.builders import write_dataset_json, write_study
from unet4d.datasets.case_labels import read_labelled
from unet4d.datasets.dataset import read_dataset
from unet4d.datasets.verify.run_checks import CheckResult, check_study

LABELS = {"background": 0, "wall": 2, "blood": 7}


def write(root: Path, label: np.ndarray, labels: dict[str, int] = LABELS, **entry) -> Path:
    """Write a study of noise with this label, of which what differs from 0, 2 and 7 is up to the test."""
    image = np.random.default_rng(0).random(label.shape).astype(np.float32) + label
    write_study(root / "images/a.nii.gz", image)
    write_study(root / "labels/a.nii.gz", label)
    return write_dataset_json(root, [{"case": "a", **entry}], labels)


def label_of(frames: int = 2) -> np.ndarray:
    label = np.zeros((frames, 16, 16, 4), np.uint8)
    label[:, 2:12, 2:14], label[:, 5:9, 5:10] = 2, 7
    return label


def check(root: Path, in_memory: bool = False) -> CheckResult:
    dataset = read_dataset(root)
    case = dataset.training[0]
    arrays = ()
    if in_memory:
        image = case.image()
        arrays = (image.array, read_labelled(case, dataset, image)[0])
    return check_study(case, dataset, *arrays)[0]


@pytest.mark.parametrize("in_memory", [False, True])
def test_undrawn_slices_are_not_looked_at_and_the_rest_is_no_whole_volume(in_memory, tmp_path):
    label = label_of()
    label[0, ..., 1] = 99
    properties, issues = check(write(tmp_path, label, labelled_slices={"0": [0, 2, 3]}), in_memory)
    assert issues == ()
    assert properties.partial_frames == (0,)
    assert properties.volumes_ml["blood"] == (20 * 3 * 0.04, 20 * 4 * 0.04)
    assert properties.whole_volumes_ml("blood") == [20 * 4 * 0.04]


@pytest.mark.parametrize("in_memory", [False, True])
def test_the_ignore_value_is_known_and_no_class(in_memory, tmp_path):
    label = label_of()
    label[1, :3] = 8
    properties, issues = check(write(tmp_path, label, LABELS | {"ignore": 8}), in_memory)
    assert issues == ()
    assert properties.partial_frames == (1,)
    assert set(properties.volumes_ml) == {"wall", "blood"}


def test_a_class_that_was_not_annotated_has_no_volume(tmp_path):
    label = label_of()
    label[label == 2] = 0
    properties, issues = check(write(tmp_path, label, annotated_labels=[7]))
    assert issues == ()
    assert set(properties.volumes_ml) == {"blood"}


@pytest.mark.parametrize(
    ("labels", "entry", "change", "kind", "words"),
    [
        (LABELS, {"labelled_slices": [0, 4]}, None, "partial-label", "slice 4, expected slices 0 to 3"),
        (LABELS, {"frame_weights": {"5": 1}}, None, "partial-label", "has frame 5, expected only labelled frames 0 and 1"),
        (LABELS, {"frame_weights": {"0": 0, "1": 0}}, None, "partial-label", "sum to 0"),
        (LABELS, {"annotated_labels": [7]}, None, "label-value", "label value 2 in frames 0 and 1"),
        (LABELS, {"labelled_slices": [0]}, (0, 3, 3, 0, 255), "label-value", "label value 255 in frame 0"),
        (LABELS | {"ignore": 9}, {}, (1, ..., 9), "partial-label", "every voxel of frame 1 of case a is ignore"),
    ],
)  # fmt: skip
def test_statements_that_do_not_fit_are_errors(labels, entry, change, kind, words, tmp_path):
    label = label_of()
    if change:
        label[change[:-1]] = change[-1]
    _, issues = check(write(tmp_path, label, labels, **entry))
    found = [issue for issue in issues if issue.severity == "error"]
    assert [issue.kind for issue in found] == [kind]
    assert words in found[0].message
    assert "\n" not in found[0].message


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ({"propagated_frames": [0, 1]}, ["no-drawn-frame"]),
        ({"propagated_frames": [0], "labelled_frames": [0]}, ["no-drawn-frame"]),
        ({"propagated_frames": [0]}, []),
    ],
)
def test_a_study_of_which_nothing_was_drawn_is_named_and_not_evaluated(entry, found, tmp_path):
    root, labelled = write(tmp_path, label_of(), **entry), len(entry.get("labelled_frames", [0, 1]))
    _, issues = check(root)
    assert [issue.kind for issue in issues if "unlabelled" not in issue.kind] == found
    assert all("propagated_frames" in issue.message for issue in issues if issue.kind == "no-drawn-frame")
    case = read_dataset(root).training[0]
    assert case.has_drawn_frame == (labelled > len(entry["propagated_frames"]))
