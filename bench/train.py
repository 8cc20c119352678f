"""What our training loop costs on top of the step itself; on a GPU also what its precisions gain, and how busy it keeps the GPU."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.bars import bar
from bench.measure import Rounds, interleaved
from bench.train_loops import Job, OurLoop, PlainLoop, busy_share, fed_by_workers
from unet4d.config import CHANNELS, Config, DataConfig, ModelConfig, Precision, Size, TrainConfig
from unet4d.models.device import find_device, set_tf32

Row = dict[str, Any]
PLAIN, READY, WORKERS = "plain", "ours, batches ready", "ours, from workers"
PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16")
MOST_OVERHEAD = 1.05
READY_BATCHES = 4
MANY_EPOCHS = 10_000
"""More than are ever taken, so that the learning rate stays above 0."""


@dataclass(frozen=True)
class Sizes:
    """What is trained, and for how long.

    Attributes:
        patch: voxels (X, Y, Z) of a clip.
        frames: of a clip.
        channels: of the network's levels.
        batch_size: clips a step.
        subjects: phantoms that are learnt from,
        shape: and their voxels (X, Y, Z).
        steps: of a turn.
        rounds: turns each loop has at most,
        budget_s: none begun after so many seconds.
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
"""What `unet4d plan` chooses for cine, and the default network."""


def run(sizes: Sizes | None = None) -> dict[str, list[Row]]:
    """All tables, by name; the last one says whether the bar is met."""
    device = find_device()
    sizes = sizes or (ON_GPU if device.type == "cuda" else ON_CPU)
    with tempfile.TemporaryDirectory(prefix="unet4d-bench-") as made:
        job = Job.made(Path(made), configured(sizes), device, sizes.subjects, sizes.shape)
        set_tf32(device, job.config.train.precision)
        tables = _steps(job, sizes)
        if device.type == "cuda":
            tables["precision"] = _precisions(job, sizes)
    return tables | {"bars": overhead_bars(tables["step"])}


def configured(sizes: Sizes) -> Config:
    """The configuration of these sizes, before it is resolved."""
    data = DataConfig(patch_size=sizes.patch, frames=sizes.frames, num_workers=sizes.workers)
    train = TrainConfig(epochs=MANY_EPOCHS, steps_per_epoch=sizes.steps, batch_size=sizes.batch_size)
    return Config(data, ModelConfig(list(sizes.channels)), train)


def _steps(job: Job, sizes: Sizes) -> dict[str, list[Row]]:
    """The plain loop and ours, in turns; on a GPU then once more, watched."""
    batches = job.batches(READY_BATCHES)
    ready = OurLoop(job, batches=batches)
    plain = PlainLoop(ready.trainer.network, job.config, batches, job.device)
    with fed_by_workers(job) as fed:
        loops: dict[str, Callable[[], Any]] = {PLAIN: plain, READY: ready, WORKERS: fed}
        rounds = interleaved(loops, sizes.rounds, sizes.budget_s)
        waiting = {READY: ready.waiting, WORKERS: fed.waiting}
        tables = {"step": step_table(rounds, job, waiting)}
        if job.device.type == "cuda":
            shares = {name: busy_share(loop) for name, loop in loops.items()}
            tables["gpu"] = [{"loop": name, "share of time with a kernel running": s} for name, s in shares.items()]
    return tables


def step_table(rounds: Rounds, job: Job, waiting: dict[str, float]) -> list[Row]:
    """A row a loop: its speed, over the plain one of the same round, and the share of its time that it waited for batches."""
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


def _precisions(job: Job, sizes: Sizes) -> list[Row]:
    """A row a precision of our loop, batches ready."""
    batches = job.batches(READY_BATCHES)
    loops: dict[str, Callable[[], Any]] = {
        precision: OurLoop(job.in_precision(precision), batches=batches) for precision in PRECISIONS
    }
    rounds = interleaved(loops, sizes.rounds, sizes.budget_s)
    return precision_table(rounds, job)


def precision_table(rounds: Rounds, job: Job) -> list[Row]:
    """A row a precision: its speed, and how many times that of fp32."""
    return [
        {
            "precision": name,
            "ms / step": 1e3 * _of_step(rounds, name, job.config),
            "million voxel-frames / s": job.voxel_frames / _of_step(rounds, name, job.config) / 1e6,
            "times as fast as fp32": rounds.ratio("fp32", name),
        }
        for name in rounds
    ]


def overhead_bars(steps: list[Row]) -> list[Row]:
    """What the loop may cost where it need not wait for batches; how fast those come is the business of `data`."""
    values = [row["time over plain"] for row in steps if row["loop"] == READY]
    medians = [None if value is None else value.median for value in values]
    return [bar("a step in our loop over the same step in a plain one, batches ready", "<=", MOST_OVERHEAD, medians)]


def _of_step(rounds: Rounds, name: str, config: Config) -> float:
    """Seconds, the median of the turns."""
    return (rounds.seconds(name) or float("nan")) / config.train.steps_per_epoch
