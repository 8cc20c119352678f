"""The cost of a prediction from file to file, over MONAI's sliding window and the frame-wise baseline, and its memory."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.bars import bar
from bench.child import Child
from bench.data_studies import write_studies
from bench.measure import Rounds, interleaved, spread
from bench.predict_runs import Cost, Monai, Ours, train_model, write_image, write_model, write_series
from unet4d.config import CHANNELS, Config, DataConfig, InferenceConfig, ModelConfig, Size
from unet4d.inference.options import InferenceOptions
from unet4d.models.device import find_device, resolve_precision

Row = dict[str, Any]
OURS, CYCLIC, FRAMEWISE, MONAI = "ours", "ours, cyclic", "frame-wise baseline", "MONAI"
CLASSES = 4
MOST_RECURRENCE, MOST_CYCLIC, MOST_OTHER, MOST_GROWTH = 1.25, 1.35, 0.15, 1.05


@dataclass(frozen=True)
class MemorySizes:
    """Studies that differ in one thing.

    Attributes:
        shape: voxels (X, Y, Z) of the study that is predicted with several overlaps.
        overlaps: of windows, the fewest windows first.
        lengths: voxels along X of studies that grow within one memory limit.
        frames: T.
        patch: voxels (X, Y, Z) of a window.
        channels: of the network.
        room_bytes: usable memory beside what the process holds before, for studies that grow.
    """

    shape: Size = (96, 96, 24)
    overlaps: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75)
    lengths: tuple[int, ...] = (192, 384, 768)
    frames: int = 16
    patch: Size = (32, 32, 24)
    channels: tuple[int, ...] = (4, 8)
    room_bytes: float = 1.5e8


@dataclass(frozen=True)
class Sizes:
    """A study and a network.

    Attributes:
        shape: voxels (X, Y, Z) of a cine study.
        frames: T.
        plane_spacing_mm: of the network's grid; the study's own is finer, so that it is resampled there and back.
        patch: voxels (X, Y, Z) of a window.
        overlap: of windows.
        channels: of the network.
        steps: of training before the prediction.
        rounds: at most; no more are begun after `budget_s` seconds and the first `fewest`.
        memory: studies for the table of memory.
    """

    shape: Size
    frames: int
    plane_spacing_mm: float
    patch: Size
    overlap: float
    channels: Sequence[int]
    steps: int = 200
    rounds: int = 5
    fewest: int = 3
    budget_s: float = 300.0
    memory: MemorySizes = field(default_factory=MemorySizes)


ON_CPU = Sizes((256, 256, 12), 30, 1.5, (144, 144, 12), 0.25, (8, 16, 32, 64))
"""A short-axis stack, four windows, and a network small enough that a pass takes tens of seconds on two cores."""
ON_GPU = replace(ON_CPU, patch=(128, 128, 12), overlap=0.5, channels=CHANNELS)
"""The default network and overlap, nine windows."""


def run(sizes: Sizes | None = None, start: str = "spawn") -> dict[str, list[Row]]:
    """Return all tables by name, the bars last.

    Args:
        sizes: None: as the device allows.
        start: how processes are started; "spawn", so that none holds memory of another.
    """
    sizes = sizes or (ON_GPU if find_device().type == "cuda" else ON_CPU)
    with tempfile.TemporaryDirectory(prefix="unet4d-bench-") as folder:
        predictions = write_cine(Path(folder), sizes, start)
        rounds, costs = compare(predictions, sizes, start)
        cine = cine_table(rounds, costs, predictions)
        memory = memory_table(Path(folder), sizes.memory, start)
    return {"cine": cine, "memory": memory, "bars": [*cine_bars(cine), *memory_bars(memory)]}


def write_cine(folder: Path, sizes: Sizes, start: str) -> dict[str, Ours | Monai]:
    """Write study, models and normalized image; return what is compared, by name, in float32 and in the default precision."""
    data = folder / "cine"
    data.mkdir()
    write_studies(data, 1, sizes.frames, sizes.shape, 1, multiprocessing.get_context(start))
    study, ours, framewise = data / "study000.nii.gz", folder / "ours.pt", folder / "framewise.pt"
    for model, lstm_channels in ((ours, None), (framewise, 0)):
        config = Config(
            DataConfig(in_plane_spacing_mm=sizes.plane_spacing_mm, patch_size=sizes.patch),
            ModelConfig(list(sizes.channels), lstm_channels),
            inference=InferenceConfig(sizes.overlap),
        )
        train_model(model, config, data, sizes.steps)
    write_image(ours, study, folder / "image.npy")
    default = resolve_precision("auto", find_device())

    def from_file(model: Path, time: Any, precision: Any) -> Ours:
        return Ours(
            model, study, folder / f"{model.stem}-{time}-{precision}", InferenceOptions(time, precision=precision)
        )

    found: dict[str, Ours | Monai] = {MONAI: Monai(ours, folder / "image.npy", False, "fp32")}
    if default != "fp32":
        found[f"{OURS}, fp32"] = from_file(ours, "open", "fp32")
    found[OURS] = from_file(ours, "open", default)
    found[CYCLIC] = from_file(ours, "cyclic", default)
    found[FRAMEWISE] = from_file(framewise, "open", default)
    return found


def compare(predictions: Mapping[str, Ours | Monai], sizes: Sizes, start: str) -> tuple[Rounds, dict[str, list[Cost]]]:
    """Run each prediction in a process of its own, in turns; return the seconds, and the costs after the warm-up."""
    context = multiprocessing.get_context(start)
    with ExitStack() as alive:
        children = {name: alive.enter_context(Child(one, context)) for name, one in predictions.items()}
        rounds = interleaved(children, sizes.rounds, sizes.budget_s, sizes.fewest)
        return rounds, {name: children[name].answers[1:] for name in rounds}


def cine_table(
    rounds: Rounds, costs: Mapping[str, Sequence[Cost]], predictions: Mapping[str, Ours | Monai]
) -> list[Row]:
    """Return a row per prediction: seconds, over MONAI's and the frame-wise baseline's, the network's share, memory."""
    rows = []
    for name in rounds:
        last = costs[name][-1]
        shares = [c.network_s / s for c, s in zip(costs[name], rounds[name], strict=True) if c.network_s is not None]
        rows.append(
            {
                "prediction": name,
                "precision": predictions[name].precision,
                "s": rounds.seconds(name),
                "s / MONAI's": rounds.ratio(name, MONAI),
                "s / frame-wise": rounds.ratio(name, FRAMEWISE) if name in (OURS, CYCLIC, FRAMEWISE) else None,
                "network's share": spread(shares) if shares else None,
                "idle MB": last.idle_mb,
                "peak MB": last.peak_mb,
                "GPU MB": last.gpu_mb,
            }
        )
    return rows


def memory_table(folder: Path, sizes: MemorySizes, start: str) -> list[Row]:
    """Return a row per study and overlap, each predicted in a process of its own."""
    model, study, context = folder / "memory.pt", folder / "memory.nii", multiprocessing.get_context(start)
    config = Config(
        DataConfig(patch_size=sizes.patch),
        ModelConfig(list(sizes.channels), direction="forward"),
        inference=InferenceConfig(sizes.overlaps[0], chunk_frames=2),
    )
    write_model(model, config, CLASSES, (1.0, 1.0, 1.0), cyclic=False)
    rows: list[Row] = []

    def add_row(shape: Size, settings: InferenceOptions, room: float | None) -> None:
        write_series(study, shape, sizes.frames, (1.0, 1.0, 1.0))
        with Child(Ours(model, study, folder / "memory", settings, room), context) as child:
            cost = child()
        fewest = rows[0]["own MB"] if rows else cost.own_mb
        rows.append(
            {
                "grid": " x ".join(map(str, shape)),
                "overlap": settings.overlap or 0.0,
                "windows": cost.windows,
                "asked MB": cost.asked_mb,
                "own MB": cost.own_mb,
                "own / fewest windows'": cost.own_mb / fewest if room is None and fewest else None,
                "peak / asked": cost.peak_mb / cost.asked_mb if cost.asked_mb and cost.peak_mb else None,
                "GPU MB": cost.gpu_mb,
            }
        )

    for overlap in sizes.overlaps:
        add_row(sizes.shape, InferenceOptions(overlap=overlap), None)
    for x in sizes.lengths:
        add_row((x, *sizes.shape[1:]), InferenceOptions(scratch_dir=folder), sizes.room_bytes)
    return rows


def cine_bars(rows: Sequence[Row]) -> list[Row]:
    """Return the bars of recurrence's cost, and of all that is not the network."""
    medians = {
        row["prediction"]: {key: getattr(row[key], "median", None) for key in ("s / frame-wise", "network's share")}
        for row in rows
    }
    ours, cyclic = medians[OURS], medians[CYCLIC]
    other = None if ours["network's share"] is None else 1 - ours["network's share"]
    return [
        bar("recurrence: a prediction over the frame-wise baseline's", "<=", MOST_RECURRENCE, [ours["s / frame-wise"]]),
        bar("the same, of a cyclic study, which is primed", "<=", MOST_CYCLIC, [cyclic["s / frame-wise"]]),
        bar("share of the time that is not the network's", "<=", MOST_OTHER, [other]),
    ]


def memory_bars(rows: Sequence[Row]) -> list[Row]:
    """Return the bars of the growth of memory with the number of windows and with the size of a study."""
    free = [row["own / fewest windows'"] for row in rows if row["asked MB"] is None]
    limited = [row["peak / asked"] for row in rows if row["asked MB"] is not None]
    return [
        bar("memory beside the idle process over that with the fewest windows", "<=", MOST_GROWTH, free),
        bar("studies that grow: peak over the memory asked for", "<=", 1, limited),
    ]
