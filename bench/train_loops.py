"""The training loops that are compared: that of a real run, with ready batches or workers, and a plain one of the same step."""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.plain import PlainStep
from unet4d.config import Config, ResolvedConfig, triple
from unet4d.datasets.dataset import read_dataset
from unet4d.models.clstm_unet import CLSTMUNet
from unet4d.models.device import resolve_precision, set_tf32
from unet4d.models.task import Task
from unet4d.phantom import write_phantom
from unet4d.pipeline.cache import cached_studies
from unet4d.pipeline.cached_study import CachedStudy
from unet4d.pipeline.clip_dataset import Batch, ClipDataset, clip_loader
from unet4d.pipeline.fingerprint import compute_fingerprint
from unet4d.system.distributed import ProcessGroup
from unet4d.training.batches import BatchLoader
from unet4d.training.resolve import resolve
from unet4d.training.trainer import Trainer

SEED_STUDIES = 1


@dataclass(frozen=True)
class Job:
    """A training to measure: preprocessed phantoms with all frames labelled, and a resolved configuration."""

    out_dir: Path
    config: ResolvedConfig
    task: Task
    studies: list[CachedStudy]
    device: torch.device

    @classmethod
    def write(
        cls, folder: Path, config: Config, device: torch.device, subjects: int, shape: tuple[int, int, int]
    ) -> Job:
        """Write the dataset under `folder`; a study has as many frames as a clip, so that no clip is padded."""
        written = write_phantom(folder / "dataset", subjects, config.data.frames or 1, seed=SEED_STUDIES, shape=shape)
        dataset = read_dataset(written.parent)
        precision = resolve_precision(config.train.precision, device)
        resolved = resolve(config, compute_fingerprint(dataset.training, config.data), precision)
        studies = cached_studies(
            dataset.training, dataset, resolved.data, resolved.data.in_plane_spacing_mm, folder / "cache"
        )
        kinds = dataset.channel_kinds
        task = Task(dict(dataset.labels), dataset.channel_names, dataset.cyclic, channel_kinds=kinds)
        return cls(folder / "run", resolved, task, studies, device)

    def clips(self) -> ClipDataset:
        """Return the clips of a run, as the trainer makes them."""
        task, config = self.task, self.config
        return ClipDataset(self.studies, config.data, task.cyclic, config.seed, task.channel_kinds)

    def batches(self, count: int) -> list[Batch]:
        """Return the first batches of the run, in memory that a GPU can copy from while it computes."""
        size = self.config.train.batch_size
        numbers = [range(i * size, (i + 1) * size) for i in range(count)]
        return list(clip_loader(self.clips(), numbers, 0, self.device.type == "cuda"))

    @property
    def voxel_frames(self) -> int:
        """Voxels of all frames of the clips of a step."""
        x, y, z = triple(self.config.data.patch_size or ())
        return (self.config.train.batch_size or 1) * (self.config.data.frames or 1) * x * y * z


class ReadyBatches:
    """A stand-in for a run's `BatchLoader`: a few ready batches, over and over."""

    waited_s = 0.0

    def __init__(self, batches: Iterable[Batch]):
        self._batches = itertools.cycle(batches)

    def next_step(self) -> list[Batch]:
        """Return the next batch."""
        return [next(self._batches)]

    def cases(self, step: int) -> list[str]:
        """Return no cases."""
        return []


class OurLoop:
    """The loop of a real run, one epoch per call: `Trainer.train_epoch` with out-of-memory fallback, statistics and a drawn bar.

    Validation and checkpoints, which come between epochs, are not in it.

    Args:
        job: the training.
        feed: a loader; None: ready batches, `batches`.
        batches: as for `ReadyBatches`.
    """

    def __init__(self, job: Job, feed: BatchLoader | None = None, batches: Sequence[Batch] = ()):
        trainer = Trainer(job.out_dir, job.config, job.task, job.studies, [], job.device)
        trainer.loader = feed or ReadyBatches(batches)  # type: ignore[assignment]
        trainer._finish_epoch = self._finish_epoch  # type: ignore[method-assign]
        self.seconds, self.waited_s = 0.0, 0.0
        self.trainer, self.precision = trainer, job.config.train.precision

    def __call__(self) -> None:
        """Take the steps of an epoch."""
        set_tf32(self.trainer.device, self.precision)
        with contextlib.redirect_stderr(_Terminal()):
            self.trainer.train_epoch()

    def _finish_epoch(self, values: dict[str, Any], pictures: object) -> None:
        """Begin the next epoch; write nothing."""
        spent = self.trainer.timer.spent
        self.seconds, self.waited_s = self.seconds + spent["seconds"], self.waited_s + spent["waited_s"]
        self.trainer.epochs_done += 1
        self.trainer.stats.clear()
        self.trainer.timer.clear()

    @property
    def waiting(self) -> float:
        """Fraction of the time so far spent waiting for batches."""
        return self.waited_s / self.seconds


class PlainLoop:
    """A loop of forward, the same loss, backward and AdamW only; every frame is labelled, the batches are on the device.

    Args:
        network: copied.
        config: precision, settings of the optimizer, and steps of a turn.
        batches: moved to the device.
        device: computes.
    """

    def __init__(self, network: CLSTMUNet, config: ResolvedConfig, batches: Iterable[Batch], device: torch.device):
        config = replace(config, train=replace(config.train, gradient_clip=0.0))
        self.step, self.config = PlainStep(copy.deepcopy(network).train(), config, device), config.train
        ready = [batch._replace(image=batch.image.to(device), label=batch.label.to(device)) for batch in batches]
        self._batches = itertools.cycle(ready)

    def __call__(self) -> list[Tensor]:
        """Take the steps of a turn; return their losses, on the device."""
        set_tf32(self.step.device, self.config.precision)
        return [self.step(batch) for batch in itertools.islice(self._batches, self.config.steps_per_epoch)]


@contextlib.contextmanager
def fed_by_workers(job: Job) -> Iterator[OurLoop]:
    """Give our loop with clips from workers, as in a run; the workers end with the context."""
    steps = range(job.config.train.epochs * job.config.train.steps_per_epoch)
    with BatchLoader(job.clips(), job.config, steps, ProcessGroup(), job.device.type == "cuda") as feed:
        yield OurLoop(job, feed)


class _Terminal(io.StringIO):
    """A terminal that shows nothing, so that the progress bar is drawn wherever the benchmark runs."""

    def isatty(self) -> bool:
        """Return True."""
        return True
