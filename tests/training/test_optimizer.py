"""The learning rate rises, falls and ends at nothing; decay spares norms and biases."""

from __future__ import annotations

import itertools

import pytest
import torch

from tests.builders import make_network
from unet4d.config import TrainConfig
from unet4d.models.clstm_unet import CLSTMUNet
from unet4d.training.optimizer import build_optimizer, learning_rate_factor, set_learning_rates


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
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    for p in network.parameters():
        p.grad = torch.ones_like(p)
    for step in range(4):  # Adam moves a weight with a constant gradient by the rate
        set_learning_rates(adamw, learning_rate_factor(step, config), is_held=False)
        adamw.step()
    assert sorted(name for group in adamw.param_groups for name in names_of(network, group)) == sorted(before)
    moved = config.learning_rate * sum(learning_rate_factor(step, config) for step in range(4))
    for name, p in network.named_parameters():
        wanted = before[name] - moved * (3 if name.startswith("recurrent.") else 1)
        torch.testing.assert_close(p, wanted, atol=1e-5, rtol=1e-4)


def test_what_begins_at_random_learns_first_and_what_was_taken_at_a_rate_of_its_own():
    network = make_network(1, 2, (4, 6), [(2, 2, 1)])
    config = TrainConfig(
        epochs=2, steps_per_epoch=10, weight_decay=0.1, init_from="run", init_lr_factor=0.1, init_hold_steps=2,
        lstm_lr_factor=3.0,
    )  # fmt: skip
    taken = {name for name, _ in network.named_parameters() if not name.startswith("head.")}
    adamw = build_optimizer(network, config, taken)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    peaks = {name: group["initial_lr"] for group in adamw.param_groups for name in names_of(network, group)}
    for name, peak in peaks.items():
        wanted = config.learning_rate * (0.1 if name in taken else 1) * (3 if name.startswith("recurrent.") else 1)
        assert peak == pytest.approx(wanted)
    assert sorted(peaks) == sorted(before)
    for step in range(3):
        for p in network.parameters():
            p.grad = torch.ones_like(p)
        set_learning_rates(adamw, 1.0, is_held=step < 2)
        adamw.step()
        for name, p in network.named_parameters():
            assert torch.equal(p, before[name]) == (name in taken and step < 2), (step, name)


def test_without_a_rate_of_their_own_weights_that_were_taken_are_in_the_groups_of_all_others():
    network, config = make_network(1, 2, (4, 6), [(2, 2, 1)]), TrainConfig(init_from="run")
    groups = [build_optimizer(network, config, names).param_groups for names in ((), {"head.weight"})]
    assert [names_of(network, group) for group in groups[0]] == [names_of(network, group) for group in groups[1]]
