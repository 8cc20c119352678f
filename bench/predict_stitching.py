"""Where logits are stitched: on the GPU, or in main memory, to which each window's logits are copied."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.measure import interleaved
from unet4d.inference.sliding_window import LogitRows, WindowPredictor
from unet4d.models.checkpoint import TrainedModel, load_model
from unet4d.models.device import resolve_precision

HERE, MAIN_MEMORY = "on the device", "in main memory"


def stitching_table(model: Path, image: Path, device: torch.device, budget_s: float) -> list[dict[str, Any]]:
    """A row a precision and place: seconds from normalised image to logits, and over those of bf16 stitched on the device."""
    loaded, read = load_model(model, device), torch.from_numpy(np.load(image))
    places = {HERE: device, MAIN_MEMORY: torch.device("cpu")}
    wanted = dict.fromkeys([resolve_precision("auto", device), "fp32"])
    runs = {
        (precision, name): answered(loaded, read, device, precision, place)
        for precision in wanted
        for name, place in places.items()
    }
    rounds = interleaved({f"{precision}, {name}": run for (precision, name), run in runs.items()}, budget_s=budget_s)
    first = next(iter(rounds))
    return [
        {
            "precision": precision,
            "stitched": name,
            "s": rounds.seconds(f"{precision}, {name}"),
            f"s / {first}": rounds.ratio(f"{precision}, {name}", first),
        }
        for precision, name in runs
    ]


def answered(
    model: TrainedModel, image: torch.Tensor, device: torch.device, precision: str, place: torch.device
) -> Callable[[], torch.Tensor]:
    """Gives the logits of an image, stitched at this place."""

    def run() -> torch.Tensor:
        answering = WindowPredictor.of(
            model.network, model.config.inference, cyclic=False, device=device, precision=precision
        )
        answering.stitch_on = place
        rows = LogitRows(answering, image, model.config.data.patch_size or (), model.config.inference.overlap)
        return rows.upto(image.shape[2])

    return run
