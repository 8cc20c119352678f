"""What our loader is held against: MONAI's CacheDataset in memory, and each file read whenever it is needed.

They draw patches anywhere, which is less work than to favour foreground as ours does. They read with nibabel, and normalise by mean
and standard deviation alone: faster than LoadImage and than percentiles.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
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

from bench.data_loaders import ENDLESS, Drawn, Feeds
from unet4d.datasets.dataset import read_dataset

CACHE, TUNED, READING = "CacheDataset", "CacheDataset, no copies, no metadata", "reading the .nii.gz"


def in_memory(drawn: Drawn) -> Feeds:
    """CacheDataset of whole studies, as it comes and as fast as it can be made."""
    whole = CacheDataset(_files(drawn), _transforms(drawn), num_workers=2, progress=False)

    def feed(copies: bool, workers: int) -> Iterator[Tensor]:
        monai.data.set_track_meta(copies)  # workers are forked, and see it
        whole.copy_cache = copies
        return _batches(whole, drawn, workers)

    return {CACHE: lambda workers: feed(True, workers), TUNED: lambda workers: feed(False, workers)}


def from_files(drawn: Drawn) -> Feeds:
    """Each study read anew for each patch."""
    return {READING: lambda workers: _batches(UncachedDataset(_files(drawn), _transforms(drawn)), drawn, workers)}


def _files(drawn: Drawn) -> list[dict[str, str]]:
    """Paths of image and label, study by study."""
    cases = read_dataset(drawn.folder).training
    return [{"image": str(case.images[0]), "label": str(case.label)} for case in cases]


def _transforms(drawn: Drawn) -> Compose:
    keys = ("image", "label")
    crop = RandSpatialCropd(keys, drawn.patch, random_center=True, random_size=False)
    return Compose([Readd(keys), crop, RandFramesd(keys, drawn.frames)])


def _batches(dataset: Any, drawn: Drawn, workers: int) -> Iterator[Tensor]:
    """Batches in one stream, drawn with replacement: by epochs the workers would be started anew for every few batches."""
    drawing = RandomSampler(dataset, replacement=True, num_samples=ENDLESS)
    batches = monai.data.DataLoader(dataset, batch_size=drawn.batch_size, sampler=drawing, num_workers=workers)
    return (batch["image"] for batch in batches)


class Readd(MapTransform, Transform):
    """Files to (T, X, Y, Z): the image float32 with mean 0 and standard deviation 1, the label uint8."""

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
    """So many frames of a loop (T, X, Y, Z) from a random one on."""

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
