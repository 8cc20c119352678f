"""Fixtures for many tests: a tiny phantom dataset, a run trained on it, models made by hand, and the command line."""

from __future__ import annotations

import functools
import gc
import importlib
import json
import logging
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import fastjsonschema
import hypothesis
import numpy as np
import pytest
import torch
from limits import pytest_collection_modifyitems, pytest_exception_interact, pytest_runtest_protocol  # noqa: F401

from tests.builders import (  # noqa: F401
    OBLIQUE,
    LogLines,
    build_network,
    make_config,
    phantom_dataset,
    skip_drawing,
    tiny_config,
    write_case,
    write_study,
)
from unet4d.cli.console import start_logging
from unet4d.cli.main import run
from unet4d.config import Config
from unet4d.models.checkpoint import save_checkpoint
from unet4d.models.task import Task
from unet4d.phantom import write_phantom
from unet4d.system import documents
from unet4d.training.train import train

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so a shell starts a job in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
hypothesis.settings.register_profile(
    "busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], derandomize=True
)
hypothesis.settings.load_profile(
    "busy"
)  # no example fails because the machine is slow, and every run draws the same ones


def pytest_collection_finish() -> None:
    """Leave all that was imported out of garbage collections: each full one took a fifth of a second."""
    gc.collect()
    gc.freeze()


VALIDATES = {"documents": True}
LABELS = {"background": 0, "right ventricle": 1, "myocardium": 2, "left ventricle": 3}


@dataclass(frozen=True)
class Outcome:
    """The end of a command: its exit code and its output."""

    code: int
    told: str
    error: str

    @property
    def line(self) -> str:
        """Return the one line on stderr."""
        lines = self.error.splitlines()
        assert len(lines) == 1, f"wanted one line on stderr, got {lines}"
        return lines[0]


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    """Print what the package logs, as the command line does."""
    start_logging()
    yield
    logger = logging.getLogger("unet4d")
    for handler in [one for one in logger.handlers if isinstance(one, LogLines)]:
        logger.removeHandler(handler)


@pytest.fixture(autouse=True, scope="session")
def _valid_documents() -> None:
    """Validate every JSON document that the package makes in any test by its schema, but see `partial_documents`."""
    stamp = documents.document
    compiled = functools.cache(lambda name: fastjsonschema.compile(documents.load_schema(name)))

    def validated(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
        made = stamp(name, value)
        if VALIDATES["documents"]:
            compiled(name)(json.loads(json.dumps(made)))
        return made

    documents.document = validated
    for name, module in list(sys.modules.items()):
        if name.startswith("unet4d") and vars(module).get("document") is stamp:
            vars(module)["document"] = validated


@pytest.fixture
def partial_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test write documents that have only what it reads."""
    monkeypatch.setitem(VALIDATES, "documents", False)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run `unet4d` with these arguments, in this process."""

    def called(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    return called


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Callable[[str], ModuleType]:
    """Import a script of experiments/ as it is when run."""
    monkeypatch.syspath_prepend(request.config.rootpath / "experiments")
    return importlib.import_module


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset of three phantoms, 4 frames of 40 x 36 x 5 voxels, all labelled; not to be changed."""
    return write_phantom(tmp_path_factory.mktemp("data") / "phantom", 3, 4, shape=(40, 36, 5)).parent


@pytest.fixture
def own_phantom(phantom: Path, tmp_path: Path) -> Path:
    """Return a copy of the dataset that a test may change."""
    return shutil.copytree(phantom, tmp_path / "phantom", ignore=shutil.ignore_patterns(".unet4d-cache", "truth"))


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Config]:
    """Return the configuration of a run of a second; keywords change settings of the training loop, the fold or the seed."""

    def made(
        val_subjects: Sequence[str] | None = None, num_workers: int = 0, fold: int = 0, seed: int = 0, **loop
    ) -> Config:
        loop = {
            "epochs": 2,
            "steps_per_epoch": 2,
            "batch_size": 1,
            "precision": "fp32",
            "fold": fold,
            "seed": seed,
        } | loop
        chosen = None if val_subjects is None else list(val_subjects)
        data = {"val_subjects": chosen, "folds": 3, "patch_size": (16, 16, 4), "frames": 3, "num_workers": num_workers}
        return make_config(**data, channels=[4, 8], overlap=0.25, **loop)

    return made


@pytest.fixture(scope="session")
def tiny_options() -> list[str]:
    """Return the same as `tiny`, for the command line."""
    settings = {
        "data.folds": 3, "data.patch_size": "[16,16,4]", "data.frames": 3, "data.num_workers": 0, "model.channels": "[4,8]",
        "train.epochs": 2, "train.steps_per_epoch": 2, "train.batch_size": 1, "train.precision": "fp32",
        "inference.overlap": 0.25,
    }  # fmt: skip
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


@pytest.fixture(scope="session")
def trained(phantom: Path, tiny: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of two epochs of two steps; not to be changed."""
    out = tmp_path_factory.mktemp("runs") / "run"
    train(phantom, out, tiny(), "cpu")
    return out


@pytest.fixture
def model_file(tmp_path: Path) -> Callable[..., Path]:
    """Write a checkpoint of a network with random weights, recurrence included; return its path."""

    def made(
        labels: dict[str, int] = LABELS,
        channel_names: Sequence[str] = ("cine MRI",),
        direction: str = "forward",
        lstm_channels: int = 4,
        patch_size: tuple[int, int, int] = (16, 16, 4),
        normalization: str = "zscore",
        cyclic: bool = False,
    ) -> Path:
        data = {"in_plane_spacing_mm": 2.0, "patch_size": patch_size, "normalization": normalization}
        config = tiny_config(lstm_channels=lstm_channels, direction=direction, **data)
        torch.manual_seed(1)
        network = build_network(config.model, len(channel_names), len(labels))
        for name, weight in network.named_parameters():
            if "projection" in name:
                torch.nn.init.normal_(weight)
        path = tmp_path / "model.pt"
        save_checkpoint(path, config, Task(labels, tuple(channel_names), cyclic), network, {})
        return path

    return made


@pytest.fixture(scope="session")
def study() -> Callable[..., None]:
    """Write a study of noise, 18 x 15 x 5 oblique voxels, 3 frames of 42.5 ms."""

    def written(path: Path, frames: int = 3, shape: Sequence[int] = (18, 15, 5), seed: int = 0) -> None:
        voxels = np.random.default_rng(seed).normal(100, 30, (*shape, frames)).astype(np.float32)
        write_study(path, np.moveaxis(voxels, -1, 0), affine=OBLIQUE, seconds=0.0425, milliseconds=True)

    return written


@pytest.fixture
def studies(tmp_path: Path, study: Callable[..., None]) -> Path:
    """Return a folder of five studies."""
    for seed in range(5):
        study(tmp_path / "in" / f"s{seed}.nii.gz", seed=seed, frames=2 + seed % 2)
    return tmp_path / "in"


@pytest.fixture(scope="module")
def no_pictures():
    """Spare the seconds that contours take; test_train.py looks at real ones."""
    with pytest.MonkeyPatch.context() as patch:
        skip_drawing(patch)
        yield
