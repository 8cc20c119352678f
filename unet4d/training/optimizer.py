"""AdamW, its parameter groups and their learning rates."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from torch.optim import AdamW

from unet4d.config import TrainConfig
from unet4d.models.clstm_unet import CLSTMUNet


def build_optimizer(network: CLSTMUNet, config: TrainConfig, initial: Collection[str] = ()) -> AdamW:
    """Return AdamW (Loshchilov & Hutter 2019) with weight decay on convolutions, and none on norms and biases.

    Weights are in groups of their own where they have a learning rate of their own: those that couple frames, and those that come
    from another training. Frozen ones are in none. Fused: it needs no copies of the weights and does not wait for the loss scaler.

    Args:
        network: its weights that need a gradient are trained.
        config: rates, their factors, and weight decay.
        initial: names of the weights that come from another training.
    """
    of_initial = config.init_lr_factor or 1.0
    is_apart = of_initial != 1 or config.init_hold_steps > 0
    groups: dict[tuple[bool, bool, bool], dict[str, Any]] = {}
    for name, weight in network.named_parameters():
        if not weight.requires_grad:
            continue
        is_initial, is_recurrent = is_apart and name in initial, name.startswith("recurrent.")
        is_recurrent &= config.lstm_lr_factor != 1
        factor = (of_initial if is_initial else 1.0) * (config.lstm_lr_factor if is_recurrent else 1.0)
        rate, decay = factor * config.learning_rate, config.weight_decay if weight.ndim > 1 else 0.0
        group = {"params": [], "weight_decay": decay, "lr": rate, "initial_lr": rate, "is_initial": is_initial}
        groups.setdefault((is_initial, is_recurrent, weight.ndim <= 1), group)["params"].append(weight)
    return AdamW([groups[key] for key in sorted(groups)], fused=True)


def set_learning_rates(optimizer: AdamW, factor: float, is_held: bool) -> None:
    """Set the rate of every group to a fraction of its peak; those that come from another training to 0 where they are held."""
    for group in optimizer.param_groups:
        group["lr"] = 0.0 if is_held and group.get("is_initial", False) else factor * group["initial_lr"]


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Return the fraction of the peak learning rate at optimizer step `step`, counted from 0: a linear rise, then a fall to 0."""
    total = config.epochs * config.steps_per_epoch
    warmup = min(config.warmup_steps, total // 10)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return falling_factor(min(1.0, (step - warmup) / max(1, total - warmup)), config.schedule)


def falling_factor(done: float, schedule: str) -> float:
    """Return the fraction of the peak learning rate where this fraction of its fall, 0 to 1, is done."""
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return (1 - done) ** 0.9
