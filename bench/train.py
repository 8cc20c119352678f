"""The cost of our training loop on top of the step itself."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.bars import bar
from bench.measure import Rounds, interleaved
from bench.train_loops import Job, OurLoop, PlainLoop, fed_by_workers
from unet4d.config import CHANNELS, Config, DataConfig, ModelConfig, Size, TrainConfig
from unet4d.models.device import find_device, set_tf32

Row = dict[str, Any]
PLAIN, READY, WORKERS = "plain", "ours, batches ready", "ours, from workers"
MOST_OVERHEAD = 1.05
READY_BATCHES = 4
MANY_EPOCHS = 10_000
"""More than are ever trained, so that the learning rate stays above 0."""


@dataclass(frozen=True)
class Sizes:
    """The clips, the network and how long it is trained.

    Attributes:
        patch: voxels (X, Y, Z) of a clip.
        frames: of a clip.
        channels: of the network's levels.
        batch_size: clips of a step.
        subjects: phantoms to train on.
        shape: their voxels (X, Y, Z).
        steps: of a turn.
        rounds: turns of each loop, at most.
        budget_s: seconds after which no further round is begun.
        workers: processes that make clips; None: as many as a run takes.
    """

    patch: Size
    frames: int
    channels: Sequence[int]
    batch_size: int
    subjects: int
    shape: Size
    steps: int
    rounds: int = 9
    budget_s: float = 150.0
    workers: int | None = None


ON_CPU = Sizes((64, 64, 8), 4, (16, 32, 64, 96), 2, 4, (96, 96, 9), 20)
"""Clips, batches and network of `make demo`."""
ON_GPU = Sizes((128, 128, 12), 8, CHANNELS, 2, 6, (160, 160, 12), 50, budget_s=60.0)
"""The choice of `unet4d plan` for cine, and the default network."""


def run(sizes: Sizes | None = None) -> dict[str, list[Row]]:
    """Return all tables by name, the bar last."""
    device = find_device()
    sizes = sizes or (ON_GPU if device.type == "cuda" else ON_CPU)
    with tempfile.TemporaryDirectory(prefix="unet4d-bench-") as folder:
        job = Job.write(Path(folder), configure(sizes), device, sizes.subjects, sizes.shape)
        set_tf32(device, job.config.train.precision)
        steps = time_steps(job, sizes)
    return {"step": steps, "bars": overhead_bars(steps)}


def configure(sizes: Sizes) -> Config:
    """Return the configuration of these sizes, before it is resolved."""
    data = DataConfig(patch_size=sizes.patch, frames=sizes.frames, num_workers=sizes.workers)
    train = TrainConfig(epochs=MANY_EPOCHS, steps_per_epoch=sizes.steps, batch_size=sizes.batch_size)
    return Config(data, ModelConfig(list(sizes.channels)), train)


def time_steps(job: Job, sizes: Sizes) -> list[Row]:
    """Time the plain loop and ours in turns; return a row for each."""
    batches = job.batches(READY_BATCHES)
    ready = OurLoop(job, batches=batches)
    plain = PlainLoop(ready.trainer.network, job.config, batches, job.device)
    with fed_by_workers(job) as fed:
        loops: dict[str, Callable[[], Any]] = {PLAIN: plain, READY: ready, WORKERS: fed}
        rounds = interleaved(loops, sizes.rounds, sizes.budget_s)
        return step_table(rounds, job, {READY: ready.waiting, WORKERS: fed.waiting})


def step_table(rounds: Rounds, job: Job, waiting: dict[str, float]) -> list[Row]:
    """Return a row per loop: its speed, over the plain one of the same round, and the share of its time spent waiting."""
    config = job.config
    return [
        {
            "loop": name,
            "precision": config.train.precision,
            "workers": config.data.num_workers if name == WORKERS else 0,
            "ms / step": 1e3 * _of_step(rounds, name, config),
            "million voxel-frames / s": job.voxel_frames / _of_step(rounds, name, config) / 1e6,
            "time over plain": rounds.ratio(name, PLAIN),
            "waiting for batches": waiting.get(name),
        }
        for name in rounds
    ]


def overhead_bars(steps: list[Row]) -> list[Row]:
    """Return the bar of the loop's cost where it need not wait for batches."""
    values = [row["time over plain"] for row in steps if row["loop"] == READY]
    medians = [None if value is None else value.median for value in values]
    return [bar("a step in our loop over the same step in a plain one, batches ready", "<=", MOST_OVERHEAD, medians)]


def _of_step(rounds: Rounds, name: str, config: Config) -> float:
    """Return the median seconds of a step."""
    return (rounds.seconds(name) or float("nan")) / config.train.steps_per_epoch
