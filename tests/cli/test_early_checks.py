"""Wrong paths and values are reported before torch is imported, in the words of the Python call; info never imports it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import unet4d
from tests.builders import build_network, save_network, tiny_config, tiny_task, write_dataset_json
from unet4d.cli import COMMANDS
from unet4d.errors import InputError
from unet4d.inference.predict import predict
from unet4d.models.checkpoint import BEST, LAST, load_checkpoint, load_outline
from unet4d.system.environment import check_device_name

ROOT = Path(unet4d.__file__).parent.parent
CALLS = """
import contextlib, io, json, sys
from unet4d.cli.main import run
for arguments in json.load(sys.stdin):
    said, failed = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(failed):
        code = run(arguments)
    heavy = ("torch", "monai", "matplotlib", "scipy.ndimage", "scipy.stats", "scipy.spatial", "scipy.interpolate")
    loaded = [name for name in heavy if name in sys.modules]  # nibabel imports the top of scipy, which holds nothing
    print(json.dumps([code, said.getvalue(), failed.getvalue(), loaded]))
"""
# DATA: a dataset of one subject; RUN: a run folder; FILE: a file; GONE: nothing there; NEW: a folder to be made
WRONG = [
    ("train --dataset GONE --out NEW", "GONE is missing"),
    ("train --dataset DATA --out FILE", "FILE is a file"),
    ("train --dataset DATA --out RUN", "already holds a run"),
    ("train --dataset DATA --out NEW --resume", "--resume"),
    ("train --dataset DATA --out NEW --train.init_from GONE", "GONE is missing"),
    ("train --dataset DATA --out NEW --device gpu", "device 'gpu'"),
    ("train --dataset DATA --out NEW --train.epochs 0", "epochs"),
    ("train --dataset GONE --out NEW --fold all", "GONE is missing"),
    ("train --dataset DATA --out RUN --fold all", "single run"),
    ("predict GONE -i DATA -o NEW", "GONE is missing"),
    ("predict FOLDER -i DATA -o NEW", "checkpoint_best.pt"),
    ("predict RUN -i GONE -o NEW", "GONE is missing"),
    ("predict RUN -i LIST -o NEW", "line 1"),
    ("predict RUN -i DATA -o FILE/deeper", "FILE is a file"),
    ("predict RUN -i DATA -o NEW --scratch_dir FILE/deeper", "FILE is a file"),
    ("predict RUN -i DATA -o NEW --overlap 1.5", "overlap 1.5"),
    ("predict RUN -i DATA -o NEW --max_memory much", "--max_memory"),
    ("predict RUN -i DATA -o NEW --num-parts 3", "--part_id"),
    ("predict RUN -i DATA -o NEW --pattern [", "pattern"),
    ("predict RUN -i DATA -o NEW --device tpu", "device 'tpu'"),
    ("predict RUN -i DATA -o NEW --held_out --cases a", "held_out"),
    ("orthanc GONE --url http://localhost", "GONE is missing"),
    ("orthanc RUN --url localhost", "--url is localhost"),
    ("orthanc RUN --url http://me:secret@localhost", "--login_file"),
    ("orthanc --url http://localhost", "neither"),
    ("orthanc RUN --url http://localhost --rules GONE", "GONE is missing"),
    ("orthanc RUN --url http://localhost --rules FILE", "rules:"),
    ("orthanc RUN --url http://localhost --device tpu", "device 'tpu'"),
    ("orthanc RUN --url http://localhost --overlap 1.5", "overlap 1.5"),
    ("orthanc RUN --url http://localhost --scratch_dir FILE/deeper", "FILE is a file"),
    ("predict RUN -i DATA -o NEW --backend tvm", "torch"),
    ("predict RUN -i DATA -o NEW --backend openvino --device cuda", "--device cuda"),
    ("predict RUN -i DATA -o NEW --backend onnxruntime --precision bf16", "--precision bf16"),
    ("postprocess GONE --dataset DATA", "GONE is missing"),
    ("postprocess FILE --dataset DATA", "FILE is a file"),
    ("postprocess RUN --dataset GONE", "GONE is missing"),
    ("export GONE --out NEW.unet4d", "GONE is missing"),
    ("export RUN --out NEW.zip", "a name that ends in .unet4d"),
    ("export RUN --out NEW.unet4d --licence GONE", "GONE cannot be read"),
    ("export RUN --out NEW --format caffe", "unet4d"),
    ("export RUN --out FILE --format onnx", "FILE is a file"),
    ("export RUN --out DATA --format onnx", "a folder of something else"),
    ("export RUN --out NEW --format onnx --half", "--half"),
    ("export GONE --out NEW --format openvino", "GONE is missing"),
    ("predict BAD.unet4d -i DATA -o NEW", "BAD.unet4d is damaged or was changed"),
    ("info BAD.unet4d", "BAD.unet4d is damaged or was changed"),
    ("train --dataset DATA --out NEW --train.init_from BAD.unet4d", "BAD.unet4d is damaged or was changed"),
    ("postprocess RUN --dataset DATA --predictions GONE", "GONE is missing"),
    ("evaluate --reference GONE --prediction FOLDER --out NEW", "GONE is missing"),
    ("evaluate --reference DATA --prediction GONE --out NEW", "GONE"),
    ("evaluate --reference DATA --prediction FOLDER --out FILE", "FILE is a file"),
    ("compare GONE FOLDER", "GONE"),
    ("compare FOLDER FOLDER --out FILE", "FILE is a file"),
    ("report --image GONE --prediction DATA/labels --out NEW", "GONE is missing"),
    ("report --image DATA --prediction GONE --out NEW", "GONE is missing"),
    ("report --image DATA --prediction DATA/labels --out FILE", "FILE is a file"),
    ("report --image DATA --prediction DATA/labels --out NEW --evaluation GONE", "GONE"),
    ("verify GONE", "GONE is missing"),
    ("verify FOLDER", "dataset.json"),
    ("verify DATA --out FOLDER", "FOLDER is a folder"),
    ("propagate GONE --out NEW", "GONE is missing"),
    ("propagate DATA --out DATA", "the dataset itself"),
    ("propagate DATA --out FOLDER", "is not empty"),
    ("propagate DATA --out NEW --jobs 0", "--jobs 0"),
    ("propagate DATA --out NEW --weight 2", "--weight 2"),
    ("plan GONE --gpu-memory 24 --out NEW", "GONE is missing"),
    ("plan DATA --gpu-memory 24 --out NEW --train.init_from GONE", "GONE is missing"),
    ("plan DATA --gpu-memory huge --out NEW", "--gpu_memory is huge"),
    ("plan DATA --gpu-memory 24 --out FILE", "no plan"),
    ("convert nothing DATA --out NEW", "nothing"),
    ("convert nnunet GONE --out NEW", "GONE is missing"),
    ("convert frames DATA --out DATA/inside", "is inside"),
    ("convert frames FOLDER --out DATA", "holds a dataset already"),
    ("phantom --out FILE --subjects 1 --frames 2", "FILE is a file"),
    ("phantom --out DATA --subjects 1 --frames 2", "holds a dataset already"),
    ("info GONE", "GONE is missing"),
    ("info FOLDER", "holds no run"),
    ("info FILE", "FILE is truncated"),
]  # fmt: skip


def calls(arguments: list[list[str]]) -> list[list]:
    """Run each command line in one fresh interpreter; return exit code, stdout, stderr and heavy packages loaded so far."""
    done = subprocess.run(
        [sys.executable, "-c", CALLS],
        input=json.dumps(arguments),
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, str]:
    """Return the path of each word in capital letters of `WRONG`."""
    root = tmp_path_factory.mktemp("places")
    found = {name: str(root / name) for name in ("DATA", "RUN", "FILE", "GONE", "NEW", "FOLDER", "LIST", "BAD")}
    for folder in ("DATA/images", "DATA/labels", "RUN", "FOLDER"):
        (root / folder).mkdir(parents=True)
    (root / "FILE").write_text("a file")
    (root / "BAD.unet4d").write_text("no archive")
    (root / "FOLDER" / "a file").write_text("")
    (root / "LIST.txt").write_text("gone\n")
    found["LIST"] += ".txt"
    case = {"case": "anna", "subject": "anna", "image": "images/anna.nii", "label": "labels/anna.nii"}
    write_dataset_json(root / "DATA", [case], {"background": 0, "wall": 1})
    for file in (case["image"], case["label"]):
        (root / "DATA" / file).write_bytes(b"never read")
    config, task = tiny_config(channels=[2, 4]), tiny_task("wall", held_out=("anna",))
    weights = build_network(config.model, 1, 2).state_dict()
    for name, training in ((BEST, {}), (LAST, {"epoch": 2, "step": 10, "weights": weights})):
        save_network(root / "RUN" / name, config, task, training)
    return found


def placed(line: str, places: dict[str, str]) -> list[str]:
    words = []
    for word in line.split():
        name, mark, rest = re.match(r"(\w*)(.?)(.*)", word).groups()
        words.append(places.get(name, name) + mark + rest)
    return words


def test_wrong_paths_and_values_are_reported_before_torch_is_imported(places):
    found = calls([placed(line, places) for line, _ in WRONG])
    assert {line.split()[0] for line, _ in WRONG} == set(COMMANDS)
    for (line, wanted), (code, _, failed, loaded) in zip(WRONG, found, strict=True):
        assert (code, failed.count("\n")) == (2, 1), f"{line}: {code}, {failed}"
        assert wanted in failed.replace(f"{Path(places['FILE']).parent}{os.sep}", ""), f"{line}: {failed}"
        assert loaded == [], f"{line}: {failed}"
    assert not Path(places["NEW"]).exists()


def test_info_answers_without_torch(places):
    run, best = places["RUN"], str(Path(places["RUN"]) / BEST)
    (code, said, _, _), (file_code, file_said, _, _), (bare_code, bare, _, loaded) = calls(
        [["info", run, "--json"], ["info", best, "--json"], ["info"]]
    )
    assert code == file_code == bare_code == 0
    assert loaded == []
    weights = sum(tensor.numel() for tensor in load_checkpoint(best)["network"].values())
    assert json.loads(said)["model"]["weights"] == json.loads(file_said)["model"]["weights"] == weights
    assert json.loads(said)["checkpoints"][LAST]["step"] == 10
    assert f"torch      {torch.__version__.partition('+')[0]}" in bare
    assert unet4d.__version__ in bare


def test_the_outline_of_a_checkpoint_is_its_content_with_shapes_for_tensors(places):
    path = Path(places["RUN"]) / LAST
    whole, outline = load_checkpoint(path), load_outline(path)

    def shapes(value):
        if isinstance(value, dict):
            return {key: shapes(inner) for key, inner in value.items()}
        return tuple(value.shape) if isinstance(value, torch.Tensor) else value

    assert outline == shapes(whole)


def test_an_outline_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    torch.save({"format": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(InputError, match="could run code"):
        load_outline(tmp_path / "evil.pt")
    assert not (tmp_path / "made").exists()


def test_python_callers_get_the_words_of_the_command_line(places, tmp_path):
    with pytest.raises(InputError) as raised:
        predict(places["RUN"], [places["GONE"]], tmp_path / "out")
    ((code, _, failed, _),) = calls([["predict", places["RUN"], "-i", places["GONE"], "-o", str(tmp_path / "out")]])
    assert (code, failed) == (2, f"unet4d: {raised.value}\n")


@pytest.mark.parametrize(("name", "is_known"), [("cpu", True), ("cuda:3", True), ("cuda:x", False), ("meta", False)])
def test_names_of_devices(name, is_known):
    if is_known:
        check_device_name(name)
    else:
        with pytest.raises(InputError, match=name):
            check_device_name(name)


def test_a_checkout_without_its_packages_says_what_to_run(tmp_path):
    bare = subprocess.run(
        [sys.executable, "-S", "-E", "-m", "unet4d", "--version"], capture_output=True, text=True, timeout=100, cwd=ROOT
    )
    assert (bare.returncode, bare.stderr.count("\n")) == (2, 1)
    assert f"make setup in {ROOT}, or pip install {ROOT}" in bare.stderr


def test_a_package_missing_later_is_one_line_too(tmp_path):
    source = "import sys\nsys.modules['scipy'] = None\nfrom unet4d.cli.main import main\nmain(sys.argv[1:])"
    words = ["phantom", "--out", str(tmp_path / "hearts"), "--subjects", "1", "--frames", "2"]
    done = subprocess.run([sys.executable, "-c", source, *words], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "scipy" in done.stderr


def test_the_version_of_a_checkout_that_is_not_installed_is_its_own(tmp_path):
    hidden = "import importlib.metadata as m\ndef gone(name): raise m.PackageNotFoundError(name)\nm.version = gone\n"
    done = subprocess.run(
        [sys.executable, "-c", hidden + "import unet4d; print(unet4d.__version__)"],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
        cwd=ROOT,
    )
    assert f'version = "{done.stdout.strip()}"' in (ROOT / "pyproject.toml").read_text("utf-8")
