"""The training step: loss, gradients and the optimizer's update. The planner counts the memory of the same step."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from unet4d.config import RecomputeConfig, ResolvedConfig
from unet4d.models.clstm_unet import CLSTMUNet, DropoutFactors
from unet4d.models.device import autocast, repeated_shapes, to_device
from unet4d.pipeline.clip_dataset import Batch
from unet4d.system.distributed import ALONE, ProcessGroup
from unet4d.training.loss import ClipLoss, Teaching
from unet4d.training.optimizer import build_optimizer, set_learning_rates
from unet4d.training.own_classes import build_loss


class TrainingStep:
    """A network's loss, optimizer and loss scaler. Nothing in a step reads from the device.

    A step with a gradient that is not finite leaves weights and optimizer unchanged, in every precision: the loss scaler checks it
    (Micikevicius et al. 2018), and only with fp16 does it scale. The same holds where float32 cannot hold the gradient's norm,
    because it could not hold the optimizer's squares either.

    Several processes compute the gradient of the whole batch: each has the loss of all clips, and its gradient flows to its own.

    Args:
        network: on `device`, in training mode.
        config: of the run.
        device: where to compute.
        ranks: the processes that share each batch.
        regions: class indices of each region that the network has an output for; empty: an output per class.

    Attributes:
        recompute: schedule of the next steps; a configured `chunk_frames` of None is 0, all frames at once.
        frame_wise: whether the next steps skip recurrence and leave its weights as they are.
        initial: names of the weights that come from another training, see `set_initial`.
    """

    def __init__(
        self,
        network: CLSTMUNet,
        config: ResolvedConfig,
        device: torch.device,
        ranks: ProcessGroup = ALONE,
        regions: Sequence[Sequence[int]] = (),
    ):
        self.network, self.config, self.device, self.ranks = network, config.train, device, ranks
        self.seed, self.precision, self.frame_wise = config.seed, config.train.precision, False
        self.recompute = replace(config.recompute, chunk_frames=config.recompute.chunk_frames or 0)
        if config.train.freeze:
            network.get_submodule(config.train.freeze).requires_grad_(False)
        total = ranks.total if ranks.size > 1 else None
        loss = build_loss(config.train, regions).to(device)
        self.clip_loss = ClipLoss(network, self.recompute, total, config.train.consistency_weight, loss)
        self.loss = (
            self.clip_loss if ranks.size == 1 else DistributedDataParallel(self.clip_loss, gradient_as_bucket_view=True)
        )
        self.set_initial(())
        self.scaler = torch.amp.GradScaler(device.type, init_scale=2.0**16 if self._scales else 1.0)

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Take one step on one batch; return the loss and the gradient's norm as `gradients` and `update` do."""
        return self.gradients([batch]), self.update()

    def gradients(self, batches: Sequence[Batch], step: int = 0) -> Tensor:
        """Compute the gradient of every weight; return the mean loss of the batches, a scalar.

        Args:
            batches: this process's part of each.
            step: number of the step, which seeds dropout.
        """
        self.optimizer.zero_grad(set_to_none=True)
        losses = []
        with repeated_shapes(self.device), self._recurrence():
            for place, batch in enumerate(batches):
                is_last = place + 1 == len(batches)
                dropout = self._sample_dropout(step * len(batches) + place)
                with contextlib.nullcontext() if is_last else self._without_exchange():
                    image, label = (to_device(tensor, self.device) for tensor in (batch.image, batch.label))
                    compared = None if batch.compared is None else batch.compared.tolist()
                    teaching = None if batch.weights is None else Teaching(batch.weights.tolist(), batch.annotated)
                    with autocast(self.device, self.precision):
                        loss = self.loss(image, label, batch.labelled.tolist(), dropout, compared, teaching)
                    # A loss that is not finite makes its gradient so. Processes average their gradients, which are to be summed.
                    factor = (1 + 0 * loss.detach()) * (self.ranks.size / len(batches))
                    self.scaler.scale(loss * factor).backward()
                losses.append(loss.detach())
        if self.frame_wise:
            self.network.recurrent.zero_grad(set_to_none=True)  # neither the optimizer nor weight decay changes them
        return losses[0] if len(losses) == 1 else torch.stack(losses).mean()

    def update(self) -> Tensor:
        """Change the weights; return the gradient's norm before clipping, a scalar on the device, finite if they were changed."""
        gradients = [weight.grad for weight in self.network.parameters() if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        gradients[0] += 0 * norm  # A norm that is not finite makes the gradient so, for the scaler to see.
        norm = norm / self.scale
        self.scaler.unscale_(self.optimizer)
        if self.config.gradient_clip:
            torch.nn.utils.clip_grads_with_norm_(self.network.parameters(), self.config.gradient_clip, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update(None if self._scales else 1.0)
        return norm

    def set_recompute(self, schedule: RecomputeConfig) -> None:
        """Set how the next steps are split into chunks and what they recompute; their results stay the same."""
        self.recompute = schedule
        self.clip_loss.set_recompute(schedule)

    def set_initial(self, names: Collection[str]) -> None:
        """Set which weights come from another training, by name, before the first step: the optimizer is built anew."""
        self.initial = tuple(sorted(names))
        self.optimizer = build_optimizer(self.network, self.config, frozenset(names))

    def set_learning_rate(self, factor: float, step: int) -> None:
        """Set the learning rates of step `step`, counted from 0, as a fraction of their peaks; they stay until set again."""
        set_learning_rates(self.optimizer, factor, step < self.config.init_hold_steps)

    @property
    def scale(self) -> Tensor:
        """Return the scale of the next step's loss, 1 except for fp16: a scalar on the device, which no step changes."""
        # `get_scale` would wait for the device.
        scaled = self.scaler.scale(torch.ones((), device=self.device))
        assert isinstance(scaled, Tensor)
        return scaled

    def state_dict(self) -> dict[str, Any]:
        """Return the state of optimizer and scaler, and the names of the weights that come from another training."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "initial": list(self.initial),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned, on any device."""
        self.set_initial(state.get("initial", ()))  # which older checkpoints lack
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])

    @property
    def _scales(self) -> bool:
        return self.precision == "fp16"

    def _sample_dropout(self, batch: int) -> DropoutFactors | None:
        """Sample dropout for this process's clips of a batch: by the batch's number for all clips, however they are split."""
        if not self.network.dropout:
            return None
        [state] = np.random.SeedSequence([self.seed, 4, batch]).generate_state(1, np.uint64).tolist()
        size = self.config.batch_size
        factors = self.network.sample_dropout(size, torch.Generator().manual_seed(state))
        own = self.ranks.share(size)
        return None if factors is None else [factor[own.start : own.stop] for factor in factors]

    @contextlib.contextmanager
    def _recurrence(self) -> Iterator[None]:
        """Have the network skip recurrence inside the context, backward passes included, if steps are `frame_wise`."""
        self.network.skip_recurrence = self.frame_wise and not self.network.is_frame_wise
        try:
            yield
        finally:
            self.network.skip_recurrence = False

    def _without_exchange(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which processes add up their gradients without exchanging them."""
        return self.loss.no_sync() if isinstance(self.loss, DistributedDataParallel) else contextlib.nullcontext()
