"""What a run's log gives reason to tell its user, in words: what was seen, what it usually means, what to do."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from scipy.stats import theilslopes

from unet4d.config import ResolvedConfig
from unet4d.training.optimizer import learning_rate_factor

Log = Sequence[Mapping[str, Any]]
"""The lines of RUN/log.jsonl, one an epoch."""
QUIET = 10
"""What held at any of so many epochs (or validations) before is not said again."""
FEWEST_EPOCHS = 10
WINDOW_SHARE = 1 / 5
"""A loss is looked at over this share of the run's epochs, but no fewer than the fewest."""
SURE = 0.99
FLAT = 0.02
"""A loss is flat if it is this sure that it falls by less than this share over the window."""
TOO_NOISY = 0.1
"""... and not at all where noise leaves more of it than this share open."""
HIGH_RATE = 0.1
"""Below this share of its peak the learning rate is so low that a flat loss is in order."""
STARVED, STARVED_S = 0.25, 1.0
"""An epoch that waits for batches for more than this share of it, and more than so many seconds, is starved."""
MANY_SKIPPED = 0.05
"""An epoch that skips more than this share of its steps loses too many."""


def advice(log: Log, config: ResolvedConfig) -> list[str]:
    """What to tell the user after the newest epoch: each thing when it becomes true, and not at every epoch that it holds.

    Args:
        log: the lines so far, the newest one last.
        config: of the run, resolved.
    """
    sentences = _new(log, lambda lines: _of_epochs(lines, config))
    if log and "mean_foreground_dice" in log[-1]:
        validated = [line for line in log if "mean_foreground_dice" in line]
        sentences += _new(validated, lambda lines: _of_validations(lines, config))
    return sentences


def _new(log: Log, holding: Callable[[Log], dict[str, str]]) -> list[str]:
    """The sentences that hold now, by kind, of kinds that held nowhere just before."""
    now = holding(log)
    earlier = (log[: len(log) - back] for back in range(1, min(QUIET, len(log)) + 1)) if now else ()
    before = {kind for lines in earlier for kind in holding(lines)}
    return [sentence for kind, sentence in now.items() if kind not in before]


def _of_epochs(log: Log, config: ResolvedConfig) -> dict[str, str]:
    """What holds at the newest epoch."""
    checks = {"flat": _flat_loss, "starved": _starved, "skipped": _skipped}
    found = {kind: check(log, config) for kind, check in checks.items()} if log else {}
    return {kind: sentence for kind, sentence in found.items() if sentence}


def _flat_loss(log: Log, config: ResolvedConfig) -> str:
    """The loss has not fallen for long, though the learning rate is high.

    A line by Theil and Sen (Sen 1968), which single outliers do not bend, goes through the losses of as many epochs as a fifth of
    the run's, 10 at least, all after warm-up. The loss is flat if even the steepest fall within the slope's 99 % confidence
    interval brings less than 2 % over these epochs. Noise widens the interval: where it spans more than 10 % of the loss, nothing
    can be told and nothing is. So a loss that falls by 2 % or more is practically never called flat.
    """
    train = config.train
    window = max(FEWEST_EPOCHS, math.ceil(WINDOW_SHARE * train.epochs))
    settled = [line for line in log if _is_warm(line["step"] - train.steps_per_epoch, config)]
    losses = [line["loss"] for line in settled[-window:] if line["loss"] is not None]
    if len(losses) < window or log[-1]["learning_rate"] <= HIGH_RATE * train.learning_rate:
        return ""
    slope, level = theilslopes(losses, alpha=SURE), abs(median(losses))
    steepest, shallowest = slope.low_slope * (window - 1), slope.high_slope * (window - 1)
    if -steepest >= FLAT * level or shallowest - steepest > TOO_NOISY * level:
        return ""
    return (
        f"the loss has stayed at about {level:.4g} for {window} epochs, with the learning rate still at "
        f"{log[-1]['learning_rate']:.2g}: where the validation Dice is good, all is learnt and fewer --train.epochs do; where it "
        "is poor, the network does not learn: look at the labels with unet4d verify, then begin anew with --train.learning_rate "
        f"{train.learning_rate / 3:.1g} or {train.learning_rate * 3:.1g}"
    )


def _starved(log: Log, config: ResolvedConfig) -> str:
    """Much of the newest epoch was spent waiting for batches."""
    waited, seconds = log[-1].get("waited_seconds") or 0.0, log[-1].get("seconds") or 0.0
    if waited <= STARVED_S or waited <= STARVED * seconds:
        return ""
    return (
        f"{waited / seconds:.0%} of epoch {log[-1]['epoch']} went by waiting for batches ({waited:.1f} of {seconds:.1f} s): they "
        "are read and varied more slowly than the network learns from them; raise --data.num_workers, now "
        f"{config.data.num_workers}, or put --data.cache_dir on a faster disk, both with --resume; or begin anew with "
        "--data.augmentation mild or off"
    )


def _skipped(log: Log, config: ResolvedConfig) -> str:
    """Many of the newest epoch's steps changed no weight."""
    skipped, steps = log[-1].get("skipped") or [], config.train.steps_per_epoch
    if len(skipped) <= MANY_SKIPPED * steps:
        return ""
    cases = [case for step in skipped for case in step["cases"]]
    often = max(dict.fromkeys(cases), key=cases.count)
    return (
        f"{len(skipped)} of {steps} steps of epoch {log[-1]['epoch']} were skipped, for their loss or gradient was not finite: the "
        "learning rate is too high, the precision too low, or a study holds broken values; case "
        f"{often} came most often, {cases.count(often)} times: run unet4d verify, or begin anew with a lower "
        "--train.learning_rate or --train.precision fp32"
    )


def _of_validations(validated: Log, config: ResolvedConfig) -> dict[str, str]:
    """What holds at the newest validation; nothing within warm-up."""
    if not validated or not _is_warm(validated[-1]["step"], config):
        return {}
    newest = validated[-1]
    reference, predicted = newest["reference_voxels"], newest["predicted_voxels"]
    if newest["mean_foreground_dice"] == 0:
        seen = "what is predicted lies elsewhere" if any(predicted.values()) else "nothing but background is predicted"
        return {
            "zero": f"the validation Dice of epoch {newest['epoch']} is 0, for {seen}: usual before a network has learnt its first "
            "class; if it stays so, labels do not fit their images or the classes are very small: look at the pictures in "
            "TensorBoard and run unet4d verify, then begin anew with --data.foreground_fraction 1 or a lower --train.learning_rate"
        }
    return {
        f"never {name}": f"class {name} is predicted in no voxel of the validation studies of epoch {newest['epoch']}, and the "
        f"references have {voxels}: usual early in training for small and rare classes; if it stays so, see whether "
        "enough training studies have it, then begin anew with --data.foreground_fraction 1 or more --train.epochs"
        for name, voxels in reference.items()
        if voxels and not predicted.get(name)
    }


def _is_warm(step: int, config: ResolvedConfig) -> bool:
    """Whether the learning rate no longer rises after so many steps."""
    return learning_rate_factor(step, config.train) >= learning_rate_factor(step + 1, config.train)
