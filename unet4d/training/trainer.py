"""The training loop: steps, validation on whole studies, checkpoints, and what is recorded of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unet4d.config import ResolvedConfig
from unet4d.errors import InputError, Stopped, Unet4DError
from unet4d.models.checkpoint import Task
from unet4d.models.clstm_unet import CLSTMUNet
from unet4d.pipeline.cache import CachedStudy
from unet4d.pipeline.clip_dataset import ClipDataset
from unet4d.system.distributed import ALONE, ProcessGroup
from unet4d.system.gpu_memory import GB
from unet4d.system.memory_errors import is_out_of_gpu_memory
from unet4d.system.signals import deferred_stop, stop_requested
from unet4d.training.batches import BatchLoader
from unet4d.training.checkpoints import Checkpoints
from unet4d.training.ema import WeightAverage
from unet4d.training.monitoring.advice import advice
from unet4d.training.monitoring.log_lines import epoch_line, seconds_left
from unet4d.training.monitoring.logger import opened
from unet4d.training.monitoring.progress_bar import EpochBar
from unet4d.training.monitoring.summary import State, write_summary
from unet4d.training.oom_fallback import OomFallback, forget_peak, peak_bytes
from unet4d.training.step import TrainingStep
from unet4d.training.step_memory import StepFit, describe_recompute
from unet4d.training.step_stats import DeferredScalars, EpochStats, StepOutcome
from unet4d.training.validation import Validation

STATE = frozenset(("epoch", "step", "best", "spent", "studies", "optimisation", "tally", "average", "weights"))
"""What a checkpoint holds for going on, besides the weights that predict."""


class Trainer:
    """One training run: the network, its optimiser, and the loop over epochs.

    Where it stands is `taken`, the optimiser steps taken, and `epoch`, the epochs that are done and recorded. Nothing random is
    carried over: clips and dropout are drawn by their numbers, so that a run goes on from its checkpoint as if it had not stopped.

    Args:
        out_dir: the run's folder.
        config: of the run.
        task: classes, channels and time.
        training: studies that are learnt from.
        validation: studies that are scored; may be none.
        device: where to compute.
        fit: how a step is cut, and what it is planned to take; None cuts as configured and plans nothing.
        ranks: those who train together.
    """

    def __init__(
        self,
        out_dir: Path,
        config: ResolvedConfig,
        task: Task,
        training: list[CachedStudy],
        validation: list[CachedStudy],
        device: torch.device,
        fit: StepFit | None = None,
        ranks: ProcessGroup = ALONE,
    ):
        self.config, self.task, self.device, self.ranks = config, task, device, ranks
        self.training, self.validation = training, validation
        torch.manual_seed(config.seed)
        self.network = CLSTMUNet(config.model, len(task.channel_names), len(task.labels)).to(device)
        self.step = TrainingStep(self.network, config, device, ranks)
        memory = fit.recompute if fit else replace(config.recompute, chunk_frames=config.recompute.chunk_frames or 0)
        self.step.set_recompute(memory)
        self.files = Checkpoints(out_dir)
        self.tally = EpochStats(config.train.skip_limit)
        self.late, self.validate = DeferredScalars(), Validation(validation, config, task, device, ranks)
        self.epoch, self.taken = 0, 0
        self.spent: dict[str, float] = {"seconds": 0.0, "waited_s": 0.0, "frames": 0}
        self.best: dict[str, Any] | None = None
        self.average: WeightAverage | None = None
        self.kept: tuple[int, int] | None = None
        self.out_dir, self.memory, self.fit_planned = out_dir, memory, fit

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to be trained."""
        return self.epoch >= self.config.train.epochs

    @property
    def judged(self) -> CLSTMUNet:
        """The network that is validated and predicts: the one that learns, or the average of its weights."""
        return self.average.network if self.average else self.network

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from a checkpoint's content.

        Raises:
            InputError: it was trained on other studies, or by another version.
        """
        state = saved["training"]
        if missing := STATE - state.keys():
            raise InputError(
                f"the checkpoint in {self.out_dir} is of another version of unet4d, without {min(missing)}; wanted one of this "
                "version; predict with it, or begin again with a new --out"
            )
        _check_studies(state["studies"], self._studies())
        self.network.load_state_dict(state["weights"] or saved["network"])
        self.step.load_state_dict(state["optimisation"])
        self.tally.load_state_dict(state["tally"])
        if state["average"]:
            self.average = WeightAverage(self.network, self.config.train.ema_decay)
            self.average.load_state_dict(state["average"], saved["network"])
        self.epoch, self.taken, self.best = state["epoch"], state["step"], state["best"]
        self.spent = dict(state["spent"])
        self.kept = (self.epoch, self.taken)

    def _described(self, name: str) -> str:
        """What is trained, in words."""
        data, model, train = self.config.data, self.config.model, self.config.train
        weights = sum(p.numel() for p in self.network.parameters())
        kind = "frame-wise twin (no recurrence)" if self.network.is_frame_wise else f"{model.direction} CLSTM-UNet"
        where = str(self.device) if self.ranks.size == 1 else f"{self.ranks.size} processes, {self.device.type}"
        clips = f"{train.batch_size} clips" + f" in each of {train.accumulate_batches} batches" * (
            train.accumulate_batches > 1
        )
        return (
            f"{name}: {len(self.training)} training and {len(self.validation)} validation studies; {kind}, "
            f"{weights:,} weights; {clips} a step of {data.patch_size} x {data.frames} frames at "
            f"{data.in_plane_spacing_mm} mm in plane, {describe_recompute(self.memory)}; {train.precision} on {where}; run in "
            f"{self.out_dir}"
        )

    def fit(self, name: str, dataset: Path) -> None:
        """Train what is left of the run; at any moment it can be killed and gone on with.

        Args:
            name: of the dataset.
            dataset: its folder.

        Raises:
            Stopped: a signal asked for it; the checkpoint is written.
            Unet4DError: too many steps in a row were not finite; the loader's processes died; the disk is full.
            RuntimeError: even the leanest way to cut a step takes too much; see `is_out_of_memory`.
        """
        train, self.dataset = self.config.train, dataset
        data, cyclic, kinds = self.config.data, self.task.cyclic, self.task.channel_kinds
        if train.ema_decay and self.average is None:  # only now, when the network has the weights that it begins with
            self.average = WeightAverage(self.network, train.ema_decay)
        clips = ClipDataset(self.training, data, data.patch_size, cyclic, self.config.seed, kinds)
        steps = range(self.taken, train.epochs * train.steps_per_epoch)
        self.record = opened(self.out_dir, self.epoch, self.config, self.ranks)
        with deferred_stop(), contextlib.closing(self.record), self._summed_up():
            say = self.record.say
            say(self._described(name))
            self.watched = OomFallback(self.step, self.memory, data.frames, self.fit_planned, say)
            # Several processes ask together, between steps; not where one of them waits.
            check = self._stop_if_asked if self.ranks.size == 1 else lambda: None
            with BatchLoader(
                clips, self.config, steps, self.ranks, self.device.type == "cuda", say, check
            ) as self.feed:
                while self.epoch < train.epochs:
                    self._take_steps()
                    self._end_epoch()

    def _take_steps(self) -> None:
        """The optimiser steps that are left of the running epoch."""
        train = self.config.train
        begun = self.taken - self.epoch * train.steps_per_epoch
        dice = self.best["mean_foreground_dice"] if self.best else None
        self.network.train()
        forget_peak(self.device)
        before_s, waited_s = time.perf_counter(), self.feed.waited_s
        later_s, shown = self._seconds_left(running=True), self.ranks.is_first
        with EpochBar(self.epoch + 1, train.epochs, train.steps_per_epoch, begun, dice, shown, later_s) as bar:
            while self.taken < (self.epoch + 1) * train.steps_per_epoch:
                self._stop_if_asked()
                batches = self.feed.next_step()
                loss, norm = self.watched(batches, self.taken)
                if self.average:
                    self.average.update()
                self._noted(self.late.push(self.taken, loss, norm, self.step.scale))
                self.taken += 1
                frames = train.batch_size * sum(batch.image.shape[1] for batch in batches)
                bar.step(self.tally.loss, frames)
                now_s = time.perf_counter()
                self.spent["seconds"] += now_s - before_s
                self.spent["waited_s"] += self.feed.waited_s - waited_s
                self.spent["frames"] += frames
                before_s, waited_s = now_s, self.feed.waited_s
        self._noted(self.late.flush())

    def _noted(self, outcomes: Sequence[StepOutcome]) -> None:
        """Count steps whose loss is known; say which were skipped."""
        for outcome in outcomes:
            with self.ranks.raise_on_all_ranks():
                line = self.tally.add(outcome, partial(self.feed.cases, outcome.step))
            if line:
                self.record.say(line)

    def _end_epoch(self) -> None:
        """Validate where it is due, record, keep.

        In this order: what a stop in between leaves recorded of an epoch without checkpoint is dropped when the run is resumed.
        """
        train, epoch, spent = self.config.train, self.epoch + 1, self.spent
        values: dict[str, Any] = {
            "epoch": epoch,
            "step": self.taken,
            **self.tally.values(),
            "learning_rate": self.step.learning_rate,
            "seconds": round(spent["seconds"], 2),
            "waited_seconds": round(spent["waited_s"], 2),
            "frames_per_second": round(spent["frames"] / spent["seconds"], 2),
        }
        if peak := peak_bytes(self.device):
            values["peak_memory_gb"] = round(peak / GB, 3)
        pictures = {}
        if self.validation and (epoch == train.epochs or epoch % train.validate_every == 0):
            self._save()  # a stop while it validates costs the validation alone
            began_s = time.perf_counter()
            verdict = self.validate(self.judged.eval(), self._stop_if_asked)
            values |= verdict.values | {"validation_seconds": round(time.perf_counter() - began_s, 2)}
            pictures = verdict.pictures
        is_best = self._is_best(values)
        self.epoch, self.spent = epoch, dict.fromkeys(spent, 0)
        self.tally.clear()
        self.ranks.broadcast_from_rank0(lambda: self._record(values, pictures, is_best))
        self._save()
        if "dice" in values:
            self._sum_up("running")
        self.record.say(epoch_line(values, self._seconds_left(), is_best))
        for line in advice(self.record.lines, self.config):
            self.record.say(line)

    def _record(self, values: dict[str, Any], pictures: dict[str, np.ndarray], is_best: bool) -> None:
        """Write down an epoch that is done, and its weights where they are the best."""
        self.record.epoch(values)
        for name, picture in pictures.items():
            self.record.picture(name, picture, self.taken)
        if is_best:
            self.files.save_best(self.config, self.task, self.judged)

    def _seconds_left(self, running: bool = False) -> float | None:
        """What the run will take after its last recorded epoch; `running`: without the next one's steps."""
        train = self.config.train
        return seconds_left(self.record.lines, train.epochs, train.validate_every, running)

    @contextlib.contextmanager
    def _summed_up(self) -> Iterator[None]:
        """Keep summary.json true: while it runs, and however it ends."""
        self._sum_up("running")
        try:
            with self.ranks.report_lost_ranks():
                yield
        except BaseException as error:
            reason = "out of GPU memory" if is_out_of_gpu_memory(error) else str(error)
            with contextlib.suppress(Unet4DError):  # a full disk is told by the error itself
                self._sum_up("stopped" if isinstance(error, (Stopped, KeyboardInterrupt)) else "failed", reason)
            raise
        self._sum_up("finished")

    def _sum_up(self, state: State, reason: str = "") -> None:
        write_summary(
            self.out_dir,
            state=state,
            config=self.config,
            task=self.task,
            device=self.device,
            ranks=self.ranks,
            step=self.taken,
            lines=self.record.lines,
            dataset=self.dataset,
            reason=reason,
        )

    def _is_best(self, values: dict[str, Any]) -> bool:
        """Whether this epoch's weights are the best so far; with no score to go by (no study, no foreground) the latest are."""
        score = values.get("mean_foreground_dice")
        if score is None:
            return self.best is None and ("dice" in values or not self.validation)
        if self.best is not None and score < self.best["mean_foreground_dice"]:
            return False
        self.best = {name: values[name] for name in ("epoch", "mean_foreground_dice", "dice")}
        return True

    def _stop_if_asked(self) -> None:
        """Keep and leave, all processes at the same step, if one of them was sent a signal."""
        if not self.ranks.any(stop_requested() is not None):
            return
        self._save()
        with self.ranks.raise_on_all_ranks():
            raise Stopped(
                f"stopped by {stop_requested() or 'a signal to another process'} in epoch {self.epoch + 1} after step "
                f"{self.taken}; nothing is lost; continue with --resume"
            )

    def _save(self) -> None:
        """Have the first process write the checkpoint that the run can be gone on with from here; the others wait for it."""
        self._noted(self.late.flush())
        if self.kept != (self.epoch, self.taken):
            self.ranks.broadcast_from_rank0(
                lambda: self.files.save_last(self.config, self.task, self.judged, self._state())
            )
            self.kept = (self.epoch, self.taken)

    def _state(self) -> dict[str, Any]:
        """What going on needs besides the weights that predict; its keys are STATE."""
        return {
            "epoch": self.epoch,
            "step": self.taken,
            "best": self.best,
            "spent": self.spent,
            "studies": self._studies(),
            "optimisation": self.step.state_dict(),
            "tally": self.tally.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "weights": self.network.state_dict() if self.average else None,
        }

    def _studies(self) -> list[list[str]]:
        """What is learnt from and validated on, by the studies' cache entries, which change with a file or its label."""
        return [[study.entry for study in studies] for studies in (self.training, self.validation)]


def _check_studies(before: list[list[str]], now: list[list[str]]) -> None:
    """Refuse to go on with other studies: every clip of the rest of the run would be another."""
    if before == now:
        return
    differing = sorted({e for part in before for e in part} ^ {e for part in now for e in part})
    named = f", such as {differing[0]}" if differing else " in another order or part"
    raise InputError(
        f"--resume with other studies{named}; wanted those the run was begun with, unchanged; restore them, or give a "
        "new --out"
    )
