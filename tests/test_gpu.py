"""The same path on a CUDA device: run with  pytest -m gpu  where there is one. Elsewhere what is cheap runs on the CPU instead,
and  make simulated  runs nearly all of it on a GPU that is not there, see tests/simulated_gpu.

A test takes `device` and says by its mark where it can run: `everywhere`, `everywhere_slowly` (on the CPU with  pytest -m slow)
or `on_cuda` alone.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import conv3d

from tests.builders import build_network, collect_log, make_network, resolve_model_plainly, tiny_config
from unet4d import ConvLSTM3d, StreamingSegmenter, load_model, read_image, segment
from unet4d.config import CHANNELS, InferenceConfig, ModelConfig, RecomputeConfig, ResolvedConfig
from unet4d.errors import Stopped
from unet4d.images.image4d import read_label
from unet4d.inference.sliding_window import LogitRows
from unet4d.inference.streaming import scale_of
from unet4d.inference.window_predictor import WindowPredictor
from unet4d.models.checkpoint import LAST, load_checkpoint
from unet4d.models.conv_check import ConvolutionShape, check_convolution, check_convolutions, check_equal_frames
from unet4d.models.device import autocast, set_tf32
from unet4d.models.ensemble import mean_logits
from unet4d.models.topology import strides_and_kernels
from unet4d.pipeline.clip_dataset import Batch
from unet4d.system.byte_sizes import GB
from unet4d.system.gpu_memory import reset_peak
from unet4d.training.oom_fallback import OomFallback
from unet4d.training.step import TrainingStep
from unet4d.training.step_memory import count_step_cost
from unet4d.training.train import train

CPU = torch.device("cpu")
_HERE = torch.cuda.is_available()
_CUDA = pytest.param(
    torch.device("cuda"),
    id="cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not _HERE, reason="needs a CUDA device; there is none here")],
)
_SIMULATED = _HERE and torch.cuda.get_device_name() == "simulated GPU"
on_a_real_one = pytest.mark.skipif(
    _SIMULATED, reason="the simulated GPU has neither a GPU's kernels nor their speed and memory"
)
everywhere = pytest.mark.parametrize("device", [_CUDA, pytest.param(CPU, id="cpu")])
everywhere_slowly = pytest.mark.parametrize("device", [_CUDA, pytest.param(CPU, id="cpu", marks=pytest.mark.slow)])
on_cuda = pytest.mark.parametrize("device", [_CUDA])
WIDTHS = {"cuda": (4, 8) if _SIMULATED else CHANNELS, "cpu": (4, 8)}
"""Channels of a network that a test takes steps with."""
BAND = 0.05
"""Largest difference of the mean losses of an epoch, between precisions and between runs."""


def losses_of(run: Path) -> np.ndarray:
    return np.array([json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()])


@everywhere_slowly
def test_training_lowers_the_loss_in_every_precision_and_by_the_same_curve(device, phantom, tiny, tmp_path):
    curves = {}
    for precision in ("fp32", "tf32", "bf16", "fp16") if device.type == "cuda" else ("fp32", "bf16"):
        loop = {"epochs": 6, "steps_per_epoch": 10, "learning_rate": 1e-2, "validate_every": 6, "precision": precision}
        train(phantom, tmp_path / precision, tiny(**loop), device.type)
        curves[precision] = losses_of(tmp_path / precision)
        assert curves[precision][-1] < 0.8 * curves[precision][0], precision
    for precision, curve in curves.items():
        assert np.abs(curve - curves["fp32"]).max() < BAND, precision


@everywhere_slowly
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_that_was_stopped_goes_on_as_one_that_was_not(device, phantom, tiny, tmp_path, monkeypatch, precision):
    """Assert close, not equal: on a GPU sums are added in whatever order their parts arrive."""
    if device.type == "cpu" and precision == "fp16":
        pytest.skip("fp16 is refused on a CPU")
    config = tiny(epochs=3, steps_per_epoch=4, precision=precision)
    train(phantom, tmp_path / "whole", config, device.type)
    usual = OomFallback.__call__

    def struck(self, batches, number):
        if number == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return usual(self, batches, number)

    with monkeypatch.context() as patch:
        patch.setattr(OomFallback, "__call__", struck)
        with pytest.raises(Stopped):
            train(phantom, tmp_path / "run", config, device.type)
    assert load_checkpoint(tmp_path / "run" / LAST)["training"]["step"] == 6
    train(phantom, tmp_path / "run", config, device.type, resume=True)
    found, wanted = losses_of(tmp_path / "run"), losses_of(tmp_path / "whole")
    assert len(found) == 3
    np.testing.assert_allclose(found, wanted, atol=BAND)
    scalers = [load_checkpoint(tmp_path / run / LAST)["training"]["optimization"]["scaler"] for run in ("run", "whole")]
    assert scalers[0] == scalers[1]


def error_of(compute, *tensors: torch.Tensor) -> float:
    """Return the error of `compute` of float32 tensors, as a fraction of the largest number of the exact result."""
    exact = compute(*(tensor.double() for tensor in tensors))
    return float((compute(*tensors).double() - exact).abs().max() / exact.abs().max())


@on_cuda
@on_a_real_one
@pytest.mark.skipif(_HERE and torch.cuda.get_device_capability() < (8, 0), reason="this GPU has no TF32")
def test_products_are_rounded_to_tf32_unless_fp32_is_asked_for(device):
    draw = torch.Generator(device).manual_seed(0)
    matrices = torch.randn(2, 1024, 1024, generator=draw, device=device)
    image = torch.randn(2, 32, 32, 32, 16, generator=draw, device=device)
    kernel = torch.randn(32, 32, 3, 3, 3, generator=draw, device=device)
    for compute, tensors in ((torch.matmul, tuple(matrices)), (conv3d, (image, kernel))):
        found = {}
        for precision in ("fp32", "tf32", "bf16", "fp32"):
            set_tf32(device, precision)
            found[precision] = error_of(compute, *tensors)
        assert found["fp32"] < 1e-5
        assert found["tf32"] > 1e-5
        assert found["bf16"] > 1e-5


def step_and_batch(device: torch.device, config: ResolvedConfig) -> tuple[TrainingStep, Batch]:
    """Return a real training step, and a batch with every frame labelled."""
    torch.manual_seed(0)
    patch, frames = config.data.patch_size, config.data.frames
    set_tf32(device, config.train.precision)
    step = TrainingStep(build_network(config.model, 1, 4).to(device), config, device)
    image = torch.randn(1, frames, 1, *patch, device=device)
    label = torch.randint(0, 4, (1, frames, *patch), dtype=torch.uint8, device=device)
    return step, Batch(image, label, torch.ones(1, frames, dtype=torch.bool))


def small_step(device: torch.device, precision: str) -> tuple[TrainingStep, Batch]:
    """Return a training step and a batch for it, on the device."""
    config = default_config((32, 32, 16), 4, precision, chunk_frames=2, channels=WIDTHS[device.type])
    step, batch = step_and_batch(device, config)
    return step, batch._replace(labelled=torch.tensor([[True, False, True, True]]))


@everywhere
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_that_is_not_finite_changes_nothing(device, precision):
    if device.type == "cpu" and precision == "fp16":
        pytest.skip("slow on a CPU")
    step, batch = small_step(device, precision)
    for _ in range(5):
        step(batch)  # in which fp16 finds its scale
    scale, corrupted = step.scale, batch.image.clone()
    corrupted[0, 1, 0, 3, 4, 5] = float("nan")
    before = [weight.clone() for weight in step.network.parameters()]
    state = [value.clone() for of in step.optimizer.state.values() for value in of.values()]
    step(batch._replace(image=corrupted))
    after = [value for of in step.optimizer.state.values() for value in of.values()]
    assert all(map(torch.equal, step.network.parameters(), before))
    assert all(map(torch.equal, after, state))
    assert step.scale == (scale / 2 if precision == "fp16" else 1)
    loss, norm = step(batch)
    assert loss.isfinite()
    assert norm.isfinite()
    assert not all(map(torch.equal, step.network.parameters(), before))


@everywhere_slowly
def test_an_overflow_in_fp16_halves_the_scale_until_there_is_none(device):
    step, batch = small_step(device, "fp16")
    step(batch)
    step.scaler.update(2.0**40)
    before, scales = [weight.clone() for weight in step.network.parameters()], [step.scale]
    while all(map(torch.equal, step.network.parameters(), before)):
        step(batch)
        scales.append(step.scale)
        assert len(scales) < 40
    assert scales[:-1] == [2.0 ** (40 - n) for n in range(len(scales) - 1)]
    assert scales[-1] == scales[-2]


@on_cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_nothing_in_a_step_waits_for_the_gpu(device, precision):
    step, batch = small_step(device, precision)
    step(batch)  # cuDNN tries its algorithms
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@everywhere
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_gradients_of_a_weight_that_is_used_often_add_up(device, precision):
    weight = torch.ones(1, 1, 1, 1, 1, device=device, requires_grad=True)
    with autocast(device, precision):
        uses = [conv3d(torch.ones(1, 1, 1, 1, 1, device=device), weight) for _ in range(3000)]
    torch.stack(uses).float().sum().backward()
    assert weight.grad.item() == 3000


@everywhere
def test_a_study_is_segmented_as_on_the_cpu(device, phantom, model_file):
    path, image = model_file(), read_image(phantom / "images" / "phantom001.nii.gz")
    here, there = (segment(load_model(path, device), image, precision="fp32") for device in ("cpu", device))
    assert np.mean(here == there) > 0.999


def windowed(device: torch.device, windows: int = 1, columns: int = 70) -> tuple[WindowPredictor, torch.Tensor]:
    torch.manual_seed(0)
    network = make_network(1, 3, (8, 16), [(2, 2, 1)]).eval().to(device)
    config = InferenceConfig(0.5, windows)
    predictor = WindowPredictor(network, device, (32, 32, 8), config, "fp32", cyclic=False)
    return predictor, torch.randn(1, 6, 90, columns, 8, generator=torch.Generator().manual_seed(1))


@everywhere
def test_windows_stitched_in_main_memory_are_those_stitched_on_the_gpu(device):
    logits = {}
    for where in (device.type, "cpu"):
        predictor, image = windowed(device)
        predictor.stitch_on = torch.device(where)
        rows = LogitRows(predictor, image).logits_until(90)
        assert rows.device.type == where
        logits[where] = rows.cpu()
    torch.testing.assert_close(logits["cpu"], logits[device.type], atol=1e-4, rtol=0)


@on_cuda
def test_a_gpu_that_runs_out_of_memory_steps_down_says_so_and_gives_the_same(device):
    predictor, image = windowed(device, columns=300)
    wanted = LogitRows(predictor, image).logits_until(90).cpu()
    said = collect_log()
    predictor, image = windowed(device, windows=64, columns=300)  # 18 at once, which take 150 MB
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 64 * 2**20) / total)
    try:
        got = LogitRows(predictor, image).logits_until(90).cpu()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert said
    assert "windows at once" in said[0]
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=0)


@everywhere
def test_networks_answer_together_when_one_has_gone_on_in_main_memory(device):
    torch.manual_seed(0)
    first, second = torch.randn(2, 3, 4, 5, 6, 2)
    wanted = mean_logits([first.clone(), second])
    torch.testing.assert_close(mean_logits([first.clone(), second.to(device)]), wanted)
    torch.testing.assert_close(mean_logits([first.to(device), second]).cpu(), wanted)


@everywhere
def test_frames_are_segmented_as_they_arrive(device, phantom, model_file):
    image = read_image(phantom / "images" / "phantom001.nii.gz")
    model = load_model(model_file(direction="forward"), device)
    live = StreamingSegmenter(model, image.affine, image.grid, scale=scale_of(model, image), precision="fp32")
    labels = np.stack([live.step(image.array[:, t]) for t in range(image.frames)])
    assert (labels == segment(model, image, time="open", precision="fp32")).mean() > 0.999


@everywhere
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_the_layer_agrees_with_the_cpu_and_stays_finite_in_bf16(device, direction):
    torch.manual_seed(0)
    layer, x = ConvLSTM3d(3, 8, direction=direction), torch.randn(2, 6, 3, 8, 8, 4)
    wanted, _ = layer(x)
    layer, x = layer.to(device), x.to(device)
    set_tf32(device, "fp32")
    torch.testing.assert_close(layer(x)[0].cpu(), wanted, atol=1e-4, rtol=1e-4)
    with torch.autocast(device.type, torch.bfloat16):
        output, state = layer(x)
    output.float().square().mean().backward()
    assert state[0][1].dtype == torch.float32
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())


MEMORY = [{"chunk_frames": 0}, {"chunk_frames": 2}, {"chunk_frames": 1, "stages": True}]
"""Schedules to count the memory of."""


def default_config(patch=(96, 96, 32), frames=8, precision="bf16", channels=CHANNELS, **memory) -> ResolvedConfig:
    strides, kernels = strides_and_kernels((1.0, 1.0, 1.0), patch, len(channels))
    model = {"channels": list(channels), "lstm_channels": None, "strides": strides, "kernel_size": kernels}
    return tiny_config(patch_size=patch, frames=frames, batch_size=1, precision=precision, **model, **memory)


def two_steps(device: torch.device, config: ResolvedConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the second of two steps: loss and gradient norm."""
    take, batch = step_and_batch(device, config)
    take(batch)
    reset_peak(device)  # of the search for algorithms
    return take(batch)


@on_cuda
@on_a_real_one
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("memory", MEMORY, ids=str)
def test_the_planned_peak_is_the_measured_one_within_a_tenth_and_never_under(device, memory, precision):
    config = default_config(precision=precision, **memory)
    torch.cuda.empty_cache()
    two_steps(device, config)
    measured = torch.cuda.max_memory_allocated()
    assert 1 <= count_step_cost(config, 1, 4, config.data.frames).working_bytes / measured < 1.1


@on_cuda
@pytest.mark.skipif(not _SIMULATED, reason="a real GPU hands out memory for the copies of its kernels, too")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("memory", MEMORY, ids=str)
def test_the_tensors_that_the_planner_counts_are_those_that_are_allocated(device, memory, precision):
    """Hold the count to an allocator's. Steps are counted on the CPU; its autocast casts a few other operations to bf16."""
    config = default_config((48, 48, 16), 6, precision, (16, 32, 64), **memory)
    two_steps(device, config)
    counted = count_step_cost(config, 1, 4, config.data.frames).peak_bytes / torch.cuda.max_memory_allocated()
    assert counted == 1 if precision == "fp32" else 1 <= counted < 1.04


@everywhere
@pytest.mark.parametrize("memory", [RecomputeConfig(2), RecomputeConfig(1, 2, stages=True)], ids=str)
def test_a_cut_step_is_the_plain_one(device, memory):
    channels = WIDTHS[device.type]
    size = (64, 64, 32) if channels == CHANNELS else (16, 16, 8)
    config = default_config(size, 6, "fp32", channels, chunk_frames=0)
    plain = two_steps(device, config)
    cut = two_steps(device, dataclasses.replace(config, recompute=memory))
    torch.testing.assert_close(cut, plain, rtol=1e-3, atol=1e-4)


@on_cuda
def test_a_step_that_runs_out_of_memory_frees_it_and_goes_on_in_smaller_chunks(device):
    channels = WIDTHS[device.type]
    size = (96, 96, 32) if channels == CHANNELS else (32, 32, 16)
    config = default_config(size, 6, "fp32", channels, chunk_frames=0)
    wanted = two_steps(device, config)
    step, batch = step_and_batch(device, config)
    fallback = OomFallback(step, step.recompute, 6, None)
    step(batch)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    room = 0.7 * count_step_cost(config, 1, 4, 6).peak_bytes  # for all: weights and the batch are in it
    torch.cuda.set_per_process_memory_fraction(room / total)
    try:
        taken = fallback([batch], 1)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert 0 < fallback.recompute.chunk_frames < 6
    torch.testing.assert_close(taken, wanted, rtol=1e-3, atol=1e-4)


@on_cuda
@on_a_real_one
def test_thirty_frames_of_a_whole_short_axis_study_train_within_24_gb(device):
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, 24 * GB / total))
    try:
        strides, kernels = strides_and_kernels((1.4, 1.4, 10.0), (256, 256, 12), len(CHANNELS))
        config = default_config((256, 256, 12), 30, chunk_frames=2)
        model = dataclasses.replace(config.model, strides=strides, kernel_size=kernels)
        loss, _ = two_steps(device, dataclasses.replace(config, model=model))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert loss.isfinite()


@on_cuda
@on_a_real_one
@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("precision", ["bf16", "fp16", "tf32"])
@pytest.mark.parametrize(
    "shape",
    [
        ConvolutionShape((64, 16, 16, 8), (32, 64, 3, 3, 3), (1, 1, 1)),
        ConvolutionShape((1, 32, 32, 8), (32, 1, 3, 3, 1), (1, 1, 1)),
        ConvolutionShape((32, 17, 16, 5), (64, 32, 3, 3, 3), (2, 2, 1)),
        ConvolutionShape((40, 8, 8, 4), (320, 40, 1, 1, 1), (1, 1, 1)),
    ],
    ids=lambda shape: str(shape).replace(" ", "_"),
)
def test_convolutions_are_those_in_fp32_up_to_rounding(device, shape, precision, gradients):
    """Pin convolutions that releases of cuDNN computed wrong in bf16 and TF32."""
    check_convolution(shape, device, precision, gradients)
    check_equal_frames(shape, device, precision, gradients, 64)


@on_cuda
@on_a_real_one
@pytest.mark.parametrize("precision", ["bf16", "fp16", "tf32"])
def test_the_default_network_of_a_short_axis_study_passes_the_check_of_convolutions(device, precision):
    strides, kernels = strides_and_kernels((1.4, 1.4, 10.0), (256, 256, 12), len(CHANNELS))
    model = resolve_model_plainly(ModelConfig(strides=strides, kernel_size=kernels))
    check_convolutions(model, (1, 4), (256, 256, 12), device, precision, training=True, frames=30)


@everywhere
def test_predict_writes_what_the_cpu_writes(device, command, model_file, study, tmp_path):
    study(tmp_path / "in" / "heart.nii.gz")
    path, labels = model_file(), []
    for name in ("cpu", device.type):
        given = ["-i", tmp_path / "in", "-o", tmp_path / name, "--device", name, "--precision", "fp32"]
        assert command("predict", path, *given).code == 0
        labels.append(read_label(tmp_path / name / "heart.nii.gz"))
    assert np.mean(labels[0] == labels[1]) > 0.999
