"""Tests: docs/how-to/monai.md and own_classes.md show files that exist, and commands and code that work."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import monai.transforms
import numpy as np
import pytest

from tests.builders import OBLIQUE, write_study
from unet4d.cli.main import _parse
from unet4d.config import DataConfig, ModelConfig, TrainConfig
from unet4d.images import monai_transforms
from unet4d.images.image4d import read_image
from unet4d.system.named_class import import_class

ROOT = Path(__file__).parents[2]
PAGES = {name: (ROOT / f"docs/how-to/{name}.md").read_text(encoding="utf-8") for name in ("monai", "own_classes")}
OWN = PAGES["own_classes"]
BLOCKS = re.findall(r"```python\n(.*?)```", PAGES["monai"], re.S)


def test_the_files_that_they_include_exist():
    included = re.findall(r'^--8<-- "(.+)"$', "".join(PAGES.values()), re.M)
    assert set(included) == {"examples/monai_training.py", "examples/own_classes.py"}
    assert all((ROOT / name).is_file() for name in included)


def test_the_commands_parse_and_name_classes_that_are_there():
    [line] = re.findall(r"^PYTHONPATH=\. (unet4d .+)$", OWN, re.M)
    words = shlex.split(line)[1:]
    assert _parse(words)[0] == "train"
    for setting, path in re.findall(r"--((?:train|data)\.\w+) (\S+)", line):
        import_class(setting, path, object)


def test_the_settings_and_the_interfaces_that_it_lists_exist():
    rows = re.findall(r"^\| `(\w+)\.(\w+)` \| (.+?) \|", OWN, re.M)
    sections = {"train": TrainConfig(), "data": DataConfig(), "model": ModelConfig()}
    assert [f"{section}.{name}" for section, name, _ in rows] == ["train.loss", "data.augmenter", "model.temporal"]
    for section, name, interfaces in rows:
        assert getattr(sections[section], name) is None
        for path in re.findall(r"`([\w.]+)`", interfaces):
            import_class(f"{section}.{name}", path, object)


def test_a_study_comes_back_from_another_grid(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = write_study(
        Path("study.nii.gz"), np.random.default_rng(0).random((3, 12, 10, 4)).astype("f4"), affine=OBLIQUE
    )
    [block] = [block for block in BLOCKS if block.startswith("before")]
    names = {**vars(monai.transforms), **vars(monai_transforms)}
    exec(block, names)
    item = names["before"]({"image": study})
    item["pred"] = item["image"]
    names["after"](item)
    found, image = read_image("found/study.nii.gz"), read_image(study)
    np.testing.assert_array_equal(found.affine, image.affine)
    assert found.array.shape == image.array.shape


@pytest.mark.parametrize("name", ["LoadStudyd", "SplitFramesd", "SaveStudyd"])
def test_the_transforms_that_it_lists_are_those_of_the_module(name):
    assert f"| `{name}` |" in PAGES["monai"]
    assert hasattr(monai_transforms, name)
