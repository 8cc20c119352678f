"""Partly drawn labels: slices, classes and weights of dataset.json are those of a case's label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.builders import write_dataset_json, write_study
from tests.errors import error_of
from unet4d.datasets.case_labels import read_labelled, to_classes
from unet4d.datasets.cases import Dataset
from unet4d.datasets.dataset import read_dataset
from unet4d.datasets.partial_labels import WHOLE, PartialLabels, parse_partial_labels
from unet4d.images.grid import IGNORE

LABELS = {"background": 0, "myocardium": 2, "left ventricle": 7}
DRAWN = np.array([0, 2, 7, 0, 2, 7, 0, 2], np.uint8)


def dataset_of(root, label: np.ndarray, labels: dict[str, int] = LABELS, **entry) -> Dataset:
    """Write a study of noise with this label (T, X, Y, Z)."""
    write_study(root / "images/a.nii.gz", np.random.default_rng(0).random(label.shape).astype(np.float32))
    write_study(root / "labels/a.nii.gz", label)
    return read_dataset(write_dataset_json(root, [{"case": "a", **entry}], labels))


def label_of(frames: int = 2, slices: int = 3) -> np.ndarray:
    """Return a label with the values of `DRAWN` in every row along X."""
    return np.broadcast_to(DRAWN[None, :, None, None], (frames, 8, 4, slices)).copy()


def read(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    case = dataset.training[0]
    return read_labelled(case, dataset, case.image())


def test_slices_that_were_not_drawn_are_ignored_whatever_the_file_has_there(tmp_path):
    label = label_of()
    label[0, ..., 1] = 99
    found, labelled = read(dataset := dataset_of(tmp_path, label, labelled_slices={"0": [0, 2]}))
    assert labelled.all()
    assert dataset.ignored_value == 255
    assert (found[0, ..., 1] == 255).all()
    assert np.array_equal(found[0][..., [0, 2]], label[0][..., [0, 2]])
    assert np.array_equal(found[1], label[1])
    classes = to_classes(found, dataset.label_values, dataset.ignored_value)
    assert classes[0, :, 0, 1].tolist() == [IGNORE] * 8
    assert classes[0, :, 0, 0].tolist() == [0, 1, 2, 0, 1, 2, 0, 1]


def test_a_list_of_slices_is_for_every_labelled_frame(tmp_path):
    found, _ = read(dataset_of(tmp_path, label_of(), labelled_slices=[1]))
    assert (found[..., [0, 2]] == 255).all()
    assert np.array_equal(found[..., 1], label_of()[..., 1])


def test_the_ignore_value_of_labels_is_no_class_and_becomes_the_index_of_ignored_voxels(tmp_path):
    label = label_of()
    label[:, 3] = 9
    dataset = dataset_of(tmp_path, label, {**LABELS, "ignore": 9})
    assert (dataset.ignore, dataset.label_values, dataset.ignored_value) == (9, (0, 2, 7), 9)
    found, _ = read(dataset)
    assert to_classes(found, dataset.label_values, 9)[0, :, 0, 0].tolist() == [0, 1, 2, IGNORE, 1, 2, 0, 1]


def test_the_highest_value_that_is_no_class_stands_for_ignored_voxels(tmp_path):
    assert dataset_of(tmp_path, label_of(), {**LABELS, "last": 255}, labelled_slices=[0]).ignored_value == 254


@pytest.mark.parametrize("name", ["Ignore", "IGNORE", " ignore "])
def test_undrawn_voxels_never_become_a_class_by_other_letters(name, tmp_path):
    assert "expected 'ignore' for undrawn voxels" in error_of(dataset_of, tmp_path, label_of(), {**LABELS, name: 9})


@pytest.mark.parametrize(
    ("labels", "entry", "change", "words"),
    [
        (LABELS, {"labelled_slices": [0, 3]}, (), "slice 3, expected slices 0 to 2"),
        (LABELS, {"labelled_slices": {"0": [0], "4": [1]}}, (), "has frame 4, expected only labelled frames 0 and 1"),
        (LABELS, {"annotated_labels": [2]}, (), "label value 7 in frame 0 of case a, expected one of [0, 2], as its"),
        (LABELS, {"frame_weights": {"0": 0, "1": 0.0}}, (), "of all labelled frames sum to 0"),
        (LABELS, {"labelled_slices": [0]}, (0, 0, 0, 0, 99), "label value 99 in frame 0 of case a, expected one of"),
        (LABELS, {"labelled_slices": [0]}, (0, 0, 0, 0, 255), "label value 255 in frame 0 of case a, expected one of"),
        ({**LABELS, "ignore": 9}, {}, (1, ..., 9), "every voxel of frame 1 of case a is ignore"),
    ],
)
def test_statements_that_do_not_fit_the_study_are_one_line(labels, entry, change, words, tmp_path):
    label = label_of()
    if change:
        label[change[:-1]] = change[-1]
    dataset = dataset_of(tmp_path, label, labels, **entry)
    assert words in error_of(read_labelled, dataset.training[0], dataset, dataset.training[0].image())


def test_the_page_on_labels_quotes_messages_as_they_are(tmp_path):
    """Those of statements that need no study, and those that do."""
    page = (Path(__file__).parents[2] / "docs/how-to/labels.md").read_text(encoding="utf-8")
    quoted = page.split("```text\n")[1].split("\n```")[0].splitlines()
    entries = [
        ({**LABELS, "ignore": 5}, {}),
        (LABELS, {"labelled_slices": [0, 9]}),
        (LABELS, {"annotated_labels": []}),
        (LABELS, {"annotated_labels": [2]}),
        (LABELS, {"frame_weights": {"0": 0, "1": 0}}),
    ]
    for number, (line, (labels, entry)) in enumerate(zip(quoted, entries, strict=True)):
        root = tmp_path / str(number)
        found = error_of(
            lambda root=root, labels=labels, entry=entry: read(dataset_of(root, label_of(), labels, **entry))
        )
        assert line in found


@pytest.mark.parametrize(
    "partial",
    [
        WHOLE,
        PartialLabels({0: (0, 2)}, None, (2,), {0: 0.5, 3: 0.0}, (0, 3)),
        PartialLabels({}, (0, 4, 8), None, {}, ()),
    ],
    ids=["whole", "by frame", "every frame"],
)
def test_what_is_written_is_read_back(partial):
    assert parse_partial_labels(partial.plain(), "here", [0, 2, 7]) == partial
    assert bool(partial.plain()) == (partial != WHOLE)


def test_frames_without_a_weight_count_one():
    partial = PartialLabels(weights={3: 0.5})
    assert [partial.weight(t) for t in (0, 3)] == [1.0, 0.5]
