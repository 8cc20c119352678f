"""Evaluation of partly drawn references: what was not drawn is in no score, is counted, and has no volume."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from tests.builders import write_dataset_json, write_study
from unet4d.datasets.dataset import read_dataset
from unet4d.datasets.nifti_studies import open_dataset_source
from unet4d.evaluation.evaluate import evaluate
from unet4d.report.report import _read_study

LABELS = {"background": 0, "chamber": 1, "valve": 3}


def drawn(frames: int = 3) -> np.ndarray:
    """Return a label: the chamber a square of 4 x 4 in all four slices, the valve one column beside it."""
    label = np.zeros((frames, 10, 9, 4), np.uint8)
    label[:, 3:7, 3:7], label[:, 8, 7] = 1, 3
    return label


def write(root: Path, label: np.ndarray, prediction: np.ndarray, labels: dict[str, int] = LABELS, **entry) -> Path:
    """Write a dataset of one case and its prediction."""
    write_study(root / "images/a.nii.gz", np.ones(label.shape, np.float32))
    write_study(root / "labels/a.nii.gz", label)
    write_study(root / "found/a.nii.gz", prediction)
    return write_dataset_json(root, [{"case": "a", **entry}], labels)


def scored(root: Path) -> tuple[dict, list[dict[str, str]], list[dict[str, str]]]:
    """Return the summary, and the rows of metrics.csv and of volumes_compared.csv."""
    summary = evaluate(root, root / "found", root / "out")
    files = (root / "out" / name for name in ("metrics.csv", "volumes_compared.csv"))
    return summary, *(list(csv.DictReader(file.read_text().splitlines())) for file in files)


@pytest.mark.parametrize("declared", [False, True], ids=["slices", "ignore value"])
def test_undrawn_slices_are_in_no_score_and_the_frame_has_no_reference_volume(declared, tmp_path, capsys):
    """In slices 0 and 2 of frame 0 the chamber is one voxel off; in the undrawn slices of frame 0 it is nowhere."""
    label, prediction = drawn(), drawn()
    prediction[0], prediction[0, 4:8, 3:7, ::2] = 0, 1
    if declared:
        label[0, ..., 1::2] = 9
        write(tmp_path, label, prediction, LABELS | {"ignore": 9})
    else:
        write(tmp_path, label, prediction, labelled_slices={"0": [0, 2]})
    summary, rows, volumes = scored(tmp_path)
    chamber = rows[0]
    assert (chamber["frame"], chamber["class"], chamber["dice"]) == ("0", "chamber", "0.75")
    assert (chamber["tp"], chamber["fp"], chamber["fn"]) == ("24", "8", "8")
    assert float(chamber["hd95_mm"]) == pytest.approx(2.0)
    assert [row["dice"] for row in rows[2:]] == ["1.0"] * 4
    curve = [row for row in volumes if row["class"] == "chamber"]
    assert [row["reference_ml"] for row in curve] == ["", "2.56", "2.56"]
    assert [row["prediction_ml"] for row in curve] == ["1.28", "2.56", "2.56"]
    partial = summary["partial_labels"]
    assert partial["ignored"] == {"voxels": 180, "frames": 1, "per_case": {"a": 180}}
    assert "no reference volume" in partial["convention"]
    assert summary["classes"]["chamber"]["volume_error_ml"]["n"] == 2
    assert "ignored: 180 voxels of 1 partly drawn frame, in no score" in capsys.readouterr().out


def test_a_class_that_was_not_annotated_has_no_score_and_is_not_counted_as_absent(tmp_path, capsys):
    label, prediction = drawn(), drawn()
    label[label == 3] = 0
    write(tmp_path, label, prediction, annotated_labels=[1])
    summary, rows, volumes = scored(tmp_path)
    valve = [row for row in rows if row["class"] == "valve"]
    assert {row[key] for row in valve for key in ("dice", "hd95_mm", "nsd", "tp", "fp", "fn", "reference_ml")} == {""}
    assert {row["reference_ml"] for row in volumes if row["class"] == "valve"} == {""}
    found = summary["classes"]["valve"]
    assert (found["dice"]["n"], found["n_both_empty"], found["n_one_empty"]) == (0, 0, 0)
    assert summary["mean_foreground_dice"] == 1.0
    assert summary["partial_labels"]["not_annotated"] == {"a": ["valve"]}
    assert "not annotated in 1 case, and not scored there: valve" in capsys.readouterr().out


def test_propagated_frames_are_no_reference(tmp_path, capsys):
    label, prediction = drawn(), drawn()
    prediction[1] = 0
    write(tmp_path, label, prediction, propagated_frames=[1], frame_weights={"1": 0.5})
    summary, rows, volumes = scored(tmp_path)
    assert {row["frame"] for row in rows} == {"0", "2"}
    assert summary["mean_foreground_dice"] == 1.0
    assert [row["reference_ml"] for row in volumes if row["class"] == "chamber"] == ["2.56", "", "2.56"]
    assert "not scored: 1 propagated frame" in capsys.readouterr().out


def test_where_all_was_drawn_nothing_is_said_of_it(tmp_path):
    write(tmp_path, drawn(), drawn())
    assert "partial_labels" not in scored(tmp_path)[0]


def test_a_report_shows_what_was_drawn_and_no_volume_of_a_part(tmp_path):
    label = drawn()
    root = write(tmp_path, label, label, labelled_slices={"0": [0]}, propagated_frames=[2])
    source = open_dataset_source(read_dataset(root))
    assert source.ignore == 255
    shown = _read_study("a", root / "found/a.nii.gz", source.studies[0], 255, {"chamber": 1}, {}, {}, None)
    assert shown.reference[0].max() == 3
    assert not shown.reference[0][..., 1:].any()
    assert shown.labelled.tolist() == [True, True, False]
    assert np.isnan(shown.reference_ml["chamber"]).tolist() == [True, False, True]
