"""The loaders that are compared: ours, MONAI's CacheDataset in memory, and each file read whenever it is needed.

The others draw patches anywhere, which is less work than to favour foreground as ours does. They read with nibabel, and normalize
by mean and standard deviation alone: faster than LoadImage and than percentiles.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import monai
import nibabel as nib
import numpy as np
import torch
from monai.data import CacheDataset
from monai.data import Dataset as UncachedDataset
from monai.transforms import Compose, MapTransform, RandomizableTransform, RandSpatialCropd, Transform
from torch import Tensor
from torch.utils.data import RandomSampler

from bench.data_studies import SPACING_MM
from bench.resolved import resolve_for
from unet4d.config import Config, DataConfig, ResolvedDataConfig, Size
from unet4d.datasets.dataset import read_dataset
from unet4d.pipeline.cache import cached_studies
from unet4d.pipeline.clip_dataset import ClipDataset, clip_loader

OURS, MILD, STRONG = "unet4d", "unet4d, mild augmentation", "unet4d, strong augmentation, of time too"
CACHE, TUNED, READING = "CacheDataset", "CacheDataset, no copies, no metadata", "reading the .nii.gz"
ENDLESS = 10**6

Loaders = dict[str, Callable[[int], Iterator[Tensor]]]
"""By name: from the number of workers to an endless series of batches of images, (B, ...)."""


@dataclass(frozen=True)
class Clips:
    """The clips to load.

    Attributes:
        folder: the dataset.
        cache: the folder of our preprocessed studies.
        patch: voxels (X, Y, Z).
        frames: of a clip.
        batch_size: clips of a batch.
    """

    folder: Path
    cache: Path
    patch: Size
    frames: int
    batch_size: int


def our_config(clips: Clips, workers: int = 0, **augmentation: Any) -> ResolvedDataConfig:
    """Return settings of our loader, augmentation off unless it is given."""
    data: dict[str, Any] = {
        "patch_size": clips.patch,
        "frames": clips.frames,
        "num_workers": workers,
        "augmentation": "off",
    }
    return resolve_for(Config(DataConfig(**data | augmentation)), clips.patch, SPACING_MM).data


def ours(clips: Clips) -> Loaders:
    """Return our loader without augmentation, mild as by default, and strong."""
    dataset, plain = read_dataset(clips.folder), our_config(clips)
    studies = cached_studies(dataset.training, dataset, plain, plain.in_plane_spacing_mm, clips.cache)
    configs = {
        OURS: plain,
        MILD: our_config(clips, augmentation="mild"),
        STRONG: our_config(clips, augmentation="strong", time_augmentation="strong"),
    }

    def images(config: ResolvedDataConfig, workers: int) -> Iterator[Tensor]:
        samples = ClipDataset(studies, config, dataset.cyclic, 0)
        numbers = [range(i * clips.batch_size, (i + 1) * clips.batch_size) for i in range(ENDLESS)]
        return (batch.image for batch in clip_loader(samples, numbers, workers, pin=False))

    return {name: lambda workers, config=config: images(config, workers) for name, config in configs.items()}


def in_memory(clips: Clips) -> Loaders:
    """Return CacheDataset of whole studies, with its defaults and as fast as it can be made."""
    whole = CacheDataset(_files(clips), _transforms(clips), num_workers=2, progress=False)

    def images(copies: bool, workers: int) -> Iterator[Tensor]:
        monai.data.set_track_meta(copies)  # workers are forked, and see it
        whole.copy_cache = copies
        return _batches(whole, clips, workers)

    return {CACHE: lambda workers: images(True, workers), TUNED: lambda workers: images(False, workers)}


def from_files(clips: Clips) -> Loaders:
    """Return a loader that reads a study for each patch."""
    return {READING: lambda workers: _batches(UncachedDataset(_files(clips), _transforms(clips)), clips, workers)}


def _files(clips: Clips) -> list[dict[str, str]]:
    cases = read_dataset(clips.folder).training
    return [{"image": str(case.images[0]), "label": str(case.label)} for case in cases]


def _transforms(clips: Clips) -> Compose:
    keys = ("image", "label")
    crop = RandSpatialCropd(keys, clips.patch, random_center=True, random_size=False)
    return Compose([ReadStudyd(keys), crop, RandFramesd(keys, clips.frames)])


def _batches(dataset: Any, clips: Clips, workers: int) -> Iterator[Tensor]:
    """Yield random batches in one series: by epochs the workers would be started anew for every few batches."""
    sampler = RandomSampler(dataset, replacement=True, num_samples=ENDLESS)
    batches = monai.data.DataLoader(dataset, batch_size=clips.batch_size, sampler=sampler, num_workers=workers)
    return (batch["image"] for batch in batches)


class ReadStudyd(MapTransform, Transform):
    """A transform from files to (T, X, Y, Z): the image float32 with mean 0 and standard deviation 1, the label uint8."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Read "image" and "label"."""
        read = dict(data)
        for key in self.key_iterator(read):
            voxels = np.moveaxis(np.asarray(nib.load(read[key]).dataobj), -1, 0)
            if key == "image":
                voxels = voxels.astype(np.float32)
                voxels -= voxels.mean()
                voxels /= voxels.std()
            read[key] = torch.from_numpy(np.ascontiguousarray(voxels))
        return read


class RandFramesd(RandomizableTransform, MapTransform):
    """A transform to a number of frames of a loop (T, X, Y, Z) from a random one on."""

    def __init__(self, keys: tuple[str, ...], frames: int):
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, 1.0)
        self.frames = frames

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Take the same frames of image and label."""
        taken = dict(data)
        count = len(taken["image"])
        frames = torch.arange(self.frames).add(self.R.randint(count)).remainder(count)
        for key in self.key_iterator(taken):
            taken[key] = taken[key][frames]
        return taken


LOADERS = {ours: (OURS, MILD, STRONG), in_memory: (CACHE, TUNED), from_files: (READING,)}
"""The functions that make loaders, and the loaders' names."""


@dataclass(frozen=True)
class Loading:
    """The work of a process that loads clips: makes the loaders once, then times them when it is called."""

    make: Callable[[Clips], Loaders]
    clips: Clips

    def load(self) -> Callable[[str, int, float], float]:
        """Return a function from a loader, a number of workers and seconds to the seconds per clip."""
        loaders = self.make(self.clips)
        return lambda name, workers, seconds: seconds_per_clip(loaders[name](workers), max(1, workers), seconds)


def seconds_per_clip(batches: Any, workers: int, seconds: float) -> float:
    """Return the seconds per clip, measured over `seconds` or a little more.

    The clock starts with the first batch of the last worker, when all work and no batch is ready, and stops after as many batches
    of each.
    """
    batches = iter(batches)
    for _ in range(workers):
        next(batches)
    clips, began = 0, time.perf_counter()
    while True:
        clips += sum(len(next(batches)) for _ in range(workers))
        taken = time.perf_counter() - began
        if taken >= seconds:
            return taken / clips
