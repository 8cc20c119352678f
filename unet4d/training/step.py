"""One optimiser step: what training repeats and what the planner counts the memory of."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from unet4d.config import RecomputeConfig, ResolvedConfig
from unet4d.models.clstm_unet import CLSTMUNet, DropoutFactors
from unet4d.models.device import autocast, repeated_shapes
from unet4d.pipeline.clip_dataset import Batch
from unet4d.system.distributed import ALONE, ProcessGroup
from unet4d.training.clip_loss import ClipLoss
from unet4d.training.optimizer import build_optimizer, build_schedule


class TrainingStep:
    """The network's loss, its optimiser, its learning rate, its loss scaler. Nothing in a step reads from the device.

    A step whose gradient is not finite leaves weights and optimiser as they are, in every precision: the loss scaler looks
    (Micikevicius et al. 2018), and only with fp16 does it scale. So does one whose gradient's norm float32 cannot hold, for the
    optimiser's squares of it could not be held either. The learning rate goes on.

    Several processes compute the gradient of the whole batch: the loss of each is that of all clips, its gradient flows to its own.

    Args:
        network: on `device`, in training mode.
        config: of the run.
        device: where to compute.
        ranks: those who share each batch.
    """

    def __init__(self, network: CLSTMUNet, config: ResolvedConfig, device: torch.device, ranks: ProcessGroup = ALONE):
        self.network, self.config, self.device, self.ranks = network, config.train, device, ranks
        self.seed, self.precision = config.seed, config.train.precision
        self.clip_loss = ClipLoss(network, config.recompute, ranks.total if ranks.size > 1 else None)
        self.loss = (
            self.clip_loss if ranks.size == 1 else DistributedDataParallel(self.clip_loss, gradient_as_bucket_view=True)
        )
        self.optimizer = build_optimizer(network, config.train)
        self.schedule = build_schedule(self.optimizer, config.train)
        self.scaler = torch.amp.GradScaler(device.type, init_scale=2.0**16 if self._scales else 1.0)

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Take one step on one batch: `gradients`, then `update`; gives what they give."""
        return self.gradients([batch]), self.update()

    def gradients(self, batches: Sequence[Batch], step: int = 0) -> Tensor:
        """The mean loss of the batches, a scalar, and in every weight its gradient.

        Args:
            batches: this process's part of each.
            step: number of the step, which dropout is drawn by.
        """
        with repeated_shapes(self.device):
            return self._gradients(batches, step)

    def _gradients(self, batches: Sequence[Batch], step: int) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        losses = []
        for place, batch in enumerate(batches):
            kept = self._dropout(step * len(batches) + place)
            with self._alone() if place + 1 < len(batches) else contextlib.nullcontext():
                seen, truth = (tensor.to(self.device, non_blocking=True) for tensor in (batch.image, batch.label))
                with autocast(self.device, self.precision):
                    loss = self.loss(seen, truth, batch.labelled.tolist(), kept)
                # A loss that is not finite makes its gradient so. The mean over processes, which is taken of the gradients, is
                # to be their sum.
                factor = (1 + 0 * loss.detach()) * (self.ranks.size / len(batches))
                self.scaler.scale(loss * factor).backward()
            losses.append(loss.detach())
        return losses[0] if len(losses) == 1 else torch.stack(losses).mean()

    def update(self) -> Tensor:
        """Change the weights; gives the gradient's norm before clipping, a scalar on the device, finite if they were changed."""
        gradients = [weight.grad for weight in self.network.parameters() if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        gradients[0] += 0 * norm  # A norm that is not finite makes the gradient so, for the scaler to see.
        norm = norm / self.scale
        self.scaler.unscale_(self.optimizer)
        if self.config.gradient_clip:
            torch.nn.utils.clip_grads_with_norm_(self.network.parameters(), self.config.gradient_clip, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update(None if self._scales else 1.0)
        self.schedule.step()
        return norm

    def use(self, memory: RecomputeConfig) -> None:
        """Cut the steps that follow in another way; what they compute stays the same."""
        self.clip_loss.use(memory)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return float(self.schedule.get_last_lr()[0])

    @property
    def scale(self) -> Tensor:
        """What the loss of the next step is scaled by, 1 but for fp16: a scalar on the device, which no step changes."""
        # `get_scale` would wait for the device.
        scaled = self.scaler.scale(torch.ones((), device=self.device))
        assert isinstance(scaled, Tensor)
        return scaled

    def state_dict(self) -> dict[str, Any]:
        """The state of optimiser, schedule and scaler."""
        return {
            "optimiser": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave, be it from another device."""
        self.optimizer.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])

    @property
    def _scales(self) -> bool:
        return self.precision == "fp16"

    def _dropout(self, batch: int) -> DropoutFactors | None:
        """What dropout keeps of this process's clips of a batch: drawn by its number for all clips, however they are shared."""
        if not self.network.dropout:
            return None
        [state] = np.random.SeedSequence([self.seed, 4, batch]).generate_state(1, np.uint64).tolist()
        size = self.config.batch_size
        drawn = self.network.sample_dropout(size, torch.Generator().manual_seed(state))
        mine = self.ranks.share(size)
        return None if drawn is None else [factor[mine.start : mine.stop] for factor in drawn]

    def _alone(self) -> contextlib.AbstractContextManager:
        """Within, gradients are added up and not exchanged."""
        return self.loss.no_sync() if isinstance(self.loss, DistributedDataParallel) else contextlib.nullcontext()
