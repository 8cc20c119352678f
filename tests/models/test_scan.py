"""The run of a ConvLSTM against one written plainly with autograd, what it keeps, and where it must work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import conv3d
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from unet4d import ConvLSTM3d
from unet4d.errors import InputError
from unet4d.models.lstm_gates import step, step_backward
from unet4d.models.scan import Keep, scan

KEEPS = get_args(Keep)
with_keep = pytest.mark.parametrize("keep", KEEPS)
with_reverse = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
with_state = pytest.mark.parametrize("given", [False, True], ids=["from zeros", "from a state"])


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def tensors(
    given=True, batch=2, frames=5, channels=2, hidden=3, grid=(4, 3, 2), kernel=(3, 3, 1), dtype=torch.float64
) -> list[Tensor]:
    """Leaves: frames, input weight, bias, hidden weight and, if given, hidden and cell state."""
    shapes: list[Sequence[int]] = [(batch, frames, channels, *grid), (4 * hidden, channels, *kernel), (4 * hidden,)]
    shapes += [(4 * hidden, hidden, *kernel)] + [(batch, hidden, *grid)] * (2 if given else 0)
    return [(torch.randn(shape, dtype=dtype) * (0.3 if len(shape) == 5 else 1)).requires_grad_() for shape in shapes]


def ours(leaves: Sequence[Tensor], keep: Keep = "hidden", reverse: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    x, input_weight, bias, hidden_weight, *state = leaves
    start = (state[0], state[1]) if state else None
    output, (h, c) = scan(x, start, input_weight, bias, hidden_weight, keep, reverse)
    return output, h, c


def plain(leaves: Sequence[Tensor], reverse: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """One convolution of frame and hidden state together, step by step (Shi et al. 2015, without peepholes)."""
    x, input_weight, bias, hidden_weight, *state = leaves
    weight = torch.cat((input_weight, hidden_weight), 1)
    padding = [k // 2 for k in weight.shape[2:]]
    h, c = state or [x.new_zeros(x.shape[0], hidden_weight.shape[1], *x.shape[3:])] * 2
    hidden = {}
    for t in range(x.shape[1])[:: -1 if reverse else 1]:
        i, f, g, o = conv3d(torch.cat((x[:, t], h), 1), weight, bias, padding=padding).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        hidden[t] = h
    return torch.stack([hidden[t] for t in range(x.shape[1])], 1), h, c


def gradients(outputs: Sequence[Tensor], leaves: Sequence[Tensor], **options) -> tuple[Tensor, ...]:
    """Those of a sum of all outputs' elements, each weighted differently and alike in every call."""
    weights = torch.Generator().manual_seed(7)
    total = sum((torch.randn(o.shape, generator=weights, dtype=torch.float64).to(o) * o).sum() for o in outputs)
    return torch.autograd.grad(total, leaves, **options)


@with_keep
@with_reverse
@with_state
def test_the_gradients_are_the_numerical_ones(keep, reverse, given):
    leaves = tensors(given, batch=1, frames=3, channels=1, hidden=1, grid=(2, 2, 1))
    assert torch.autograd.gradcheck(lambda *leaves: ours(leaves, keep, reverse), leaves)


@with_keep
@with_reverse
@with_state
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_outputs_and_gradients_are_those_of_the_plain_one(keep, reverse, given, frames):
    leaves = tensors(given, frames=frames)
    found, wanted = ours(leaves, keep, reverse), plain(leaves, reverse)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradients(found, leaves), gradients(wanted, leaves))


@with_keep
@pytest.mark.parametrize("of", [0, 1, 2], ids=["hidden states", "last hidden state", "last cell state"])
def test_each_output_alone_has_its_gradient(keep, of):
    leaves = tensors()
    torch.testing.assert_close(gradients([ours(leaves, keep)[of]], leaves), gradients([plain(leaves)[of]], leaves))


@with_keep
@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (3,), (4,), (5,), (1, 2, 3), (0, 4, 5)])
def test_only_what_is_asked_for_gets_a_gradient_and_the_right_one(keep, needed):
    leaves = tensors()
    wanted = gradients(ours(leaves, keep), leaves)
    some = [leaf.detach().requires_grad_(number in needed) for number, leaf in enumerate(leaves)]
    sum(output.sum() for output in ours(some, keep)).backward()
    assert [number for number, leaf in enumerate(some) if leaf.grad is not None] == list(needed)
    torch.testing.assert_close(
        gradients(ours(some, keep), [some[number] for number in needed]), tuple(wanted[number] for number in needed)
    )


@with_keep
def test_a_second_backward_pass_finds_what_was_kept_unchanged(keep):
    leaves = tensors()
    outputs = ours(leaves, keep)
    torch.testing.assert_close(
        gradients(outputs, leaves, retain_graph=True), gradients(outputs, leaves), rtol=0, atol=0
    )


@with_keep
def test_the_hidden_weight_gets_a_gradient_of_zeros_where_no_step_uses_it(keep):
    """Pins a parameter without gradient, which DistributedDataParallel takes for an error."""
    leaves = tensors(given=False, frames=1)
    assert torch.equal(gradients(ours(leaves, keep), leaves)[3], torch.zeros_like(leaves[3]))


def kept_bytes(keep: Keep) -> tuple[int, int, int]:
    """Bytes kept of 9 frames beside the leaves; those of them that are the hidden states; the bytes of one cell state."""
    leaves = tensors(given=False, batch=1, frames=9, dtype=torch.float32)
    storages = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output, _, cell = ours(leaves, keep)
    for leaf in leaves:
        storages.pop(leaf.untyped_storage().data_ptr(), None)
    return sum(storages.values()), storages.get(output.untyped_storage().data_ptr(), 0), cell.untyped_storage().nbytes()


def test_what_is_kept_is_what_the_name_says():
    """gates: hidden states, gates (4) and cell states of 9 frames; hidden: hidden states."""
    (gates, gates_out, one), (hidden, hidden_out, _) = map(kept_bytes, KEEPS)
    assert (gates, gates_out) == (9 * (1 + 4 + 1) * one, 9 * one)
    assert (hidden, hidden_out) == (9 * one, 9 * one)


@with_keep
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_nothing_is_kept_and_the_result_is_the_same(keep, mode):
    leaves = tensors()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: pytest.fail("kept"), lambda tensor: tensor), mode():
        found = ours(leaves, keep)
    assert not any(output.requires_grad for output in found)
    torch.testing.assert_close(found, plain(leaves))


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that any operation returned."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        returned = func(*args, **(kwargs or {}))
        for tensor in returned if isinstance(returned, (tuple, list)) else [returned]:
            if isinstance(tensor, Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return returned


@with_keep
def test_without_gradients_the_gates_of_all_frames_are_never_there_at_once(keep):
    leaves = tensors(frames=9)
    with torch.no_grad(), Largest() as largest:
        output, *_ = ours(leaves, keep)
    assert largest.bytes == max(output.untyped_storage().nbytes(), output[:, :3].nbytes * 4)


@with_keep
def test_it_works_inside_nested_checkpoints(keep):
    leaves = tensors()

    def inner(*leaves):
        return ours(leaves, keep)

    def outer(x, *others):
        first, h, c = checkpoint(inner, x[:, :2], *others, use_reentrant=False)
        second, *after = checkpoint(inner, x[:, 2:], *others[:3], h, c, use_reentrant=False)
        return torch.cat((first, second), 1), *after

    found, wanted = checkpoint(outer, *leaves, use_reentrant=False), plain(leaves)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradients(found, leaves), gradients(wanted, leaves))


@with_keep
def test_it_works_on_fake_tensors(keep):
    with FakeTensorMode():
        leaves = tensors(dtype=torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = ours(leaves, keep)
        sum(output.sum() for output in outputs).backward()
        assert [output.dtype for output in outputs] == [torch.bfloat16, torch.bfloat16, torch.float32]
        assert all(leaf.grad.shape == leaf.shape for leaf in leaves)


@with_keep
@with_reverse
def test_under_autocast_the_cell_state_is_float32_and_the_gradients_are_close_to_the_exact_ones(keep, reverse):
    leaves = tensors(frames=8, dtype=torch.float32, grid=(6, 6, 4))
    with torch.autocast("cpu", torch.bfloat16):
        found = ours(leaves, keep, reverse)
    assert [output.dtype for output in found] == [torch.bfloat16, torch.bfloat16, torch.float32]
    exact = ours(leaves, keep, reverse)
    for of, wanted in zip(gradients(found, leaves), gradients(exact, leaves), strict=True):
        assert of.dtype == torch.float32
        assert torch.cosine_similarity(of.flatten(), wanted.flatten(), 0) > 0.999


@with_keep
def test_a_backward_pass_under_autocast_stays_in_the_dtype_of_the_forward_pass(keep):
    leaves = tensors(dtype=torch.float32)
    wanted, found = gradients(ours(leaves, keep), leaves), ours(leaves, keep)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(gradients(found, leaves), wanted)


@with_keep
def test_in_half_precision_small_shares_of_the_cell_state_add_up(keep):
    """512 steps that each add 1/1024 of what the state has come to: rounded to bfloat16 at each step, it would stand still."""
    x, zero = torch.zeros(1, 512, 1, 1, 1, 1), torch.zeros(4, 1, 1, 1, 1)
    small = torch.tensor(1 / 1024).logit()
    bias = torch.tensor([small, 20.0, 20.0, 20.0])  # i, f, g, o
    start = torch.zeros(1, 1, 1, 1, 1), torch.ones(1, 1, 1, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        _, (_, cell) = scan(x, start, zero.clone().requires_grad_(), bias, zero, keep)
    torch.testing.assert_close(cell.item(), 1.5, rtol=0.01, atol=0)


@with_keep
def test_a_compiled_layer_gives_the_same(keep):
    layer = ConvLSTM3d(2, 3, direction="bidirectional", num_layers=2, keep=keep)
    x = torch.randn(2, 3, 2, 4, 3, 2, requires_grad=True)
    compiled = torch.compile(layer, backend="aot_eager")
    leaves = [x, *layer.parameters()]
    (output, state), (wanted, wanted_state) = compiled(x), layer(x)
    torch.testing.assert_close((output, state), (wanted, wanted_state))
    torch.testing.assert_close(
        gradients([output, state[3][1]], leaves),
        gradients([wanted, wanted_state[3][1]], leaves),
    )


@pytest.mark.parametrize("keep", ["all", "borders"])
def test_an_unknown_keep_is_an_error_that_names_the_known_ones(keep):
    with pytest.raises(InputError, match=f"'{keep}', expected one of gates, hidden"):
        ours(tensors(), keep)


def steps_and_gradients(dtype) -> list[Tensor]:
    """All that two steps and their gradients give, the activated gates they leave behind included."""
    torch.manual_seed(1)
    gates, share, into = torch.randn(3, 2, 12, 4, 3, 2).to(dtype)
    cell, *grads = torch.randn(4, 2, 3, 4, 3, 2)
    grads[:2] = [grad.to(dtype) for grad in grads[:2]]
    first, second = gates.clone(), gates.clone()
    hidden, after = step(first, share, cell, True)
    of_cell = step_backward(first, cell, after, *grads, into)
    of_cell_in_place = step_backward(activated := first.clone(), cell, after, *grads, activated)
    return [first, hidden, after, *step(second, None, cell, False), into, activated, of_cell, of_cell_in_place]


def test_a_gradient_may_overwrite_the_gates_it_is_made_from():
    *_, into, in_place, of_cell, of_cell_in_place = steps_and_gradients(torch.float32)
    assert torch.equal(into, in_place)
    assert torch.equal(of_cell, of_cell_in_place)
