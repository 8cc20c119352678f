"""One optimiser step: what training repeats and what the planner counts the memory of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unet4d.config import Config, MemoryConfig
from unet4d.model.clip_loss import ClipLoss
from unet4d.model.clstm_unet import CLSTMUNet
from unet4d.model.device import autocast
from unet4d.model.optimiser import optimiser, schedule


class TrainingStep:
    """The network's loss, its optimiser, its learning rate, its loss scaler. Nothing in a step reads from the device.

    Args:
        network: on `device`, in training mode.
        config: resolved.
        device: where to compute.
    """

    def __init__(self, network: CLSTMUNet, config: Config, device: torch.device):
        self.network, self.config, self.device = network, config.train, device
        self.precision = config.train.precision
        self.loss = ClipLoss(network, config.memory)
        self.optimiser = optimiser(network, config.train)
        self.schedule = schedule(self.optimiser, config.train)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")

    def __call__(self, image: Tensor, label: Tensor, labelled: Sequence[Sequence[bool]]) -> tuple[Tensor, Tensor]:
        """Take one step: `gradients`, then `update`; gives what they give."""
        return self.gradients(image, label, labelled), self.update()

    def gradients(self, image: Tensor, label: Tensor, labelled: Sequence[Sequence[bool]]) -> Tensor:
        """The loss, a scalar, and in every weight its gradient; see `ClipLoss` for the arguments, which lie on the device."""
        self.optimiser.zero_grad(set_to_none=True)
        with autocast(self.device, self.precision):
            loss = self.loss(image, label, labelled, self.network.drawn_dropout(len(image)))
        self.scaler.scale(loss).backward()
        return loss.detach()

    def update(self) -> Tensor:
        """Change the weights; gives the gradient's norm before clipping, a scalar on the device."""
        self.scaler.unscale_(self.optimiser)
        limit = self.config.gradient_clip or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), limit)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.schedule.step()
        return norm

    def use(self, memory: MemoryConfig) -> None:
        """Cut the steps that follow in another way; what they compute stays the same."""
        self.loss.use(memory)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return float(self.schedule.get_last_lr()[0])

    def state_dict(self) -> dict[str, Any]:
        """The state of optimiser, schedule and scaler."""
        return {
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave, be it from another device: whether the optimiser is fused is this one's affair."""
        for saved, own in zip(state["optimiser"]["param_groups"], self.optimiser.param_groups, strict=True):
            saved["fused"] = own["fused"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
