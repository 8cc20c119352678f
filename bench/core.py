"""The cost of recurrence and of the whole network, in time and memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from bench.bars import core_bars
from bench.networks import Grid, candidates, memory_table, time_table
from bench.plain import WIDTHS
from bench.recurrence import recurrence_table
from unet4d.config import CHANNELS
from unet4d.models.device import find_device, resolve_precision

Tables = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Sizes:
    """Networks, clips and time.

    Attributes:
        channels: of our network's levels.
        widths: of the published network's levels.
        cine: grid of the clips that show the cost of recurrence.
        cine_frames: frames of those clips.
        timed: frames and grid of clips; the last one is as large as a patch should be.
        counted: grids of the clips for the counted memory.
        line: frames of the two clips that the line of memory goes through.
        budget_s: seconds for each comparison of times.
    """

    channels: tuple[int, ...]
    widths: tuple[int, ...]
    cine: Grid
    cine_frames: int
    timed: tuple[tuple[int, Grid], ...]
    counted: tuple[Grid, ...]
    line: tuple[int, int]
    budget_s: float


ON_CPU = Sizes(
    channels=CHANNELS,
    widths=WIDTHS,
    cine=Grid((64, 64, 8), (1.5, 1.5, 10.0)),
    cine_frames=6,
    timed=(*((frames, Grid((32, 32, 16))) for frames in (5, 10, 30)), (5, Grid((64, 64, 32)))),
    counted=(Grid((96, 96, 96)), Grid((256, 256, 12), (1.5, 1.5, 10.0))),
    line=(10, 30),
    budget_s=25.0,
)
ON_GPU = replace(
    ON_CPU,
    cine=Grid((192, 192, 12), (1.5, 1.5, 10.0)),
    cine_frames=20,
    timed=tuple((frames, Grid((64, 64, 64))) for frames in (5, 10, 30)),
)


def run(sizes: Sizes | None = None) -> Tables:
    """Return all tables by name, the bars last."""
    device = find_device()
    precision = resolve_precision("auto", device)
    sizes = sizes or (ON_GPU if device.type == "cuda" else ON_CPU)
    torch.manual_seed(0)
    compared, budget_s = candidates(precision, sizes.channels, sizes.widths), sizes.budget_s
    cine = recurrence_table(sizes.channels, sizes.cine, sizes.cine_frames, precision, device, budget_s)
    tables: Tables = {
        "recurrence": cine,
        "time": time_table(compared, sizes.timed, device, budget_s),
        "memory": memory_table(compared, sizes.counted, sizes.line),
    }
    return tables | {"bars": core_bars(tables)}
