"""The same path on a CUDA device: run with  pytest -m gpu  where there is one."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from unet4d import ConvLSTM3d, load_model, read_image, segment
from unet4d.config import CHANNELS, Config, DataConfig, MemoryConfig, ModelConfig, TrainConfig
from unet4d.model.clstm_unet import build_network
from unet4d.model.device import tune
from unet4d.model.fitting import GB
from unet4d.model.gates import fused_steps, step, step_backward
from unet4d.model.memory import training_memory
from unet4d.model.step import TrainingStep
from unet4d.model.topology import strides_and_kernels
from unet4d.train import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; there is none here"),
]


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_training_lowers_the_loss_in_every_precision(phantom, tiny, tmp_path, precision):
    train(
        phantom, tmp_path / "run", tiny(epochs=6, steps_per_epoch=10, learning_rate=1e-2, precision=precision), "cuda"
    )
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.8 * losses[0]


def test_a_resumed_run_on_the_gpu_goes_on_where_it_stopped(phantom, tiny, tmp_path, monkeypatch):
    from unet4d.training.trainer import Trainer

    kept = Trainer._keep

    def stop(self, values):
        kept(self, values)
        if self.epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_keep", stop)
        with pytest.raises(KeyboardInterrupt):
            train(phantom, tmp_path / "run", tiny(epochs=3), "cuda")
    train(phantom, tmp_path / "run", tiny(epochs=3), "cuda", resume=True)
    epochs = [json.loads(line)["epoch"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert epochs == [1, 2, 3]


def test_a_study_is_segmented_as_on_the_cpu(phantom, model_file):
    path, image = model_file(), read_image(phantom / "images" / "phantom001.nii.gz")
    torch.backends.cudnn.allow_tf32 = False
    here, there = (segment(load_model(path, device), image, precision="fp32") for device in ("cpu", "cuda"))
    assert np.mean(here == there) > 0.999


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_the_layer_agrees_with_the_cpu_and_stays_finite_in_bf16(direction):
    torch.manual_seed(0)
    layer, x = ConvLSTM3d(3, 8, direction=direction), torch.randn(2, 6, 3, 8, 8, 4)
    wanted, _ = layer(x)
    layer, x = layer.cuda(), x.cuda()
    torch.backends.cudnn.allow_tf32 = False
    torch.testing.assert_close(layer(x)[0].cpu(), wanted, atol=1e-4, rtol=1e-4)
    with torch.autocast("cuda", torch.bfloat16):
        output, state = layer(x)
    output.float().square().mean().backward()
    assert state[0][1].dtype == torch.float32
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())


def default_config(patch=(96, 96, 32), frames=8, precision="bf16", **memory) -> Config:
    strides, kernels = strides_and_kernels((1.0, 1.0, 1.0), patch, len(CHANNELS))
    return Config(
        DataConfig(patch_size=patch, frames=frames),
        ModelConfig(strides=strides, kernel_size=kernels),
        TrainConfig(batch_size=1, precision=precision),
        memory=MemoryConfig(**memory),
    )


def two_steps(config: Config) -> tuple[torch.Tensor, torch.Tensor]:
    """The second of two real training steps, every frame labelled: loss and gradient norm."""
    torch.manual_seed(0)
    device, patch, frames = torch.device("cuda"), config.data.patch_size, config.data.frames
    tune(device, config.train.precision)
    take = TrainingStep(build_network(config.model, 1, 4).to(device), config, device)
    image = torch.randn(1, frames, 1, *patch, device=device)
    label = torch.randint(0, 4, (1, frames, *patch), dtype=torch.uint8, device=device)
    take(image, label, [[True] * frames])
    torch.cuda.reset_peak_memory_stats()  # of the search for algorithms
    return take(image, label, [[True] * frames])


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize(
    "memory", [{"chunk_frames": 0}, {"chunk_frames": 2}, {"chunk_frames": 1, "stages": True}], ids=str
)
def test_the_planned_peak_is_the_measured_one_within_a_tenth_and_never_under(memory, precision):
    config = default_config(precision=precision, **memory)
    torch.cuda.empty_cache()
    two_steps(config)
    measured = torch.cuda.max_memory_allocated()
    assert 1 <= training_memory(config, 1, 4, config.data.frames).working_bytes / measured < 1.1


@pytest.mark.parametrize("memory", [MemoryConfig(2), MemoryConfig(1, 2, stages=True)], ids=str)
def test_a_cut_step_is_the_plain_one(memory):
    config = default_config((64, 64, 32), 6, "fp32", chunk_frames=0)
    plain = two_steps(config)
    cut = two_steps(dataclasses.replace(config, memory=memory))
    torch.testing.assert_close(cut, plain, rtol=1e-3, atol=1e-4)


def test_thirty_frames_of_a_whole_short_axis_study_train_within_24_gb():
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, 24 * GB / total))
    try:
        strides, kernels = strides_and_kernels((1.4, 1.4, 10.0), (256, 256, 12), len(CHANNELS))
        config = default_config((256, 256, 12), 30, chunk_frames=2)
        model = dataclasses.replace(config.model, strides=strides, kernel_size=kernels)
        loss, _ = two_steps(dataclasses.replace(config, model=model))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert loss.isfinite()


def test_the_fused_arithmetic_of_the_gates_is_the_eager_one():
    device = torch.device("cuda")
    fused, fused_backward = fused_steps(device)
    torch.manual_seed(0)
    gates, share = torch.randn(2, 2, 8, 4, 4, 3, device=device)
    cell = torch.randn(2, 2, 4, 4, 3, device=device)
    eager_gates, fused_gates = gates.clone(), gates.clone()
    torch.testing.assert_close(fused(fused_gates, share, cell, True), step(eager_gates, share, cell, True))
    torch.testing.assert_close(fused_gates, eager_gates)
    grads = [torch.randn_like(cell) for _ in range(3)]
    after, into = cell + 1, (torch.empty_like(gates), torch.empty_like(gates))
    torch.testing.assert_close(
        fused_backward(eager_gates, cell, after, *grads, into[0]),
        step_backward(eager_gates, cell, after, *grads, into[1]),
    )
    torch.testing.assert_close(*into)
