"""Recurrence, the ConvLSTM layer and the whole network: what they cost in time and memory, and whether that is good enough."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from bench.bars import bars
from bench.candidates import Grid, candidates
from bench.largest import largest_table
from bench.layer import Clip, layer_table
from bench.network import memory_table, network_table
from bench.plain import WIDTHS
from bench.recurrence import recurrence_table
from unet4d.config import CHANNELS
from unet4d.models.device import find_device, resolve_precision

Tables = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Sizes:
    """What is measured at what size.

    Attributes:
        channels: of our network's levels.
        widths: of the published network's levels.
        cine: grid of the clips that show what recurrence costs, and
        cine_frames: their frames.
        clips: what the layers are timed on.
        timed: frames and grid of those whose time is taken; the last one is as large as a patch should be.
        counted: grid of those whose memory is taken.
        grids: patches whose largest number of frames is wanted.
        memory_gb: GPUs that they shall fit.
        line: clips through which the line of memory over frames is drawn.
        most_counted: longest clip whose memory is counted.
        budget_s: seconds for each comparison of times.
    """

    channels: tuple[int, ...]
    widths: tuple[int, ...]
    cine: Grid
    cine_frames: int
    clips: tuple[Clip, ...]
    timed: tuple[tuple[int, Grid], ...]
    counted: Grid
    grids: tuple[Grid, ...]
    memory_gb: tuple[float, ...]
    line: tuple[int, int]
    most_counted: int
    budget_s: float


ON_CPU = Sizes(
    channels=CHANNELS,
    widths=WIDTHS,
    cine=Grid((64, 64, 8), (1.5, 1.5, 10.0)),
    cine_frames=6,
    clips=(
        (1, 8, 8, Grid((48, 48, 16))),
        (1, 30, 16, Grid((32, 32, 8))),
        (2, 8, 32, Grid((16, 16, 16))),
        (1, 8, 64, Grid((16, 16, 8))),
        (1, 8, 128, Grid((8, 8, 8))),
    ),
    timed=(*((frames, Grid((32, 32, 16))) for frames in (5, 10, 30)), (5, Grid((64, 64, 32)))),
    counted=Grid((96, 96, 96)),
    grids=(Grid((96, 96, 96)), Grid((256, 256, 12), (1.5, 1.5, 10.0))),
    memory_gb=(24, 40),
    line=(10, 30),
    most_counted=36,
    budget_s=25.0,
)
ON_GPU = replace(
    ON_CPU,
    cine=Grid((192, 192, 12), (1.5, 1.5, 10.0)),
    cine_frames=20,
    clips=(
        (1, 8, 8, Grid((96, 96, 96))),
        (1, 30, 16, Grid((64, 64, 48))),
        (2, 8, 32, Grid((48, 48, 48))),
        (1, 8, 64, Grid((24, 24, 24))),
        (1, 8, 128, Grid((12, 12, 12))),
    ),
    timed=tuple((frames, Grid((64, 64, 64))) for frames in (5, 10, 30)),
)


def run(sizes: Sizes | None = None) -> Tables:
    """All tables, by name; the last one says which of the bars set for them are met."""
    device = find_device()
    precision = resolve_precision("auto", device)
    sizes = sizes or (ON_GPU if device.type == "cuda" else ON_CPU)
    torch.manual_seed(0)
    compared = candidates(precision, sizes.channels, sizes.widths)
    timed = [c for c in compared if not c.last_block]
    tables: Tables = {
        "recurrence": recurrence_table(
            sizes.channels, sizes.cine, sizes.cine_frames, precision, device, sizes.budget_s
        ),
        "layer": layer_table(sizes.clips, precision, device, sizes.budget_s),
        "network": network_table(timed, sizes.timed, sizes.counted, device, sizes.budget_s),
        "memory": memory_table(compared, sizes.counted, sizes.line),
        "largest": largest_table(compared, sizes.grids, sizes.memory_gb, sizes.line, sizes.most_counted),
    }
    return tables | {"bars": bars(tables)}
