"""The moving average of weights: its closed form, and that it neither learns nor waits."""

from __future__ import annotations

import io
import math

import pytest
import torch

from tests.builders import make_network
from unet4d import CLSTMUNet
from unet4d.training.ema import WeightAverage


def network() -> CLSTMUNet:
    torch.manual_seed(0)
    return make_network(1, 2, (4, 6), [(2, 2, 1)], lstm_channels=2)


@torch.no_grad()
def step(made: CLSTMUNet, number: int) -> None:
    """Move every weight somewhere, by a number."""
    draws = torch.Generator().manual_seed(number)
    for weight in made.parameters():
        weight.add_(torch.randn(weight.shape, generator=draws))


def test_the_random_start_is_forgotten_first_fast_and_then_by_the_decay():
    """From 0 to 1 for ever: after n updates what is left of 0 is 1/10 2/11 ... n/(n+9), and from decay 0.5 on, at n = 8, halved."""
    made = network()
    with torch.no_grad():
        for weight in made.parameters():
            weight.zero_()
    average = WeightAverage(made, 0.5)
    with torch.no_grad():
        for weight in made.parameters():
            weight.fill_(1)
    for updates in range(1, 15):
        average.update()
        early = min(updates, 9)
        left = math.factorial(early) * math.factorial(9) / math.factorial(early + 9) * 0.5 ** max(0, updates - 9)
        for weight in average.network.parameters():
            torch.testing.assert_close(1 - weight, torch.full_like(weight, left), atol=1e-6, rtol=0)


def test_it_is_the_weighted_sum_of_all_weights_so_far():
    made = network()
    average, seen = WeightAverage(made, 0.3), [made.head.weight.detach().double()]
    for number in range(12):
        step(made, number)
        average.update()
        seen.append(made.head.weight.detach().double())
    decays = [min(0.3, (1 + n) / (10 + n)) for n in range(12)]
    shares = [math.prod(decays), *((1 - d) * math.prod(decays[n + 1 :]) for n, d in enumerate(decays))]
    assert sum(shares) == pytest.approx(1)
    wanted = sum(share * weight for share, weight in zip(shares, seen, strict=True))
    torch.testing.assert_close(average.network.head.weight.double(), wanted, atol=1e-5, rtol=1e-5)


def test_it_does_not_learn_and_leaves_the_network_as_it_is():
    made = network().train()
    average = WeightAverage(made, 0.9)
    before = [weight.detach().clone() for weight in average.network.parameters()]
    assert (made.training, average.network.training) == (True, False)
    assert all(weight.requires_grad for weight in made.parameters())
    assert not any(weight.requires_grad for weight in average.network.parameters())
    made(torch.randn(1, 2, 1, 8, 8, 2)).sum().backward()
    step(made, 1)
    moved = [weight.detach().clone() for weight in made.parameters()]
    assert all(map(torch.equal, before, average.network.parameters()))  # until the update
    average.update()
    assert all(map(torch.equal, moved, made.parameters()))
    assert not any(map(torch.equal, before, average.network.parameters()))


def test_it_continues_from_its_state_to_the_bit():
    made = network()
    average = WeightAverage(made, 0.9)
    for number in range(3):
        step(made, number)
        average.update()
    file = io.BytesIO()
    saved = {"average": average.state_dict(), "weights": made.state_dict(), "averaged": average.network.state_dict()}
    torch.save(saved, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    other = network()
    other.load_state_dict(state["weights"])
    resumed = WeightAverage(other, 0.9)
    resumed.load_state_dict(state["average"], state["averaged"])
    for one, average_of in ((made, average), (other, resumed)):
        for number in range(3, 6):
            step(one, number)
            average_of.update()
    assert average.updates == resumed.updates == 6
    assert all(map(torch.equal, average.network.parameters(), resumed.network.parameters()))


def test_its_state_does_not_repeat_the_weights_that_a_checkpoint_holds_as_its_network():
    made = network()
    average = WeightAverage(made, 0.9)
    average.update()
    file = io.BytesIO()
    torch.save(average.state_dict(), file)
    assert file.tell() < sum(weight.nbytes for weight in made.parameters()) / 2
    assert average.state_dict() == {"updates": 1}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_no_update_waits_for_it():
    """Pins a counter that was copied to the device at every update."""
    made = network().cuda()
    average = WeightAverage(made, 0.9)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            average.update()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(weight.is_cuda for weight in average.network.parameters())
