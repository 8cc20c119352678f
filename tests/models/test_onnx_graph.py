"""Graphs of one frame compute what the network's parts compute, for any number of frames and any size."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.builders import make_network, randomize_projections
from tests.errors import error_of
from unet4d.models.convlstm import ConvLSTM3d
from unet4d.models.onnx_graph import cell_graph, check_graphs, decoder_graph, encoder_graph

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is missing: pip install 'unet4d[onnx]'")
LEVELS = ([(2, 2, 1), (2, 2, 2)], [(3, 3, 1), (3, 3, 3), (3, 3, 3)])


def session_of(graph):
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return lambda inputs: session.run(None, dict(zip(names, (x.numpy() for x in inputs), strict=True)))


@pytest.mark.parametrize("blocks", ["plain", "residual"])
def test_every_part_at_every_size(blocks):
    torch.manual_seed(0)
    network = make_network(2, 3, (3, 4, 6), *LEVELS, (0, 2, 3), direction="bidirectional", blocks=blocks).eval()
    randomize_projections(network)
    encoder, decoder = session_of(encoder_graph(network)), session_of(decoder_graph(network))
    cells = [session_of(cell_graph(network, index)) for index in range(2)]
    blocks_of = [block.lstm for block in network.recurrent.values()]
    for batch, size in ((1, (8, 12, 4)), (2, (16, 4, 6))):
        image = torch.randn(batch, 2, *size)
        with torch.inference_mode():
            features = network._encode(image[:, None], None)
            below, now = features[1:], []
            for index, cell in enumerate(cells):
                state = [tuple(torch.randn(len(x), c.out_channels // 2, *x.shape[2:]) for _ in range(2)) for x, c in
                         zip(below, blocks_of, strict=True)]  # fmt: skip
                after = [c.cells[index](x[:, None], s)[1] for c, x, s in zip(blocks_of, below, state, strict=True)]
                found = cell([*below, *(value for pair in state for value in pair)])
                assert_close(found, [value for pair in after for value in pair])
                now.append(found[::2])
            hidden = [torch.cat([torch.from_numpy(h) for h in pair], 1) for pair in zip(*now, strict=True)]
            added = [x + b.projection(h) for x, b, h in zip(below, network.recurrent.values(), hidden, strict=True)]
            assert_close(encoder([image]), features)
            assert_close(decoder([*features, *hidden]), network._decode([features[0], *added], False))


def assert_close(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other.numpy(), atol=2e-5)


def test_a_class_of_the_users_has_no_graph():
    class Own(ConvLSTM3d):
        pass

    network = make_network(1, 2, (3, 4), lstm_channels=[0, 2])
    check_graphs(network, "a run")
    network.recurrent["1"].lstm = Own(4, 2)
    assert "Own (model.temporal)" in error_of(check_graphs, network, "a run")


RUNNER_ALONE = """
import contextlib, os
from pathlib import Path
from unet4d.inference.graph_runner.run import load_graph
del os.environ["ORT_DISABLE_TELEMETRY"]
with contextlib.suppress(Exception):
    load_graph(Path("missing.onnx"))
"""


@pytest.mark.parametrize("first", ["import unet4d", RUNNER_ALONE], ids=["package", "runner"])
def test_onnx_runtime_is_kept_from_reporting(first, tmp_path):
    """With its telemetry on, its import alone leaves an id of the machine in the user's cache."""
    code = f"{first}\nimport onnxruntime"
    own = {key: value for key, value in os.environ.items() if key not in ("CI", "ORT_DISABLE_TELEMETRY")}
    caches = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=own | caches)
    assert list(tmp_path.rglob(".onnxruntime")) == []
