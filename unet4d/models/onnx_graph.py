"""The network as ONNX graphs of one frame: an encoder, one time step of each ConvLSTM cell, and a decoder.

Only the cells couple frames, by the state that they take and return. So any number of frames can be computed, forward or backward,
in a loop or as they arrive:

    image -> encoder -> features of each level ---------------------------> decoder -> logits
                          `-> cells, layer by layer -> hidden of each level ---^
                               ^  state in, state out

Every axis but the channels is dynamic; X, Y and Z are multiples of the network's total stride. The graphs are written node by node,
because `torch.onnx.export` takes most of a minute for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING, cast

from torch import Tensor, nn

from unet4d.errors import InputError
from unet4d.models.blocks import InstanceNormLeakyReLU, ResidualBlock, ResidualTemporal, UpBlock
from unet4d.models.clstm_unet import CLSTMUNet
from unet4d.models.convlstm import ConvLSTM3d, ConvLSTMLayer3d
from unet4d.models.topology import total_stride
from unet4d.system.extras import import_extra

if TYPE_CHECKING:
    import onnx

OPSET, IR_VERSION = 17, 8
"""Versions of ONNX's operators and file format: those of 2022, which every runtime in use reads."""
_SLOPE, _EPSILON = 0.01, 1e-5


def check_graphs(network: CLSTMUNet, source: object) -> None:
    """Raise an InputError where a network cannot be written as graphs, because a class of the user's couples its frames."""
    for recurrent in network.recurrent.values():
        block = cast(ResidualTemporal, recurrent).lstm
        if type(block) is not ConvLSTM3d:
            raise InputError(
                f"{source} couples frames by {type(block).__module__}.{type(block).__qualname__} (model.temporal), expected the "
                "ConvLSTM, which has a graph; use --format unet4d and the backend torch"
            )


def encoder_graph(network: CLSTMUNet) -> onnx.ModelProto:
    """Return the graph from `image` (N, C, X, Y, Z) to `features_0`, ..., those of every level."""
    graph = _Graph("encoder", network)
    x = graph.input("image", network.in_channels, 0)
    for level, stage in enumerate(network.encoder):
        x = graph.apply(stage, x)
        graph.output(x, f"features_{level}", network.channels[level], level)
    return graph.model()


def cell_graph(network: CLSTMUNet, index: int) -> onnx.ModelProto:
    """Return the graph of one time step of a cell, see `NetworkState`, at every level that has one.

    It takes `input_<level>` of each, the features, or above the first layer the hidden states of all directions of the layer below;
    then `hidden_<level>` and `cell_<level>` of each, at first zeros. It returns `next_hidden_<level>` and `next_cell_<level>`.
    """
    graph, cells = _Graph(f"cell_{index}", network), cells_of(network, index)
    inputs = [graph.input(f"input_{level}", cell.input_gates.in_channels, level) for level, cell in cells.items()]
    for x, (level, cell) in zip(inputs, cells.items(), strict=True):
        hidden, before = (graph.input(f"{name}_{level}", cell.hidden_channels, level) for name in ("hidden", "cell"))
        gates = graph.node("Add", graph.apply(cell.input_gates, x), graph.apply(cell.hidden_gates, hidden))
        i, f, g, o = graph.nodes("Split", 4, gates, axis=1)
        kept = graph.node("Mul", graph.node("Sigmoid", f), before)
        after = graph.node("Add", kept, graph.node("Mul", graph.node("Sigmoid", i), graph.node("Tanh", g)))
        out = graph.node("Mul", graph.node("Sigmoid", o), graph.node("Tanh", after))
        graph.output(out, f"next_hidden_{level}", cell.hidden_channels, level)
        graph.output(after, f"next_cell_{level}", cell.hidden_channels, level)
    return graph.model()


def cells_of(network: CLSTMUNet, index: int) -> dict[int, ConvLSTMLayer3d]:
    """Return one cell at every level that has it."""
    blocks = {int(level): cast(ResidualTemporal, recurrent) for level, recurrent in network.recurrent.items()}
    return {level: cast(ConvLSTMLayer3d, cast(ConvLSTM3d, block.lstm).cells[index]) for level, block in blocks.items()}


def decoder_graph(network: CLSTMUNet, adds_hidden: bool = True) -> onnx.ModelProto:
    """Return the graph from `features_0`, ... and `hidden_<level>`, of the last layer, to `logits` (N, K, X, Y, Z).

    At a level with cells, `hidden_<level>` are the hidden states of the frame, of a bidirectional network forward, then backward.
    Without `adds_hidden` the features come with what the cells add to them.
    """
    graph = _Graph("decoder", network)
    skips = [graph.input(f"features_{level}", channels, level) for level, channels in enumerate(network.channels)]
    for key, recurrent in network.recurrent.items() if adds_hidden else ():
        block, level = cast(ResidualTemporal, recurrent), int(key)
        hidden = graph.input(f"hidden_{key}", block.lstm.out_channels, level)
        skips[level] = graph.node("Add", skips[level], graph.apply(block.projection, hidden))
    x = skips.pop()
    for module in reversed(list(network.decoder)):
        up = cast(UpBlock, module)
        x = graph.apply(up.conv, graph.node("Concat", graph.apply(up.up, x), skips.pop(), axis=1))
    graph.output(graph.apply(network.head, x), "logits", network.out_channels, 0)
    return graph.model()


class _Graph:
    """A graph that grows node by node; each method returns the name of what it adds."""

    def __init__(self, name: str, network: CLSTMUNet):
        self.onnx = import_extra("onnx", "onnx", "an ONNX graph")
        strides = [tuple(cast(Sequence[int], cast(UpBlock, block).up.stride)) for block in network.decoder]
        self._name, self._strides = name, [total_stride(strides[:level]) for level in range(len(strides) + 1)]
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, channels: int, level: int) -> str:
        """Add an input (N, channels, X, Y, Z) of a level."""
        self._inputs.append(self._described(name, channels, level))
        return name

    def output(self, value: str, name: str, channels: int, level: int) -> None:
        """Name a value an output."""
        self._nodes.append(self.onnx.helper.make_node("Identity", [value], [name]))
        self._outputs.append(self._described(name, channels, level))

    def node(self, kind: str, *inputs: str, **attributes: object) -> str:
        """Add a node of one output."""
        return self.nodes(kind, 1, *inputs, **attributes)[0]

    def nodes(self, kind: str, outputs: int, *inputs: str, **attributes: object) -> list[str]:
        """Add a node of several outputs."""
        names = [f"{kind}_{len(self._nodes)}_{n}" for n in range(outputs)]
        self._nodes.append(self.onnx.helper.make_node(kind, inputs, names, **attributes))
        return names

    def apply(self, module: nn.Module, x: str) -> str:
        """Add a module of the network that takes one value."""
        if isinstance(module, nn.Sequential):
            return reduce(lambda value, layer: self.apply(layer, value), module, x)
        if isinstance(module, ResidualBlock):
            inner = self.apply(module.norm, self.apply(module.second, self.apply(module.first, x)))
            return self.node("LeakyRelu", self.node("Add", inner, self.apply(module.shortcut, x)), alpha=_SLOPE)
        if isinstance(module, InstanceNormLeakyReLU):
            return self.node("LeakyRelu", self._normalized(x, module.weight, module.bias), alpha=_SLOPE)
        if isinstance(module, nn.InstanceNorm3d):
            return self._normalized(x, module.weight, module.bias)
        if isinstance(module, nn.AvgPool3d):
            size = list(cast(Sequence[int], module.kernel_size))
            return self.node("AveragePool", x, kernel_shape=size, strides=size)
        assert isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)), type(module)
        kind = "ConvTranspose" if isinstance(module, nn.ConvTranspose3d) else "Conv"
        inputs = [x, self._weight(module.weight), *([] if module.bias is None else [self._weight(module.bias)])]
        size, pads = list(module.kernel_size), [*cast(Sequence[int], module.padding)] * 2
        return self.node(kind, *inputs, kernel_shape=size, strides=list(module.stride), pads=pads)

    def model(self) -> onnx.ModelProto:
        """Return the whole graph, checked."""
        helper = self.onnx.helper
        graph = helper.make_graph(self._nodes, self._name, self._inputs, self._outputs, self._weights)
        version = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[version], ir_version=IR_VERSION, producer_name="unet4d")
        self.onnx.checker.check_model(model)
        return cast("onnx.ModelProto", model)

    def _normalized(self, x: str, weight: Tensor, bias: Tensor) -> str:
        return self.node("InstanceNormalization", x, self._weight(weight), self._weight(bias), epsilon=_EPSILON)

    def _weight(self, tensor: Tensor) -> str:
        name = f"weight_{len(self._weights)}"
        self._weights.append(self.onnx.numpy_helper.from_array(tensor.detach().cpu().float().numpy(), name))
        return name

    def _described(self, name: str, channels: int, level: int) -> onnx.ValueInfoProto:
        axes = [axis if step == 1 else f"{axis}/{step}" for axis, step in zip("XYZ", self._strides[level], strict=True)]
        shape = ["N", channels, *axes]
        return self.onnx.helper.make_tensor_value_info(name, self.onnx.TensorProto.FLOAT, shape)
