"""Small studies and datasets that many tests build."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unet4d.config import (
    BATCH_SIZE,
    FOLDS,
    FRAMES,
    Config,
    ModelConfig,
    ResolvedConfig,
    ResolvedDataConfig,
    ResolvedModelConfig,
    ResolvedTrainConfig,
    Size,
)
from unet4d.datasets.cases import Dataset
from unet4d.datasets.dataset import read_dataset
from unet4d.images.image4d import Image4D, write_image
from unet4d.models.clstm_unet import CLSTMUNet
from unet4d.phantom import write_phantom

DatasetMaker = Callable[..., Dataset]


def resolve_model_plainly(model: ModelConfig) -> ResolvedModelConfig:
    """Fill in strides of 2 and kernels of 3 where they are unset."""
    strides = model.strides or [(2, 2, 2)] * (len(model.channels) - 1)
    kernels = model.kernel_size or [(3, 3, 3)] * len(model.channels)
    filled = {"strides": strides, "kernel_size": kernels, "lstm_channels": model.lstm_channels_per_level()}
    return ResolvedModelConfig(**{**vars(model), **filled})


def resolve_plainly(config: Config) -> ResolvedConfig:
    """Fill in what is unset without any study: pixels of 1 mm, the default counts, float32."""
    data = {"folds": FOLDS, "in_plane_spacing_mm": 1.0, "patch_size": (16, 16, 4), "frames": FRAMES, "num_workers": 0}
    data |= {name: value for name, value in vars(config.data).items() if value is not None or name not in data}
    train = vars(config.train) | {"batch_size": config.train.batch_size or BATCH_SIZE}
    if train["precision"] == "auto":
        train["precision"] = "fp32"
    sections = {"data": ResolvedDataConfig(**data), "train": ResolvedTrainConfig(**train)}
    return ResolvedConfig(**{**vars(config), **sections, "model": resolve_model_plainly(config.model)})


def build_network(model: ModelConfig, in_channels: int, out_channels: int) -> CLSTMUNet:
    """Build a network, isotropic where the configuration does not say otherwise."""
    return CLSTMUNet(resolve_model_plainly(model), in_channels, out_channels)


def make_network(
    in_channels: int,
    out_channels: int,
    channels: Sequence[int],
    strides: Sequence[Size] | None = None,
    kernel_size: Sequence[Size] | None = None,
    lstm_channels: Sequence[int] | int | None = None,
    *more: Any,
    **settings: Any,
) -> CLSTMUNet:
    """Build a network from settings in the order of `ModelConfig`."""
    lists = [None if sizes is None else list(sizes) for sizes in (strides, kernel_size)]
    lstm = lstm_channels if lstm_channels is None or isinstance(lstm_channels, int) else list(lstm_channels)
    return build_network(ModelConfig(list(channels), lstm, *lists, *more, **settings), in_channels, out_channels)


class LogLines(logging.Handler):
    """Keeps the messages of what the package logs."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def collect_log() -> list[str]:
    """Return a list that gets every message logged until the test ends."""
    handler = LogLines()
    logging.getLogger("unet4d").addHandler(handler)
    return handler.lines


@pytest.fixture(scope="session")
def phantom_dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Two phantom subjects of 4 frames on (40, 36, 5), two frames labelled; to be read only."""
    return read_dataset(write_phantom(tmp_path_factory.mktemp("phantom"), 2, 4, labelled="two", shape=(40, 36, 5)))


@pytest.fixture
def write_case(tmp_path: Path) -> DatasetMaker:
    """A function that writes one study as a dataset folder and reads it back."""

    def write(
        image: np.ndarray,
        label: np.ndarray,
        name: str = "study",
        spacing: Sequence[float] = (1.0, 1.0, 8.0),
        values: Sequence[int] = (0, 1),
        labelled_frames: Sequence[int] | None = None,
    ) -> Dataset:
        like = Image4D.from_array(image, np.diag([*spacing, 1.0]), 0.05)
        files = [f"{name}_{channel}.nii" for channel in range(len(image))]
        for file, channel in zip(files, image, strict=True):
            write_image(tmp_path / file, channel.astype(np.float32), like=like)
        write_image(tmp_path / f"{name}_label.nii", label, like=like)
        entry: dict = {"case": name, "image": files, "label": f"{name}_label.nii"}
        if labelled_frames is not None:
            entry["labelled_frames"] = list(labelled_frames)
        about = {
            "channel_names": {str(channel): f"channel {channel}" for channel in range(len(image))},
            "labels": {"background" if value == 0 else f"class {value}": value for value in values},
            "training": [entry],
        }
        (tmp_path / "dataset.json").write_text(json.dumps(about))
        return read_dataset(tmp_path)

    return write
