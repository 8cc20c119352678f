"""What is compared: our prediction, from file to file, and MONAI's sliding window held in its plainest form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from bench.predict_child import Done, measured
from bench.predict_watch import Watch, resident_mb
from bench.resolved import resolve_for
from unet4d.config import Config
from unet4d.datasets.find_studies import find_studies
from unet4d.images.nifti import header_for, write_nifti
from unet4d.inference.predict import predict
from unet4d.inference.prepare import prepare
from unet4d.inference.settings import USABLE, Settings
from unet4d.inference.windows import SIGMA_SCALE
from unet4d.models.checkpoint import Task, TrainedModel, load_model, save_checkpoint
from unet4d.models.clstm_unet import CLSTMUNet
from unet4d.models.device import autocast, find_device, resolve_precision, set_tf32
from unet4d.system.memory import resident_bytes

SEED = 0


@dataclass(frozen=True)
class Ours:
    """`predict` on one study: read, prepared, answered, brought back, written.

    Attributes:
        model: a checkpoint.
        study: a file.
        out: a folder of its own.
        settings: how.
        room_bytes: the budget it shall find beside what its process holds before it; None: as `settings` say.
    """

    model: Path
    study: Path
    out: Path
    settings: Settings
    room_bytes: float | None = None

    def ready(self) -> Callable[[], Done]:
        """Nothing is kept from one prediction to the next."""
        idle, settings = resident_mb(), self.settings
        if self.room_bytes is not None:
            settings = replace(settings, memory_bytes=round((resident_bytes() + self.room_bytes) / USABLE))

        def run() -> Done:
            watch = Watch()
            with watch.on():
                predict(self.model, [self.study], self.out, settings)
            asked = None if settings.memory_bytes is None else settings.memory_bytes / 1e6
            return measured(idle, watch, asked)

        return run

    @property
    def written(self) -> Path:
        """The label map."""
        return self.out / f"{self.study.name.removesuffix('.gz').removesuffix('.nii')}.nii.gz"


@dataclass(frozen=True)
class Monai:
    """`sliding_window_inference` of the same network: frames folded into channels, all logits held in float32, argmax at the end.

    The image is there, normalised and on the working grid; the label map stays on that grid and is not written.

    Attributes:
        model: a checkpoint.
        image: (C, T, X, Y, Z) float32 as .npy.
        cyclic: the last frame leads into the first.
        precision: of the network, as in `Settings`.
    """

    model: Path
    image: Path
    cyclic: bool
    precision: str

    def ready(self) -> Callable[[], Done]:
        """Model and image are read once."""
        idle, device = resident_mb(), find_device()
        model, image = load_model(self.model, device), torch.from_numpy(np.load(self.image))

        def run() -> Done:
            monai_label(model, image, self.cyclic, self.precision)
            return measured(idle)

        return run


@torch.inference_mode()
def monai_label(model: TrainedModel, image: Tensor, cyclic: bool, precision: str) -> Tensor:
    """Class indices (T, X, Y, Z) uint8 of an image (C, T, X, Y, Z)."""
    network, (channels, frames), classes = model.network, image.shape[:2], len(model.task.labels)
    device = next(network.parameters()).device
    set_tf32(device, precision)

    def answered(clip: Tensor) -> Tensor:
        """(B, C*T, X, Y, Z) to (B, T*K, X, Y, Z)."""
        with autocast(device, precision):
            return network(clip.unflatten(1, (channels, frames)).transpose(1, 2), cyclic=cyclic).flatten(1, 2).float()

    logits = sliding_window_inference(
        image.flatten(0, 1)[None].to(device),
        model.config.data.patch_size or (),
        1,
        answered,
        overlap=model.config.inference.overlap,
        mode="gaussian",
        sigma_scale=SIGMA_SCALE,
    )
    assert isinstance(logits, Tensor)
    return logits[0].unflatten(0, (frames, classes)).argmax(1).to(torch.uint8).cpu()


def write_model(path: Path, config: Config, classes: int, spacing_mm: Sequence[float], cyclic: bool = True) -> None:
    """Write a network with random weights, the same for the same configuration; recurrence has a say in its answer.

    Args:
        path: of the checkpoint.
        config: strides and kernels may be left out.
        classes: K.
        spacing_mm: of a voxel, from which they follow.
        cyclic: it was trained on gated cine.
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


def write_image(model: Path, study: Path, path: Path) -> None:
    """Write what the network of a model is shown of a study, as .npy."""
    loaded = load_model(model)
    [found] = find_studies([study], loaded.task.channel_names)
    image = prepare([loaded], found, Settings()).image
    assert isinstance(image, Tensor)
    np.save(path, image.numpy())


def write_series(path: Path, shape: Sequence[int], frames: int, spacing_mm: Sequence[float]) -> None:
    """Write a study of int16 frame by frame: a bright ball that takes up contrast, and noise; never more than some frames are held.

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


def precisions() -> list[str]:
    """float32, which is compared with MONAI's, and what is taken here if nobody says."""
    return list(dict.fromkeys(["fp32", resolve_precision("auto", find_device())]))
