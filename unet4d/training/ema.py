"""A moving average of a network's weights, which usually predicts better than the weights of one step."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from unet4d.models.clstm_unet import CLSTMUNet


class WeightAverage:
    """The exponential moving average of a network's weights (Polyak & Juditsky 1992; Tarvainen & Valpola 2017, arXiv:1703.01780).

    The decay of update n, counted from 0, is min(decay, (1 + n) / (10 + n)), as in TensorFlow's ExponentialMovingAverage: an
    average over all steps at first, so that the random start is soon forgotten. Nothing is read from the device, unlike in
    `torch.optim.swa_utils.AveragedModel`.

    Args:
        network: the network that is trained; it has no buffers.
        decay: fraction of the average that an update keeps, 0 to below 1.

    Attributes:
        network: a network of the averaged weights, on the same device, in evaluation mode; no gradient flows to them.
        updates: number of updates so far.
    """

    def __init__(self, network: CLSTMUNet, decay: float):
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay, self.updates = decay, 0
        self._trained = network

    def update(self) -> None:
        """Update the average with the network's weights as they are now."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        weights = [weight.detach() for weight in self._trained.parameters()]
        get_ema_multi_avg_fn(decay)(list(self.network.parameters()), weights, self.updates)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the number of updates; a checkpoint holds the averaged weights as those of its network."""
        return {"updates": self.updates}

    def load_state_dict(self, state: dict[str, Any], weights: Mapping[str, Tensor]) -> None:
        """Load what `state_dict` returned, and the averaged weights of then, on any device."""
        self.network.load_state_dict(weights)
        self.updates = state["updates"]
