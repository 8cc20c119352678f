"""The predictions that are compared, each in a process of its own: ours from file to file, and MONAI's sliding window."""

from __future__ import annotations

import contextlib
import io
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from bench.resolved import resolve_for
from unet4d.config import Config, TrainConfig, triple
from unet4d.datasets.find_studies import find_studies
from unet4d.images.nifti import header_for, write_nifti
from unet4d.inference.memory_budget import PLANNED_SHARE, MemoryBudget
from unet4d.inference.options import InferenceOptions
from unet4d.inference.predict import predict
from unet4d.inference.prepare import prepare_study
from unet4d.inference.window_predictor import WindowPredictor
from unet4d.inference.windows import SIGMA_SCALE
from unet4d.models.checkpoint import TrainedModel, load_model, save_checkpoint
from unet4d.models.clstm_unet import CLSTMUNet
from unet4d.models.device import autocast, find_device, set_tf32
from unet4d.models.task import Task
from unet4d.system.memory import resident_bytes
from unet4d.training.train import train

SEED = 0
MOST_TRAINED = 64
"""Voxels along an edge of a patch to train on, at most."""


@dataclass(frozen=True)
class Cost:
    """The cost of one prediction.

    Attributes:
        network_s: seconds in the network; None where they were not measured.
        windows: calls of the network.
        asked_mb: the memory limit; None: what is free.
        idle_mb: memory of the process before the prediction.
        peak_mb: most memory of the process up to its end.
        gpu_mb: most memory on the GPU; None without one.
    """

    network_s: float | None
    windows: int
    asked_mb: float | None
    idle_mb: float
    peak_mb: float
    gpu_mb: float | None

    @property
    def own_mb(self) -> float:
        """The most memory beside that of the idle process."""
        return self.peak_mb - self.idle_mb


@dataclass(frozen=True)
class Ours:
    """`predict` on one study, from file to file.

    Attributes:
        model: a checkpoint.
        study: a file.
        out: a folder of its own.
        settings: of the prediction.
        room_bytes: usable memory beside what the process holds before; None: as `settings` say.
        backend: what computes the network.
    """

    model: Path
    study: Path
    out: Path
    settings: InferenceOptions
    room_bytes: float | None = None
    backend: str = "torch"

    @property
    def precision(self) -> str:
        """The network's precision."""
        return self.settings.precision

    def load(self) -> Callable[[], Cost]:
        """Return the prediction; nothing is kept from one to the next."""
        idle, settings = memory_mb("VmRSS"), self.settings
        if self.room_bytes is not None:
            settings = replace(settings, max_memory_bytes=round((resident_bytes() + self.room_bytes) / PLANNED_SHARE))
        asked = None if settings.max_memory_bytes is None else settings.max_memory_bytes / 1e6

        def run() -> Cost:
            with timed_network() as calls:
                predict(self.model, [self.study], self.out, settings, backend=self.backend)
            return Cost(sum(calls), len(calls), asked, idle, memory_mb("VmHWM"), gpu_mb())

        return run


@dataclass(frozen=True)
class Monai:
    """`sliding_window_inference` of the same network: frames folded into channels, all logits in float32, argmax at the end.

    Attributes:
        model: a checkpoint.
        image: (C, T, X, Y, Z) float32 as .npy, normalized and on the working grid, on which the label map stays.
        cyclic: whether the last frame leads into the first.
        precision: of the network, as in `InferenceOptions`.
    """

    model: Path
    image: Path
    cyclic: bool
    precision: str

    def load(self) -> Callable[[], Cost]:
        """Read model and image, and return the prediction."""
        idle, device = memory_mb("VmRSS"), find_device()
        model, image = load_model(self.model, device), torch.from_numpy(np.load(self.image))

        def run() -> Cost:
            monai_label(model, image, self.cyclic, self.precision)
            return Cost(None, 0, None, idle, memory_mb("VmHWM"), gpu_mb())

        return run


@torch.inference_mode()
def monai_label(model: TrainedModel, image: Tensor, cyclic: bool, precision: str) -> Tensor:
    """Return class indices (T, X, Y, Z) uint8 of an image (C, T, X, Y, Z)."""
    network, (channels, frames), classes = model.network, image.shape[:2], len(model.task.labels)
    device = next(network.parameters()).device
    set_tf32(device, precision)

    def folded_logits(clip: Tensor) -> Tensor:
        """Return (B, T*K, X, Y, Z) of (B, C*T, X, Y, Z)."""
        with autocast(device, precision):
            return network(clip.unflatten(1, (channels, frames)).transpose(1, 2), cyclic=cyclic).flatten(1, 2).float()

    size, overlap = model.config.data.patch_size, model.config.inference.overlap
    logits = sliding_window_inference(
        image.flatten(0, 1)[None].to(device), size, 1, folded_logits, overlap, "gaussian", SIGMA_SCALE
    )
    assert isinstance(logits, Tensor)
    return logits[0].unflatten(0, (frames, classes)).argmax(1).to(torch.uint8).cpu()


@contextlib.contextmanager
def timed_network() -> Iterator[list[float]]:
    """Give a list that gets the seconds of each call of the network made inside; on a GPU each call is waited for."""
    calls: list[float] = []
    usual = WindowPredictor.logits

    def logits(*given: Any) -> Any:
        began = _now_s()
        out = usual(*given)
        calls.append(_now_s() - began)
        return out

    WindowPredictor.logits = logits  # type: ignore[method-assign, assignment]
    try:
        yield calls
    finally:
        WindowPredictor.logits = usual  # type: ignore[method-assign]


def _now_s() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def memory_mb(name: str, status: Path = Path("/proc/self/status")) -> float:
    """Return main memory of this process: VmRSS now, VmHWM the most so far; 0 where the system does not report it."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", status.read_text(encoding="utf-8"), re.M) if status.exists() else None
    return 1024 * int(found[1]) / 1e6 if found else 0.0


def gpu_mb() -> float | None:
    """Return the most memory on the GPU so far."""
    return torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else None


def write_model(path: Path, config: Config, classes: int, spacing_mm: Sequence[float], cyclic: bool = True) -> None:
    """Write a network with random weights, the same for the same configuration; its recurrence changes the logits.

    Args:
        path: of the checkpoint.
        config: strides and kernels may be unset.
        classes: K.
        spacing_mm: of a voxel, from which they follow.
        cyclic: whether it was trained on gated cine.
    """
    assert config.data.patch_size is not None
    resolved = resolve_for(config, config.data.patch_size, spacing_mm)
    torch.manual_seed(SEED)
    network = CLSTMUNet(resolved.model, 1, classes)
    for name, weight in network.named_parameters():
        if "projection" in name:  # which begins at 0
            nn.init.normal_(weight, std=0.1)
    labels = {"background": 0} | {f"class {k}": k for k in range(1, classes)}
    save_checkpoint(path, resolved, Task(labels, ("image",), cyclic), network, {})


def train_model(path: Path, config: Config, dataset: Path, steps: int) -> None:
    """Train a network on a dataset for a few steps and write its checkpoint.

    Its label maps have smooth structures, as those of a real network. With random weights a third of the voxels lies between
    classes, which costs time outside the network.

    Args:
        path: of the checkpoint.
        config: of the prediction; strides and kernels may be unset.
        dataset: folder with dataset.json.
        steps: of training, on smaller patches than the windows of the prediction.
    """
    assert config.data.patch_size is not None
    patch = triple(tuple(min(size, MOST_TRAINED) for size in config.data.patch_size))
    data = replace(config.data, patch_size=patch, frames=4, val_subjects=[], num_workers=0)
    taught = replace(config, data=data, train=TrainConfig(epochs=1, steps_per_epoch=steps, batch_size=1))
    with contextlib.redirect_stdout(io.StringIO()):
        model = load_model(train(dataset, path.with_suffix(""), taught))
    window = replace(model.config, data=replace(model.config.data, patch_size=config.data.patch_size))
    save_checkpoint(path, window, model.task, model.network, {})


def write_image(model: Path, study: Path, path: Path) -> None:
    """Write the image of a study that a model's network gets, as .npy."""
    loaded = load_model(model)
    [found] = find_studies([study], loaded.task.channel_names)
    image = prepare_study([loaded], found, InferenceOptions(), MemoryBudget()).image
    assert isinstance(image, Tensor)
    np.save(path, image.numpy())


def write_series(path: Path, shape: Sequence[int], frames: int, spacing_mm: Sequence[float]) -> None:
    """Write a study of int16 frame by frame: a ball that takes up contrast, and noise.

    Args:
        path: .nii or .nii.gz.
        shape: voxels (X, Y, Z).
        frames: T.
        spacing_mm: of a voxel.
    """
    rng = np.random.default_rng(SEED)
    place = np.indices(shape, np.float32, sparse=True)
    distance = sum((2 * p / n - 1) ** 2 for p, n in zip(place, shape, strict=True))
    ball = np.asarray(distance < 0.4, np.int16)
    noise = rng.integers(0, 60, shape, np.int16)
    header = nib.Nifti1Header()
    header["dim"][:5] = (4, *shape, frames)
    header["pixdim"][1:5] = (*spacing_mm, 3.0)
    header.set_xyzt_units("mm", "sec")
    header.set_sform(np.diag([*spacing_mm, 1.0]), 1)
    volumes = (200 + np.roll(noise, 7 * t) + ball * np.int16(200 * t / frames) for t in range(frames))
    write_nifti(path, header_for(header, (*shape, frames), np.dtype(np.int16)), volumes)
