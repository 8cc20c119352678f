"""A network with an output per region, from its training to its label maps: a checkpoint says all that `predict` needs."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.builders import change_dataset
from tests.errors import error_of
from unet4d.datasets.dataset import read_dataset
from unet4d.evaluation.evaluate import evaluate
from unet4d.inference.options import InferenceOptions
from unet4d.inference.postprocess import postprocess
from unet4d.inference.predict import predict
from unet4d.metrics.regions import Region
from unet4d.models.checkpoint import load_model
from unet4d.training.train import train

LABELS = {"background": 0, "whole heart": [1, 2, 3], "left heart": [2, 3], "left ventricle": 3}
REGIONS = {"whole heart": Region((1, 2, 3), 1), "left heart": Region((2, 3), 2), "left ventricle": Region((3,), 3)}


@pytest.fixture(scope="module")
def dataset(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("regions") / "data"
    shutil.copytree(phantom, root, ignore=shutil.ignore_patterns(".unet4d-cache", "truth"))
    change_dataset(root, lambda about: about.update(labels=LABELS, regions_class_order=[1, 2, 3]))
    return root


@pytest.fixture(scope="module")
def run(dataset: Path, tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    train(dataset, out, tiny(), "cpu")
    return out


def array(path: Path) -> np.ndarray:
    return np.moveaxis(np.asarray(nib.load(path).dataobj), -1, 0)


def test_the_checkpoint_keeps_the_regions_and_validation_scores_them(run: Path):
    model = load_model(run)
    assert list(model.task.regions.items()) == list(REGIONS.items())
    assert model.network.out_channels == 3
    scores = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    assert list(scores["dice"]) == list(REGIONS)


def test_a_prediction_is_painted_in_order_and_measured_by_region(run: Path, dataset: Path, tmp_path: Path):
    [path] = predict(
        run, [dataset], tmp_path / "out", InferenceOptions(probabilities=True), held_out=True, device="cpu"
    )
    label, case = array(path), path.name.removesuffix(".nii.gz")
    files = sorted((tmp_path / f"out/{case}_probabilities").iterdir())
    assert [file.name for file in files] == ["1_whole-heart.nii.gz", "2_left-heart.nii.gz", "3_left-ventricle.nii.gz"]
    painted = np.zeros_like(label)
    for value, file in enumerate(files, 1):  # regions_class_order
        painted[array(file) > 0.5] = value
    np.testing.assert_array_equal(label, painted)
    about = json.loads((tmp_path / "out/prediction.json").read_text())
    assert about["labels"] == {"background": 0, "label 1": 1, "label 2": 2, "left ventricle": 3}
    assert about["regions"] == {name: region.as_dict() for name, region in REGIONS.items()}
    voxel_ml = abs(np.linalg.det(nib.load(path).affine[:3, :3])) / 1000
    for row in csv.DictReader((tmp_path / "out/volumes.csv").open()):
        region = REGIONS[row["class"]]
        count = np.isin(label[int(row["frame"])], region.values).sum()
        assert float(row["volume_ml"]) == pytest.approx(count * voxel_ml, abs=1e-5)
        assert row["value"] == ("+".join(map(str, region.values)))
    assert list(evaluate(dataset, tmp_path / "out", tmp_path / "scores", predicted_only=True)["classes"]) == list(
        REGIONS
    )
    twice = shutil.copytree(run, tmp_path / "run")
    two = predict([run, twice], [dataset], tmp_path / "two", cases=[case], device="cpu")
    assert (array(two[0]) != label).mean() < 1e-3  # but for rounding, a network with itself is itself


def test_post_processing_is_chosen_for_regions(run: Path, dataset: Path):
    record = postprocess(run, dataset, device="cpu", dry_run=True)
    assert list(record["before"]["dice"]) == list(REGIONS)
    assert {step["class"] for step in record["steps"]} <= {*REGIONS, "*"}


def test_a_run_is_resumed_with_its_own_regions_alone(run: Path, dataset: Path, tiny, tmp_path: Path):
    other = shutil.copytree(dataset, tmp_path / "other", ignore=shutil.ignore_patterns(".unet4d-cache"))
    change_dataset(other, lambda about: about.update(regions_class_order=[2, 3, 3]))
    assert read_dataset(other).regions["left heart"].paint == 3
    copy = shutil.copytree(run, tmp_path / "run")
    assert "with another dataset: regions is" in error_of(train, other, copy, tiny(), "cpu", resume=True)

    in_order = json.loads((dataset / "dataset.json").read_text())["labels"]
    turned = {"background": 0, "left heart": in_order.pop("left heart"), **in_order}
    change_dataset(other, lambda about: about.update(labels=turned, regions_class_order=[2, 1, 3]))
    assert read_dataset(other).regions == REGIONS, "but for the order, which is that of the outputs"
    assert "with another dataset: regions is" in error_of(train, other, copy, tiny(), "cpu", resume=True)
