"""Checkpoints: whole or absent, tensors and plain values only, and nothing in them ever runs."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import random

import pytest
import torch

from unet4d.config import Config, ModelConfig
from unet4d.errors import InputError, Unet4DError
from unet4d.model.checkpoint import BEST, LAST, Task, load_checkpoint, load_model, save_checkpoint
from unet4d.model.clstm_unet import build_network

CONFIG = Config(model=ModelConfig([4, 8], 0, [(2, 2, 1)], [(3, 3, 1), (3, 3, 3)]), seed=7)
TASK = Task({"background": 0, "left ventricle": 30, "aorta": 200}, ("magnitude", "velocity"), cyclic=True)
TRAINING = {"epoch": 3, "best": 0.5, "optimiser": {"state": {0: {"exp_avg": torch.ones(2)}}}}


class Touch:
    """A pickle that makes a file when it is loaded carelessly."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_network(CONFIG.model, 2, 3)


@pytest.fixture
def saved(tmp_path, network):
    """The path of a checkpoint."""
    save_checkpoint(tmp_path / LAST, CONFIG, TASK, network, TRAINING)
    return tmp_path / LAST


def refusal(path) -> str:
    """The one line that loading ends in."""
    with pytest.raises(InputError) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_checkpoint_comes_back_as_it_was(saved, network):
    content = torch.load(saved, weights_only=True)
    assert Config.from_dict(content["config"]) == CONFIG
    assert content["training"]["optimiser"]["state"][0]["exp_avg"].tolist() == [1, 1]
    model = load_model(saved)
    assert (model.config, model.task, model.path) == (CONFIG, TASK, saved)
    assert not model.network.training
    for name, weight in network.state_dict().items():
        assert torch.equal(model.network.state_dict()[name], weight)


def test_a_run_folder_gives_its_best_checkpoint_or_else_its_last(saved, network):
    assert load_model(saved.parent).path == saved
    save_checkpoint(saved.parent / BEST, CONFIG, TASK, network, {})
    assert load_model(saved.parent).path == saved.parent / BEST


def test_a_folder_without_checkpoints_is_told(tmp_path):
    assert refusal(tmp_path).endswith("give the --out folder of a finished unet4d train")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_hostile_checkpoint_is_refused_and_does_not_run(tmp_path, saved, legacy):
    content = load_checkpoint(saved) | {"training": Touch(tmp_path / "touched")}
    torch.save(content, tmp_path / "hostile.pt", _use_new_zipfile_serialization=not legacy)
    assert "could run code and is not loaded" in refusal(tmp_path / "hostile.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Touch(tmp_path / "touched")))
    refusal(tmp_path / "plain.pt")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_checkpoint_is_told(saved, share):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(len(whole) * share)])
    assert "give " in refusal(saved)


def test_a_damaged_checkpoint_is_never_a_traceback(saved):
    whole, dice = saved.read_bytes(), random.Random(0)
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(20):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        saved.write_bytes(damaged)
        with contextlib.suppress(InputError):  # damage within a number goes unseen
            load_model(saved)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "holds 'list'"),
        ({"state_dict": {}}, "holds 'something else'"),
        ({"format": "unet4d checkpoint 9"}, "holds 'unet4d checkpoint 9'; wanted a whole 'unet4d checkpoint 2'"),
        ({"format": "unet4d checkpoint 2"}, "wanted a whole"),
    ],
)
def test_a_file_of_somebody_else_is_told(tmp_path, content, words):
    torch.save(content, tmp_path / "other.pt")
    assert words in refusal(tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("config", {"model": {"chanels": [4, 8]}}),
        ("config", {"model": 3}),
        ("config", [1]),
        ("task", {"labels": {"background": 0}}),
        ("network", {}),
        ("network", {"head.weight": torch.zeros(1)}),
        ("network", 5),
    ],
)
def test_what_does_not_fit_this_version_is_told(saved, key, value):
    torch.save(load_checkpoint(saved) | {key: value}, saved)
    assert "does not fit this version of unet4d" in refusal(saved)


def test_a_missing_checkpoint_is_told(tmp_path):
    assert "model.pt is missing; give a run folder or a checkpoint file" in refusal(tmp_path / "model.pt")


def test_a_full_disk_leaves_the_checkpoint_before(saved, network, monkeypatch):
    before = saved.read_bytes()

    def refuse(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(Unet4DError, match="No space left on device"):
        save_checkpoint(saved, CONFIG, TASK, network, {"epoch": 4})
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [LAST]
