"""The learning rate rises, falls and ends at nothing; decay spares norms and biases."""

from __future__ import annotations

import itertools

import pytest

from tests.builders import make_network
from unet4d.config import TrainConfig
from unet4d.training.optimizer import build_optimizer, build_schedule, learning_rate_factor


@pytest.mark.parametrize("kind", ["polynomial", "cosine"])
def test_the_schedule_rises_to_one_then_falls_to_zero(kind):
    config = TrainConfig(epochs=10, steps_per_epoch=10, warmup_steps=5, schedule=kind)
    factors = [learning_rate_factor(step, config) for step in range(101)]
    assert factors[:6] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1])
    assert all(later < earlier for earlier, later in itertools.pairwise(factors[5:]))
    assert factors[100] == pytest.approx(0)
    half = factors[5 + 95 // 2]
    assert half == pytest.approx((1 - 47 / 95) ** 0.9 if kind == "polynomial" else 0.5, abs=0.01)


def test_a_short_run_warms_up_for_a_tenth_of_it():
    config = TrainConfig(epochs=2, steps_per_epoch=10, warmup_steps=100)
    assert learning_rate_factor(2, config) == 1.0


def test_decay_is_for_convolutions_alone_and_every_weight_is_trained():
    network = make_network(1, 2, (4, 6), [(2, 2, 1)])
    adamw = build_optimizer(network, TrainConfig(weight_decay=0.1))
    decayed = {id(p) for group in adamw.param_groups if group["weight_decay"] for p in group["params"]}
    every = {id(p) for group in adamw.param_groups for p in group["params"]}
    assert every == {id(p) for p in network.parameters()}
    assert all((id(p) in decayed) == name.endswith("weight") for name, p in network.named_parameters() if p.ndim != 1)
    assert not any(id(p) in decayed for p in network.parameters() if p.ndim == 1)
    assert build_schedule(adamw, TrainConfig()).get_last_lr()[0] < TrainConfig().learning_rate
