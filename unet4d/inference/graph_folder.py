"""A folder of ONNX or OpenVINO graphs with model.json, the description of all around them, and run.py, which does it.

model.json      what is done before and after them, by the schema "graphs"; see `describe_model`
encoder.onnx    of each frame; decoder.onnx, too; cell_0.onnx, ... one time step of each ConvLSTM cell; see models/onnx_graph.py
run.py          graph_runner/ of this package, with the files that it needs beside it
licence.txt     of the weights
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unet4d.errors import InputError
from unet4d.images.channels import SIGNAL
from unet4d.images.time_axis import time_axis
from unet4d.inference.graph_runner import run
from unet4d.inference.postprocessing_steps import EVERY_CLASS
from unet4d.metrics.regions import label_values, painted_value
from unet4d.system.documents import write_document
from unet4d.system.extras import check_extra, import_extra
from unet4d.system.files import PathLike, check_writable, filling, is_unfinished, read_json, write_text

if TYPE_CHECKING:
    from unet4d.models.checkpoint import TrainedModel
    from unet4d.models.clstm_unet import CLSTMUNet
    from unet4d.models.task import Task

MODEL_FILE, LICENCE = "model.json", "licence.txt"
RUNNER = "run.py", "preprocessing.py", "postprocessing.py"
"""Files of graph_runner/."""
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
    if out.is_dir() and any(out.iterdir()) and not (is_graph_folder(out) or is_unfinished(out)):
        raise InputError(f"{out} is a folder of something else, expected a new one or an earlier export; give another")
    check_writable(out)


def is_graph_folder(path: PathLike) -> bool:
    """Return whether a folder is one of graphs that this version can run."""
    file = Path(path) / MODEL_FILE
    found = read_json(file) if file.is_file() else None
    return isinstance(found, dict) and found.get("schema") == run.SCHEMA


def write_graph_folder(out: Path, model: TrainedModel, card: Mapping[str, Any], licence: str, format: str) -> None:
    """Write the folder of one network; an older one there is replaced.

    Raises:
        InputError: a class of the user's couples the network's frames.
        Unet4DError: nothing may be written there.
    """
    from unet4d.models.graph_network import openvino_core
    from unet4d.models.onnx_graph import cell_graph, check_graphs, decoder_graph, encoder_graph

    check_graphs(model.network, model.path)
    graphs = {"encoder": encoder_graph(model.network), "decoder": decoder_graph(model.network)}
    cells = {f"cell_{index}": cell_graph(model.network, index) for index in range(model.network.num_cells)}
    files = {name: f"{name}{SUFFIXES[format]}" for name in (*graphs, *cells)}
    with filling(out):
        (out / MODEL_FILE).unlink(missing_ok=True)  # last, so that a folder with it is whole
        for old in (*out.glob("*.onnx"), *out.glob("*.xml"), *out.glob("*.bin")):
            old.unlink()
        for name, graph in (graphs | cells).items():
            content = graph.SerializeToString()
            if format == "onnx":
                (out / files[name]).write_bytes(content)
            else:
                openvino = import_extra("openvino", "openvino", "--format openvino")
                found = openvino_core().read_model(content)
                for n, node in enumerate(found.get_ordered_ops()):  # unnamed ones are counted over the whole process
                    if node.get_type_name() not in ("Parameter", "Result"):
                        node.set_friendly_name(f"{node.get_type_name()}_{n}")
                openvino.save_model(found, out / files[name], compress_to_fp16=False)
        for name in RUNNER:  # there they import one another by their own names
            text = Path(run.__file__).with_name(name).read_text("utf-8")
            write_text(out / name, text.replace(f"from {run.__package__}.", "from "))
        write_text(out / LICENCE, licence)
        written = {name: files[name] for name in graphs} | {"cells": [files[name] for name in cells]}
        write_document(out / MODEL_FILE, "graphs", describe_model(model, card) | {"graphs": written})


def describe_model(model: TrainedModel, card: Mapping[str, Any]) -> dict[str, Any]:
    """Return what surrounds the graphs, in plain values.

    Returns:
        `input`: channels, their kinds, and the multiples that X, Y and Z of a graph must be; `output`: names of the classes,
        background first, or of the regions, and the label value of each; `time` of a study that says nothing; `recurrence`: levels
        with cells, their hidden channels, directions; `preprocessing`: the working grid and the intensities; `window`: size,
        overlap, standard deviation of the Gaussian weights as a share of the size, mirroring, and the frames that prime a cyclic
        study (null: all); `postprocessing`: steps for the label map, with the label values that each is for; `card`: the model
        card.
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
            "temporal_smoothing": window.temporal_smoothing,
        },
        "postprocessing": [describe_step(step, task) for step in card["postprocessing"]],
        "card": dict(card),
    }


def describe_step(step: Mapping[str, str], task: Task) -> dict[str, Any]:
    """Return a step of the card with the label values of its class, and the one that its holes are filled with."""
    chosen = [*task.classes.values()] if step["class"] == EVERY_CLASS else [task.classes[step["class"]]]
    filled = {"fill": painted_value(chosen[0])} if step["operation"] == "fill_holes" else {}
    return {**step, "values": label_values(chosen), **filled}


def _recurrence(network: CLSTMUNet) -> dict[str, Any]:
    """Return the levels with cells, their hidden channels and the number of directions."""
    from unet4d.models.onnx_graph import cells_of

    cells = cells_of(network, 0) if network.num_cells else {}
    channels = [cell.hidden_channels for cell in cells.values()]
    return {"levels": list(cells), "hidden_channels": channels, "directions": network.num_directions}
