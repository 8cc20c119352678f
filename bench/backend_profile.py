"""The parts of a frame's time in encoder and decoder, by torch and by OpenVINO: convolutions, norms, and moves of values."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from unet4d.config import Size
from unet4d.models.clstm_unet import CLSTMUNet
from unet4d.models.graph_network import openvino_core
from unet4d.models.onnx_graph import decoder_graph, encoder_graph
from unet4d.system.memory import keep_freed_memory

PARTS = {
    "convolutions": ("convolution", "slow_conv", "Convolution"),
    "norms": ("batch_norm", "instance_norm", "MVN"),
    "moves": ("copy", "cat", "Concat", "Reorder", "empty", "clone", "contiguous", "resize"),
}
"""Name of a part to what the names of its operations contain; the first that fits."""
CALLS = 4


def profile_rows(network: CLSTMUNet, size: Size) -> list[dict[str, Any]]:
    """Return a row per runtime, in float32: milliseconds of encoder and decoder of a frame, and the share of each part in them.

    Args:
        network: on the CPU, in evaluation mode.
        size: voxels (X, Y, Z) of the frame.
    """
    with torch.inference_mode(), keep_freed_memory():  # as in a prediction
        skips = network._encode(torch.zeros(1, 1, network.in_channels, *size), None)
        shapes = [tuple(level.shape) for level in skips]
        rows = [_torch_row(network, size)]
    graphs = (
        (encoder_graph(network), [(1, network.in_channels, *size)]),
        (decoder_graph(network, adds_hidden=False), shapes),
    )
    return [*rows, _openvino_row([(graph.SerializeToString(), inputs) for graph, inputs in graphs])]


def _torch_row(network: CLSTMUNet, size: Size) -> dict[str, Any]:
    """Profile torch."""

    def run() -> None:
        network._decode(network._encode(torch.zeros(1, 1, network.in_channels, *size), None), False)

    ms = _milliseconds(run)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    return _row("torch", ms, Counter({event.key: event.self_cpu_time_total for event in profile.key_averages()}))


def _openvino_row(graphs: Sequence[tuple[bytes, Sequence[tuple[int, ...]]]]) -> dict[str, Any]:
    """Profile OpenVINO; its own counters of operations cost a little time."""
    spent: Counter[str] = Counter()
    ms = 0.0
    for content, shapes in graphs:
        model = openvino_core().read_model(content)
        model.reshape({port: list(shape) for port, shape in zip(model.inputs, shapes, strict=True)})
        settings = {
            "PERF_COUNT": True,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        request = openvino_core().compile_model(model, "CPU", settings).create_infer_request()
        inputs = [np.zeros(shape, np.float32) for shape in shapes]
        ms += _milliseconds(lambda request=request, inputs=inputs: request.infer(inputs))  # type: ignore[misc]
        for operation in request.profiling_info:
            spent[operation.node_type] += operation.real_time.total_seconds()
    return _row("openvino", ms, spent)


def _milliseconds(run: Callable[[], object]) -> float:
    """Return the milliseconds of the fastest of a few calls, after one that does not count."""
    run()
    seconds = []
    for _ in range(CALLS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return 1000 * min(seconds)


def _row(name: str, ms: float, spent: Counter[str]) -> dict[str, Any]:
    """Return a row with the share of each part in the time that operations took."""
    parts: Counter[str] = Counter()
    for operation, time_of in spent.items():
        part = next((part for part, names in PARTS.items() if any(name in operation for name in names)), "other")
        parts[part] += time_of
    total = sum(parts.values()) or 1.0
    return {"encoder and decoder": name, "ms a frame": ms, **{part: parts[part] / total for part in (*PARTS, "other")}}
