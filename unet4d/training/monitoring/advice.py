"""Advice on a training and warnings about its predictions, from the lines of its log: what was observed and what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from unet4d.config import ResolvedConfig

Line = Mapping[str, Any]
"""A line of RUN/log.jsonl, of one epoch."""
REPEAT_AFTER = 10
"""Epochs (or validations) without a problem before the same advice is given again."""
MOST_WAITING_SHARE, MOST_WAITING_S, MOST_SKIPPED_SHARE = 0.25, 1.0, 0.05
"""Waiting for batches for more than both of these per epoch is too long, and so are more skipped steps than this share."""


def training_advice(log: Sequence[Line], config: ResolvedConfig) -> list[str]:
    """Return advice after the newest epoch; each piece when it becomes true, not at every epoch for which it holds."""
    return _new_advice(log, config, _epoch_advice)


def validation_warnings(log: Sequence[Line], config: ResolvedConfig) -> list[str]:
    """Return warnings about classes that the newest epoch's validation did not find, likewise; none where it was not validated."""
    if not log or "mean_foreground_dice" not in log[-1]:
        return []
    return _new_advice([line for line in log if "mean_foreground_dice" in line], config, _validation_advice)


def _new_advice(
    log: Sequence[Line], config: ResolvedConfig, find: Callable[[Line, ResolvedConfig], dict[str, str]]
) -> list[str]:
    """Return the advice on the newest line of kinds that none of the last lines gave reason for."""
    before = {kind for line in log[-1 - REPEAT_AFTER : -1] for kind in find(line, config)}
    return [text for line in log[-1:] for kind, text in find(line, config).items() if kind not in before]


def _epoch_advice(line: Line, config: ResolvedConfig) -> dict[str, str]:
    """Return advice on slow batches and skipped steps, by kind."""
    found, epoch, steps = dict[str, str](), line["epoch"], config.train.steps_per_epoch
    waited, seconds = line.get("waited_seconds") or 0.0, line.get("seconds") or 0.0
    if waited > MOST_WAITING_S and waited > MOST_WAITING_SHARE * seconds:
        found["waiting"] = (
            f"{waited / seconds:.0%} of epoch {epoch} went by waiting for batches ({waited:.1f} of {seconds:.1f} s): resume with "
            f"more --data.num_workers, now {config.data.num_workers}, or with --data.cache_dir on a faster disk"
        )
    if (skipped := len(line.get("skipped") or ())) > MOST_SKIPPED_SHARE * steps:
        found["skipped"] = (
            f"{skipped} of {steps} steps of epoch {epoch} were skipped: run unet4d verify on the cases named above, or train anew "
            "with a lower --train.learning_rate or --train.precision fp32"
        )
    return found


def _validation_advice(line: Line, config: ResolvedConfig) -> dict[str, str]:
    """Return advice on each class that a validation did not find, by class; nothing within warm-up."""
    if line["step"] < config.train.warmup_steps:
        return {}
    longer = "a longer --train.time_budget" if config.train.time_budget else "more --train.epochs"
    return {
        name: f"class {name} is predicted in no voxel of the validation studies of epoch {line['epoch']}, expected {voxels}: usual "
        f"early; else run unet4d verify, and train anew with --data.foreground_fraction 1 or {longer}"
        for name, voxels in line["reference_voxels"].items()
        if voxels and not line["predicted_voxels"].get(name)
    }
