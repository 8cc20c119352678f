"""Tests: the README is short, its commands parse, its results are the recorded ones, its dataset.json is read, its Python runs."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.real_cine.readme import results_block, verdict, with_results
from experiments.real_cine.table import RESULTS
from unet4d import read_image
from unet4d.cli.main import _parse
from unet4d.datasets.dataset import read_dataset
from unet4d.images.image4d import Image4D, read_label, write_image
from unet4d.system.files import read_json

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [re.sub(r"\s#.*|[\[\]]|\.\.\.", "", line).strip() for line in re.findall(r"^    (unet4d .+)$", README, re.M)]


def fenced(language: str) -> str:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)[0]


def test_it_is_short():
    assert len(README.split()) <= 900


def test_its_first_screen_has_a_moving_picture_and_two_commands():
    first = README.partition("\n## ")[0]
    [picture] = re.findall(r"!\[[^\]]{20,}\]\((\S+)\)", first)
    with Image.open(ROOT / picture) as moving:
        assert moving.n_frames > 10
    assert (ROOT / picture).stat().st_size <= 150_000
    assert len(re.findall(r"^    \S", first, re.M)) == 2
    target, program = re.findall(r"^    (?:make |\.venv/bin/)(\w+)", first, re.M)
    assert f"\n{target}: " in (ROOT / "Makefile").read_text(encoding="utf-8")
    assert program == "unet4d"


def test_its_results_are_the_recorded_ones():
    assert results_block() in README
    assert with_results(README) == README


def test_its_steps_are_the_recorded_ones_to_a_tenth():
    arms = read_json(RESULTS / "arms.json")["arms"]
    named = re.search(r"about ([\d,]+) \(2D\) and ([\d,]+) \(3D\) .* unet4d about\s+([\d,]+)", README)
    for arm, steps in zip(("nnunet_2d", "nnunet_3d", "clstm"), named.groups(), strict=True):
        assert int(steps.replace(",", "")) == pytest.approx(arms[arm]["steps"], rel=0.1)


@pytest.mark.parametrize(
    ("p_holm", "interval", "words"),
    [
        (0.01, (0.1, 0.3), "a difference"),
        (0.3, (0.1, 0.3), "a hint"),
        (0.3, (-0.3, -0.1), "a hint"),
        (0.3, (-0.1, 0.3), "no difference shown"),
        (None, (-0.1, 0.3), "no difference shown"),
    ],
)
def test_its_words_are_no_stronger_than_the_test(p_holm, interval, words):
    assert verdict({"p_holm": p_holm, "ci95": interval}) == words


def test_the_extras_it_installs_are_there():
    [extras] = set(re.findall(r"pip install 'unet4d\[([\w,]+)\]'", README))
    known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(extras.split(",")) <= known.keys()


def test_the_whole_path_is_shown_in_twelve_lines():
    assert len(COMMANDS) == 12
    assert {line.split()[1] for line in COMMANDS} == {
        "convert",
        "verify",
        "propagate",
        "plan",
        "train",
        "predict",
        "evaluate",
        "compare",
        "postprocess",
        "report",
        "export",
    }


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_parses(line, monkeypatch, tmp_path):
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    (tmp_path / "plan.yaml").write_text("train: {epochs: 3}\n")  # as `unet4d plan` leaves one
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line)[1:]
    assert _parse(words)[0] == words[0]


def test_the_dataset_is_read_as_the_text_says(tmp_path):
    (tmp_path / "dataset.json").write_text(fenced("json"))
    for name in re.findall(r'"((?:images|labels)/[^"]+)"', fenced("json")):
        image = Image4D.from_array(np.zeros((1, 2, 2, 2)), np.eye(4))
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_image(tmp_path / name, np.zeros((1, 2, 2, 2), np.uint8), like=image)
    dataset = read_dataset(tmp_path)
    anna, ben = dataset.training
    assert (dataset.cyclic, anna.labelled_frames, ben.labelled_frames) == (True, (0, 11), (0, 9))
    assert (ben.subject, ben.frame_duration_s, len(dataset.test)) == ("ben", 0.04, 1)


def test_the_python_example_runs(tmp_path, monkeypatch, phantom, trained):
    (tmp_path / "RUN").symlink_to(trained)
    (tmp_path / "study.nii.gz").symlink_to(next((phantom / "images").iterdir()))
    monkeypatch.chdir(tmp_path)
    exec(fenced("python").replace('device="cuda"', 'device="cpu"'), {})
    study = read_image("study.nii.gz")
    assert read_label("label.nii.gz", like=study).shape == study.array.shape[1:]


def test_files_and_links_it_names_are_there():
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", README)]
    missing = [link for link in links if link and not (ROOT / link).exists()]
    assert not missing
