"""CLSTM-UNet: what couples frames, what does not, and that its frame-wise baseline is the same network without recurrence."""

from __future__ import annotations

import pytest
import torch

from tests.builders import make_network, randomize_projections
from unet4d import CLSTMUNet
from unet4d.errors import InputError
from unet4d.models.blocks import InstanceNormLeakyReLU, ResidualBlock, conv_block
from unet4d.training.loss import LabelledFramesLoss

ANISOTROPIC = {"strides": [(2, 2, 1), (2, 2, 2)], "kernel_size": [(3, 3, 1), (3, 3, 3), (3, 3, 3)]}


def network(lstm_channels=None, direction="forward", seed=0, awake=True, dtype=torch.float64, **options) -> CLSTMUNet:
    """A small network; `awake` gives its zero projections weights, as training would."""
    torch.manual_seed(seed)
    made = make_network(
        2, 3, (4, 6, 8), lstm_channels=lstm_channels, direction=direction, **(ANISOTROPIC | options)
    ).to(dtype)
    return (randomize_projections(made, 0.5) if awake else made).eval()


def clip(frames=5, batch=1, grid=(8, 8, 4), dtype=torch.float64) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(batch, frames, 2, *grid, dtype=dtype)


@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_any_number_of_frames_gives_logits_of_the_same_grid(frames, direction):
    assert network(direction=direction)(clip(frames, batch=2)).shape == (2, frames, 3, 8, 8, 4)


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_a_new_network_computes_what_its_frame_wise_baseline_computes(direction):
    x = clip()
    fresh, baseline = network(direction=direction, awake=False), network(0)
    assert baseline.is_frame_wise
    assert not fresh.is_frame_wise
    assert torch.equal(fresh(x), baseline(x))  # one seed, the same weights for all they share
    assert not torch.equal(network(direction=direction)(x), baseline(x))  # and an awake one does differ


def test_the_weights_of_the_baseline_load_into_the_network():
    baseline, fresh = network(0, seed=5), network(seed=6, awake=False)
    assert not fresh.load_state_dict(baseline.state_dict(), strict=False).unexpected_keys
    assert torch.equal(fresh(clip()), baseline(clip()))


def test_deep_supervision_changes_no_other_weight_and_no_prediction():
    plain, deep, baseline = network(awake=False), network(awake=False, deep_supervision=True), network(0)
    own, taught = plain.state_dict(), deep.state_dict()
    assert all(torch.equal(taught[name], weight) for name, weight in own.items())
    assert taught.keys() - own.keys() == {
        "lower_heads.1.weight",
        "lower_heads.1.bias",
    }  # 0 has the head, 2 the bottleneck
    assert all(torch.equal(taught[name], weight) for name, weight in baseline.state_dict().items())
    deep.lower_heads["1"].register_forward_hook(lambda *_: pytest.fail("a lower head was run"))
    assert torch.equal(deep(clip()), plain(clip()))
    assert torch.equal(deep.train()(clip()), plain(clip()))


def test_a_voxel_of_a_level_stands_for_the_first_of_its_step():
    """Its receptive field is centered there, so strided slicing of a label is its truth."""
    made = network(0, strides=[(2, 2, 1), (2, 2, 2)], kernel_size=[(3, 3, 3)] * 3, deep_supervision=True)
    for norm in [m for m in made.modules() if isinstance(m, InstanceNormLeakyReLU)]:
        norm.forward = lambda x: x  # its mean is over the whole frame
    x = clip(frames=1, grid=(32, 32, 16)).requires_grad_()
    for features, stride in zip(made._encode(x, None), [*made.head_strides, (4, 4, 2)], strict=True):
        x.grad = None
        place = [16 // step for step in stride[:2]] + [8 // stride[2]]
        features[0, :, *place].sum().backward(retain_graph=True)
        for axis, middle in enumerate((16, 16, 8)):
            seen = x.grad.abs().sum([other for other in range(6) if other != 3 + axis]).nonzero().flatten()
            assert int(seen.min() + seen.max()) == 2 * middle


def test_the_baseline_is_equivariant_to_permuting_frames_to_the_bit_and_the_network_is_not():
    x, order = clip(), torch.tensor([3, 0, 4, 1, 2])
    baseline = network(0).float()
    assert torch.equal(baseline(x.float()[:, order]), baseline(x.float())[:, order])
    assert not torch.allclose(network()(x[:, order]), network()(x)[:, order], atol=1e-3)


def test_a_frame_leaks_into_no_other_through_normalization_also_while_training():
    """Pins batch norm over frames: with recurrence off, frame 0 must not change with frame 4."""
    x = clip()
    changed = x.clone()
    changed[:, 4] *= 10
    baseline = network(0).train()
    assert torch.equal(baseline(x)[:, :4], baseline(changed)[:, :4])


def test_a_forward_network_is_causal_to_the_bit():
    x = clip()
    changed = x.clone()
    changed[:, 3:] += 1
    before, after = network()(x), network()(changed)
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3:], after[:, 3:], atol=1e-3)


def test_an_earlier_frame_reaches_all_later_ones_and_with_both_directions_all():
    x = clip()
    changed = x.clone()
    changed[:, 2] += 1
    for direction, reached in (("forward", [2, 3, 4]), ("bidirectional", [0, 1, 2, 3, 4])):
        made = network(direction=direction)
        moved = (made(x) - made(changed)).abs().amax((0, 2, 3, 4, 5))
        assert moved.gt(1e-9).nonzero().flatten().tolist() == reached


def test_reversed_time_with_swapped_directions_gives_the_reversed_output():
    made, swapped = network(direction="bidirectional"), network(direction="bidirectional")
    for level, addition in made.recurrent.items():
        other, half = swapped.recurrent[level], addition.lstm.out_channels // 2
        other.lstm.cells[0].load_state_dict(addition.lstm.cells[1].state_dict())
        other.lstm.cells[1].load_state_dict(addition.lstm.cells[0].state_dict())
        weight = addition.projection.weight.data
        other.projection.weight.data = torch.cat((weight[:, half:], weight[:, :half]), 1)
    x = clip()
    torch.testing.assert_close(swapped(x.flip(1)).flip(1), made(x))
    assert not torch.allclose(made(x.flip(1)).flip(1), made(x))  # the swap is what makes it so


@pytest.mark.parametrize("cut", [1, 2, 4])
def test_two_parts_with_the_state_handed_over_are_one_run(cut):
    made, x = network(lstm_layers=2), clip()
    first, state = made.step(x[:, :cut])
    second, _ = made.step(x[:, cut:], state)
    torch.testing.assert_close(torch.cat((first, second), 1), made(x))
    assert not torch.allclose(made(x[:, cut:]), second)  # a cold start is something else


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_cyclic_is_the_loop_run_twice_with_the_second_counting(direction):
    made, x = network(direction=direction), clip()
    primed, warm = made(x, cyclic=True), made(torch.cat((x, x, x), 1))
    torch.testing.assert_close(primed, warm[:, 5:10])  # the middle loop comes out of a loop in either direction
    assert not torch.allclose(primed, made(x))


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_with_a_memory_shorter_than_the_loop_it_does_not_matter_where_a_cyclic_study_begins(direction):
    made, x = network(3, direction), clip(frames=12)
    for addition in made.recurrent.values():  # forget half of the state at every frame, as sigmoid(0) does
        for cell in addition.lstm.cells:
            cell.hidden_gates.weight.data *= 0.2
            cell.input_gates.weight.data[: -cell.hidden_channels] *= 0.2
            cell.input_gates.bias.data.zero_()
    cold = (made(x.roll(3, 1)).roll(-3, 1) - made(x)).abs().max()
    primed = (made(x.roll(3, 1), cyclic=True).roll(-3, 1) - made(x, cyclic=True)).abs().max()
    assert cold > 0.01
    assert primed < 1e-2 * cold


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_priming_with_all_frames_is_a_whole_round_and_with_none_an_open_study_to_the_bit(direction, layers):
    made, x = network(direction=direction, lstm_layers=layers), clip(batch=2)
    assert torch.equal(made(x, cyclic=True, priming_frames=5), made(x, cyclic=True))
    assert torch.equal(made(x, cyclic=True, priming_frames=100), made(x, cyclic=True))
    assert torch.equal(made(x, cyclic=True, priming_frames=0), made(x))
    assert torch.equal(made(x, priming_frames=3), made(x))


def test_priming_begins_that_many_frames_before_the_first_and_backward_after_the_last():
    """Its oracle is the loop with some of its frames put before and behind, and cut off again."""
    for frames in (1, 3):
        made, x = network(), clip()
        longer = made(torch.cat((x[:, 5 - frames :], x), 1))[:, frames:]
        torch.testing.assert_close(made(x, cyclic=True, priming_frames=frames), longer)
        both = network(direction="bidirectional")
        around = both(torch.cat((x[:, 5 - frames :], x, x[:, :frames]), 1))[:, frames:-frames]
        torch.testing.assert_close(both(x, cyclic=True, priming_frames=frames), around)


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_the_more_frames_prime_the_less_it_matters_where_a_cyclic_study_begins(direction):
    made, x = network(direction=direction, lstm_channels=[]), clip(frames=16)

    def moved_by(frames: int) -> float:
        first, shifted = (made(y, cyclic=True, priming_frames=frames) for y in (x, x.roll(5, 1)))
        return (shifted.roll(-5, 1) - first).abs().mean().item()

    found = [moved_by(frames) for frames in (0, 1, 2, 4, 8, 16)]
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.2 * found[0]


def test_recurrent_weights_get_gradient_from_every_labelled_frame():
    """Pins a loss that looks at frame 0 alone, from which no recurrence can learn."""
    made, x = network().train(), clip(frames=4)
    label = torch.randint(0, 3, (1, 4, 8, 8, 4))
    cells = [p for name, p in made.named_parameters() if "hidden_gates" in name or "input_gates" in name]
    for frame in range(4):
        labelled = torch.zeros(1, 4, dtype=torch.bool)
        labelled[0, frame] = True
        gradients = torch.autograd.grad(LabelledFramesLoss()(made(x), label, labelled), cells)
        reached = [bool(g.abs().sum() > 0) for g in gradients]
        assert all(reached) if frame else any(reached)  # the first frame has no hidden state before it


def test_at_initialisation_the_projection_gets_gradient_so_recurrence_can_wake():
    made = network(awake=False).train()
    made(clip()).square().mean().backward()
    for addition in made.recurrent.values():
        assert addition.projection.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("lstm_channels", [[0, 0, 4], [2, 0, 0], [2, 3, 4]])
def test_levels_have_the_recurrence_they_were_given(lstm_channels):
    made = network(lstm_channels)
    assert [int(level) for level in made.recurrent] == [i for i, n in enumerate(lstm_channels) if n]
    assert made(clip()).shape == (1, 5, 3, 8, 8, 4)


def test_outputs_and_gradients_stay_finite_and_close_under_bf16():
    made, x = network(direction="bidirectional", dtype=torch.float32).train(), clip(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        logits = made(x)
    logits.float().square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in made.parameters() if p.grad is not None)
    assert torch.nn.functional.cosine_similarity(logits.float().flatten(), made(x).flatten(), 0) > 0.99


def test_thick_slices_stay_apart_until_the_plane_is_as_coarse():
    """With kernels and strides of 1 across slices, a slice sees no other but at levels that allow it."""
    made = network(0, strides=[(2, 2, 1), (2, 2, 1)], kernel_size=[(3, 3, 1)] * 3)
    for norm in [m for m in made.modules() if isinstance(m, InstanceNormLeakyReLU)]:
        norm.forward = lambda x: x  # its mean is over the whole frame, by design
    x = clip()
    changed = x.clone()
    changed[..., 3] += 1
    assert torch.equal(made(x)[..., :3], made(changed)[..., :3])


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (clip(grid=(8, 6, 4)), r"expected multiples of \(4, 4, 2\); pad to \(8, 8, 4\)"),
        (clip()[:, :, :1], r"expected \(B, T, 2, X, Y, Z\)"),
        (clip()[0], r"expected \(B, T, 2, X, Y, Z\)"),
    ],
)
def test_a_wrong_shape_names_the_expected_one(x, says):
    with pytest.raises(InputError, match=says):
        network()(x)


def test_a_block_is_convolution_instance_norm_and_leaky_relu_twice_also_in_its_gradients():
    ours, x = conv_block(2, 4, (3, 3, 1)).double(), torch.randn(3, 2, 4, 4, 2, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_()

    def plain(x):
        for convolution, norm in (ours[:2], ours[2:]):
            x = torch.nn.functional.instance_norm(convolution(x), weight=norm.weight, bias=norm.bias)
            x = torch.nn.functional.leaky_relu(x, 0.01)
        return x

    torch.testing.assert_close(ours(x), plain(x))
    inputs = [x, *ours.parameters()]
    wanted = torch.autograd.grad(plain(x).square().sum(), inputs)
    torch.testing.assert_close(torch.autograd.grad(ours(x).square().sum(), inputs), wanted)


@pytest.mark.parametrize(("channels", "stride"), [(4, (1, 1, 1)), (4, (2, 2, 1)), (2, (1, 1, 1)), (2, (2, 2, 2))])
def test_a_residual_block_adds_its_shortcut_before_the_last_leaky_relu_also_in_its_gradients(channels, stride):
    ours = ResidualBlock(channels, 4, (3, 3, 1), stride).double()
    x = torch.randn(3, channels, 4, 4, 2, dtype=torch.float64, requires_grad=True)

    def plain(x):
        functional = torch.nn.functional
        inner = functional.conv3d(x, ours.first[0].weight, stride=stride, padding=(1, 1, 0))
        inner = functional.instance_norm(inner, weight=ours.first[1].weight, bias=ours.first[1].bias)
        inner = functional.conv3d(functional.leaky_relu(inner, 0.01), ours.second.weight, padding=(1, 1, 0))
        short = functional.avg_pool3d(x, stride)
        if channels != 4:
            convolution, norm = ours.shortcut[-2:]
            short = functional.instance_norm(
                functional.conv3d(short, convolution.weight), weight=norm.weight, bias=norm.bias
            )
        inner = functional.instance_norm(inner, weight=ours.norm.weight, bias=ours.norm.bias)
        return functional.leaky_relu(short + inner, 0.01)

    if channels == 4:  # a new block passes its shortcut on
        shortcut = torch.nn.functional.avg_pool3d(x, stride)
        torch.testing.assert_close(ours(x), torch.nn.functional.leaky_relu(shortcut, 0.01))
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_()
    torch.testing.assert_close(ours(x), plain(x))
    inputs = [x, *ours.parameters()]
    wanted = torch.autograd.grad(plain(x).square().sum(), inputs)
    torch.testing.assert_close(torch.autograd.grad(ours(x).square().sum(), inputs), wanted)


def test_an_encoder_of_residual_blocks_couples_no_frames_and_keeps_its_baseline():
    x, order = clip().float(), torch.tensor([3, 0, 4, 1, 2])
    fresh, baseline = (network(n, awake=False, dtype=torch.float32, blocks="residual") for n in (None, 0))
    assert [sum(isinstance(m, ResidualBlock) for m in stage) for stage in fresh.encoder] == [1, 3, 4]
    assert torch.equal(fresh(x), baseline(x))
    assert torch.equal(baseline(x[:, order]), baseline(x)[:, order])
    assert not torch.equal(fresh(x), network(awake=False, dtype=torch.float32)(x))


def test_the_names_of_the_weights_are_those_in_saved_checkpoints():
    """Renaming a module would lose the weights of every trained model."""
    block = ["0.weight", "1.weight", "1.bias"]
    stage = [*block, "2.weight", "3.weight", "3.bias"]
    lstm = ["lstm.cells.0.input_gates.weight", "lstm.cells.0.input_gates.bias", "lstm.cells.0.hidden_gates.weight"]
    names = [f"encoder.{level}.{name}" for level in range(3) for name in stage]
    names += [
        f"decoder.{i}.{name}" for i in range(2) for name in ("up.weight", "up.bias", *(f"conv.{n}" for n in block))
    ]
    names += [f"recurrent.{i}.{name}" for i in range(3) for name in (*lstm, "projection.weight", "projection.bias")]
    names += ["head.weight", "head.bias", "lower_heads.1.weight", "lower_heads.1.bias"]
    assert sorted(network(deep_supervision=True, lstm_channels=[]).state_dict()) == sorted(names)
