"""A step and a prediction mix no devices and read nothing from theirs: torch's "meta" device takes the place of a GPU."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import unet4d.inference.window_predictor
import unet4d.training.step
from tests.builders import build_network, resolve_plainly
from unet4d.config import Config, InferenceConfig, ModelConfig, RecomputeConfig, TrainConfig
from unet4d.images.grid import argmax_classes
from unet4d.inference.sliding_window import LogitRows
from unet4d.inference.window_predictor import WindowPredictor
from unet4d.pipeline.clip_dataset import Batch
from unet4d.training.ema import WeightAverage
from unet4d.training.step import TrainingStep

GPU = torch.device("meta")
MODEL = ModelConfig(
    [4, 6, 8], 2, [(2, 2, 1), (2, 2, 1)], [(3, 3, 1), (3, 3, 3), (3, 3, 3)], dropout=0.25, deep_supervision=True
)
_COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class OneDevice(TorchDispatchMode):
    """Fails where an operation other than a copy takes tensors of two devices, or a number is read from the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        devices = {one.device.type for one in tensors if one.ndim}
        assert len(devices) < 2 or func in _COPIES, f"{func} got tensors on {sorted(devices)}"
        reads = func is torch.ops.aten._local_scalar_dense.default and tensors[0].device == GPU
        assert not reads, "a number was read from the device, which waits for it"
        return func(*args, **(kwargs or {}))


class Plain(torch.optim.Optimizer):
    """Gradient descent that takes the loss scaler's verdict on the device, as the fused AdamW does."""

    _step_supports_amp_scaling = True

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for weight in group["params"]:
                weight.sub_((weight.grad * group["lr"]).where(self.found_inf == 0, 0))


@pytest.fixture(autouse=True)
def on_meta(monkeypatch):
    """Leaves out what the meta device lacks: autocast and the fused optimizer, which takes the scaler's verdict on the device."""
    for module in (unet4d.inference.window_predictor, unet4d.training.step):
        monkeypatch.setattr(module, "autocast", lambda device, precision: contextlib.nullcontext())

    def plain(network, config, initial):
        return Plain(network.parameters(), {"lr": config.learning_rate})

    monkeypatch.setattr(unet4d.training.step, "build_optimizer", plain)


def test_mixed_devices_and_reading_are_seen():
    with pytest.raises(AssertionError, match="got tensors on"), OneDevice():
        torch.zeros(3).index_select(0, torch.zeros(2, dtype=torch.long, device=GPU))
    with pytest.raises(AssertionError, match="read from the device"), OneDevice():
        float(torch.zeros((), device=GPU))


@pytest.mark.parametrize(
    ("direction", "memory"),
    [
        ("bidirectional", RecomputeConfig(0, lstm="gates")),
        ("bidirectional", RecomputeConfig(2)),
        ("forward", RecomputeConfig(1, 2, stages=True)),
    ],
    ids=str,
)
def test_a_training_step_mixes_no_devices_and_reads_nothing(direction, memory):
    model = ModelConfig(**{**vars(MODEL), "direction": direction})
    loop = TrainConfig(batch_size=2, precision="fp16", gradient_clip=1.0)
    network = build_network(model, 1, 3).to(GPU)
    step = TrainingStep(network, resolve_plainly(Config(model=model, train=loop, recompute=memory)), GPU)
    image, label = torch.randn(2, 4, 1, 8, 8, 2), torch.zeros(2, 4, 8, 8, 2, dtype=torch.uint8)
    average = WeightAverage(network, 0.99)
    with OneDevice():
        loss = step.gradients([Batch(image, label, torch.tensor([[True, False, True, True]] * 2))])
        norm = step.update()
        average.update()
    assert {loss.device, norm.device, step.scale.device} == {GPU}
    assert {weight.grad.device for weight in network.parameters()} == {GPU}


@pytest.mark.parametrize("options", [{"chunk_frames": 2}, {"mirror_axes": [0]}, {"cyclic_shifts": 2}], ids=str)
def test_windows_are_computed_stitched_and_classified_on_the_device(options):
    network = build_network(MODEL, 1, 3).to(GPU).eval()
    shifts = options.pop("cyclic_shifts", 1)
    predictor = WindowPredictor(network, GPU, (8, 8, 2), InferenceConfig(0.5, **options), "fp32", True, shifts)
    predictor.stitch_on = GPU
    rows = LogitRows(predictor, torch.randn(1, 4, 20, 8, 2))
    with OneDevice():
        blocks = [rows.logits_until(10, 9), rows.logits_until(20)]
        classes = [argmax_classes(frame) for block in blocks for frame in block]
    assert {one.device for one in (*blocks, *classes)} == {GPU}
