"""In half precision all that adds up is float32: cell state, softmax, loss, gradients of chunks, stitching, counts of voxels."""

from __future__ import annotations

import json
from collections import defaultdict

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import conv3d
from torch.utils._python_dispatch import TorchDispatchMode

from tests.builders import build_network, randomize_projections, resolve_plainly, tiny_config
from tests.sliding import sliding_window
from unet4d import ConvLSTM3d
from unet4d.config import Config, InferenceConfig, RecomputeConfig, TrainConfig
from unet4d.metrics.overlap import count_voxels, dice
from unet4d.models.device import autocast
from unet4d.pipeline.clip_dataset import Batch
from unet4d.training import validation
from unet4d.training.loss import LabelledFramesLoss
from unet4d.training.step import TrainingStep
from unet4d.training.train import train

CPU = torch.device("cpu")
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
in_half = pytest.mark.parametrize("precision", HALF)


def network(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    model = tiny_config(lstm_channels=4, dropout=dropout, deep_supervision=True).model
    return randomize_projections(build_network(model, 1, 3), 0.1)


def batch(frames: int = 4, grid: tuple[int, int, int] = (8, 8, 2)):
    draw = torch.Generator().manual_seed(0)
    image = torch.randn(2, frames, 1, *grid, generator=draw)
    label = torch.randint(0, 3, (2, frames, *grid), generator=draw)
    return Batch(image, label, torch.ones(2, frames, dtype=torch.bool))


class Dtypes(TorchDispatchMode):
    """Notes which dtypes each operation gives, by its name; in the backward pass, too."""

    def __init__(self):
        super().__init__()
        self.of = defaultdict(set)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = func(*args, **(kwargs or {}))
        for tensor in given if isinstance(given, (tuple, list)) else [given]:
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and tensor.numel():
                self.of[func.overloadpacket.__name__].add(tensor.dtype)
        return given


def one_step(precision: str, memory: RecomputeConfig) -> TrainingStep:
    loop = TrainConfig(batch_size=2, precision=precision, gradient_clip=1.0)
    step = TrainingStep(network(dropout=0.5), resolve_plainly(Config(train=loop, recompute=memory)), CPU)
    step(batch())
    return step


@in_half
@pytest.mark.parametrize("memory", [RecomputeConfig(0), RecomputeConfig(1, 2, stages=True, lstm="gates")], ids=str)
def test_in_a_step_convolutions_alone_are_in_half_precision_and_sums_never(precision, memory):
    with Dtypes() as seen:
        step = one_step(precision, memory)
    half, wide = {HALF[precision]}, {torch.float32}
    assert seen.of["convolution"] == half
    assert half < seen.of["convolution_backward"] | wide
    for name in ("sigmoid_", "sub_", "addcmul_", "sigmoid_backward", "tanh_backward"):  # gates and cell state
        assert seen.of[name] == wide, name
    for name in ("_log_softmax", "_log_softmax_backward_data", "exp", "sum", "linalg_vector_norm", "_foreach_norm"):
        assert seen.of[name] <= wide, name
    assert {"_log_softmax", "exp", "sum"} <= seen.of.keys()
    for weight in step.network.parameters():
        moments = step.optimizer.state[weight]
        assert {weight.dtype, moments["exp_avg"].dtype, moments["exp_avg_sq"].dtype} == wide


@in_half
def test_statistics_of_the_norm_are_float32(precision):
    """Instance norm of 10^6 voxels around 8: added up in half precision, their mean would be far off."""
    x = (torch.randn(1, 2, 100, 100, 100, generator=torch.Generator().manual_seed(0)) + 8).to(HALF[precision])
    norm = network().encoder[0][1]
    norm.weight, norm.bias = (
        nn.Parameter(torch.ones(2)),
        nn.Parameter(torch.full((2,), 100.0)),
    )  # the ReLU lets all pass
    with autocast(CPU, precision):
        found = norm(x).double()
    wanted = 100 + (x.double() - x.double().mean((2, 3, 4), keepdim=True)) / x.double().std((2, 3, 4), keepdim=True)
    rounding = torch.finfo(HALF[precision]).eps * 100
    assert (found - wanted).abs().max() < rounding


@in_half
@pytest.mark.parametrize("at_once", [200, 50, 1])
def test_a_cell_state_that_grows_by_a_thousandth_a_frame_grows(precision, at_once):
    """Over 200 frames, handed on from chunk to chunk: rounded to half precision at 4, it would stand still."""
    layer = ConvLSTM3d(1, 1, 1)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.zero_()
        layer.cells[0].input_gates.bias.copy_(torch.tensor([torch.tensor(1e-3).logit(), 20, 20, 20]))  # i, f, g, o
    assert torch.tensor(4.0, dtype=HALF[precision]) + 1e-3 == 4
    state = [(torch.zeros(1, 1, 1, 1, 1), torch.full((1, 1, 1, 1, 1), 4.0))]
    with autocast(CPU, precision):
        for clip in torch.zeros(1, 200, 1, 1, 1, 1).split(at_once, 1):
            _, state = layer(clip, state)
    [(_, cell)] = state
    assert cell.dtype == torch.float32
    assert cell.item() - 4 == pytest.approx(0.2, rel=0.01)


@in_half
def test_the_loss_of_a_million_voxels_is_that_of_float64(precision):
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 1, 3, 100, 100, 100, generator=draw).to(HALF[precision])
    label, labelled = torch.randint(0, 3, (1, 1, 100, 100, 100), generator=draw), torch.ones(1, 1, dtype=torch.bool)
    exact = LabelledFramesLoss()(logits.double(), label, labelled)
    with autocast(CPU, precision):
        found = LabelledFramesLoss()(logits, label, labelled)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=0)


@in_half
def test_the_gradients_of_a_weight_that_is_used_often_add_up(precision):
    """As every chunk of frames uses it: added up in half precision, 3000 ones come to 256 or 2048."""
    weight, one = torch.ones(1, 1, 1, 1, 1, requires_grad=True), torch.ones(1, 1, 1, 1, 1)
    with autocast(CPU, precision):
        uses = [conv3d(one, weight) for _ in range(3000)]
    assert {use.dtype for use in uses} == {HALF[precision]}
    torch.stack(uses).float().sum().backward()
    assert weight.grad.item() == 3000


@in_half
def test_windows_are_stitched_in_float32(precision):
    """Every voxel is seen by many windows; the mean of equal answers is that answer."""

    class Same(nn.Module):
        cells, directions, out_channels = 0, 1, 2

        def forward(self, x, cyclic=False, priming_frames=None):
            return torch.full((*x.shape[:2], 2, *x.shape[3:]), 1 / 3, dtype=HALF[precision])

    answer = float(torch.tensor(1 / 3, dtype=HALF[precision]))
    image, config = torch.zeros(1, 2, 37, 35, 6), InferenceConfig(overlap=0.75)
    logits = sliding_window(Same(), image, (8, 8, 4), config, cyclic=False, device=CPU, precision=precision)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, torch.full_like(logits, answer), rtol=1e-5, atol=0)


def test_voxels_are_counted_one_by_one_beyond_what_float32_can_count():
    shape = (1, 4097, 4096, 1)
    reference, prediction = np.ones(shape, np.uint8), np.ones(shape, np.uint8)
    prediction[0, 0, 0, 0] = 0
    counts = count_voxels(reference, prediction, [1])
    assert int(counts.tp[0, 0]) == 4097 * 4096 - 1 > 2**24
    assert np.float32(counts.tp[0, 0]) != counts.tp[0, 0]
    assert (int(counts.fp[0, 0]), int(counts.fn[0, 0])) == (0, 1)
    assert dice(counts)[0, 0] == pytest.approx(1 - 1 / (2 * 4097 * 4096 - 1), abs=1e-12)
    assert dice(counts)[0, 0] < 1


BAND = 0.02
"""Largest difference of the losses of two precisions: a hundredth of the loss. Two seeds differ by five times that in the mean."""


def test_curves_in_bf16_and_fp32_agree_within_the_band_on_the_phantom_and_two_seeds_do_not(
    phantom, tiny, tmp_path, monkeypatch
):
    for name in ("draw_contour_sheet", "draw_curves"):  # test_train.py tests the real ones
        monkeypatch.setattr(validation, name, lambda *given, **named: np.zeros((8, 8, 3), np.uint8))
    loop = {"epochs": 10, "steps_per_epoch": 3, "learning_rate": 1e-2, "validate_every": 10}
    curves = {}
    for name, settings in {"fp32": {}, "bf16": {"precision": "bf16"}, "seed": {"seed": 1}}.items():
        train(phantom, tmp_path / name, tiny(**loop | settings), "cpu")
        lines = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        curves[name] = np.array([line["loss"] for line in lines])
    wanted = curves["fp32"]
    assert wanted[-3:].mean() < wanted[:3].mean() - 5 * BAND
    assert 0 < np.abs(curves["bf16"] - wanted).max() < BAND
    assert np.abs(curves["seed"] - wanted).mean() > 5 * BAND


def trained(precision: str) -> torch.Tensor:
    """The losses of some steps on one batch."""
    loop = TrainConfig(
        epochs=1, steps_per_epoch=100, batch_size=2, learning_rate=1e-2, warmup_steps=0, precision=precision
    )
    step = TrainingStep(network(), resolve_plainly(Config(train=loop, recompute=RecomputeConfig(0))), CPU)
    return torch.stack([step(batch())[0] for _ in range(8)])


def test_both_half_precisions_learn_a_batch_as_fp32_does():
    """fp16, too, which training takes on GPUs without bf16 alone."""
    wanted = trained("fp32")
    assert wanted[-1] < 0.9 * wanted[0]
    for precision in HALF:
        assert 0 < (trained(precision) - wanted).abs().max() < BAND, precision
