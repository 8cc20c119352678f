"""The cost of a prediction from file to file by torch, ONNX Runtime and OpenVINO on the CPU, and how their results differ."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from bench.backend_profile import profile_rows
from bench.bars import bar
from bench.child import Child
from bench.data_studies import SPACING_MM, write_studies
from bench.measure import Rounds, interleaved, spread
from bench.predict_runs import Cost, Ours, write_image, write_model
from unet4d.config import CHANNELS, Config, DataConfig, InferenceConfig, ModelConfig, Precision, Size
from unet4d.inference.options import InferenceOptions
from unet4d.inference.window_predictor import WindowPredictor
from unet4d.models.checkpoint import load_model
from unet4d.models.graph_network import use_backend

Row = dict[str, Any]
CLASSES = 4
MODEL = "model.pt"
TORCH = "torch, fp32"
CANDIDATES: dict[str, tuple[str, Precision]] = {
    TORCH: ("torch", "fp32"),
    "onnxruntime, fp32": ("onnxruntime", "fp32"),
    "openvino, fp32": ("openvino", "fp32"),
    "torch, bf16": ("torch", "bf16"),
    "openvino, bf16": ("openvino", "bf16"),
}
LEAST_SPEED, MOST_DIFFERENCE = 1.3, 1e-4


@dataclass(frozen=True)
class Study:
    """A study, and the network that predicts it.

    Attributes:
        name: of the table.
        channels: of the network.
        shape: voxels (X, Y, Z) of the study.
        frames: T.
        patch: voxels (X, Y, Z) of a window.
        overlap: of windows.
        rounds: at most; no more are begun after `budget_s` seconds and the first `fewest`.
    """

    name: str
    channels: Sequence[int]
    shape: Size
    frames: int
    patch: Size
    overlap: float = 0.25
    rounds: int = 5
    fewest: int = 3
    budget_s: float = 300.0


SMALL = Study("a small network", (8, 16, 32, 64), (256, 256, 12), 30, (144, 144, 12))
"""The cine study of `bench predict`."""
DEFAULT = Study("the default network", CHANNELS, (192, 192, 12), 8, (112, 112, 12))


def run(studies: Sequence[Study] = (SMALL, DEFAULT), start: str = "spawn") -> dict[str, list[Row]]:
    """Return a table for each study by name, the bars last.

    Args:
        studies: what is predicted.
        start: how processes are started; "spawn", so that none holds memory of another.
    """
    tables = {}
    for study in studies:
        with tempfile.TemporaryDirectory(prefix="unet4d-bench-") as folder:
            tables[study.name] = backend_table(Path(folder), study, start)
            tables[f"{study.name}, by parts"] = profile_rows(load_model(Path(folder, MODEL)).network, study.patch)
    return tables | {"bars": backend_bars([row for rows in tables.values() for row in rows if "prediction" in row])}


def backend_table(folder: Path, study: Study, start: str) -> list[Row]:
    """Predict a study by each backend and precision, in turns; return a row for each."""
    context, data, model = multiprocessing.get_context(start), folder / "cine", folder / MODEL
    data.mkdir()
    write_studies(data, 1, study.frames, study.shape, 1, context)
    image, spacing = data / "study000.nii.gz", (1.5, 1.5, SPACING_MM[2])
    config = Config(
        DataConfig(in_plane_spacing_mm=spacing[0], patch_size=study.patch),
        ModelConfig(list(study.channels)),
        inference=InferenceConfig(study.overlap),
    )
    write_model(model, config, CLASSES, spacing)
    runs = {
        name: Ours(model, image, folder / name, InferenceOptions("cyclic", precision=precision), backend=backend)
        for name, (backend, precision) in CANDIDATES.items()
    }
    with ExitStack() as alive:
        children = {name: alive.enter_context(Child(one, context)) for name, one in runs.items()}
        rounds = interleaved(children, study.rounds, study.budget_s, study.fewest)
        costs = {name: children[name].answers[1:] for name in rounds}
    write_image(model, image, folder / "image.npy")
    labels = {name: read_label(folder / name / "study000.nii.gz") for name in rounds}
    return table_rows(rounds, costs, labels, logits_of_a_window(model, folder / "image.npy"))


def table_rows(
    rounds: Rounds, costs: Mapping[str, Sequence[Cost]], labels: Mapping[str, np.ndarray], logits: Mapping[str, Tensor]
) -> list[Row]:
    """Return a row per candidate: seconds, times as fast as torch in float32, the network's share, memory, differences."""
    rows = []
    for name in rounds:
        speeds = [base / mine for base, mine in zip(rounds[TORCH], rounds[name], strict=True)]
        shares = [cost.network_s / s for cost, s in zip(costs[name], rounds[name], strict=True) if cost.network_s]
        rows.append(
            {
                "prediction": name,
                "s": rounds.seconds(name),
                "times as fast": spread(speeds),
                "network's share": spread(shares) if shares else None,
                "peak MB": costs[name][-1].peak_mb,
                "logits: largest difference": f"{(logits[name] - logits[TORCH]).abs().max().item():.1e}",
                "voxels of another class": f"{(labels[name] != labels[TORCH]).mean():.1e}",
                "Dice with torch": mean_dice(labels[name], labels[TORCH]),
            }
        )
    return rows


def logits_of_a_window(model: Path, image: Path) -> dict[str, Tensor]:
    """Return the logits (1, T, K, X, Y, Z) of the first window of an image by each candidate."""
    loaded, found = load_model(model), {}
    size = loaded.config.data.patch_size
    clip = torch.from_numpy(np.load(image))[:, :, : size[0], : size[1], : size[2]].movedim(1, 0)[None]
    for name, (backend, precision) in CANDIDATES.items():
        network = use_backend(loaded, backend, precision).network
        predictor = WindowPredictor(
            network, torch.device("cpu"), size, loaded.config.inference, precision, loaded.task.cyclic
        )
        logits = predictor.logits(clip)
        assert logits is not None
        found[name] = logits
    return found


def read_label(path: Path) -> np.ndarray:
    """Read a label map."""
    return np.asarray(nib.load(path).dataobj)


def mean_dice(one: np.ndarray, other: np.ndarray) -> float | None:
    """Return the mean Dice of the foreground classes that either of two label maps has; None where neither has any."""
    masks = [(one == k, other == k) for k in range(1, CLASSES)]
    found = [2 * np.sum(a & b) / (a.sum() + b.sum()) for a, b in masks if a.any() or b.any()]
    return float(np.mean(found)) if found else None


def backend_bars(rows: Sequence[Row]) -> list[Row]:
    """Return the bars of the fastest backend in float32, and of the differences of ONNX Runtime's logits."""

    def values(name: str, key: str) -> list[float | None]:
        return [float(getattr(row[key], "median", row[key])) for row in rows if row["prediction"] == name]

    speeds, differences = values("openvino, fp32", "times as fast"), "logits: largest difference"
    return [
        bar("OpenVINO: times as fast as torch, float32", ">=", LEAST_SPEED, speeds),
        bar(
            "ONNX Runtime: largest difference of logits",
            "<=",
            MOST_DIFFERENCE,
            values("onnxruntime, fp32", differences),
        ),
    ]
