"""Convolutions that keep their grid, against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import conv3d
from torch.utils._python_dispatch import TorchDispatchMode

from unet4d.models.conv import Convolution, convolution_gradients, convolved, same_padding

KERNELS = [(1, 1, 1), (3, 3, 1), (1, 3, 3), (3, 3, 3)]
with_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=str)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def tensors(kernel, leading=(2, 3), dtype=torch.float64):
    """`x` (*leading, 3, 5, 4, 2), weight (4, 3, *kernel) and bias."""
    shapes = [(*leading, 3, 5, 4, 2), (4, 3, *kernel), (4,)]
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]


class Operations(TorchDispatchMode):
    """The names of the operations that run inside."""

    def __init__(self):
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **kwargs or {})


def torchs(x, weight, bias=None):
    return conv3d(x.flatten(0, -5), weight, bias, padding=same_padding(weight.shape[2:])).unflatten(0, x.shape[:-4])


@with_kernel
@pytest.mark.parametrize("leading", [(2,), (1, 1), (2, 3)], ids=str)
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("graded", [True, False])
def test_it_is_torchs(kernel, leading, biased, graded):
    x, weight, bias = tensors(kernel, leading)
    with torch.set_grad_enabled(graded):
        given = (x, weight, bias if biased else None)
        torch.testing.assert_close(convolved(*given), torchs(*given))


@with_kernel
def test_its_gradients_are_autograds(kernel):
    leaves = tensors(kernel)
    answer = torchs(*leaves)
    of_answer = torch.randn_like(answer)
    wanted = torch.autograd.grad(answer, leaves, of_answer)
    got = convolution_gradients(of_answer, *(leaf.detach() for leaf in leaves[:2]), (True, True, True))
    torch.testing.assert_close(got, wanted)
    through = torch.autograd.grad(convolved(*leaves), leaves, of_answer)
    torch.testing.assert_close(through, wanted)


@with_kernel
@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True), (False,) * 3])
def test_no_gradient_is_computed_that_is_not_wanted(kernel, wanted):
    x, weight, _ = tensors(kernel)
    got = convolution_gradients(torch.ones(2, 3, 4, 5, 4, 2, dtype=x.dtype), x.detach(), weight.detach(), wanted)
    assert tuple(of is not None for of in got) == wanted


@with_kernel
def test_a_lone_frame_in_float32_is_computed_as_among_others(kernel):
    """torch takes another way for it, several times as slow."""
    x, weight, _ = tensors(kernel, (3,), torch.float32)
    with torch.no_grad():
        for one, among in zip(x, convolved(x, weight), strict=True):
            with Operations() as seen:
                torch.testing.assert_close(convolved(one[None], weight)[0], among)
            assert seen.names.isdisjoint({"convolution", "slow_conv3d_forward"})


@pytest.mark.parametrize("graded", [True, False])
def test_under_autocast_it_answers_in_half_precision_as_a_convolution_does(graded):
    x, weight, bias = tensors((1, 1, 1), (2,), torch.float32)
    with torch.set_grad_enabled(graded), torch.autocast("cpu", torch.bfloat16):
        got, wanted = convolved(x, weight, bias), torchs(x, weight, bias)
    assert got.dtype == wanted.dtype == torch.bfloat16
    torch.testing.assert_close(got, wanted)


@with_kernel
def test_it_has_a_shape_on_a_device_without_autocast(kernel):
    x, weight, bias = (leaf.detach().to("meta") for leaf in tensors(kernel))
    assert convolved(x, weight, bias).shape == (2, 3, 4, 5, 4, 2)


@with_kernel
@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 1)])
@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("graded", [True, False])
def test_a_layer_has_the_weights_of_torchs_and_gives_the_same(kernel, stride, frames, graded):
    torch.manual_seed(1)
    ours = Convolution(3, 4, kernel, stride)
    torch.manual_seed(1)
    layer = torch.nn.Conv3d(3, 4, kernel, stride, same_padding(kernel))
    torch.testing.assert_close(dict(ours.state_dict()), dict(layer.state_dict()), atol=0, rtol=0)
    x = torch.randn(frames, 3, 5, 4, 2)
    with torch.set_grad_enabled(graded):
        torch.testing.assert_close(ours(x), layer(x))
