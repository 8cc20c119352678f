"""The learning rate rises, falls and ends at nothing; decay spares norms and biases."""

from __future__ import annotations

import itertools

import pytest
import torch

from tests.builders import make_network
from unet4d.config import TrainConfig
from unet4d.models.clstm_unet import CLSTMUNet
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


def names_of(network: CLSTMUNet, group: dict) -> list[str]:
    known = {id(p): name for name, p in network.named_parameters()}
    return [known[id(p)] for p in group["params"]]


def test_at_one_rate_for_all_there_are_two_groups_in_the_order_of_the_weights():
    """Checkpoints hold the optimizer's state by these places."""
    network = make_network(1, 2, (4, 6), [(2, 2, 1)])
    groups = build_optimizer(network, TrainConfig()).param_groups
    for group, is_decayed in zip(groups, (True, False), strict=True):
        assert names_of(network, group) == [n for n, p in network.named_parameters() if (p.ndim > 1) == is_decayed]


@pytest.mark.parametrize("lstm_channels", [None, 0])
def test_what_couples_frames_learns_at_a_multiple_of_the_rate_of_the_others(lstm_channels):
    network = make_network(1, 2, (4, 6), [(2, 2, 1)], lstm_channels=lstm_channels)
    config = TrainConfig(epochs=2, steps_per_epoch=10, lstm_lr_factor=3.0, weight_decay=0.0)
    adamw = build_optimizer(network, config)
    schedule = build_schedule(adamw, config)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    for p in network.parameters():
        p.grad = torch.ones_like(p)
    for step in range(4):  # Adam moves a weight with a constant gradient by the rate
        adamw.step()
        schedule.step()
        assert schedule.get_last_lr()[0] == config.learning_rate * learning_rate_factor(step + 1, config)
    assert sorted(name for group in adamw.param_groups for name in names_of(network, group)) == sorted(before)
    moved = config.learning_rate * sum(learning_rate_factor(step, config) for step in range(4))
    for name, p in network.named_parameters():
        wanted = before[name] - moved * (3 if name.startswith("recurrent.") else 1)
        torch.testing.assert_close(p, wanted, atol=1e-5, rtol=1e-4)
