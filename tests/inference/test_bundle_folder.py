"""`unet4d export --format bundle` writes what MONAI asks for; MONAI verifies it, and runs it to the label maps of predict."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset
from monai.inferers import SlidingWindowInferer

from tests.builders import randomize_projections, tiny_config
from unet4d.config import ResolvedConfig
from unet4d.errors import InputError
from unet4d.images.image4d import read_label
from unet4d.inference.bundle_folder import describe_bundle
from unet4d.inference.export import export
from unet4d.inference.postprocessing_steps import Step, write_steps
from unet4d.inference.study_inferer import list_studies
from unet4d.models.checkpoint import BEST, LAST, load_checkpoint, load_model, save_checkpoint
from unet4d.models.task import Task
from unet4d.system.files import write_json

NEEDED = [name for name in ("ignite", "fire", "jsonschema") if importlib.util.find_spec(name) is None]
PLACES = (
    "configs/inference.json",
    "configs/metadata.json",
    "configs/study.json",
    "docs/README.md",
    "models/model.pt",
    "LICENSE",
)
CLASSES = ["background", "right ventricle", "myocardium", "left ventricle"]
TENSOR = ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"]
IO = {"type": "object", "additionalProperties": {"type": "object", "required": TENSOR}}
SCHEMA = {
    "type": "object",
    "required": [
        *(
            "schema",
            "version",
            "monai_version",
            "pytorch_version",
            "numpy_version",
            "required_packages_version",
            "task",
        ),
        *("description", "authors", "copyright", "network_data_format"),
    ],
    "properties": {
        "network_data_format": {"required": ["inputs", "outputs"], "properties": {"inputs": IO, "outputs": IO}}
    },
}
"""Keys that MONAI's schema of metadata asks for, listed because the schema itself would have to be downloaded."""


@pytest.fixture
def run(trained, tmp_path):
    """A copy of a run with post-processing; its network sees more than one frame."""
    copy = shutil.copytree(trained, tmp_path / "run")
    content, model = load_checkpoint(copy / BEST), load_model(copy)
    config = ResolvedConfig.from_dict(content["config"])
    save_checkpoint(copy / BEST, config, model.task, randomize_projections(model.network), {})
    write_steps(copy, [Step("largest_component", "myocardium")], [copy / BEST], {})
    return copy


@pytest.fixture
def studies(study, tmp_path):
    """A folder of two studies, and the label maps that predict makes of them."""
    for n, name in enumerate("ab"):
        (tmp_path / "studies").mkdir(exist_ok=True)
        study(tmp_path / f"studies/{name}.nii.gz", shape=(40, 36, 5), seed=n)
    return tmp_path / "studies"


def predicted(command, run, studies, tmp_path) -> dict[str, bytes]:
    done = command("predict", run, "-i", studies, "-o", tmp_path / "predicted", "--device", "cpu")
    assert done.code == 0, done.error
    found = {path.name: path.read_bytes() for path in (tmp_path / "predicted").glob("*.nii.gz")}
    assert len(np.unique(read_label(tmp_path / "predicted/a.nii.gz"))) > 1
    return found


def test_a_bundle_has_what_monai_asks_for_and_segments_as_predict(run, studies, command, tmp_path):
    out = tmp_path / "bundle"
    done = command("export", run, "--out", out, "--format", "bundle", "--name", "cine heart")
    assert done.code == 0, done.error
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()) == sorted(PLACES)
    metadata = json.loads((out / "configs/metadata.json").read_text())
    assert set(SCHEMA["required"]) <= set(metadata)
    assert list(metadata["network_data_format"]["outputs"]["pred"]["channel_def"].values()) == CLASSES
    assert not any("phantom00" in (out / name).read_text() for name in PLACES if not name.endswith("pt"))
    assert "cine heart" in (out / "docs/README.md").read_text()

    parser = ConfigParser()
    parser.read_config(out / "configs/inference.json")
    parser.update(
        {"bundle_root": str(out), "dataset_dir": str(studies), "output_dir": str(tmp_path / "out"), "device": "cpu"}
    )
    network, inferer, items, before, after = (
        parser.get_parsed_content(name)
        for name in ("network_def", "inferer", "datalist", "preprocessing", "postprocessing")
    )
    network.load_state_dict(torch.load(out / "models/model.pt", weights_only=True))
    network.eval()
    for batch in DataLoader(Dataset(items, before), batch_size=1):
        after({"pred": inferer(batch["image"], network)[0]})
    found = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert found == predicted(command, run, studies, tmp_path)
    window = metadata["network_data_format"]["inputs"]["image"]["spatial_shape"]
    logits = SlidingWindowInferer((-1, *window[1:]))(torch.rand(1, 1, 3, 20, 16, 4), network)
    assert logits.shape == (1, len(CLASSES), 3, 20, 16, 4)
    before = {name: (out / name).read_bytes() for name in PLACES}
    export(run, out, format="bundle", name="cine heart")
    assert {name: (out / name).read_bytes() for name in PLACES} == before


def test_what_has_no_bundle_is_refused(run, tmp_path, command):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    for out, more, fault in (
        ("other", (), "something else"),
        ("b", ("--half",), "--half"),
        ("b", ("--intended_use", "$open('x')"), "MONAI would run it"),
        ("b", ("--name", "@device"), "MONAI would run it"),
        ("b", ("--name", "%file"), "MONAI would run it"),
    ):
        done = command("export", run, "--out", tmp_path / out, "--format", "bundle", *more)
        assert (done.code, fault in done.line) == (2, True)
    assert not (tmp_path / "b/configs").exists()
    for fold in range(3):
        folder = shutil.copytree(run, tmp_path / f"folds/fold_{fold}")
        content = load_checkpoint(folder / LAST)
        content["config"]["fold"] = fold
        torch.save(content, folder / LAST)
    with pytest.raises(InputError, match=r"3 networks.*expected one"):
        export(tmp_path / "folds", tmp_path / "b", format="bundle")


def test_studies_of_another_time_or_with_other_velocities_are_left_to_predict(tmp_path, study):
    settings = tmp_path / "study.json"
    for name in ("a_0000", "a_0001"):
        study(tmp_path / f"in/{name}.nii.gz")

    def listed(time, kinds):
        task = Task({"background": 0, "vessel": 1}, ("magnitude", "v"), True, (), ("signal", "velocity Z"))
        write_json(settings, {"config": {}, "task": task.as_dict(), "postprocessing": []})
        entry = {"name": "flow", "channel_names": {"0": "magnitude", "1": "v"}, "channel_kinds": kinds, "time": time}
        entry |= {"labels": task.labels, "test": [{"image": ["in/a_0000.nii.gz", "in/a_0001.nii.gz"], "subject": "a"}]}
        (tmp_path / "dataset.json").write_text(json.dumps(entry))
        return list_studies(tmp_path, settings)

    assert len(listed("cyclic", {"1": "velocity Z"})) == 1
    for time, kinds in (("open", {"1": "velocity Z"}), ("cyclic", {"1": "velocity -Z"})):
        with pytest.raises(InputError, match="use unet4d predict"):
            listed(time, kinds)


def test_names_of_several_channels_and_of_regions_are_described():
    task = Task({"background": 0, "edema": 1, "tumor": 2}, ("T1", "T2"), False)
    card = {"name": "n", "intended_use": "u", "training_data": "d", "networks": {"model": {"validated": None}}}
    described = describe_bundle(tiny_config(), task, card)["network_data_format"]
    assert described["inputs"]["image"]["channel_def"] == {"0": "T1", "1": "T2"}
    assert described["outputs"]["pred"]["num_channels"] == 3


@pytest.mark.slow
@pytest.mark.skipif(bool(NEEDED), reason=f"{NEEDED} missing: pip install 'unet4d[monai]'")
@pytest.mark.timeout(600)
def test_monais_own_commands_verify_and_run_it(run, studies, command, tmp_path):
    out, schema = export(run, tmp_path / "bundle", format="bundle"), tmp_path / "schema.json"
    schema.write_text(json.dumps(SCHEMA))
    meta, config = ("--meta_file", "configs/metadata.json"), ("--config_file", "configs/inference.json")
    folders = ("--dataset_dir", studies, "--output_dir", tmp_path / "out", "--device", "cpu")

    def monai(*words) -> subprocess.CompletedProcess:
        words = [sys.executable, "-m", "monai.bundle", *map(str, words)]
        path = os.pathsep.join(filter(None, sys.path))
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        return subprocess.run(words, cwd=out, env=environment, capture_output=True, text=True, timeout=280, check=False)

    for words, said in (
        (("verify_metadata", *meta, "--filepath", schema), "verified with no error"),
        (("verify_net_in_out", "network_def", *meta, *config, "--device", "cpu"), "verified with no error"),
        (("run", *meta, *config, *folders), ""),
    ):
        done = monai(*words)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout + done.stderr
    found = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert found == predicted(command, run, studies, tmp_path)
    metadata = json.loads((out / "configs/metadata.json").read_text())
    (out / "configs/metadata.json").write_text(json.dumps({k: v for k, v in metadata.items() if k != "task"}))
    assert monai("verify_metadata", *meta, "--filepath", schema).returncode != 0
