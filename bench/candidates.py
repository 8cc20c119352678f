"""The networks that are compared: how each is built, trained and run, and the memory of it, counted or measured."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from bench.plain import WIDTHS, PlainStep, PublishedCLSTMUNet
from bench.resolved import resolve_for
from unet4d.config import CHANNELS, Config, ModelConfig, RecomputeConfig, Size, TrainConfig
from unet4d.models.clstm_unet import CLSTMUNet
from unet4d.models.device import autocast
from unet4d.models.memory_trace import MemoryTrace
from unet4d.models.topology import resolve_model, rounded_up
from unet4d.pipeline.clip_dataset import Batch
from unet4d.system.memory_errors import is_out_of_gpu_memory
from unet4d.training.step import TrainingStep

CLASSES = 4
SETTINGS = {
    "plain": RecomputeConfig(chunk_frames=0, lstm="gates"),
    "middle": RecomputeConfig(chunk_frames=4),
    "leanest": RecomputeConfig(chunk_frames=1),
}
"""How much of a training step is computed again rather than kept. Stages and groups of chunks go further, at more time."""


class Grid(NamedTuple):
    """Voxels (X, Y, Z) of a patch and what each measures."""

    size: Size
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __str__(self) -> str:
        return " x ".join(map(str, self.size))

    @property
    def voxels(self) -> int:
        """How many there are."""
        return self.size[0] * self.size[1] * self.size[2]


@dataclass(frozen=True)
class Candidate:
    """A network and a way to train it.

    Attributes:
        name: stands for it in tables.
        precision: "bf16", "fp16" or "fp32".
        channels: of its levels.
        memory: what the CLSTM-UNet keeps in training; None for the published network.
        last_block: of the published network.
    """

    name: str
    precision: str
    channels: tuple[int, ...]
    memory: RecomputeConfig | None = field(default=None, compare=False)
    last_block: bool = False

    def network(self, grid: Grid, device: torch.device) -> nn.Module:
        """With new weights, in training mode."""
        with device:  # made where it is needed, since tensors that hold nothing cannot be moved while they are counted
            return self._network(grid)

    def _network(self, grid: Grid) -> nn.Module:
        if self.memory is None:
            return PublishedCLSTMUNet(1, CLASSES, self.channels, self.last_block)
        model = resolve_model(ModelConfig(list(self.channels)), grid.spacing_mm, grid.size)
        return CLSTMUNet(model, 1, CLASSES)

    def padded(self, grid: Grid) -> Size:
        """The size it can compute that holds the grid."""
        if self.memory is not None:
            return grid.size
        return rounded_up(grid.size, (2 ** (len(self.channels) - 1),) * 3)

    def step(self, grid: Grid, device: torch.device) -> TrainingStep | PlainStep:
        """Its training step, with new weights."""
        network, precision = self.network(grid, device), self.precision
        asked = Config(train=TrainConfig(precision=precision, batch_size=1))  # type: ignore[arg-type]
        config = resolve_for(asked, grid.size, grid.spacing_mm)
        if self.memory is not None:
            config.recompute = dataclasses.replace(self.memory)
        return (PlainStep if self.memory is None else TrainingStep)(network, config, device)  # type: ignore[arg-type]

    def training(
        self, grid: Grid, device: torch.device, step: TrainingStep | PlainStep | None = None
    ) -> Callable[[int], None]:
        """A training step on a batch of one clip of so many frames, all labelled."""
        step = step or self.step(grid, device)

        def train(frames: int) -> None:
            image, label = self._clip(grid, frames, device)
            with unset_fake_temporarily():  # it is read
                labelled = torch.ones(1, frames, dtype=torch.bool)
            step(Batch(image, label, labelled))

        return train

    def prediction(self, grid: Grid, device: torch.device) -> Callable[[int], None]:
        """A prediction of one clip of so many frames, at once."""
        network = self.network(grid, device).eval()

        def predict(frames: int) -> None:
            with torch.no_grad(), autocast(device, self.precision):
                network(self._clip(grid, frames, device)[0])

        return predict

    def _clip(self, grid: Grid, frames: int, device: torch.device) -> tuple[Tensor, Tensor]:
        size = self.padded(grid)
        image = torch.zeros(1, frames, 1, *size, device=device).normal_()
        return image, torch.zeros(1, frames, *size, dtype=torch.uint8, device=device).random_(CLASSES)


def candidates(
    precision: str, channels: tuple[int, ...] = CHANNELS, widths: tuple[int, ...] = WIDTHS
) -> list[Candidate]:
    """The published network in float32 and in this precision, and ours in every setting."""
    published = [Candidate("published", kind, widths) for kind in dict.fromkeys(("fp32", precision))]
    flawed = [Candidate("published, with its last block", precision, widths, last_block=True)]
    return published + flawed + [Candidate(name, precision, channels, kept) for name, kept in SETTINGS.items()]


@functools.cache
def counted_bytes(candidate: Candidate, grid: Grid, frames: int, training: bool = True) -> int:
    """Peak memory of a training step, optimiser included, or of a prediction: live tensors, counted while they hold nothing."""
    cpu = torch.device("cpu")
    if candidate.precision == "fp16":
        candidate = dataclasses.replace(
            candidate, precision="bf16"
        )  # as large, and no loss scaler, which looks at values
    with FakeTensorMode(), MemoryTrace() as trace:
        if not training:
            run = candidate.prediction(grid, cpu)
        else:
            step = candidate.step(grid, cpu)
            _make_state(step.optimizer)
            run = candidate.training(grid, cpu, step)
        trace.peak_bytes = trace.current_bytes
        run(frames)
    return trace.peak_bytes


def _make_state(optimiser: torch.optim.Optimizer) -> None:
    """Have the optimiser make what it keeps between steps, as its first step does."""
    for group in optimiser.param_groups:
        for weight in group["params"]:
            weight.grad = torch.zeros_like(weight)
    optimiser.step()


def measured_bytes(candidate: Candidate, grid: Grid, frames: int, training: bool = True) -> int | None:
    """The same as the GPU's allocator saw it; None without a GPU, or where it does not fit."""
    if not torch.cuda.is_available():
        return None
    device = torch.device("cuda")
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    try:
        run = candidate.training(grid, device) if training else candidate.prediction(grid, device)
        run(1)
        torch.cuda.reset_peak_memory_stats()
        run(frames)
    except RuntimeError as error:
        if not is_out_of_gpu_memory(error):
            raise
        return None
    return torch.cuda.max_memory_allocated() - before


def weights(candidate: Candidate, grid: Grid) -> int:
    """How many weights it learns."""
    return sum(p.numel() for p in candidate.network(grid, torch.device("meta")).parameters())
