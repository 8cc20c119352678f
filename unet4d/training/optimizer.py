"""AdamW and its learning-rate schedule."""

from __future__ import annotations

import math

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from unet4d.config import TrainConfig


def build_optimizer(network: nn.Module, config: TrainConfig) -> AdamW:
    """Return AdamW (Loshchilov & Hutter 2019) with weight decay on convolutions, and none on norms and biases.

    Fused: it needs no copies of the weights and does not wait for the loss scaler.
    """
    weights = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return AdamW(groups, lr=config.learning_rate, fused=True)


def build_schedule(optimizer: AdamW, config: TrainConfig) -> LambdaLR:
    """Return the learning-rate schedule of the run: a linear rise, then a fall to 0 at the last step."""
    return LambdaLR(optimizer, lambda step: learning_rate_factor(step, config))


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Return the fraction of the peak learning rate at optimizer step `step`, counted from 0."""
    total = config.epochs * config.steps_per_epoch
    warmup = min(config.warmup_steps, total // 10)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return (1 - done) ** 0.9
