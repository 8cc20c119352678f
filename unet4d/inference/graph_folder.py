"""A folder of ONNX or OpenVINO graphs with model.json, the description of all around them, and run.py, which does it.

model.json      what is done before and after them, by the schema "graphs"; see `describe_model`
encoder.onnx    of each frame; decoder.onnx, too; cell_0.onnx, ... one time step of each ConvLSTM cell; see models/onnx_graph.py
run.py          runner.py of this package as it is
licence.txt     of the weights
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unet4d.errors import InputError
from unet4d.images.channels import SIGNAL
from unet4d.images.time_axis import time_axis
from unet4d.inference import runner
from unet4d.system.documents import write_document
from unet4d.system.extras import check_extra, import_extra
from unet4d.system.files import PathLike, check_writable, read_json, write_text

if TYPE_CHECKING:
    from unet4d.models.checkpoint import TrainedModel
    from unet4d.models.clstm_unet import CLSTMUNet

MODEL_FILE, RUNNER, LICENCE = "model.json", "run.py", "licence.txt"
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}
"""Suffixes of the graphs, by format."""


def check_graph_folder(out: PathLike, format: str) -> None:
    """Check that a folder of graphs can be written, without torch.

    Raises:
        InputError: `out` is a file, or a folder of something else; a package is missing.
        Unet4DError: nothing may be written there.
    """
    out = Path(out)
    check_extra("onnx", "onnx", f"--format {format}")
    if format == "openvino":
        check_extra("openvino", "openvino", f"--format {format}")
    if out.is_dir() and any(out.iterdir()) and not is_graph_folder(out):
        raise InputError(f"{out} is a folder of something else, expected a new one or an earlier export; give another")
    check_writable(out)


def is_graph_folder(path: PathLike) -> bool:
    """Return whether a folder is one of graphs that this version can run."""
    file = Path(path) / MODEL_FILE
    found = read_json(file) if file.is_file() else None
    return isinstance(found, dict) and found.get("schema") == runner.SCHEMA


def write_graph_folder(out: Path, model: TrainedModel, card: Mapping[str, Any], licence: str, format: str) -> None:
    """Write the folder of one network; an older one there is replaced.

    Raises:
        InputError: a class of the user's couples the network's frames.
        Unet4DError: nothing may be written there.
    """
    from unet4d.models.graph_network import openvino_core
    from unet4d.models.onnx_graph import cell_graph, check_graphs, decoder_graph, encoder_graph

    network, suffix = model.network, SUFFIXES[format]
    check_graphs(network, model.path)
    out.mkdir(parents=True, exist_ok=True)
    (out / MODEL_FILE).unlink(missing_ok=True)  # last, so that a folder with it is whole
    for old in (*out.glob("*.onnx"), *out.glob("*.xml"), *out.glob("*.bin")):
        old.unlink()
    graphs = {"encoder": encoder_graph(network), "decoder": decoder_graph(network)}
    graphs |= {f"cell_{index}": cell_graph(network, index) for index in range(network.num_cells)}
    for name, graph in graphs.items():
        content = graph.SerializeToString()
        if format == "onnx":
            (out / f"{name}{suffix}").write_bytes(content)
        else:
            openvino = import_extra("openvino", "openvino", "--format openvino")
            found = openvino_core().read_model(content)
            openvino.save_model(found, out / f"{name}{suffix}", compress_to_fp16=False)
    shutil.copyfile(runner.__file__, out / RUNNER)
    write_text(out / LICENCE, licence)
    files = {"encoder": f"encoder{suffix}", "decoder": f"decoder{suffix}"}
    cells = [f"cell_{index}{suffix}" for index in range(network.num_cells)]
    write_document(out / MODEL_FILE, "graphs", describe_model(model, card) | {"graphs": files | {"cells": cells}})


def describe_model(model: TrainedModel, card: Mapping[str, Any]) -> dict[str, Any]:
    """Return what surrounds the graphs, in plain values.

    Returns:
        `input`: channels, their kinds, and the multiples that X, Y and Z of a graph must be; `output`: names of the classes,
        background first, or of the regions, and the label value of each; `time` of a study that says nothing; `recurrence`: levels
        with cells, their hidden channels, directions; `preprocessing`: the working grid and the intensities; `window`: size,
        overlap, standard deviation of the Gaussian weights as a share of the size, mirroring, and the frames that prime a cyclic
        study (null: all); `postprocessing`: steps, which run.py does not do; `card`: the model card.
    """
    from unet4d.inference.windows import SIGMA_SCALE
    from unet4d.pipeline.normalization import CLIP_PERCENTILES, SAMPLE_VOXELS

    task, data, window = model.task, model.config.data, model.config.inference
    return {
        "input": {
            "channels": list(task.channel_names),
            "kinds": list(task.channel_kinds) or [SIGNAL] * len(task.channel_names),
            "multiples": list(model.network.total_stride),
        },
        "output": {
            "kind": "regions" if task.regions else "classes",
            "names": task.output_names,
            "values": list(task.output_values),
        },
        "time": time_axis(task.cyclic),
        "recurrence": _recurrence(model.network),
        "preprocessing": {
            "orientation": "slices last; plane axes towards right, anterior, superior; right-handed",
            "in_plane_spacing_mm": data.in_plane_spacing_mm,
            "slice_spacing_mm": data.slice_spacing_mm,
            "interpolation": data.interpolation,
            "normalization": data.normalization,
            "clip_percentiles": list(CLIP_PERCENTILES),
            "sample_voxels": SAMPLE_VOXELS,
        },
        "window": {
            "size": list(data.patch_size),
            "overlap": window.overlap,
            "sigma": SIGMA_SCALE,
            "mirror_axes": sorted(set(window.mirror_axes)),
            "priming_frames": window.priming_frames,
        },
        "postprocessing": card["postprocessing"],
        "card": dict(card),
    }


def _recurrence(network: CLSTMUNet) -> dict[str, Any]:
    """Return the levels with cells, their hidden channels and the number of directions."""
    from unet4d.models.onnx_graph import cells_of

    cells = cells_of(network, 0) if network.num_cells else {}
    channels = [cell.hidden_channels for cell in cells.values()]
    return {"levels": list(cells), "hidden_channels": channels, "directions": network.num_directions}
