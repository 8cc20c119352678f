"""AdamW and its learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any

from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from unet4d.config import TrainConfig
from unet4d.models.clstm_unet import CLSTMUNet


def build_optimizer(network: CLSTMUNet, config: TrainConfig) -> AdamW:
    """Return AdamW (Loshchilov & Hutter 2019) with weight decay on convolutions, and none on norms and biases.

    Weights that couple frames come last, in groups of their own where `lstm_lr_factor` gives them another learning rate.
    Fused: it needs no copies of the weights and does not wait for the loss scaler.
    """
    recurrent = {id(p) for p in network.recurrent.parameters()} if config.lstm_lr_factor != 1 else set()
    groups: list[dict[str, Any]] = []
    for is_recurrent, factor in ((False, 1.0), (True, config.lstm_lr_factor)):
        weights = [p for p in network.parameters() if (id(p) in recurrent) == is_recurrent]
        for is_decayed, decay in ((True, config.weight_decay), (False, 0.0)):
            own = [p for p in weights if (p.ndim > 1) == is_decayed]
            groups += [{"params": own, "weight_decay": decay, "lr": factor * config.learning_rate}] * bool(own)
    return AdamW(groups, fused=True)


def build_schedule(optimizer: AdamW, config: TrainConfig) -> LambdaLR:
    """Return the learning-rate schedule of the run: a linear rise, then a fall to 0 at the last step."""
    return LambdaLR(optimizer, lambda step: learning_rate_factor(step, config))


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Return the fraction of the peak learning rate at optimizer step `step`, counted from 0."""
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
