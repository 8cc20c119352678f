"""A network with its encoder and decoder computed by ONNX Runtime or OpenVINO, on a CPU; what couples frames stays in torch.

So windows, chunks of frames, cyclic time, ensembles and streaming work as with torch, and any block may couple the frames.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unet4d.config import Precision, ResolvedModelConfig, Size, triple
from unet4d.models.backends import TORCH, check_backend
from unet4d.models.clstm_unet import CLSTMUNet, DropoutFactors
from unet4d.models.onnx_graph import decoder_graph, encoder_graph
from unet4d.models.topology import total_stride
from unet4d.system.extras import import_extra

if TYPE_CHECKING:
    from unet4d.models.checkpoint import TrainedModel

Graph = Callable[[Sequence[Tensor], Sequence[Tensor]], None]
"""A graph of one frame, from its inputs to its outputs, which are there to be filled."""


def use_backend(model: TrainedModel, backend: str, precision: str = "fp32") -> TrainedModel:
    """Return a model with its encoder and decoder computed by a backend, for `segment` or live.

    Args:
        model: on the CPU.
        backend: "torch", which changes nothing, "onnxruntime" or "openvino".
        precision: "fp32"; of OpenVINO also "bf16".

    Raises:
        InputError: as `check_backend`.
    """
    device = next(model.network.parameters()).device
    check_backend(backend, device.type, precision)
    if backend == TORCH:
        return model
    size = triple(model.config.data.patch_size)
    return replace(model, network=GraphNetwork(model.network, model.config.model, backend, precision, size))


def backend_precision(backend: str, precision: Precision) -> Precision:
    """Return the precision of a prediction by a backend; "auto" is float32 for ONNX Runtime, which has no faster one on a CPU."""
    return "fp32" if (backend, precision) == ("onnxruntime", "auto") else precision


class GraphNetwork(CLSTMUNet):
    """A CLSTM-UNet with graphs of its encoder and decoder for each size of windows, made when it is first seen.

    Args:
        network: a network in evaluation mode; its weights are shared.
        config: its configuration.
        backend: "onnxruntime" or "openvino".
        precision: "fp32" or "bf16".
        size: voxels (X, Y, Z) of the windows to come. One is computed now, so that its memory counts before a study is planned.
    """

    def __init__(self, network: CLSTMUNet, config: ResolvedModelConfig, backend: str, precision: str, size: Size):
        with torch.device("meta"):  # the weights come from `network`
            super().__init__(config, network.in_channels, network.out_channels)
        self.load_state_dict(network.state_dict(), assign=True)
        self.eval()
        self.backend, self.precision = backend, precision
        self._level_strides = [total_stride(config.strides[:level]) for level in range(len(config.strides) + 1)]
        self._graphs: dict[Size, tuple[Graph, Graph]] = {}
        with torch.inference_mode():
            self._decode(self._encode(torch.zeros(1, 1, self.in_channels, *size), None), False)

    def _encode(self, x: Tensor, dropout: DropoutFactors | None, frames: Tensor | None = None) -> list[Tensor]:
        self._check(x)
        assert dropout is None
        images = x.flatten(0, 1) if frames is None else x.flatten(0, 1).index_select(0, frames)
        features = [images.new_empty(shape) for shape in self._shapes(len(images), triple(images.shape[2:]))]
        encoder, _ = self._graphs_of(triple(images.shape[2:]))
        for n in range(len(images)):
            encoder([images[n : n + 1]], [level[n : n + 1] for level in features])
        return features

    def _decode(self, skips: list[Tensor], deep_supervision: bool) -> list[Tensor]:
        assert not deep_supervision
        count, *size = skips[0].shape[0], *skips[0].shape[2:]
        logits = torch.empty((count, self.out_channels, *size))
        _, decoder = self._graphs_of(triple(size))
        for n in range(count):
            decoder([level[n : n + 1] for level in skips], [logits[n : n + 1]])
        skips.clear()
        return [logits]

    def _shapes(self, count: int, size: Size) -> list[tuple[int, ...]]:
        """Return the shapes of the features of all levels."""
        return [
            (count, channels, *(n // step for n, step in zip(size, stride, strict=True)))
            for channels, stride in zip(self.channels, self._level_strides, strict=True)
        ]

    def _graphs_of(self, size: Size) -> tuple[Graph, Graph]:
        """Return encoder and decoder for frames of a size."""
        if size not in self._graphs:
            make = _openvino_graph if self.backend == "openvino" else _onnxruntime_graph
            features = self._shapes(1, size)
            encoder = make(encoder_graph(self).SerializeToString(), [(1, self.in_channels, *size)], self.precision)
            decoder = make(decoder_graph(self, adds_hidden=False).SerializeToString(), features, self.precision)
            self._graphs[size] = encoder, decoder
        return self._graphs[size]


def _onnxruntime_graph(content: bytes, shapes: Sequence[tuple[int, ...]], precision: str) -> Graph:
    """Compile a graph by ONNX Runtime."""
    runtime = import_extra("onnxruntime", "onnx", "--backend onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def run(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        found = session.run(None, dict(zip(names, map(_array, inputs), strict=True)))
        for output, value in zip(outputs, found, strict=True):
            output.copy_(torch.from_numpy(value))

    return run


@functools.cache
def openvino_core() -> Any:
    """Return the process's one core of OpenVINO, which is never deleted.

    A core gives the thread a stack for its signals. Of two cores, the one deleted last restores the stack that the other has
    freed, and the next signal with a handler in Python ends the process (seen with OpenVINO 2026.4).
    """
    return import_extra("openvino", "openvino", "OpenVINO").Core()


def _openvino_graph(content: bytes, shapes: Sequence[tuple[int, ...]], precision: str) -> Graph:
    """Compile a graph by OpenVINO for inputs of these shapes, which is faster than for any."""
    openvino, core = import_extra("openvino", "openvino", "--backend openvino"), openvino_core()
    model = core.read_model(content)
    model.reshape({port: list(shape) for port, shape in zip(model.inputs, shapes, strict=True)})
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()

    def run(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        given, filled = ([openvino.Tensor(_array(x), shared_memory=True) for x in xs] for xs in (inputs, outputs))
        for n, tensor in enumerate(given):
            request.set_input_tensor(n, tensor)
        for n, tensor in enumerate(filled):
            request.set_output_tensor(n, tensor)
        request.infer()

    return run


def _array(tensor: Tensor) -> Any:
    """Return a tensor as an array of float32 without gaps; the same memory where it is so already."""
    return tensor.float().contiguous().numpy()
