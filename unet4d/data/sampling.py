"""From preprocessed studies to batches: patches in space that favour foreground, clips in time that hold a labelled frame."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from unet4d.config import FRAMES, DataConfig
from unet4d.data.cache import CachedStudy
from unet4d.data.grid import is_thick
from unet4d.data.transforms import augmentation, crop_size


class Clip(NamedTuple):
    """One training sample; see `Batch`."""

    image: Tensor
    label: Tensor
    labelled: Tensor
    case: str


class Batch(NamedTuple):
    """What the network and the loss get.

    Attributes:
        image: (B, T, C, X, Y, Z) float32.
        label: (B, T, X, Y, Z) uint8 class indices; zero, and meaningless, on frames that are not labelled.
        labelled: (B, T) bool, the frames the loss looks at.
        cases: the B cases' names.
    """

    image: Tensor
    label: Tensor
    labelled: Tensor
    cases: tuple[str, ...]


def clip_frames(anchor: int, position: int, frames: int, study_frames: int, cyclic: bool) -> np.ndarray:
    """The study's frames that a clip of `frames` holds, so that frame `anchor` stands at `position`.

        cyclic, 6 frames, anchor 5 at position 1 of 4:   4 [5] 0  1
        open,   6 frames, anchor 5 at position 1 of 4:   2  3  4 [5]     (moved back until it fits)
        cyclic, 2 frames, anchor 1 at position 1 of 4:   0 [1] 0  1
        open,   2 frames, anchor 1 at position 0 of 4:   0 [1] 1  1      (moved back, and held at its ends)

    A study shorter than the clip comes whole.

    Returns:
        (frames,) ints.
    """
    start = anchor - position
    if cyclic:
        return np.arange(start, start + frames) % study_frames
    earliest, latest = sorted((0, study_frames - frames))
    start = min(max(start, earliest), latest)
    return np.clip(np.arange(start, start + frames), 0, study_frames - 1)


def most_labelled(frames: int, study_frames: int, labelled_frames: int) -> int:
    """The most frames of a clip that can be labelled; a study shorter than the clip may show the same one several times."""
    return frames if study_frames < frames else min(frames, labelled_frames)


def crop_padded(array: np.ndarray, frames: Sequence[int], start: Sequence[int], size: Sequence[int]) -> np.ndarray:
    """The frames, in this order, of the box of `size` from `start`, which may lie outside; zeros there.

    Args:
        array: (..., F, X, Y, Z); of a memory map only the box is read.
        frames: indices into F, any number of times each.
        start: first voxel (X, Y, Z).
        size: voxels (X, Y, Z).

    Returns:
        (..., len(frames), *size), a copy.
    """
    x, y, z = (slice(max(s, 0), max(s + n, 0)) for s, n in zip(start, size, strict=True))
    box = array[..., x, y, z][..., list(frames), :, :, :]
    before = [min(max(-s, 0), n) for s, n in zip(start, size, strict=True)]
    pads = [(b, n - b - have) for b, n, have in zip(before, size, box.shape[-3:], strict=True)]
    return np.pad(np.asarray(box), [(0, 0)] * (array.ndim - 3) + pads)


class ClipDataset(Dataset):
    """An endless, numbered supply of clips: number `i` is the same clip whoever asks, in whatever process and order.

    Every study comes once in each round of as many clips as there are studies. Within a study the labelled frame, its place in the
    clip, the patch's centre and the augmentation are drawn anew.

    Args:
        studies: preprocessed studies, each with at least one labelled frame.
        config: how patches and clips are drawn.
        patch_size: voxels (X, Y, Z).
        cyclic: whether the last frame leads into the first.
        seed: the run's seed.
    """

    def __init__(
        self, studies: Sequence[CachedStudy], config: DataConfig, patch_size: Sequence[int], cyclic: bool, seed: int
    ):
        self.studies, self.config, self.cyclic, self.seed = list(studies), config, cyclic, seed
        self.patch_size, self.frames = tuple(patch_size), config.frames or FRAMES
        self.crop_sizes = {tilt: crop_size(config, self.patch_size, tilt) for tilt in (False, True)}
        self.augmentations = {tilt: augmentation(config, self.patch_size, tilt) for tilt in (False, True)}

    def __getitem__(self, number: int) -> Clip:
        """The clip of this number: image (T, C, X, Y, Z), label (T, X, Y, Z), labelled (T,)."""
        rng = np.random.default_rng([self.seed, number, 0])
        study = self.studies[self._study_of(number)]
        row = int(rng.integers(len(study.labelled_frames)))
        anchor, position = study.labelled_frames[row], int(rng.integers(self.frames))
        frames = clip_frames(anchor, position, self.frames, study.image.shape[1], self.cyclic)
        size = self.crop_sizes[_tilts(study)]
        start = [c - n // 2 for c, n in zip(self._centre(study, row, rng), size, strict=True)]
        image = crop_padded(study.image, frames.tolist(), start, size)
        rows = {frame: i for i, frame in enumerate(study.labelled_frames)}
        labelled = [t for t, frame in enumerate(frames.tolist()) if frame in rows]
        label = crop_padded(study.label, [rows[int(frames[t])] for t in labelled], start, size)
        return self._varied(study, image, label, labelled, int(rng.integers(2**32)))

    def _study_of(self, number: int) -> int:
        round_, place = divmod(number, len(self.studies))
        return int(np.random.default_rng([self.seed, round_, 1]).permutation(len(self.studies))[place])

    def _centre(self, study: CachedStudy, row: int, rng: np.random.Generator) -> list[int]:
        """The patch's centre: a foreground voxel, of a class drawn evenly among those in this labelled frame, or any.

        Either way the patch is moved until it lies inside the study, or the study inside the patch, as a window at inference does:
        centred near the end of a short stack it would lose slices to padding.
        """
        places = [_centres(full, n) for full, n in zip(study.image.shape[2:], self.patch_size, strict=True)]
        first, last = np.searchsorted(study.foreground[:, 0], [row, row + 1])
        inside = study.foreground[first:last]
        if rng.random() < self.config.foreground and len(inside):
            chosen = rng.choice(np.unique(inside[:, 1]))
            low, high = np.searchsorted(inside[:, 1], [chosen, chosen + 1])
            voxel = inside[rng.integers(low, high), 2:].tolist()
            return [min(max(v, place[0]), place[-1]) for v, place in zip(voxel, places, strict=True)]
        return [int(rng.integers(place[0], place[-1] + 1)) for place in places]

    def _varied(self, study: CachedStudy, image: np.ndarray, label: np.ndarray, labelled: list[int], seed: int) -> Clip:
        """Augment (C, T, X, Y, Z) and its labels (L, X, Y, Z), and lay them out as a clip."""
        channels, frames = image.shape[:2]
        augment = self.augmentations[_tilts(study)].set_random_state(seed)
        with _one_thread():
            varied = augment({"image": torch.from_numpy(image).flatten(0, 1), "label": torch.from_numpy(label)})
        pixels = _plain(varied["image"]).unflatten(0, (channels, frames)).movedim(0, 1).contiguous()
        drawn = torch.zeros((frames, *self.patch_size), dtype=torch.uint8)
        drawn[labelled] = _plain(varied["label"]).to(torch.uint8)
        mask = torch.zeros(frames, dtype=torch.bool)
        mask[labelled] = True
        return Clip(pixels, drawn, mask, study.case)


def _tilts(study: CachedStudy) -> bool:
    """Whether patches may be turned out of the plane: neither across thick slices nor out of a single one."""
    return study.image.shape[-1] > 1 and not is_thick(study.spacing)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One thread, as a worker has: the last bit of a mean depends on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _centres(full: int, size: int) -> range:
    """The centres along one axis with which the patch lies inside the study, or the study inside the patch."""
    low, high = sorted((size // 2, full - (size - size // 2)))
    return range(low, high + 1)


def _plain(tensor: Tensor) -> Tensor:
    """The tensor without MONAI's metadata, which would cost a tenth of every step."""
    return tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor


def collate(clips: Sequence[Clip]) -> Batch:
    """Stack clips into a batch."""
    images, labels, labelled, cases = zip(*clips, strict=True)
    return Batch(torch.stack(images), torch.stack(labels), torch.stack(labelled), tuple(cases))


class _Numbers(Sampler[int]):
    """The numbers from `start` to `stop`."""

    def __init__(self, start: int, stop: int):
        self.numbers = range(start, stop)

    def __iter__(self) -> Iterator[int]:
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)


def loader(clips: ClipDataset, batch_size: int, start_step: int, stop_step: int, workers: int, pin: bool) -> DataLoader:
    """Batches of the steps `start_step` to `stop_step`, one stream over all epochs so that workers never pause between them."""
    return DataLoader(
        clips,
        batch_size,
        sampler=_Numbers(start_step * batch_size, stop_step * batch_size),
        collate_fn=collate,
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=2 if workers else None,
    )
