"""Tests: a GPU with wrong convolutions in the run's precision is refused by name; right ones pass, and a CPU computes nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional
from torch.nn.functional import conv3d

from tests.builders import resolve_model_plainly
from unet4d import load_model, read_image, segment
from unet4d.config import ModelConfig
from unet4d.errors import InputError
from unet4d.models import conv_check
from unet4d.models.conv_check import (
    ConvolutionShape,
    check_convolution,
    check_convolutions,
    check_equal_frames,
    network_convolutions,
    widest_of_each_kind,
)
from unet4d.models.topology import strides_and_kernels
from unet4d.training.train import train

CPU = torch.device("cpu")
SHAPES = [
    ConvolutionShape((8, 13, 12, 5), (6, 8, 3, 3, 3), (1, 1, 1)),
    ConvolutionShape((8, 13, 12, 5), (6, 8, 3, 3, 1), (2, 2, 1)),
    ConvolutionShape((1, 16, 16, 4), (8, 1, 3, 3, 1), (1, 1, 1)),
    ConvolutionShape((8, 9, 8, 4), (6, 8, 1, 1, 1), (1, 1, 1)),
]


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("precision", ["bf16", "fp16", "tf32"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_right_convolution_passes(shape, precision, gradients):
    check_convolution(shape, CPU, precision, gradients)


def with_one_wrong_voxel(result):
    wrong = result.clone()
    wrong[-1, -1, -1, -1, -1] += 1
    return wrong


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda y: y * 0,
        lambda y: y * 0 + torch.rand_like(y),
        with_one_wrong_voxel,
        lambda y: y.roll(1, 2),
        lambda y: y * math.nan,
    ],
    ids=["zeros", "garbage", "one voxel", "moved", "NaN"],
)
def test_a_wrong_convolution_in_bf16_alone_is_refused(monkeypatch, spoil, gradients):
    def in_bf16(x, *given):
        result = conv3d(x, *given)
        return spoil(result) if result.dtype == torch.bfloat16 else result

    monkeypatch.setattr(functional, "conv3d", in_bf16)
    for shape in SHAPES[:3]:
        with pytest.raises(InputError, match=r"wrong bf16 convolution.*torch .*cuDNN .*driver .*precision fp32"):
            check_convolution(shape, CPU, "bf16", gradients)
        check_convolution(shape, CPU, "tf32", gradients)


@pytest.mark.parametrize(("place", "what"), [(0, "its input"), (1, "its weight")])
def test_a_wrong_gradient_is_refused_although_the_result_is_right(monkeypatch, place, what):
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight, *given):
            ctx.save_for_backward(x, weight)
            ctx.given = given
            return conv3d(x, weight, *given)

        @staticmethod
        def backward(ctx, of_output):
            x, weight = (one.detach().requires_grad_() for one in ctx.saved_tensors)
            with torch.enable_grad():
                right = list(torch.autograd.grad(conv3d(x, weight, *ctx.given), (x, weight), of_output))
            right[place] = right[place].flip(0)
            return *right, None, None, None

    def wrong(x, weight, *given):
        return Wrong.apply(x.bfloat16(), weight.bfloat16(), *given)

    monkeypatch.setattr(functional, "conv3d", wrong)
    check_convolution(SHAPES[0], CPU, "bf16", gradients=False)
    with pytest.raises(InputError, match=f"gradient of {what}"):
        check_convolution(SHAPES[0], CPU, "bf16", gradients=True)


def test_the_reference_goes_to_the_cpu_where_the_gpu_has_no_room_for_it(monkeypatch):
    products, asked = conv_check._products, []

    def refusing(image, *given):
        asked.append(image.device.type)
        if image.device.type != "cpu":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return products(image, *given)

    class Elsewhere:
        device = torch.device("cuda")

        def __init__(self, tensor):
            self.tensor = tensor

        def cpu(self):
            return self.tensor

    monkeypatch.setattr(conv_check, "_products", refusing)
    parts = [Elsewhere(torch.ones(size)) for size in ((1, 2, 3, 3, 2), (4, 2, 1, 1, 1), (1, 4, 3, 3, 2))]
    (result,) = conv_check._exact(*parts, (1, 1, 1), False)[:1]
    assert asked == ["cuda", "cpu"]
    assert torch.equal(result, torch.full((1, 4, 3, 3, 2), 2.0))


@pytest.mark.parametrize("room", [4, 1, 0])
def test_fewer_frames_are_compared_where_memory_is_short_and_none_where_one_does_not_fit(monkeypatch, room):
    computed, tried = conv_check._computed, []

    def short(image, *given):
        tried.append(len(image))
        if len(image) > room:
            raise RuntimeError("CUDA error: out of memory")
        wrong, *others = computed(image, *given)
        return [wrong + 1, *others]

    monkeypatch.setattr(conv_check, "_computed", short)
    if room:
        with pytest.raises(InputError, match="wrong bf16"):
            check_convolution(SHAPES[0], CPU, "bf16", gradients=False)
    else:
        check_convolution(SHAPES[0], CPU, "bf16", gradients=False)
    assert tried == [n for n in (16, 8, 4, 2, 1) if n >= room]


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("precision", ["bf16", "fp16", "tf32"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_many_equal_frames_pass_where_they_are_right(shape, precision, gradients):
    check_equal_frames(shape, CPU, precision, gradients, 21)


@pytest.mark.parametrize("wrong", ["one frame", "not a number", "all"])
def test_a_convolution_that_is_wrong_for_many_frames_alone_is_refused(monkeypatch, wrong):
    """As that of large tensors by cuDNN 9.10."""

    def of_many(x, *given):
        result = conv3d(x, *given).clone()
        if len(x) > 20:
            part = result if wrong == "all" else result[7:8]
            part.copy_(part * math.nan if wrong == "not a number" else part.roll(1, 2))
        return result

    monkeypatch.setattr(functional, "conv3d", of_many)
    check_convolution(SHAPES[0], CPU, "bf16", gradients=False)
    with pytest.raises(InputError, match=r"wrong bf16 convolution .*21 at once\): the result"):
        check_equal_frames(SHAPES[0], CPU, "bf16", False, 21)


def test_no_more_frames_are_computed_than_kernels_index_and_memory_holds(monkeypatch):
    tried = []

    def short(shape, frames, copies, *given):
        tried.append(copies)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(conv_check, "_compare", short)
    check_equal_frames(ConvolutionShape((64, 256, 256, 12), (32, 64, 3, 3, 1), (1, 1, 1)), CPU, "bf16", True, 60)
    assert tried == [42, 21, 10, 5, 2]


def test_an_error_that_is_not_of_memory_is_raised(monkeypatch):
    def broken(*given):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(conv_check, "_computed", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        check_convolution(SHAPES[0], CPU, "bf16", gradients=False)


def default_network() -> ModelConfig:
    strides, kernels = strides_and_kernels((1.4, 1.4, 8.0), (64, 64, 16), 5)
    return resolve_model_plainly(ModelConfig(strides=strides, kernel_size=kernels))


def test_the_convolutions_are_those_of_the_network_at_its_patch():
    shapes = network_convolutions(default_network(), (2, 4), (64, 64, 16))
    assert ConvolutionShape((2, 64, 64, 16), (32, 2, 3, 3, 1), (1, 1, 1)) in shapes
    assert ConvolutionShape((64, 64, 64, 16), (32, 64, 3, 3, 1), (1, 1, 1)) in shapes
    assert len(set(shapes)) == len(shapes)
    widest = widest_of_each_kind(shapes)
    assert max(shapes, key=lambda one: one.values) in widest
    assert {(one.weight[2:], one.stride) for one in shapes} == {(one.weight[2:], one.stride) for one in widest}


@pytest.mark.parametrize(("device", "precision"), [("cpu", "bf16"), ("cpu", "tf32"), ("cuda", "fp32")])
def test_on_the_cpu_and_in_fp32_nothing_is_computed(monkeypatch, device, precision):
    def computed(*given):
        raise AssertionError

    monkeypatch.setattr(conv_check, "network_convolutions", computed)
    check_convolutions(default_network(), (1, 4), (64, 64, 16), torch.device(device), precision, training=True)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Compares convolutions also on the CPU, each network anew."""
    monkeypatch.setattr(conv_check, "is_checked", lambda device, precision: precision != "fp32")
    conv_check._checked.clear()
    yield
    conv_check._checked.clear()


@pytest.fixture
def wrong_in_bf16(monkeypatch):
    def in_bf16(*given, **named):
        result = conv3d(*given, **named)
        return torch.rand_like(result) if result.dtype == torch.bfloat16 else result

    monkeypatch.setattr(functional, "conv3d", in_bf16)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_each_network_is_checked_once_for_each_precision(monkeypatch):
    checked, many = [], []
    monkeypatch.setattr(conv_check, "check_convolution", lambda *given, **named: checked.append(given))
    monkeypatch.setattr(conv_check, "check_equal_frames", lambda *given: many.append(given))
    given = default_network(), (1, 4), (32, 32, 16), CPU
    check_convolutions(*given, "bf16")
    count = len(checked)
    assert count > 4
    check_convolutions(*given, "bf16")
    assert len(checked) == count
    assert {shape for shape, *_ in many} == set(widest_of_each_kind([shape for shape, *_ in checked]))
    check_convolutions(*given, "fp16")
    assert len(checked) == 2 * count


@pytest.mark.usefixtures("as_on_a_gpu")
def test_training_checks_gradients_of_as_many_frames_as_a_step_has(monkeypatch, phantom, tiny, tmp_path):
    monkeypatch.setattr(conv_check, "check_convolution", lambda *given, **named: None)
    many = []
    monkeypatch.setattr(conv_check, "check_equal_frames", lambda *given: many.append(given))
    config = tiny(epochs=1, steps_per_epoch=1, batch_size=3, precision="bf16")
    train(phantom, tmp_path / "run", config, "cpu")
    assert {(gradients, frames) for _, _, _, gradients, frames in many} == {(True, 3 * config.data.frames)}


@pytest.mark.usefixtures("as_on_a_gpu", "wrong_in_bf16")
def test_train_refuses_it_before_anything_is_written_and_fp32_trains(command, phantom, tiny_options, tmp_path):
    given = [
        "train",
        "--dataset",
        phantom,
        "--out",
        tmp_path / "run",
        *tiny_options,
        "--device",
        "cpu",
        "--train.epochs",
        1,
    ]
    done = command(*given, "--train.precision", "bf16")
    assert done.code == 2
    assert "wrong bf16 convolution" in done.line
    assert "--train.precision fp32" in done.line
    assert not (tmp_path / "run" / "config.yaml").exists()
    assert command(*given, "--train.precision", "fp32").code == 0


@pytest.mark.usefixtures("as_on_a_gpu", "wrong_in_bf16")
def test_predict_and_segment_refuse_it(command, model_file, phantom, tmp_path):
    image, path = phantom / "images" / "phantom001.nii.gz", model_file()
    given = ["predict", path, "-i", image, "-o", tmp_path / "out", "--device", "cpu"]
    done = command(*given, "--precision", "bf16")
    assert done.code == 2
    assert "wrong bf16 convolution" in done.line
    assert "--precision fp32" in done.line
    with pytest.raises(InputError, match="wrong bf16 convolution"):
        segment(load_model(path), read_image(image), precision="bf16")
    assert command(*given, "--precision", "fp32").code == 0
