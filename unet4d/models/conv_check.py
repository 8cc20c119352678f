"""Comparison of a run's own convolutions with exact ones, before the run relies on a GPU.

Releases of cuDNN gave silently wrong convolutions in bf16 and TF32 for some undocumented shapes, those of large tensors among them
(pytorch issues 163539 and 167024). A training on them learns, badly.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import pad
from torch.utils._python_dispatch import TorchDispatchMode

from unet4d.config import ResolvedModelConfig, Size, triple
from unet4d.errors import InputError
from unet4d.models.clstm_unet import MOST_ELEMENTS, CLSTMUNet
from unet4d.models.conv import convolved, same_padding
from unet4d.models.device import DTYPES, autocast, repeated_shapes, set_tf32
from unet4d.system.environment import gpu_words
from unet4d.system.memory_errors import drop_failed_work, is_out_of_memory

RESULT_TOLERANCE = 4
"""Units of rounding that a result may be off, relative to the largest one. Every precision holds the inputs exactly, so only the
sum and the result are rounded; a wrong sum is off by hundreds of units."""
WEIGHT_TOLERANCE = 16
"""The same for the gradient of a weight: a sum over millions of voxels; a GPU rounds its parts before it adds them up."""
_ROUNDING = {"bf16": 2.0**-7, "fp16": 2.0**-10, "tf32": 2.0**-10}
_MOST_VALUES = 2**26
"""Values of input and output together beyond which only one frame is computed."""
_MOST_FRAMES = 16
_checked: set[tuple[Any, ...]] = set()
"""Arguments of `check_convolutions` that were found right in this process."""
MANY_FRAMES = 32
"""Frames computed at once where a run's number is unknown, as in a prediction."""


class ConvolutionShape(NamedTuple):
    """A convolution: input (C, X, Y, Z), weight (K, C, k, k, k), stride (X, Y, Z)."""

    input: tuple[int, ...]
    weight: tuple[int, ...]
    stride: Size

    @property
    def output(self) -> tuple[int, ...]:
        """Return (K, X, Y, Z) of the result, padded as `convolved` pads."""
        return self.weight[0], *(-(-n // s) for n, s in zip(self.input[1:], self.stride, strict=True))

    @property
    def values(self) -> int:
        """Return the number of values of one frame's input and output."""
        return math.prod(self.input) + math.prod(self.output)

    def __str__(self) -> str:
        size, kernel, stride = ("x".join(map(str, part)) for part in (self.input[1:], self.weight[2:], self.stride))
        return f"{self.weight[1]} to {self.weight[0]} channels over {size} voxels, kernel {kernel}, stride {stride}"


def check_convolutions(
    config: ResolvedModelConfig,
    channels: tuple[int, int],
    patch_size: Sequence[int],
    device: torch.device,
    precision: str,
    training: bool = False,
    frames: int = MANY_FRAMES,
) -> None:
    """Check that a GPU computes the network's convolutions right in the run's precision; on the CPU and in fp32 do nothing.

    Args:
        config: of the network.
        channels: (in, out) of the network.
        patch_size: voxels (X, Y, Z) of a patch or window.
        device: of the network.
        precision: "bf16", "fp16", "tf32" or "fp32".
        training: check gradients too, and the algorithms that training steps use.
        frames: the most that the run computes at once, in all clips together.

    Raises:
        InputError: a convolution is off by more than rounding explains; names it, the versions, and what to do.
    """
    if not is_checked(device, precision):
        return
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    key = (repr(config), channels, triple(patch_size), device, precision, training, frames)
    if key in _checked:
        return
    shapes = network_convolutions(config, channels, patch_size)
    for shape in shapes:
        check_convolution(shape, device, precision, gradients=False)
    with repeated_shapes(device) if training else contextlib.nullcontext():
        for shape in widest_of_each_kind(shapes):
            if training:
                check_convolution(shape, device, precision, gradients=True)
            check_equal_frames(shape, device, precision, training, frames)
    drop_failed_work()  # so that the memory that is planned with is free again
    _checked.add(key)


def is_checked(device: torch.device, precision: str) -> bool:
    """Return whether convolutions in this precision are compared on this device."""
    return device.type == "cuda" and precision != "fp32"


def network_convolutions(
    config: ResolvedModelConfig, channels: tuple[int, int], patch_size: Sequence[int]
) -> list[ConvolutionShape]:
    """Return the different convolutions of a network on a patch; the transposed ones are left out."""
    with FakeTensorMode(), _Recorder() as recorder, autocast(torch.device("cpu"), "bf16"):
        network = CLSTMUNet(config, *channels)
        network(torch.empty(1, 1, channels[0], *patch_size))
    return list(dict.fromkeys(recorder.shapes))


def widest_of_each_kind(shapes: Sequence[ConvolutionShape]) -> list[ConvolutionShape]:
    """Return of each kernel and stride the convolution with the most values."""
    widest: dict[tuple[Any, ...], ConvolutionShape] = {}
    for shape in shapes:
        kind = (shape.weight[2:], shape.stride)
        widest[kind] = max(widest.get(kind, shape), shape, key=lambda candidate: candidate.values)
    return list(widest.values())


def check_convolution(shape: ConvolutionShape, device: torch.device, precision: str, gradients: bool) -> None:
    """Compare a convolution in a precision with the exact one, of fewer frames where memory is short.

    Where there is no memory for one frame, nothing is compared: the run will fail on that itself.

    Raises:
        InputError: both differ by more than rounding explains.
    """
    frames = max(1, min(_MOST_FRAMES, _MOST_VALUES // shape.values))
    while frames and not _compared(shape, frames, 1, device, precision, gradients):
        frames //= 2


def check_equal_frames(
    shape: ConvolutionShape, device: torch.device, precision: str, gradients: bool, frames: int
) -> None:
    """Compare a convolution of n equal frames at once with the exact one of a single frame.

    An exact result of a run's large tensors would take too long. Fewer frames are computed where memory is short, or a tensor would
    have 2**31 elements.

    Raises:
        InputError: a frame differs from the exact one by more than rounding explains.
    """
    frames = min(frames, MOST_ELEMENTS // max(math.prod(shape.input), math.prod(shape.output)))
    while frames > 1 and not _compared(shape, 1, frames, device, precision, gradients):
        frames //= 2


def _compared(
    shape: ConvolutionShape, frames: int, copies: int, device: torch.device, precision: str, gradients: bool
) -> bool:
    """Compare copies of frames with an exact result; return False where there is no memory for that."""
    try:
        _compare(shape, frames, copies, device, precision, gradients)
        return True
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    finally:
        set_tf32(device, precision)
    drop_failed_work()
    return False


def _compare(
    shape: ConvolutionShape, frames: int, copies: int, device: torch.device, precision: str, gradients: bool
) -> None:
    random = torch.Generator(device).manual_seed(0)

    def sample(size: Sequence[int], scale: float) -> Tensor:  # float32 that bf16, fp16 and TF32 hold exactly
        return (torch.randn(size, generator=random, device=device) * scale).bfloat16().float()

    def repeat(part: Tensor) -> Tensor:
        dtype = DTYPES.get(precision, part.dtype)
        return part if copies == 1 else part.to(dtype).repeat(copies, *[1] * (part.ndim - 1))

    image, weight = sample((frames, *shape.input), 1.0), sample(shape.weight, math.prod(shape.weight[1:]) ** -0.5)
    # Scaled so that the sum over all copies stays within fp16.
    grad_output = sample((frames, *shape.output), 2.0 ** -(copies.bit_length() - 1))
    set_tf32(device, precision)
    found = _computed(repeat(image), weight, repeat(grad_output), shape.stride, precision, gradients)
    set_tf32(device, "fp32")
    exact = _exact(image, weight, grad_output, shape.stride, gradients)
    for what, got, expected, tolerance in zip(
        ("result", "gradient of its input", "gradient of its weight"),
        found,
        (*exact[:2], copies * exact[2]),
        (RESULT_TOLERANCE, RESULT_TOLERANCE, WEIGHT_TOLERANCE),
        strict=False,
    ):
        off, most = _relative_error(got, expected), tolerance * _ROUNDING[precision]
        if not off <= most:  # NaN, too
            raise InputError(
                f"this GPU computes a wrong {precision} convolution ({shape}, {frames * copies} at once): the {what} is off "
                f"by {off:.2g} of the largest value, expected at most {most:.2g}, with {gpu_words(device)}; use an image or torch "
                "with another cuDNN (README, Docker), or precision fp32 (--train.precision fp32, predict --precision fp32)"
            )


def _relative_error(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference of any copy, relative to the largest expected value; NaN where anything is."""
    expected = expected.to(found.device)
    errors = [(copy.float() - expected).abs().max() for copy in found.split(len(expected))]
    return float(torch.stack(errors).max() / expected.abs().max())


def _computed(
    image: Tensor, weight: Tensor, grad_output: Tensor, stride: Size, precision: str, gradients: bool
) -> list[Tensor]:
    """Return the convolution, and the gradients of image and weight, as a run computes them."""
    image, weight = image.detach().requires_grad_(gradients), weight.detach().requires_grad_(gradients)
    with torch.inference_mode(False), torch.set_grad_enabled(gradients), autocast(image.device, precision):
        result = convolved(image, weight, None, stride)
    if not gradients:
        return [result]
    result.backward(grad_output.to(result.dtype))
    assert image.grad is not None
    assert weight.grad is not None
    return [result.detach(), image.grad, weight.grad]


def _exact(image: Tensor, weight: Tensor, grad_output: Tensor, stride: Size, gradients: bool) -> list[Tensor]:
    """Return the same in float32 by matrix products, one per voxel of the kernel; on the CPU where a GPU has no memory for it."""
    try:
        return _products(image, weight, grad_output, stride, gradients)
    except RuntimeError as error:
        if image.device.type == "cpu" or not is_out_of_memory(error):
            raise
    drop_failed_work()
    return _products(image.cpu(), weight.cpu(), grad_output.cpu(), stride, gradients)


@torch.no_grad()
def _products(image: Tensor, weight: Tensor, grad_output: Tensor, stride: Size, gradients: bool) -> list[Tensor]:
    kernel, padding = weight.shape[2:], same_padding(weight.shape[2:])
    padded = pad(image, [n for size in reversed(padding) for n in (size, size)])
    result, flat_grad = torch.zeros_like(grad_output), grad_output.flatten(2)
    grad_padded, grad_weight = torch.zeros_like(padded), torch.zeros_like(weight)
    for x, y, z in itertools.product(*map(range, kernel)):
        box = [
            slice(first, first + s * (n - 1) + 1, s)
            for first, s, n in zip((x, y, z), stride, result.shape[2:], strict=True)
        ]
        seen, matrix = padded[:, :, *box].flatten(2), weight[:, :, x, y, z]
        result += (matrix @ seen).view(result.shape)
        if gradients:
            grad_weight[:, :, x, y, z] = (flat_grad @ seen.mT).sum(0)
            grad_padded[:, :, *box] += (matrix.T @ flat_grad).view(grad_padded[:, :, *box].shape)
    inside = [slice(size, size + n) for size, n in zip(padding, image.shape[2:], strict=True)]
    return [result, grad_padded[:, :, *inside], grad_weight]


class _Recorder(TorchDispatchMode):
    """Recorder of the shapes of all convolutions that run inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[ConvolutionShape] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            image, weight, _, stride, padding, dilation, transposed, _, groups = args
            # A block of the user's may have others, which are not compared.
            is_own = weight.ndim == 5 and tuple(padding) == same_padding(weight.shape[2:])
            if is_own and not transposed and groups == 1 and max(dilation) == 1:
                shape = ConvolutionShape(tuple(image.shape[1:]), tuple(weight.shape), triple(stride))
                self.shapes.append(shape)
        return func(*args, **(kwargs or {}))
