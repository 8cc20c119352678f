"""What is drawn from which studies, and our loader that draws it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from bench.data_studies import SPACING_MM
from bench.resolved import resolve_for
from unet4d.config import Config, DataConfig, ResolvedDataConfig, Size
from unet4d.datasets.dataset import read_dataset
from unet4d.pipeline.cache import cached_studies
from unet4d.pipeline.clip_dataset import ClipDataset, clip_loader

OURS, MILD, STRONG = "unet4d", "unet4d, mild augmentation", "unet4d, strong augmentation, of time too"
ENDLESS = 10**6

Feeds = dict[str, Callable[[int], Iterator[Tensor]]]
"""By name: given the number of workers, the images of one batch after another, (B, ...), without end."""


@dataclass(frozen=True)
class Drawn:
    """What is drawn from which studies.

    Attributes:
        folder: the dataset.
        cache: where our preprocessed studies lie.
        patch: voxels (X, Y, Z).
        frames: of a clip.
        batch_size: clips.
    """

    folder: Path
    cache: Path
    patch: Size
    frames: int
    batch_size: int


def our_config(drawn: Drawn, workers: int = 0, **augmentation: Any) -> ResolvedDataConfig:
    """Return settings of our loader, augmentation off unless it is given."""
    data: dict[str, Any] = {
        "patch_size": drawn.patch,
        "frames": drawn.frames,
        "num_workers": workers,
        "augmentation": "off",
    }
    return resolve_for(Config(DataConfig(**data | augmentation)), drawn.patch, SPACING_MM).data


def ours(drawn: Drawn) -> Feeds:
    """Our cache and loader: without augmentation, mild as by default, and strong."""
    dataset, plain = read_dataset(drawn.folder), our_config(drawn)
    studies = cached_studies(dataset.training, dataset, plain, plain.in_plane_spacing_mm, drawn.cache)
    strengths = {
        OURS: plain,
        MILD: our_config(drawn, augmentation="mild"),
        STRONG: our_config(drawn, augmentation="strong", time_augmentation="strong"),
    }

    def feed(config: ResolvedDataConfig, workers: int) -> Iterator[Tensor]:
        clips = ClipDataset(studies, config, drawn.patch, dataset.cyclic, 0)
        numbers = [range(i * drawn.batch_size, (i + 1) * drawn.batch_size) for i in range(ENDLESS)]
        return (batch.image for batch in clip_loader(clips, numbers, workers, pin=False))

    return {name: lambda workers, config=config: feed(config, workers) for name, config in strengths.items()}
