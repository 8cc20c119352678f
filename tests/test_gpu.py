"""The same path on a CUDA device: run with  pytest -m gpu  where there is one."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from unet4d import ConvLSTM3d, load_model, read_image, segment
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
    from unet4d.trainer import Trainer

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
