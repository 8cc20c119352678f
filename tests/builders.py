"""Small studies and datasets that many tests build."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from unet4d.config import (
    BATCH_SIZE,
    FOLDS,
    FRAMES,
    Config,
    DataConfig,
    InferenceConfig,
    ModelConfig,
    RecomputeConfig,
    ResolvedConfig,
    ResolvedDataConfig,
    ResolvedModelConfig,
    ResolvedTrainConfig,
    Size,
    TrainConfig,
)
from unet4d.datasets.cases import Dataset
from unet4d.datasets.dataset import read_dataset
from unet4d.images.image4d import Image4D, write_image
from unet4d.models.checkpoint import save_checkpoint
from unet4d.models.clstm_unet import CLSTMUNet
from unet4d.models.task import Task
from unet4d.phantom import write_phantom
from unet4d.pipeline.cached_study import CachedStudy

SECTIONS = {
    "data": DataConfig, "model": ModelConfig, "train": TrainConfig, "recompute": RecomputeConfig, "inference": InferenceConfig,
}  # fmt: skip
TINY_MODEL = {"channels": [4, 8], "lstm_channels": 2, "strides": [(2, 2, 1)], "kernel_size": [(3, 3, 1), (3, 3, 3)]}
OBLIQUE = np.array([[-1.9, 0.1, 3.0, 40.0], [0.2, -2.0, 2.0, 30.0], [0.3, 0.4, 8.0, -20.0], [0, 0, 0, 1]])
"""An affine of no axis along another."""
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
    train["init_lr_factor"] = train["init_lr_factor"] or 1.0
    train["framewise_fraction"] = train["framewise_fraction"] or 0.0
    if train["precision"] == "auto":
        train["precision"] = "fp32"
    sections = {"data": ResolvedDataConfig(**data), "train": ResolvedTrainConfig(**train)}
    return ResolvedConfig(**{**vars(config), **sections, "model": resolve_model_plainly(config.model)})


def make_config(**settings: Any) -> Config:
    """Return a configuration; each setting goes to the first section that has it."""
    given: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    fields = {name: {field.name for field in dataclasses.fields(section)} for name, section in SECTIONS.items()}
    for key in [key for key in settings if key not in ("fold", "seed")]:
        section = next((name for name in SECTIONS if key in fields[name]), None)
        assert section, f"no section has the setting {key}"
        given[section][key] = settings.pop(key)
    return Config(**{name: section(**given[name]) for name, section in SECTIONS.items()}, **settings)


def tiny_config(**settings: Any) -> ResolvedConfig:
    """Resolve the configuration of a network of two levels, in float32 unless the settings say otherwise."""
    return resolve_plainly(make_config(**(TINY_MODEL | {"precision": "fp32"} | settings)))


def tiny_task(*classes: str, channel_names: Sequence[str] = ("MRI",), cyclic: bool = True, **more: Any) -> Task:
    """Return a task with these classes, numbered from 1."""
    return Task(
        {"background": 0} | {name: i for i, name in enumerate(classes, 1)}, tuple(channel_names), cyclic, **more
    )


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


def randomize_projections(network: CLSTMUNet, std: float = 1.0) -> CLSTMUNet:
    """Draw the projections of the recurrence, which are zero at first, from a normal distribution."""
    for addition in network.recurrent.values():
        torch.nn.init.normal_(addition.projection.weight, std=std)
    return network


def save_network(path: Path, config: ResolvedConfig, task: Task, training: dict[str, Any] | None = None) -> None:
    """Save a checkpoint of an untrained network."""
    network = build_network(config.model, len(task.channel_names), len(task.labels))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, config, task, network, training or {})


def write_study(
    path: Path,
    voxels: np.ndarray,
    spacing: Sequence[float] = (2.0, 2.0, 10.0),
    seconds: float | None = 0.05,
    affine: np.ndarray | None = None,
    milliseconds: bool = False,
) -> Path:
    """Write voxels (T, X, Y, Z) as NIfTI by nibabel alone; without seconds, the header has no unit of time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(np.moveaxis(voxels, 0, -1), np.diag([*spacing, 1.0]) if affine is None else affine)
    image.header.set_xyzt_units("mm", ("msec" if milliseconds else "sec") if seconds else None)
    image.header["pixdim"][4] = (seconds or 1) * (1000 if milliseconds else 1)
    nib.save(image, path)
    return path


def write_prediction(root: Path, name: str, study: Image4D, label: np.ndarray) -> None:
    """Write a study of one channel into the folder `images` and its predicted label map into `found`."""
    write_image(root / f"images/{name}.nii.gz", study.array[0], like=study)
    write_image(root / f"found/{name}.nii.gz", label, like=study)


def write_dataset_json(root: Path, cases: Iterable[str | dict[str, Any]], labels: dict[str, int], **entry: Any) -> Path:
    """Write dataset.json of cases given by name or entry, with files of the case's name by default; return its folder."""
    entries = [{"case": case} if isinstance(case, str) else case for case in cases]
    training = [{key: f"{key}s/{case['case']}.nii.gz" for key in ("image", "label")} | case for case in entries]
    about = {"channel_names": {"0": "MRI"}, "labels": labels, "training": training} | entry
    (root / "dataset.json").write_text(json.dumps(about))
    return root


@contextmanager
def edit_dataset(root: Path) -> Iterator[dict]:
    """Yield the content of dataset.json, and write it back as it is changed."""
    about = json.loads((root / "dataset.json").read_text())
    yield about
    (root / "dataset.json").write_text(json.dumps(about))


def change_dataset(root: Path, change: Callable[[dict], object]) -> None:
    """Write dataset.json as a function changes its content in place."""
    with edit_dataset(root) as about:
        change(about)


def cached_study(
    case: str = "a",
    frames: int = 6,
    labelled: Sequence[int] = (1, 4),
    channels: int = 1,
    shape: Sequence[int] = (14, 12, 5),
    spacing: tuple[float, ...] = (1.0, 1.0, 8.0),
    seed: int = 0,
) -> CachedStudy:
    """Return a preprocessed study: noise that is never 0, class 1 a small box, class 2 one voxel of each labelled frame."""
    rng = np.random.default_rng(seed)
    image = rng.random((channels, frames, *shape), dtype=np.float32) + 1
    label = np.zeros((len(labelled), *shape), np.uint8)
    label[:, 2:6, 3:7, shape[2] // 2] = 1
    label[:, 9, 4, 0] = 2
    rows = [(row, label[row, x, y, z], x, y, z) for row, x, y, z in np.argwhere(label)]
    return CachedStudy(case, image, label, tuple(labelled), np.array(sorted(rows), np.int32), spacing)


def skip_drawing(patch: pytest.MonkeyPatch, module: str = "unet4d.training.validation") -> None:
    """Replace the pictures that a module draws by black ones, which spares the seconds that contours take."""
    for name in ("draw_contour_sheet", "draw_curves"):
        patch.setattr(f"{module}.{name}", lambda *given, **named: np.zeros((8, 8, 3), np.uint8))


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
    """Return two phantom subjects of 4 frames on (40, 36, 5), two frames labelled; to be read only."""
    return read_dataset(write_phantom(tmp_path_factory.mktemp("phantom"), 2, 4, labelled="two", shape=(40, 36, 5)))


@pytest.fixture
def write_case(tmp_path: Path) -> DatasetMaker:
    """Return a function that writes one study as a dataset folder and reads it back."""

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
        channels = {str(channel): f"channel {channel}" for channel in range(len(image))}
        labels = {"background" if value == 0 else f"class {value}": value for value in values}
        return read_dataset(write_dataset_json(tmp_path, [entry], labels, channel_names=channels))

    return write
