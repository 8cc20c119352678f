"""The training loop: steps, validation on whole studies, checkpoints, and what is recorded of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from unet4d.config import BATCH_SIZE, FRAMES, Config, triple
from unet4d.data.cache import CachedStudy
from unet4d.data.sampling import Batch, ClipDataset, loader
from unet4d.errors import InputError, Unet4DError
from unet4d.metrics import count_voxels, describe, dice, shown
from unet4d.model.checkpoint import BEST, LAST, Task, save_checkpoint
from unet4d.model.clstm_unet import build_network
from unet4d.model.fitting import Fit, described
from unet4d.model.inference import sliding_window
from unet4d.model.step import TrainingStep
from unet4d.pictures import contour_sheet
from unet4d.training.record import Record
from unet4d.training.watch import MemoryWatch


class Trainer:
    """One training run: the network, its optimiser, and the loop over epochs.

    Args:
        out_dir: the run's folder.
        config: resolved.
        task: classes, channels and time.
        training: studies that are learnt from.
        validation: studies that are scored; may be none.
        device: where to compute.
        saved: a checkpoint's content to go on from.
        fit: how a step is cut, and what it is planned to take; None cuts as configured and plans nothing.
    """

    def __init__(
        self,
        out_dir: Path,
        config: Config,
        task: Task,
        training: list[CachedStudy],
        validation: list[CachedStudy],
        device: torch.device,
        saved: dict[str, Any] | None,
        fit: Fit | None = None,
    ):
        self.out_dir, self.config, self.task, self.device = out_dir, config, task, device
        self.training, self.validation = training, validation
        self.precision, self.patch_size = config.train.precision, triple(config.data.patch_size or ())
        torch.manual_seed(config.seed)
        self.network = build_network(config.model, len(task.channel_names), len(task.labels)).to(device)
        self.step = TrainingStep(self.network, config, device)
        memory = fit.memory if fit else replace(config.memory, chunk_frames=config.memory.chunk_frames or 0)
        self.step.use(memory)
        self.epoch, self.best = 0, -1.0
        if saved:
            self._restore(saved)
        self.record = Record(out_dir, self.epoch)
        self.watched = MemoryWatch(self.step, memory, config.data.frames or FRAMES, fit, self.record.say)

    def describe(self, name: str) -> None:
        """Say what is about to be trained."""
        data, model = self.config.data, self.config.model
        weights = sum(p.numel() for p in self.network.parameters())
        kind = "frame-wise twin (no recurrence)" if self.network.is_frame_wise else f"{model.direction} CLSTM-UNet"
        self.record.say(
            f"{name}: {len(self.training)} training and {len(self.validation)} validation studies; {kind}, "
            f"{weights:,} weights; patch {self.patch_size} x {data.frames} frames at "
            f"{data.plane_spacing_mm} mm in plane, {described(self.watched.memory)}; {self.precision} on {self.device}; run in "
            f"{self.out_dir}"
        )

    def fit(self) -> None:
        """Train the epochs that are left; after each, the run can be resumed from where it stands."""
        train = self.config.train
        clips = ClipDataset(
            self.training,
            self.config.data,
            self.patch_size,
            self.task.cyclic,
            self.config.seed,
            self.task.channel_kinds,
        )
        steps = range(self.epoch * train.steps_per_epoch, train.epochs * train.steps_per_epoch)
        size = train.batch_size or BATCH_SIZE
        batches = iter(
            loader(
                clips,
                [range(step * size, (step + 1) * size) for step in steps],
                self.config.data.workers or 0,
                pin=self.device.type == "cuda",
            )
        )
        try:
            while self.epoch < train.epochs:
                values = self._train_epoch(batches)
                last = self.epoch == train.epochs
                if self.validation and (last or self.epoch % train.validate_every == 0):
                    values |= self._validate()
                self._keep(values)
        finally:
            self.record.close()

    def _train_epoch(self, batches: Iterator[Batch]) -> dict[str, Any]:
        """One epoch of optimiser steps; gives what is recorded of it."""
        steps, began = self.config.train.steps_per_epoch, time.perf_counter()
        self.network.train()
        total, norms, taken = (torch.zeros((), device=self.device) for _ in range(3))
        title = f"epoch {self.epoch + 1}/{self.config.train.epochs}"
        for _ in tqdm(range(steps), title, unit="step", leave=False, disable=None):
            batch = next(batches)
            image, label = (t.to(self.device, non_blocking=True) for t in (batch.image, batch.label))
            loss, norm = self.watched(image, label, batch.labelled.tolist())
            finite = norm.isfinite()
            total += loss
            norms += norm.where(finite, 0)
            taken += finite
        self.epoch += 1
        loss_mean, norm_mean = float(total) / steps, float(norms) / max(1, int(taken))
        self._check_finite(loss_mean, steps - int(taken))
        return {
            "epoch": self.epoch,
            "step": self.epoch * steps,
            "loss": loss_mean,
            "gradient_norm": norm_mean,
            "learning_rate": self.step.learning_rate,
            "seconds": round(time.perf_counter() - began, 2),
        }

    def _check_finite(self, loss: float, broken: int) -> None:
        """Stop before an epoch that broke the weights is kept.

        fp16's scaler skips a step whose gradient overflows, so some such steps are well, all of them are not.
        """
        steps = self.config.train.steps_per_epoch
        if np.isfinite(loss) and (broken == 0 or (self.step.scaler.is_enabled() and broken < steps)):
            return
        kept = f"{self.out_dir / LAST} is of epoch {self.epoch - 1}" if self.epoch > 1 else "nothing was kept"
        raise Unet4DError(
            f"the mean loss of epoch {self.epoch} is {loss}, and {broken} of its {steps} gradients are not finite; {kept}; "
            "lower --train.learning_rate, or set --train.precision fp32"
        )

    def _validate(self) -> dict[str, Any]:
        """Dice per class on whole validation studies, and a picture of the first."""
        self.network.eval()
        names = list(self.task.labels)[1:]
        scores: list[np.ndarray] = []
        for study in tqdm(self.validation, "validating", unit="study", leave=False, disable=None):
            frames, predicted = list(study.labelled_frames), self._segment(study)
            counts = count_voxels(np.asarray(study.label), predicted[frames], range(1, len(self.task.labels)))
            scores.append(dice(counts))
            if len(scores) == 1:
                self._draw(study, predicted)
        every = np.concatenate(scores)
        classes = {name: describe(every[:, k])["mean"] for k, name in enumerate(names)}
        known = [value for value in classes.values() if value is not None]
        return {"dice": classes, "mean_foreground_dice": sum(known) / len(known) if known else None}

    def _segment(self, study: CachedStudy) -> np.ndarray:
        """Class indices (T, X, Y, Z) of a whole study on the working grid."""
        logits = sliding_window(
            self.network,
            torch.from_numpy(np.array(study.image)),
            self.patch_size,
            self.config.inference,
            cyclic=self.task.cyclic,
            device=self.device,
            precision=self.precision,
        )
        return logits.argmax(1).to(torch.uint8).numpy()

    def _draw(self, study: CachedStudy, predicted: np.ndarray) -> None:
        affine = np.diag([*study.spacing, 1.0])
        reference = np.zeros_like(predicted)
        reference[list(study.labelled_frames)] = study.label
        frames = sorted({*study.labelled_frames[:4], 0, len(predicted) // 2})
        names = {k: name for k, name in enumerate(self.task.labels) if k}
        sheet = contour_sheet(study.image[0], predicted, affine, reference=reference, class_names=names, frames=frames)
        self.record.picture(f"validation/{study.case}", sheet, self.epoch * self.config.train.steps_per_epoch)

    def _keep(self, values: dict[str, Any]) -> None:
        """Record an epoch that is done, then write its checkpoints.

        In this order: what a stop in between leaves recorded of an epoch without checkpoint is dropped when the run is resumed.
        """
        score: Any = values.get("mean_foreground_dice")
        better = score is not None and score >= self.best
        # Without a score to go by (no validation study, or none with foreground) the latest is taken for the best.
        latest = score is None and self.best < 0 and ("dice" in values or not self.validation)
        if better:
            self.best = score
        self.record.epoch(values)
        if better or latest:
            save_checkpoint(self.out_dir / BEST, self.config, self.task, self.network, {})
        save_checkpoint(self.out_dir / LAST, self.config, self.task, self.network, self._training_state())
        line = f"epoch {values['epoch']:>4}  loss {values['loss']:.4f}  {values['seconds']:.1f} s"
        if score is not None:
            line += f"  Dice {score:.4f}  " + "  ".join(f"{n} {shown(v, 3)}" for n, v in values["dice"].items())
        self.record.say(line + ("  (best so far)" if better else ""))

    def _training_state(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "best": self.best,
            "studies": self._studies(),
            "step": self.step.state_dict(),
        }

    def _studies(self) -> list[list[str]]:
        """What is learnt from and validated on, by the studies' cache entries, which change with a file or its label."""
        return [[study.entry for study in studies] for studies in (self.training, self.validation)]

    def _restore(self, saved: dict[str, Any]) -> None:
        state = saved["training"]
        differing = sorted(
            {e for part in state["studies"] for e in part} ^ {e for part in self._studies() for e in part}
        )
        if state["studies"] != self._studies():
            named = f", such as {differing[0]}" if differing else " in another order or part"
            raise InputError(
                f"--resume with other studies{named}; wanted those the run was begun with, unchanged; restore them, or give a "
                "new --out"
            )
        self.network.load_state_dict(saved["network"])
        self.step.load_state_dict(state["step"])
        self.epoch, self.best = state["epoch"], state["best"]
