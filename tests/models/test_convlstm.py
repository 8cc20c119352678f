"""ConvLSTM3d against torch.nn.LSTM, and the laws of time it must keep."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import nn

from unet4d import ConvLSTM3d
from unet4d.errors import InputError
from unet4d.models.scan import Keep


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def layer(
    direction="forward", num_layers=1, kernel_size=3, in_channels=2, hidden_channels=3, keep: Keep = "hidden"
) -> ConvLSTM3d:
    return ConvLSTM3d(in_channels, hidden_channels, kernel_size, num_layers, direction, keep).double()


def clip(frames=5, batch=2, channels=2, grid=(4, 3, 2)) -> torch.Tensor:
    return torch.randn(batch, frames, channels, *grid, dtype=torch.float64)


def copy_into_lstm(ours: ConvLSTM3d, theirs: nn.LSTM) -> None:
    """The convolutions' weights at kernel 1 are the LSTM's matrices; its second bias is set to zero."""
    suffixes = ["", "_reverse"][: ours.num_directions]
    names = [f"l{k}{suffix}" for k in range(theirs.num_layers) for suffix in suffixes]
    with torch.no_grad():
        for cell, name in zip(ours.cells, names, strict=True):
            getattr(theirs, f"weight_ih_{name}").copy_(cell.input_gates.weight.flatten(1))
            getattr(theirs, f"weight_hh_{name}").copy_(cell.hidden_gates.weight.flatten(1))
            getattr(theirs, f"bias_ih_{name}").copy_(cell.input_gates.bias)
            getattr(theirs, f"bias_hh_{name}").zero_()


@pytest.mark.parametrize("keep", get_args(Keep))
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_on_one_voxel_it_is_torch_lstm_in_output_state_and_gradient(direction, num_layers, keep):
    ours = layer(direction, num_layers, kernel_size=1, keep=keep)
    theirs = nn.LSTM(2, 3, num_layers, batch_first=True, bidirectional=direction == "bidirectional").double()
    copy_into_lstm(ours, theirs)
    x = clip(frames=6, grid=(1, 1, 1)).requires_grad_()
    wanted, (hidden, cell) = theirs(x.flatten(2))
    output, state = ours(x)
    torch.testing.assert_close(output.flatten(2), wanted)
    torch.testing.assert_close(torch.stack([h.flatten(1) for h, _ in state]), hidden)
    torch.testing.assert_close(torch.stack([c.flatten(1) for _, c in state]), cell)

    weight = torch.randn_like(wanted)
    (from_ours,) = torch.autograd.grad((output.flatten(2) * weight).sum(), x)
    (from_theirs,) = torch.autograd.grad((wanted * weight).sum(), x)
    torch.testing.assert_close(from_ours, from_theirs)


def test_it_is_torch_lstm_from_a_given_state_too():
    ours, theirs = layer(kernel_size=1), nn.LSTM(2, 3, batch_first=True).double()
    copy_into_lstm(ours, theirs)
    x, h, c = clip(grid=(1, 1, 1)), torch.randn(1, 2, 3).double(), torch.randn(1, 2, 3).double()
    wanted, _ = theirs(x.flatten(2), (h, c))
    output, _ = ours(x, [(h[0][..., None, None, None], c[0][..., None, None, None])])
    torch.testing.assert_close(output.flatten(2), wanted)


def test_the_gradients_are_the_numerical_ones_also_through_the_state():
    ours = layer("bidirectional", hidden_channels=1, in_channels=1)
    x = clip(frames=3, batch=1, channels=1, grid=(2, 2, 1)).requires_grad_()
    state = [
        tuple(torch.randn(1, 1, 2, 2, 1, dtype=torch.float64, requires_grad=True) for _ in range(2)) for _ in range(2)
    ]

    def run(x, *flat):
        output, after = ours(x, [flat[:2], flat[2:]])
        return output, *after[0], *after[1]

    assert torch.autograd.gradcheck(run, (x, *state[0], *state[1]))


def test_a_forward_layer_is_causal_to_the_bit():
    ours, x = layer(num_layers=2), clip()
    changed = x.clone()
    changed[:, 3:] += 1
    before, after = ours(x)[0], ours(changed)[0]
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.equal(before[:, 3], after[:, 3])


def test_a_bidirectional_layer_sees_both_ways():
    ours, x = layer("bidirectional"), clip()
    changed = x.clone()
    changed[:, 2] += 1
    differs = (ours(x)[0] - ours(changed)[0]).abs().amax((0, 2, 3, 4, 5))
    assert (differs > 0).all()


def test_reversed_time_with_swapped_directions_gives_the_reversed_output():
    """Pins a backward direction with an output that is not flipped back in time."""
    ours, swapped = layer("bidirectional"), layer("bidirectional")
    swapped.cells[0].load_state_dict(ours.cells[1].state_dict())
    swapped.cells[1].load_state_dict(ours.cells[0].state_dict())
    x = clip()
    forward, backward = ours(x)[0].chunk(2, 2)
    of_reversed = swapped(x.flip(1))[0].flip(1)
    torch.testing.assert_close(of_reversed, torch.cat((backward, forward), 2))
    assert not torch.allclose(forward, backward)


@pytest.mark.parametrize("cut", [1, 3])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_two_parts_with_the_state_handed_over_are_one_run(num_layers, cut):
    ours, x = layer(num_layers=num_layers), clip()
    whole, ended = ours(x)
    first, state = ours(x[:, :cut])
    second, after = ours(x[:, cut:], state)
    torch.testing.assert_close(torch.cat((first, second), 1), whole)
    for (h, c), (h_whole, c_whole) in zip(after, ended, strict=True):
        torch.testing.assert_close(h, h_whole)
        torch.testing.assert_close(c, c_whole)


def test_the_backward_direction_takes_its_state_from_the_frames_that_follow():
    ours, x = layer("bidirectional"), clip()
    whole, _ = ours(x)
    _, later = ours(x[:, 3:])
    _, earlier = ours(x[:, :3])
    first, _ = ours(x[:, :3], [(torch.zeros(2, 3, 4, 3, 2).double(),) * 2, later[1]])
    second, _ = ours(x[:, 3:], [earlier[0], (torch.zeros(2, 3, 4, 3, 2).double(),) * 2])
    torch.testing.assert_close(torch.cat((first, second), 1), whole)


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("index", range(4))
def test_final_cell_state_is_the_one_that_forward_returns_for_each_cell(direction, index):
    ours, x = layer(direction, num_layers=2), clip(frames=3)
    cells = len(ours.cells)
    state = [tuple(torch.randn(2, 3, 4, 3, 2, dtype=torch.float64) for _ in range(2)) for _ in range(cells)]
    if index >= cells:
        with pytest.raises(InputError, match=f"cell {index}"):
            ours.final_cell_state(x, state, index)
        return
    for before in (None, state):
        torch.testing.assert_close(ours.final_cell_state(x, before, index), ours(x, before)[1][index], rtol=0, atol=0)


def test_final_cell_state_runs_the_layers_below_and_its_own_cell_alone_and_looks_at_no_other_state():
    ours, x = layer("bidirectional", num_layers=3), clip(frames=2)
    ran = []
    for number, cell in enumerate(ours.cells):
        cell.register_forward_hook(lambda *_, number=number: ran.append(number))
    wanted = ours(x)[1][3]
    ran.clear()
    torch.testing.assert_close(ours.final_cell_state(x, [None] * 6, 3), wanted, rtol=0, atol=0)
    assert ran == [0, 1, 3]


def test_keep_is_no_weight_and_may_be_set_anew():
    ours = layer("bidirectional", num_layers=2, keep="gates")
    assert list(ours.state_dict()) == list(layer("bidirectional", num_layers=2).state_dict())
    x = clip().requires_grad_()
    wanted = torch.autograd.grad(ours(x)[0].square().sum(), x)
    ours.keep = "hidden"
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        output = ours(x)[0]
    assert not any(tensor.shape[:3] == (2, 5, 12) for tensor in kept)  # the gates of all frames
    torch.testing.assert_close(torch.autograd.grad(output.square().sum(), x), wanted)


def test_gradient_flows_through_a_handed_over_state():
    ours, x = layer(), clip().requires_grad_()
    _, state = ours(x[:, :2])
    ours(x[:, 2:], state)[0].sum().backward()
    assert (x.grad[:, :2].abs().amax((0, 2, 3, 4, 5)) > 0).all()


def test_the_forget_bias_starts_at_one_and_the_others_at_zero():
    bias = layer(hidden_channels=3).cells[0].input_gates.bias
    assert bias.tolist() == [0] * 3 + [1] * 3 + [0] * 6  # gates i, f, g, o


@pytest.mark.parametrize("kernel_size", [1, 3, (3, 3, 1), (1, 5, 3)])
def test_any_odd_kernel_keeps_the_grid_and_one_frame_suffices(kernel_size):
    output, state = layer(kernel_size=kernel_size)(clip(frames=1))
    assert output.shape == (2, 1, 3, 4, 3, 2)
    assert torch.equal(output[:, -1], state[0][0])


def test_the_cell_state_is_float32_under_autocast_and_close_to_the_exact_one():
    ours, x = layer().float(), clip(frames=8).float()
    with torch.autocast("cpu", torch.bfloat16):
        output, state = ours(x)
    exact, exact_state = ours(x)
    assert output.dtype == torch.bfloat16
    assert state[0][1].dtype == torch.float32
    assert exact_state[0][1].dtype == torch.float32
    torch.testing.assert_close(output.float(), exact, atol=0.03, rtol=0)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: layer(kernel_size=2), "odd"),
        (lambda: layer(direction="backward"), "'forward' or 'bidirectional'"),
        (lambda: layer()(clip()[:, :0]), "T of 1 or more"),
        (lambda: layer().final_cell_state(clip()[:, :0], None, 0), "T of 1 or more"),
        (lambda: layer(keep="all")(clip()), "keep 'all'"),
        (lambda: layer()(clip()[0]), "B, T, C, X, Y, Z"),
        (lambda: layer("bidirectional")(clip(), layer()(clip())[1]), "per layer and direction, 2"),
    ],
)
def test_wrong_use_says_what_was_wanted(make, says):
    with pytest.raises(InputError, match=says):
        make()


def test_with_an_input_kernel_of_one_a_voxel_reaches_its_neighbors_through_the_hidden_state_alone():
    ours = ConvLSTM3d(2, 3, 3, input_kernel_size=1).double()
    x = clip(batch=1, grid=(5, 5, 1))
    changed = x.clone()
    changed[:, 0, :, 2, 2] += 1
    moved = (ours(x)[0] - ours(changed)[0]).abs().amax((0, 2))[..., 0] > 1e-9
    assert moved[0].nonzero().tolist() == [[2, 2]]
    assert moved[1].nonzero().tolist() == [[i, j] for i in (1, 2, 3) for j in (1, 2, 3)]


def test_an_even_input_kernel_is_named():
    with pytest.raises(InputError, match="input_kernel_size 2, expected an odd"):
        ConvLSTM3d(2, 3, 3, input_kernel_size=2)
