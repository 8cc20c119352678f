"""The training loop, and the state of a run that a checkpoint saves and restores."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unet4d.config import ResolvedConfig
from unet4d.errors import InputError, Stopped, Unet4DError
from unet4d.models.clstm_unet import CLSTMUNet
from unet4d.models.task import Task
from unet4d.pipeline.cached_study import CachedStudy
from unet4d.system.byte_sizes import GB
from unet4d.system.distributed import ALONE, ProcessGroup
from unet4d.system.gpu_memory import peak_allocated_bytes, reset_peak
from unet4d.system.memory_errors import is_out_of_gpu_memory
from unet4d.system.signals import deferred_stop, stop_requested
from unet4d.training.batches import BatchLoader, training_clips
from unet4d.training.budget import EpochBudget, make_budget
from unet4d.training.checkpoints import Checkpoints, check_same_studies
from unet4d.training.ema import WeightAverage
from unet4d.training.monitoring.advice import training_advice, validation_warnings
from unet4d.training.monitoring.epoch_bar import EpochBar
from unet4d.training.monitoring.log_lines import epoch_line
from unet4d.training.monitoring.logger import RunLogger, open_logger
from unet4d.training.monitoring.summary import RunState, write_summary
from unet4d.training.oom_fallback import OomFallback
from unet4d.training.step import TrainingStep
from unet4d.training.step_memory import PlannedStep, describe_clips, describe_recompute
from unet4d.training.step_stats import DeferredScalars, EpochStats, EpochTimer, StepOutcome
from unet4d.training.validation import Validation

logger = logging.getLogger(__name__)


class Trainer:
    """One training run: the network, its optimizer, and the loop over epochs.

    Clips and dropout are drawn by their numbers, so that a resumed run continues as if it had not stopped.

    Args:
        out_dir: the run's folder.
        config: of the run.
        task: classes, channels and time.
        training: studies to train on.
        validation: studies to validate on; may be none.
        device: where to compute.
        planned: recompute schedule of a step and what it costs; None takes the configured schedule.
        ranks: the processes that train together.
        budget: the length of the run; None: the configured one, whose clock begins now.

    Attributes:
        epochs_done: epochs that are trained and logged.
        steps_done: optimizer steps that are taken.
        planned_bytes: memory planned for a step on a GPU; 0 where nothing is planned.
    """

    def __init__(
        self,
        out_dir: Path,
        config: ResolvedConfig,
        task: Task,
        training: Sequence[CachedStudy],
        validation: Sequence[CachedStudy],
        device: torch.device,
        planned: PlannedStep | None = None,
        ranks: ProcessGroup = ALONE,
        budget: EpochBudget | None = None,
    ):
        self.out_dir, self.config, self.task, self.device, self.ranks = out_dir, config, task, device, ranks
        self.training, self.validation, self.budget = training, validation, budget or make_budget(config.train)
        torch.manual_seed(config.seed)
        self.network = CLSTMUNet(config.model, *task.channels).to(device)
        self.training_step = TrainingStep(self.network, config, device, ranks, task.region_classes)
        if planned:
            self.training_step.set_recompute(planned.recompute)
        self.take_step = OomFallback(self.training_step, self.training_step.recompute, config.data.frames, planned)
        self.validate = Validation(validation, config, task, device, ranks)
        self.checkpoints, self.planned_bytes = Checkpoints(out_dir), planned.planned_bytes if planned else 0
        self.log: RunLogger | None = None
        self.loader: BatchLoader  # from `fit` on, as the dataset's folder
        self.dataset: Path
        self.stats, self.timer, self.outcomes = EpochStats(config.train.skip_limit), EpochTimer(), DeferredScalars()
        self.epochs_done, self.steps_done = 0, 0
        self.best: dict[str, Any] | None = None
        self.average: WeightAverage | None = None
        self.initial: str | None = None  # what it took from another training
        self.saved_at: tuple[int, int] | None = None
        self.entries = [[study.entry for study in part] for part in (training, validation)]  # change with file or label

    @property
    def validated_network(self) -> CLSTMUNet:
        """Return the network that is validated and predicts: the trained one, or the average of its weights."""
        return self.average.network if self.average else self.network

    @property
    def is_done(self) -> bool:
        """Return whether the last epoch is trained and logged."""
        return self.epochs_done == self.budget.last_epoch

    def fit(self, name: str, dataset: Path) -> None:
        """Train the rest of the run. It can be killed at any moment and resumed.

        Raises:
            Stopped: a signal asked for it; the checkpoint is written.
            Unet4DError: too many steps in a row were not finite; workers died; validation ran out of GPU memory; the disk is full.
            RuntimeError: even the smallest chunks of a step need too much memory; see `is_out_of_memory`.
        """
        config, ranks = self.config, self.ranks
        if config.train.ema_decay and self.average is None:  # only now, because the initial weights are known now
            self.average = WeightAverage(self.network, config.train.ema_decay)
        self.dataset, self.log = dataset, open_logger(self.out_dir, self.epochs_done, config, ranks)
        closing = contextlib.closing(self.log) if self.log else contextlib.nullcontext()
        with deferred_stop(), closing, self._keep_summary():
            logger.info(self._describe(name))
            while not self.is_done:
                self._train_stage()

    def _train_stage(self) -> None:
        """Train the frame-wise epochs, on labelled frames alone, or those with recurrence on whole clips, to the stage's end."""
        config, ranks, fraction = self.config, self.ranks, self.config.train.framewise_fraction
        frame_wise = self.budget.is_frame_wise(self.epochs_done, fraction)
        self.training_step.frame_wise = frame_wise
        if fraction and not self.network.is_frame_wise:
            stage = "frame-wise, labelled frames alone" if frame_wise else "recurrence on whole clips"
            logger.info(f"from epoch {self.epochs_done + 1} on: {stage}")
        clips = training_clips(self.training, config, self.task, frame_wise)
        steps = range(self.steps_done, self.budget.steps)
        # Several ranks check for a stop signal together, between steps; not where one of them waits.
        check = self._stop_if_requested if ranks.size == 1 else lambda: None
        with BatchLoader(clips, config, steps, ranks, self.device.type == "cuda", check) as self.loader:
            while not self.is_done and self.budget.is_frame_wise(self.epochs_done, fraction) == frame_wise:
                self.train_epoch()
        if frame_wise and self.is_done and fraction < 1 and not self.network.is_frame_wise:
            logger.warning("no epoch trained recurrence: give more time, or fewer --train.steps_per_epoch")

    def train_epoch(self) -> None:
        """Train the rest of an epoch: per step batches, loss and new weights; then validation, log and checkpoint."""
        train = self.config.train
        self.network.train()
        reset_peak(self.device)
        self.timer.start(self.loader.waited_s)
        with self._epoch_bar() as bar:
            while self.steps_done < (self.epochs_done + 1) * train.steps_per_epoch:
                self._stop_if_requested()
                if self.budget.is_over and self.steps_done > self.epochs_done * train.steps_per_epoch:
                    break
                batches = self.loader.next_step()  # one or more, each with this rank's clips (B, T, C, X, Y, Z)
                # Only now, because a stop may end the wait, and the log has the rates of the steps that were taken.
                self.training_step.set_learning_rate(self.budget.learning_rate_factor(self.steps_done), self.steps_done)
                loss, gradient_norm = self.take_step(batches, self.steps_done)  # forward, backward, new weights
                if self.average:
                    self.average.update()
                self._count(self.outcomes.push(self.steps_done, loss, gradient_norm, self.training_step.scale))
                self.steps_done += 1
                frames = train.batch_size * sum(batch.image.shape[1] for batch in batches)
                self.timer.lap(frames, self.loader.waited_s)
                bar.step(self.stats.mean_loss, frames)
        self._count(self.outcomes.flush())
        values, pictures = self._epoch_values(), dict[str, np.ndarray]()
        end_steps = partial(self.budget.end_steps, self.epochs_done + 1, bool(self.validation))
        self.budget.last_epoch, is_validated = self.ranks.broadcast_from_rank0(end_steps)
        if is_validated:
            self._save_last()  # so that a stop during validation costs the validation alone
            began_s = time.perf_counter()
            result = self.validate(self.validated_network, self._stop_if_requested)
            values |= result.values | {"validation_seconds": round(time.perf_counter() - began_s, 2)}
            pictures = result.pictures
        self._finish_epoch(values, pictures)  # log, best model, checkpoint

    def _count(self, outcomes: Sequence[StepOutcome]) -> None:
        """Add steps to the epoch's statistics; print those that were skipped."""
        for outcome in outcomes:
            with self.ranks.raise_on_all_ranks():
                line = self.stats.add(outcome, partial(self.loader.cases, outcome.step))
            if line:
                logger.warning(line)

    def _epoch_values(self) -> dict[str, Any]:
        """Return the numbers of the epoch after its steps, for the log."""
        place = {"epoch": self.epochs_done + 1, "step": self.steps_done}
        values = place | self.stats.values() | self.budget.values(self.steps_done) | self.timer.values()
        if peak := peak_allocated_bytes(self.device):
            values["peak_memory_gb"] = round(peak / GB, 3)
        return values

    def _finish_epoch(self, values: dict[str, Any], pictures: Mapping[str, np.ndarray]) -> None:
        """Log an epoch, and save its weights, as the best ones too where they are.

        In this order: where a stop comes in between, the log has a line of an epoch without a checkpoint, which resuming drops.
        """
        is_best = self._is_best(values)
        self.epochs_done += 1
        for part in (self.timer, self.stats, self.budget):
            part.clear()

        def log_and_save_best() -> None:
            if self.log:
                self.log.log_epoch(values)
                for name, picture in pictures.items():
                    self.log.log_picture(name, picture, self.steps_done)
            if is_best:
                self.checkpoints.save_best(self.config, self.task, self.validated_network)

        self.ranks.broadcast_from_rank0(log_and_save_best)
        self._save_last()
        self.budget.end_epoch()
        if "dice" in values:
            self._write_summary("running")
        logger.info(epoch_line(values, self.budget.seconds_left(self._lines), is_best))
        for line in training_advice(self._lines, self.config):
            logger.info(line)
        for line in validation_warnings(self._lines, self.config):
            logger.warning(line)

    def _is_best(self, values: dict[str, Any]) -> bool:
        """Return whether this epoch's weights are the best so far; without any score (no study, no foreground) the latest are."""
        score = values.get("mean_foreground_dice")
        if score is None:
            return self.best is None and ("dice" in values or not self.validation)
        if self.best is not None and score < self.best["mean_foreground_dice"]:
            return False
        self.best = {name: values[name] for name in ("epoch", "mean_foreground_dice", "dice")}
        return True

    def _stop_if_requested(self) -> None:
        """Save and raise `Stopped` on all ranks at the same step if one of them got a stop signal; note rank 0's clock."""
        readings = self.budget.read_clock()
        readings = readings if self.ranks.is_first else [0.0] * len(readings)
        is_stopped, *readings = self.ranks.largest([stop_requested() is not None, *readings])
        self.budget.set_readings(*readings)
        if not is_stopped:
            return
        self._save_last()
        with self.ranks.raise_on_all_ranks():
            raise Stopped(
                f"stopped by {stop_requested() or 'a signal to another process'} in epoch {self.epochs_done + 1} after step "
                f"{self.steps_done}; nothing is lost; continue with --resume"
            )

    def _save_last(self) -> None:
        """Save the checkpoint to resume from, on rank 0; the others wait for it."""
        self._count(self.outcomes.flush())
        if self.saved_at != (self.epochs_done, self.steps_done):
            save = partial(self.checkpoints.save_last, self.config, self.task)
            self.ranks.broadcast_from_rank0(lambda: save(self.validated_network, self._state()))
            self.saved_at = (self.epochs_done, self.steps_done)

    def _state(self) -> dict[str, Any]:
        """Return what resuming needs besides the weights that predict, as the next run's `restore` expects it."""
        return {
            "epoch": self.epochs_done,
            "step": self.steps_done,
            "best": self.best,
            "timer": self.timer.spent,
            "studies": self.entries,
            "optimization": self.training_step.state_dict(),
            "stats": self.stats.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "weights": self.network.state_dict() if self.average else None,
            **({"initial": self.initial} if self.initial else {}),
            **self.budget.state_dict(),
        }

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Restore the run from a checkpoint's content.

        Raises:
            InputError: it was trained on other studies, or by another version.
        """
        state = checkpoint["training"]
        if missing := self._state().keys() - state.keys():
            raise InputError(
                f"the checkpoint in {self.out_dir} is of another version of unet4d, without {min(missing)}; predict with it, or "
                "train anew with a new --out"
            )
        check_same_studies(state["studies"], self.entries)
        self.network.load_state_dict(state["weights"] or checkpoint["network"])
        self.training_step.load_state_dict(state["optimization"])
        self.stats.load_state_dict(state["stats"])
        if state["average"]:
            self.average = WeightAverage(self.network, self.config.train.ema_decay)
            self.average.load_state_dict(state["average"], checkpoint["network"])
        self.epochs_done, self.steps_done, self.best = state["epoch"], state["step"], state["best"]
        self.timer.spent, self.initial = dict(state["timer"]), state.get("initial")
        self.budget.load_state_dict(state)
        self.saved_at = (self.epochs_done, self.steps_done)

    @contextlib.contextmanager
    def _keep_summary(self) -> Iterator[None]:
        """Keep summary.json up to date: while the run is trained, and however it ends."""
        self._write_summary("running")
        try:
            with self.ranks.report_lost_ranks():
                yield
        except BaseException as error:
            reason = "out of GPU memory" if is_out_of_gpu_memory(error) else str(error)
            with contextlib.suppress(Unet4DError):  # a full disk, which the error itself reports
                self._write_summary("stopped" if isinstance(error, (Stopped, KeyboardInterrupt)) else "failed", reason)
            raise
        self._write_summary("finished")

    def _write_summary(self, state: RunState, reason: str = "") -> None:
        """Write summary.json as of now."""
        write_summary(
            self.out_dir,
            config=self.config,
            task=self.task,
            device=self.device,
            ranks=self.ranks,
            dataset=self.dataset,
            state=state,
            step=self.steps_done,
            lines=self._lines,
            budget=self.budget.summary(),
            initial=self.initial,
            reason=reason,
        )

    @property
    def _lines(self) -> list[dict[str, Any]]:
        """Return the lines of the log so far; none on ranks other than 0."""
        return self.log.lines if self.log else []

    def _epoch_bar(self) -> EpochBar:
        """Return the progress bar of the epoch that begins."""
        train, dice = self.config.train, self.best["mean_foreground_dice"] if self.best else None
        done = self.steps_done - self.epochs_done * train.steps_per_epoch
        shown, later_s = self.ranks.is_first, self.budget.seconds_left(self._lines, running=True)
        epochs = None if train.time_budget else train.epochs
        return EpochBar(self.epochs_done + 1, epochs, train.steps_per_epoch, done, dice, shown, later_s)

    def _describe(self, name: str) -> str:
        """Return what is trained, for people."""
        config, train = self.config, self.config.train
        device = str(self.device) if self.ranks.size == 1 else f"{self.ranks.size} processes, {self.device.type}"
        length = f", for {train.time_budget} ({train.budget_clock} time)" if train.time_budget else ""
        return (
            f"{name}: {len(self.training)} training and {len(self.validation)} validation studies; "
            f"{config.model.kind}, {sum(p.numel() for p in self.network.parameters()):,} weights; "
            f"{describe_clips(config)} per step, {config.data.in_plane_spacing_mm} mm in plane, "
            f"{describe_recompute(self.take_step.recompute)}; {train.precision} on {device}{length}; run in {self.out_dir}"
        )
