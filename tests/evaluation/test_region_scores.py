"""Regions scored, reported and compared: hand-drawn label maps by nnU-Net's definitions."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from tests.builders import write_dataset_json, write_study
from tests.errors import error_of
from unet4d.evaluation.compare import compare
from unet4d.evaluation.evaluate import evaluate
from unet4d.report.report import report

LABELS = {"background": 0, "heart": [1, 2, 3], "left heart": [2, 3], "left ventricle": [3]}
"""In nnU-Net's notation."""
REGIONS = {"heart": (1, 2, 3), "left heart": (2, 3), "left ventricle": (3,)}


def nested(shift: int = 0) -> np.ndarray:
    """Return a label map of 2 frames: a box of 1 around one of 2 around one of 3, which shrinks."""
    label = np.zeros((2, 14, 12, 4), np.uint8)
    for value, margin in ((1, 0), (2, 1), (3, 2)):
        label[:, 2 + margin + shift : 10 - margin + shift, 2 + margin : 10 - margin, 1:3] = value
    label[1, 5 + shift] = np.where(label[1, 5 + shift] == 3, 2, label[1, 5 + shift])
    return label


def dice_by_nnunet(reference: np.ndarray, prediction: np.ndarray, region: tuple[int, ...]) -> float:
    """Compute nnU-Net's Dice of a region: 2 tp / (2 tp + fp + fn) of `region_or_label_to_mask` of both, voxel by voxel."""
    in_both = [(a in region, b in region) for a, b in zip(reference.ravel(), prediction.ravel(), strict=True)]
    tp, fp, fn = (in_both.count(pair) for pair in ((True, True), (False, True), (True, False)))
    return 2 * tp / (2 * tp + fp + fn)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    root = tmp_path / "dataset"
    write_study(root / "images/a.nii.gz", nested().astype(np.float32))
    write_study(root / "labels/a.nii.gz", nested())
    return write_dataset_json(root, ["a"], LABELS, regions_class_order=[1, 2, 3], time="cyclic")  # type: ignore[arg-type]


def test_a_region_is_scored_as_the_union_of_its_values(dataset: Path, tmp_path: Path):
    prediction = nested(shift=1)
    write_study(tmp_path / "predicted/a.nii.gz", prediction)
    summary = evaluate(dataset, tmp_path / "predicted", tmp_path / "scores")
    for name, region in REGIONS.items():
        entry, frames = summary["classes"][name], zip(nested(), prediction, strict=True)
        assert entry["dice"]["mean"] == pytest.approx(np.mean([dice_by_nnunet(*pair, region) for pair in frames]))
        assert entry["values"] == list(region)
    # The outer faces of the boxes moved by one voxel of 2 mm; inner boundaries are no surface of a region.
    assert summary["classes"]["heart"]["hd95_mm"]["mean"] == pytest.approx(2.0)
    assert summary["classes"]["heart"]["volume_error_ml"]["bias"] == 0
    rows = list(csv.DictReader((tmp_path / "scores/metrics.csv").open()))
    assert [row["value"] for row in rows[:3]] == ["1+2+3", "2+3", "3"]
    assert float(rows[0]["reference_ml"]) == pytest.approx(8 * 8 * 2 * 0.04)
    temporal = {row["class"]: row for row in csv.DictReader((tmp_path / "scores/temporal.csv").open())}
    assert float(temporal["left heart"]["frame_to_frame_dice"]) == 1  # what left 3 is in 2
    assert float(temporal["left ventricle"]["frame_to_frame_dice"]) < 1


def test_regions_of_prediction_json_count_without_a_dataset(dataset: Path, tmp_path: Path):
    (tmp_path / "truth").mkdir()
    (dataset / "labels/a.nii.gz").rename(tmp_path / "truth/a.nii.gz")
    write_study(tmp_path / "predicted/a.nii.gz", nested())
    about = {"labels": {"background": 0, "label 1": 1, "label 2": 2, "left ventricle": 3}}
    about |= {"regions": {name: {"values": values, "paint": values[0]} for name, values in REGIONS.items()}}
    (tmp_path / "predicted/prediction.json").write_text(json.dumps(about))
    assert list(evaluate(tmp_path / "truth", tmp_path / "predicted", tmp_path / "scores")["classes"]) == list(REGIONS)
    del about["regions"]["heart"]["paint"]
    (tmp_path / "predicted/prediction.json").write_text(json.dumps(about))
    assert "expected label values by region" in error_of(
        evaluate, tmp_path / "truth", tmp_path / "predicted", tmp_path / "s"
    )


def test_a_value_in_no_region_is_reported(dataset: Path, tmp_path: Path):
    write_study(tmp_path / "predicted/a.nii.gz", np.where(nested() == 3, 4, nested()))
    message = error_of(evaluate, dataset, tmp_path / "predicted", tmp_path / "scores")
    assert "got label value 4, expected one of [0, 1, 2, 3]" in message


def test_ignored_voxels_and_undrawn_parts_are_in_no_score_of_a_region(dataset: Path, tmp_path: Path):
    """Rows beyond x = 5 were not drawn. Of case b only classes 2 and 3 were, so it says nothing of the heart."""
    label = nested()
    label[:, 6:] = 4
    write_study(dataset / "labels/a.nii.gz", label)
    write_study(dataset / "images/b.nii.gz", nested().astype(np.float32))
    write_study(dataset / "labels/b.nii.gz", np.where(nested() == 1, 0, nested()))
    cases: list = ["a", {"case": "b", "annotated_labels": [2, 3]}]
    write_dataset_json(dataset, cases, LABELS | {"ignore": 4}, regions_class_order=[1, 2, 3])  # type: ignore[arg-type]
    for name in "ab":
        write_study(tmp_path / f"predicted/{name}.nii.gz", nested(shift=1))
    summary = evaluate(dataset, tmp_path / "predicted", tmp_path / "scores")
    rows = {(row["case"], row["class"]): row for row in csv.DictReader((tmp_path / "scores/metrics.csv").open())}
    for name, region in REGIONS.items():  # of frame 1, which comes last
        assert float(rows["a", name]["dice"]) == pytest.approx(
            dice_by_nnunet(nested()[1, :6], nested(shift=1)[1, :6], region), abs=1e-6
        )
    assert rows["b", "heart"]["dice"] == ""
    assert rows["b", "left heart"]["dice"] != ""
    assert summary["partial_labels"]["not_annotated"] == {"b": ["heart"]}


def test_regions_are_compared_with_regions_alone(dataset: Path, tmp_path: Path):
    for name, shift in (("one", 1), ("two", 0)):
        write_study(tmp_path / f"{name}/a.nii.gz", nested(shift))
        evaluate(dataset, tmp_path / name, tmp_path / f"{name} scores")
    summary = compare(tmp_path / "one scores", tmp_path / "two scores", quantities=["dice"])
    assert [entry["class_name"] for entry in summary["compared"]] == ["mean over classes", *REGIONS]
    write_dataset_json(
        dataset, ["a"], {"background": 0, "heart": 1, "left heart": 2, "left ventricle": 3}, time="cyclic"
    )
    evaluate(dataset, tmp_path / "two", tmp_path / "classes")
    assert "differ in the reference of case a, frame 0, heart" in error_of(
        compare, tmp_path / "one scores", tmp_path / "classes"
    )


def test_the_report_names_and_measures_regions(dataset: Path, tmp_path: Path, monkeypatch):
    drawn = []

    def draw(image, label, affine, **given):
        drawn.append(given["class_names"])
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr("unet4d.report.report.draw_contour_sheet", draw)
    write_study(tmp_path / "predicted/a.nii.gz", nested())
    evaluate(dataset, tmp_path / "predicted", tmp_path / "scores")
    report(dataset, tmp_path / "predicted", tmp_path / "pages", tmp_path / "scores")
    page = (tmp_path / "pages/a.html").read_text()
    assert [(value.values, name) for value, name in drawn[0].items()] == [(v, name) for name, v in REGIONS.items()]
    assert '"name": "heart", "value": 1, "color": "#56B4E9"' in page
    assert f'"values": [[{8 * 8 * 2 * 0.04:.2f}' in page
