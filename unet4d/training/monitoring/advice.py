"""Advice on a training and warnings about its predictions, from the lines of its log: what was observed and what to do."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from scipy.stats import theilslopes

from unet4d.config import ResolvedConfig
from unet4d.training.optimizer import learning_rate_factor

Log = Sequence[Mapping[str, Any]]
"""The lines of RUN/log.jsonl, one per epoch."""
REPEAT_AFTER = 10
"""Epochs (or validations) without a problem before the same advice is given again."""
LOSS_WINDOW_SHARE, LEAST_LOSS_WINDOW = 1 / 5, 10
"""The loss is watched over this share of the run's epochs, and over at least this many."""
FLAT_FALL, FLAT_CONFIDENCE, MOST_NOISE = 0.02, 0.99, 0.1
"""A loss is flat if it falls by less than this share of it per window, with this confidence, known to within this share."""
HIGH_RATE_SHARE = 0.1
"""Below this share of its peak the learning rate is so low that a flat loss is expected."""
MOST_WAITING_SHARE, MOST_WAITING_S, MOST_SKIPPED_SHARE = 0.25, 1.0, 0.05
"""Waiting for batches for more than both of these per epoch is too long, and so are more skipped steps than this share."""


def training_advice(log: Log, config: ResolvedConfig) -> list[str]:
    """Return advice after the newest epoch; each piece when it becomes true, not at every epoch for which it holds."""
    return _new_advice(log, config, _epoch_advice)


def validation_warnings(log: Log, config: ResolvedConfig) -> list[str]:
    """Return warnings about classes that the newest epoch's validation did not find, likewise; none where it was not validated."""
    if not log or "mean_foreground_dice" not in log[-1]:
        return []
    return _new_advice([line for line in log if "mean_foreground_dice" in line], config, _validation_advice)


def _new_advice(log: Log, config: ResolvedConfig, find: Callable[[Log, ResolvedConfig], dict[str, str]]) -> list[str]:
    """Return the advice on the newest line of kinds that none of the last lines gave reason for."""
    now = find(log, config) if log else {}
    earlier = range(1, min(REPEAT_AFTER, len(log) - 1) + 1) if now else ()
    before = {kind for back in earlier for kind in find(log[:-back], config)}
    return [sentence for kind, sentence in now.items() if kind not in before]


def _epoch_advice(log: Log, config: ResolvedConfig) -> dict[str, str]:
    """Return advice on loss, speed and skipped steps at the newest line, by kind."""
    train, line, found = config.train, log[-1], {}
    of_run = line["epoch"] / max(line["progress"], 1e-3) if train.time_budget else train.epochs
    epochs = max(LEAST_LOSS_WINDOW, math.ceil(LOSS_WINDOW_SHARE * of_run))
    if level := _flat_loss(log, config, epochs):
        found["flat"] = (
            f"the loss has stayed at about {level:.4g} for {epochs} epochs: with a good Dice, fewer --train.epochs do; else run "
            f"unet4d verify, and train anew with --train.learning_rate {train.learning_rate / 3:.1g} or "
            f"{train.learning_rate * 3:.1g}"
        )
    waited, seconds = line.get("waited_seconds") or 0.0, line.get("seconds") or 0.0
    if waited > MOST_WAITING_S and waited > MOST_WAITING_SHARE * seconds:
        found["waiting"] = (
            f"{waited / seconds:.0%} of epoch {line['epoch']} went by waiting for batches ({waited:.1f} of {seconds:.1f} s): "
            f"resume with more --data.num_workers, now {config.data.num_workers}, or with --data.cache_dir on a faster disk"
        )
    skipped = line.get("skipped") or []
    if len(skipped) > MOST_SKIPPED_SHARE * train.steps_per_epoch:
        cases = [case for step in skipped for case in step["cases"]]
        often = max(dict.fromkeys(cases), key=cases.count)
        found["skipped"] = (
            f"{len(skipped)} of {train.steps_per_epoch} steps of epoch {line['epoch']} were skipped, most often with case {often} "
            f"({cases.count(often)} times): check it with unet4d verify, or train anew with a lower --train.learning_rate or "
            "--train.precision fp32"
        )
    return found


def _flat_loss(log: Log, config: ResolvedConfig, epochs: int) -> float:
    """Return the level of a loss that no longer falls though the learning rate is high; 0 where it falls or is too noisy.

    The slope is that of Theil and Sen (Sen 1968), which single outliers do not change, over the last epochs after warm-up. The loss
    is flat if even the steepest fall within the slope's confidence interval is small. A wide interval proves nothing.
    """
    train = config.train
    settled = [line for line in log if _is_past_warmup(line["step"] - train.steps_per_epoch, config)]
    losses = [line["loss"] for line in settled[-epochs:] if line["loss"] is not None]
    if len(losses) < epochs or log[-1]["learning_rate"] <= HIGH_RATE_SHARE * train.learning_rate:
        return 0.0
    slope, level = theilslopes(losses, alpha=FLAT_CONFIDENCE), abs(median(losses))
    steepest, shallowest = slope.low_slope * (epochs - 1), slope.high_slope * (epochs - 1)
    return 0.0 if -steepest >= FLAT_FALL * level or shallowest - steepest > MOST_NOISE * level else level


def _validation_advice(validated: Log, config: ResolvedConfig) -> dict[str, str]:
    """Return advice on classes that the newest validation did not find, by kind; nothing within warm-up."""
    line, predicted = validated[-1], validated[-1]["predicted_voxels"]
    if not _is_past_warmup(line["step"], config):
        return {}
    remedy = (
        "usual early; else run unet4d verify, and train anew with --data.foreground_fraction 1 or more --train.epochs"
    )
    if line["mean_foreground_dice"] == 0:
        seen = "the prediction lies elsewhere" if any(predicted.values()) else "only background is predicted"
        return {"zero": f"the validation Dice of epoch {line['epoch']} is 0 because {seen}: {remedy}"}
    where = f"is predicted in no voxel of the validation studies of epoch {line['epoch']}"
    missing = {name: voxels for name, voxels in line["reference_voxels"].items() if voxels and not predicted.get(name)}
    return {name: f"class {name} {where}, expected {voxels}: {remedy}" for name, voxels in missing.items()}


def _is_past_warmup(step: int, config: ResolvedConfig) -> bool:
    """Return whether the learning rate no longer rises at this step; with a time budget it may stop rising before."""
    if config.train.time_budget:
        return step >= config.train.warmup_steps
    return learning_rate_factor(step, config.train) >= learning_rate_factor(step + 1, config.train)
