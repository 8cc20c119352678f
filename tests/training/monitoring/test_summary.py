"""summary.json: what a run was made with, and how it stands."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

import unet4d
from tests.builders import tiny_config, tiny_task
from unet4d.system.distributed import ProcessGroup
from unet4d.training.monitoring import summary
from unet4d.training.monitoring.summary import SUMMARY, write_summary

TASK = tiny_task("wall", held_out=("anna", "ben"))
LINES = [
    {"epoch": 1, "step": 5, "loss": 0.9, "seconds": 1.5, "skipped": [{"step": 2}, {"step": 3}]},
    {"epoch": 2, "step": 10, "loss": 0.5, "seconds": 2.5, "mean_foreground_dice": 0.7, "dice": {"wall": 0.7}},
    {"epoch": 3, "step": 15, "loss": 0.4, "seconds": 2.0, "skipped": [{"step": 12}]},
]


def written(run: Path, ranks: ProcessGroup | None = None, **given) -> dict:
    config = tiny_config(epochs=4, steps_per_epoch=5, fold=2, seed=7)
    about = {"state": "running", "step": 0, "lines": (), "device": torch.device("cpu")} | given
    write_summary(run, config=config, task=TASK, ranks=ranks or ProcessGroup(), **about)
    return json.loads((run / SUMMARY).read_text())


def test_a_run_that_stopped(tmp_path):
    """After three epochs and two steps of the fourth."""
    found = written(tmp_path, state="stopped", step=17, lines=LINES, reason="SIGTERM", dataset=tmp_path / "hearts")
    assert (found["state"], found["reason"], found["dataset"]) == ("stopped", "SIGTERM", str(tmp_path / "hearts"))
    assert (found["seed"], found["fold"], found["held_out"]) == (7, 2, ["anna", "ben"])
    assert found["epochs"] == {"done": 3, "of": 4}
    assert found["steps"] == {"done": 17, "of": 20}
    assert (found["seconds"], found["last_loss"], found["skipped_steps"]) == (6.0, 0.4, 3)
    assert found["best"] == found["last"] == {"epoch": 2, "mean_foreground_dice": 0.7, "dice": {"wall": 0.7}}
    assert "optimistic" in found["about"]


def test_the_last_score_is_that_of_the_newest_validation_and_the_best_may_be_older(tmp_path):
    worse = LINES[2] | {"mean_foreground_dice": 0.6, "dice": {"wall": 0.6}}
    found = written(tmp_path, lines=[*LINES[:2], worse])
    assert (found["best"]["epoch"], found["last"]["epoch"], found["last"]["dice"]) == (2, 3, {"wall": 0.6})


def test_epochs_done_are_those_recorded_and_time_has_the_validations_in_it(tmp_path):
    """Stopped in the validation of the fourth epoch: its steps are taken, and it is not done."""
    found = written(tmp_path, state="stopped", step=20, lines=[*LINES[:2], LINES[2] | {"validation_seconds": 30.0}])
    assert (found["epochs"], found["steps"]) == ({"done": 3, "of": 4}, {"done": 20, "of": 20})
    assert found["seconds"] == 36.0


def test_a_run_that_begins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = written(tmp_path, dataset="hearts")
    assert found["dataset"] == str(tmp_path / "hearts"), "the command that goes on holds wherever it is given"
    assert (found["reason"], found["best"], found["last_loss"]) == (None, None, None)
    assert found["epochs"] == {"done": 0, "of": 4}
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["unet4d"] == unet4d.__version__
    assert all(found["versions"][name] for name in ("monai", "numpy", "python"))
    assert found["hardware"]["cpu"]
    assert found["hardware"]["cores"] >= 1
    assert found["hardware"]["gpu"] is None


def test_only_the_first_process_writes(tmp_path):
    assert written(tmp_path, ProcessGroup(0, 3))["hardware"]["processes"] == 3
    (tmp_path / SUMMARY).unlink()
    with pytest.raises(FileNotFoundError):
        written(tmp_path, ProcessGroup(1, 3))


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Create a checkout of a package, and have the running one seem to be there."""
    package = tmp_path / "checkout" / "unet4d"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(unet4d, "__file__", str(package / "__init__.py"))
    return package.parent


def git(folder: Path, *words: str) -> str:
    named = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *named, *words], cwd=folder, check=True, capture_output=True, text=True).stdout


def commit_of(checkout: Path) -> dict | None:
    summary._commit.cache_clear()
    try:
        return summary._commit()
    finally:
        summary._commit.cache_clear()


def test_the_commit_is_that_of_the_packages_own_checkout(checkout):
    assert commit_of(checkout) is None, "no checkout at all"
    git(checkout, "init", "--quiet")
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "--message", "first")
    head = git(checkout, "rev-parse", "HEAD").strip()
    assert commit_of(checkout) == {"id": head, "changed": False}
    (checkout / "notes.txt").write_text("no part of the package")
    assert commit_of(checkout) == {"id": head, "changed": False}
    (checkout / "unet4d" / "__init__.py").write_text("changed = True")
    assert commit_of(checkout) == {"id": head, "changed": True}


def test_a_package_installed_inside_somebody_elses_checkout_has_no_commit(checkout):
    """Pins that a virtual environment inside a repository gave that repository's commit."""
    git(checkout.parent, "init", "--quiet")
    git(checkout.parent, "add", ".")
    git(checkout.parent, "commit", "--quiet", "--message", "theirs")
    assert commit_of(checkout) is None


def test_without_git_there_is_no_commit(checkout, monkeypatch):
    git(checkout, "init", "--quiet")
    monkeypatch.setenv("PATH", "")
    assert commit_of(checkout) is None
