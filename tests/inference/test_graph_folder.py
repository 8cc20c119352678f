"""`unet4d export --format onnx|openvino` writes a folder that says all that predict knows, and refuses what has no graphs."""

from __future__ import annotations

import importlib.util
import json
import shutil

import numpy as np
import pytest
import torch

from tests.errors import error_of
from unet4d import load_model, read_image, segment
from unet4d.datasets.dataset import read_dataset
from unet4d.inference.export import export
from unet4d.inference.graph_runner.run import Runner
from unet4d.inference.postprocessing_steps import Step, write_steps
from unet4d.models.checkpoint import BEST, LAST, load_checkpoint

pytest.importorskip("onnx", reason="onnx is missing: pip install 'unet4d[onnx]'")


@pytest.fixture
def run(trained, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "run")
    write_steps(copy, [Step("largest_component", "myocardium")], [copy / BEST], {})
    return copy


def test_the_folder_describes_the_run_and_labels_a_phantom_as_predict_does(run, phantom, tmp_path, command):
    out = tmp_path / "graphs"
    done = command("export", run, "--out", out, "--format", "onnx", "--name", "cine heart")
    assert done.code == 0, done.error
    described = json.loads((out / "model.json").read_text())
    assert described["card"]["name"] == "cine heart"
    step = {"operation": "largest_component", "class": "myocardium", "values": [2]}
    assert described["postprocessing"] == [step]
    assert described["output"]["names"] == ["background", "right ventricle", "myocardium", "left ventricle"]
    assert str(tmp_path) not in (out / "model.json").read_text()
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert sorted(before) == [
        "cell_0.onnx", "cell_1.onnx", "decoder.onnx", "encoder.onnx", "licence.txt", "model.json", "postprocessing.py",
        "preprocessing.py", "run.py",
    ]  # fmt: skip
    export(run, out, format="onnx", name="cine heart")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    image = read_image(read_dataset(phantom).training[0].images[0])
    wanted = segment(load_model(run), image, precision="fp32")
    assert np.array_equal(Runner(out, plain=True).segment(image.array, image.affine), wanted)


def test_openvino_reads_what_is_written_for_it(run, tmp_path, study):
    pytest.importorskip("openvino", reason="openvino is missing: pip install 'unet4d[openvino]'")
    out = export(run, tmp_path / "graphs", format="openvino")
    assert (
        sorted(path.suffix for path in out.iterdir()) == [".bin"] * 4 + [".json", *[".py"] * 3, ".txt"] + [".xml"] * 4
    )
    study(tmp_path / "study.nii.gz", frames=3, shape=(30, 26, 5))
    image = read_image(tmp_path / "study.nii.gz")
    wanted = segment(load_model(run), image, precision="fp32")
    assert (Runner(out, plain=True).segment(image.array, image.affine) == wanted).mean() > 0.999


def test_several_networks_are_refused(trained, tmp_path):
    for fold in range(3):
        content = load_checkpoint(trained / LAST)
        content["config"]["fold"] = fold
        (tmp_path / f"folds/fold_{fold}").mkdir(parents=True)
        torch.save(content, tmp_path / f"folds/fold_{fold}" / LAST)
    line = error_of(export, tmp_path / "folds", tmp_path / "graphs", format="onnx")
    assert "got 3 networks" in line
    assert "fold_0" in line
    assert not (tmp_path / "graphs").exists()


@pytest.mark.parametrize(("format", "package"), [("onnx", "onnx"), ("openvino", "openvino")])
def test_a_missing_package_is_named_with_its_extra(model_file, tmp_path, monkeypatch, format, package):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == package else found(name))
    line = error_of(export, model_file(), tmp_path / "graphs", format=format)
    assert f"pip install 'unet4d[{format}]'" in line
