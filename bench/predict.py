"""What a prediction costs from file to file: over MONAI's sliding window, over the frame-wise twin, part by part, in memory."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.bars import bar
from bench.data_studies import SPACING_MM, write_studies
from bench.measure import Rounds, interleaved, spread
from bench.predict_candidates import Monai, Ours, precisions, write_image, write_model
from bench.predict_child import Child, Done
from bench.predict_large import SMALL, Large, large_bars, small_rows
from bench.predict_memory import MemorySizes, memory_bars, memory_table
from bench.predict_stitching import stitching_table
from bench.predict_watch import ANSWERING, NETWORK
from unet4d.config import CHANNELS, Config, DataConfig, InferenceConfig, ModelConfig, Size
from unet4d.inference.settings import Settings
from unet4d.models.device import find_device

Row = dict[str, Any]
OURS, CYCLIC, TWIN, MONAI = "ours", "ours, cyclic", "frame-wise twin", "MONAI"
CLASSES = 4
MOST_RECURRENCE, MOST_AROUND = 1.25, 0.15


@dataclass(frozen=True)
class Sizes:
    """What is segmented, by what.

    Attributes:
        shape: voxels (X, Y, Z) of a cine study.
        frames: T.
        plane_spacing_mm: of the network's grid; the study's own is finer, so that it is resampled there and back.
        patch: voxels (X, Y, Z) of a window.
        overlap: of windows.
        channels: of the network.
        rounds: turns each has at most,
        budget_s: none begun after so many seconds, but for the first `fewest`.
        memory: studies whose memory is measured.
        small: a study that is cut.
    """

    shape: Size
    frames: int
    plane_spacing_mm: float
    patch: Size
    overlap: float
    channels: Sequence[int]
    rounds: int = 5
    fewest: int = 3
    budget_s: float = 300.0
    memory: MemorySizes = field(default_factory=MemorySizes)
    small: Large = SMALL


ON_CPU = Sizes((256, 256, 12), 30, 1.5, (144, 144, 12), 0.25, (8, 16, 32, 64))
"""A short-axis stack, four windows, and a network small enough that a pass takes tens of seconds on two cores."""
ON_GPU = replace(ON_CPU, patch=(128, 128, 12), overlap=0.5, channels=CHANNELS)
"""The default network and overlap, nine windows."""


def run(sizes: Sizes | None = None, start: str = "spawn") -> dict[str, list[Row]]:
    """All tables, by name; the last one says which of the bars set for them are met.

    Args:
        sizes: None: as the device allows.
        start: how processes are started; "spawn", so that none holds anything of another's.
    """
    device = find_device()
    sizes = sizes or (ON_GPU if device.type == "cuda" else ON_CPU)
    with tempfile.TemporaryDirectory(prefix="unet4d-bench-") as made:
        folder = Path(made)
        work = cine(folder, sizes, start)
        rounds, done = compared(work, sizes, start)
        tables = {"cine": cine_table(rounds, done, work), "parts": parts_table(done[OURS])}
        if device.type == "cuda":
            tables["stitching"] = stitching_table(folder / "ours.pt", folder / "image.npy", device, sizes.budget_s / 5)
        tables["memory"] = memory_table(folder, sizes.memory, start)
        tables["large"] = small_rows(folder, sizes.small, start)
    bars = [*cine_bars(tables["cine"], tables["parts"]), *memory_bars(tables["memory"]), *large_bars(tables["large"])]
    return tables | {"bars": bars}


def cine(folder: Path, sizes: Sizes, start: str) -> dict[str, Ours | Monai]:
    """Write study, models and normalised image; gives what is compared, by name, in float32 and in what is the default here."""
    data, spacing = folder / "cine", (sizes.plane_spacing_mm, sizes.plane_spacing_mm, SPACING_MM[2])
    data.mkdir()
    write_studies(data, 1, sizes.frames, sizes.shape, 1, multiprocessing.get_context(start))
    study, ours, twin, image = data / "study000.nii.gz", folder / "ours.pt", folder / "twin.pt", folder / "image.npy"
    for model, lstm_channels in ((ours, None), (twin, 0)):
        config = Config(
            DataConfig(in_plane_spacing_mm=sizes.plane_spacing_mm, patch_size=sizes.patch),
            ModelConfig(list(sizes.channels), lstm_channels),
            inference=InferenceConfig(sizes.overlap),
        )
        write_model(model, config, CLASSES, spacing)
    write_image(ours, study, image)
    fp32, *others = precisions()
    default = others[0] if others else fp32

    def from_file(model: Path, time: str, precision: Any) -> Ours:
        return Ours(model, study, folder / f"{model.stem}-{time}-{precision}", Settings(time, precision=precision))

    work: dict[str, Ours | Monai] = {MONAI: Monai(ours, image, False, fp32)}
    if default != fp32:
        work[in_fp32(OURS)] = from_file(ours, "open", fp32)
    work[OURS] = from_file(ours, "open", default)
    work[CYCLIC] = from_file(ours, "cyclic", default)
    work[TWIN] = from_file(twin, "open", default)
    return work


def in_fp32(name: str) -> str:
    """The name of what computes in float32 where that is not the default."""
    return f"{name}, fp32"


def compared(work: Mapping[str, Ours | Monai], sizes: Sizes, start: str) -> tuple[Rounds, dict[str, list[Done]]]:
    """Each in a process of its own, in turns; its seconds, and what it told of each turn after the first, which warms up."""
    context = multiprocessing.get_context(start)
    with ExitStack() as alive:
        children = {name: alive.enter_context(Child(one, context)) for name, one in work.items()}
        rounds = interleaved(children, sizes.rounds, sizes.budget_s, sizes.fewest)
        return rounds, {name: children[name].done[1:] for name in rounds}


def cine_table(rounds: Rounds, done: Mapping[str, Sequence[Done]], work: Mapping[str, Ours | Monai]) -> list[Row]:
    """A row each: seconds, all over MONAI's, those between normalised image and label map over MONAI's, over the twin's; memory."""
    rows = []
    for name in rounds:
        one, last = work[name], done[name][-1]
        answering = [sum(each.parts[part].seconds for part in ANSWERING) for each in done[name] if each.parts]
        pairs = zip(answering, rounds[MONAI], strict=False) if MONAI in rounds else ()
        ratios = [mine / theirs for mine, theirs in pairs]
        rows.append(
            {
                "prediction": name,
                "precision": one.precision if isinstance(one, Monai) else one.settings.precision,
                "s": rounds.seconds(name),
                "s / MONAI's": rounds.ratio(name, MONAI),
                "answering / MONAI's": spread(ratios) if ratios else None,
                "s / twin's": rounds.ratio(name, TWIN) if name in (OURS, CYCLIC, TWIN) else None,
                "idle MB": last.idle_mb,
                "peak MB": last.peak_mb,
                "GPU MB": last.gpu_mb or None,
            }
        )
    return rows


def parts_table(done: Sequence[Done]) -> list[Row]:
    """A row a part of our prediction: seconds, and its share of all, over the turns."""
    return [
        {
            "part": part,
            "calls": done[0].parts[part].calls,
            "s": spread([one.parts[part].seconds for one in done]).median,
            "share": spread([one.parts[part].seconds / one.seconds for one in done]),
        }
        for part in done[0].parts
    ]


def cine_bars(rows: Sequence[Row], parts: Sequence[Row]) -> list[Row]:
    """What recurrence may cost, and all that is not the network; on a GPU the latter is said, and no bar was set."""
    over = {row["prediction"]: row["s / twin's"] for row in rows}
    medians = {name: None if ratio is None else ratio.median for name, ratio in over.items()}
    around = [1 - row["share"].median for row in parts if row["part"] == NETWORK]
    return [
        bar("recurrence: a prediction over the frame-wise twin's", "<=", MOST_RECURRENCE, [medians.get(OURS)]),
        bar("the same, the loop run round once before it counts", "<=", MOST_RECURRENCE, [medians.get(CYCLIC)]),
        bar("share of the time that is not the network's", "<=", MOST_AROUND, around),
    ]
