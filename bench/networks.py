"""The published network against ours: time and memory of a training step and of a prediction, per voxel and frame."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from bench.measure import Rounds, interleaved
from bench.plain import WIDTHS, PlainStep, PublishedCLSTMUNet
from bench.resolved import resolve_for
from unet4d.config import CHANNELS, Config, ModelConfig, RecomputeConfig, Size, TrainConfig
from unet4d.models.clstm_unet import CLSTMUNet
from unet4d.models.device import autocast
from unet4d.models.memory_trace import MemoryTrace
from unet4d.models.topology import resolve_model, rounded_up
from unet4d.pipeline.clip_dataset import Batch
from unet4d.training.step import TrainingStep

CLASSES = 4
PUBLISHED = "published"
SCHEDULES = {
    "plain": RecomputeConfig(chunk_frames=0, lstm="gates"),
    "middle": RecomputeConfig(chunk_frames=4),
    "leanest": RecomputeConfig(chunk_frames=1),
}
"""Schedules of recomputation in a training step, from none to the leanest. Stages and groups of chunks go further, at more time."""
ADAM_BYTES = 16
"""Bytes of a weight, its gradient and AdamW's two moments."""
GPU_BYTES = 40e9
"""Memory of the GPU that the largest number of frames is computed for."""


class Grid(NamedTuple):
    """Voxels (X, Y, Z) of a patch, and their spacing."""

    size: Size
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __str__(self) -> str:
        return " x ".join(map(str, self.size))

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return self.size[0] * self.size[1] * self.size[2]


@dataclass(frozen=True)
class Candidate:
    """A network and a way to train it.

    Attributes:
        name: in tables.
        precision: "bf16", "fp16" or "fp32".
        channels: of its levels.
        recompute: of a training step of the CLSTM-UNet; None for the published network.
    """

    name: str
    precision: str
    channels: tuple[int, ...]
    recompute: RecomputeConfig | None = field(default=None, compare=False)

    @property
    def key(self) -> str:
        """The name with the precision."""
        return f"{self.name}, {self.precision}"

    def network(self, grid: Grid, device: torch.device) -> nn.Module:
        """Return it with new weights, in training mode."""
        with device:  # fake tensors cannot be moved
            if self.recompute is None:
                return PublishedCLSTMUNet(1, CLASSES, self.channels)
            model = resolve_model(ModelConfig(list(self.channels)), grid.spacing_mm, grid.size)
            return CLSTMUNet(model, 1, CLASSES)

    def padded(self, grid: Grid) -> Size:
        """Return the smallest size around the grid that it can compute."""
        if self.recompute is not None:
            return grid.size
        return rounded_up(grid.size, (2 ** (len(self.channels) - 1),) * 3)

    def step(self, grid: Grid, device: torch.device) -> TrainingStep | PlainStep:
        """Return its training step, with new weights."""
        network, precision = self.network(grid, device), self.precision
        asked = Config(train=TrainConfig(precision=precision, batch_size=1))  # type: ignore[arg-type]
        config = resolve_for(asked, grid.size, grid.spacing_mm)
        if self.recompute is None:
            return PlainStep(network, config, device)
        config.recompute = dataclasses.replace(self.recompute)
        return TrainingStep(network, config, device)  # type: ignore[arg-type]

    def training(
        self, grid: Grid, device: torch.device, step: TrainingStep | PlainStep | None = None
    ) -> Callable[[int], None]:
        """Return a function that trains one step on a clip of n frames, all labelled."""
        step = step or self.step(grid, device)

        def train(frames: int) -> None:
            image, label = self._clip(grid, frames, device)
            with unset_fake_temporarily():  # its values are read
                labelled = torch.ones(1, frames, dtype=torch.bool)
            step(Batch(image, label, labelled))

        return train

    def prediction(self, grid: Grid, device: torch.device) -> Callable[[int], None]:
        """Return a function that predicts one clip of n frames, at once."""
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
    """Return the published network in float32 and in this precision, and ours with every schedule."""
    published = [Candidate(PUBLISHED, kind, widths) for kind in dict.fromkeys(("fp32", precision))]
    return published + [Candidate(name, precision, channels, schedule) for name, schedule in SCHEDULES.items()]


@functools.cache
def counted_bytes(candidate: Candidate, grid: Grid, frames: int) -> int:
    """Return the peak memory of a training step with its optimizer: live tensors, counted without content."""
    cpu = torch.device("cpu")
    if candidate.precision == "fp16":  # as large as bf16, and no loss scaler, which reads values
        candidate = dataclasses.replace(candidate, precision="bf16")
    with FakeTensorMode(), MemoryTrace() as trace:
        step = candidate.step(grid, cpu)
        for group in step.optimizer.param_groups:  # make the optimizer's moments
            for weight in group["params"]:
                weight.grad = torch.zeros_like(weight)
        step.optimizer.step()
        run = candidate.training(grid, cpu, step)
        trace.peak_bytes = trace.current_bytes
        run(frames)
    return trace.peak_bytes


def count_weights(candidate: Candidate, grid: Grid) -> int:
    """Return the number of weights."""
    return sum(p.numel() for p in candidate.network(grid, torch.device("meta")).parameters())


def time_table(
    compared: Sequence[Candidate], clips: Sequence[tuple[int, Grid]], device: torch.device, budget_s: float
) -> list[dict[str, Any]]:
    """Return a row per clip and candidate: times over those of the published network in our precision and of our plain step.

    Args:
        compared: published networks, the last in our precision, and ours, the first with the plain step.
        clips: frames and grid of each clip.
        device: computes.
        budget_s: seconds for each comparison.
    """
    baseline = next(c.key for c in compared[::-1] if c.recompute is None)
    ours = next(c for c in compared if c.recompute is not None)
    predicting = [c for c in compared if c.recompute is None or c is ours]  # ways to train one network predict alike
    rows = []
    for frames, grid in clips:
        training = _time({c.key: c.training(grid, device) for c in compared}, frames, budget_s)
        prediction = _time({c.key: c.prediction(grid, device) for c in predicting}, frames, budget_s)
        rows += [
            {
                "grid": str(grid),
                "frames": frames,
                "network": c.name,
                "precision": c.precision,
                "training s": training.seconds(c.key),
                "training / published": training.ratio(c.key, baseline),
                "training / plain": training.ratio(c.key, ours.key),
                "prediction s": prediction.seconds(c.key),
                "prediction / published": prediction.ratio(c.key, baseline),
            }
            for c in compared
        ]
    return rows


def _time(runs: dict[str, Callable[[int], None]], frames: int, budget_s: float) -> Rounds:
    return interleaved({k: functools.partial(run, frames) for k, run in runs.items()}, budget_s=budget_s, fewest=2)


def memory_table(compared: Sequence[Candidate], grids: Sequence[Grid], frames: tuple[int, int]) -> list[dict[str, Any]]:
    """Return a row per grid and candidate: counted memory of a training step, and the frames that fit into `GPU_BYTES`.

    Memory is a line over the frames, through two counted clips: weights, voxels, and voxels times frames.
    """
    rows = []
    for grid in grids:
        for c in compared:
            few, many = (counted_bytes(c, grid, count) for count in frames)
            slope = (many - few) / (frames[1] - frames[0])
            offset, weights = many - slope * frames[1], count_weights(c, grid)
            rows.append(
                {
                    "grid": str(grid),
                    "network": c.name,
                    "precision": c.precision,
                    "million weights": weights / 1e6,
                    "B per voxel": (offset - ADAM_BYTES * weights) / grid.voxels,
                    "B per voxel and frame": slope / grid.voxels,
                    "frames in 40 GB": max(0, int((GPU_BYTES - offset) / slope)),
                }
            )
    return rows
