"""A network with the encoder and decoder of another runtime predicts what torch alone predicts."""

from __future__ import annotations

import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch

from tests.errors import error_of
from tests.graph_models import DEEP, HEART, make_image, make_model
from tests.sliding import sliding_window
from unet4d import StreamingSegmenter
from unet4d.inference.segment import segment
from unet4d.models.backends import check_backend
from unet4d.models.graph_network import use_backend

CPU = torch.device("cpu")
BACKENDS = ("onnxruntime", "openvino")
CASES = {
    "bidirectional, in chunks": {"direction": "bidirectional", "lstm_layers": 2, "chunk_frames": 2},
    "a primed loop, in chunks": {"direction": "bidirectional", "cyclic": True, "priming_frames": 3, "chunk_frames": 2},
    "residual blocks, three levels": {**DEEP, "blocks": "residual"},
    "frame-wise": {"lstm_channels": 0, "sw_batch_size": 3},
}


@pytest.fixture(params=BACKENDS)
def backend(request):
    pytest.importorskip(request.param, reason=f"{request.param} is missing: pip install 'unet4d[onnx,openvino]'")
    return request.param


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_logits_are_those_of_torch(settings, backend):
    model = make_model(**settings)
    image = torch.randn(1, 5, 21, 18, 3)
    wanted, found = (
        sliding_window(
            one.network, image, model.config.data.patch_size, model.config.inference, cyclic=model.task.cyclic, device=CPU,
            precision="fp32",
        )
        for one in (model, use_backend(model, backend))
    )  # fmt: skip
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


def test_regions_and_frames_as_they_arrive(backend):
    model, image = make_model(regions=HEART, direction="forward"), make_image()
    other = use_backend(model, backend)
    assert (segment(other, image, precision="fp32") == segment(model, image, precision="fp32")).mean() > 0.999
    first, second = (StreamingSegmenter(one, image.affine, image.grid, precision="fp32") for one in (model, other))
    for t in range(3):
        assert (first.step(image.array[:, t]) == second.step(image.array[:, t])).mean() > 0.999


def test_bf16_differs_by_rounding_alone():
    pytest.importorskip("openvino", reason="openvino is missing: pip install 'unet4d[openvino]'")
    model, image = make_model(), make_image()
    label = segment(use_backend(model, "openvino", "bf16"), image, precision="bf16")
    assert (label == segment(model, image, precision="fp32")).mean() > 0.9


def test_predict_writes_what_torch_predicts_within_a_memory(backend, model_file, studies, tmp_path, command):
    model = model_file(direction="bidirectional")
    for name, more in (("torch", []), (backend, ["--max_memory", "4GB"])):
        words = ["-o", tmp_path / name, "--device", "cpu", "--precision", "fp32", "--backend", name, *more]
        done = command("predict", model, "-i", studies / "s0.nii.gz", *words)
        assert done.code == 0, done.error
    labels = [np.asarray(nib.load(tmp_path / name / "s0.nii.gz").dataobj) for name in ("torch", backend)]
    assert (labels[0] == labels[1]).mean() > 0.999
    record = json.loads((tmp_path / backend / ".unet4d" / "cases" / "s0.json").read_text())
    assert record["hardware"]["backend"].startswith(backend)


def test_what_a_backend_lacks_is_refused():
    assert "torch, onnxruntime, openvino" in error_of(check_backend, "tvm")
    assert "--precision bf16" in error_of(check_backend, "onnxruntime", "cpu", "bf16")
    assert "--device cuda" in error_of(check_backend, "openvino", "cuda")


SIGNALLED = """
import gc, os, signal
import torch
from tests.graph_models import make_model
from unet4d.models.graph_network import use_backend

model = use_backend(make_model(), "openvino")
with torch.inference_mode():
    for edge in (16, 24):
        model.network(torch.zeros(1, 2, 1, edge, edge, 4))
del model
gc.collect()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_a_signal_after_openvino_is_handled():
    """Pins a process that a stop or the end of a child killed: OpenVINO had freed the stack of its thread for signals."""
    pytest.importorskip("openvino", reason="openvino is missing: pip install 'unet4d[openvino]'")
    done = subprocess.run([sys.executable, "-c", SIGNALLED], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
