"""From preprocessed studies to batches: patches in space that favour foreground, clips in time that hold a labelled frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from unet4d.config import DataConfig
from unet4d.data.cache import CachedStudy
from unet4d.data.transforms import augmentation, margin


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
        label: (B, T, X, Y, Z) int64 class indices; zero, and meaningless, on frames that are not labelled.
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
        open,   2 frames, anchor 1 at position 1 of 4:   0 [1] 1  1      (held at its ends)

    Returns:
        (frames,) ints.
    """
    if cyclic:
        return np.arange(anchor - position, anchor - position + frames) % study_frames
    start = anchor - position
    if study_frames >= frames:
        start = min(max(start, 0), study_frames - frames)
    return np.clip(np.arange(start, start + frames), 0, study_frames - 1)


def crop_padded(array: np.ndarray, start: Sequence[int], size: Sequence[int]) -> np.ndarray:
    """The box of `size` from `start` (which may lie outside) of the last three axes of `array`; zeros outside of it."""
    inside = [slice(max(s, 0), min(s + n, full)) for s, n, full in zip(start, size, array.shape[-3:], strict=True)]
    x, y, z = inside
    box = array[..., x, y, z]
    before = [max(-s, 0) for s in start]
    pads = [(b, n - b - have) for b, n, have in zip(before, size, box.shape[-3:], strict=True)]
    return np.pad(box, [(0, 0)] * (array.ndim - 3) + pads)


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
        self.patch_size = tuple(patch_size)
        self.crop_size = self._crop_size()
        self.augment = augmentation(config, patch_size, self.studies[0].spacing)

    def _crop_size(self) -> tuple[int, ...]:
        """The patch with a margin for rotation and zoom; none across thick slices, for there is no tilt."""
        wider = [round(n * margin(self.config.augmentation)) for n in self.patch_size]
        spacing = self.studies[0].spacing
        return tuple(n if s >= 2 * min(spacing) else w for n, w, s in zip(self.patch_size, wider, spacing, strict=True))

    def __getitem__(self, number: int) -> Clip:
        """The clip of this number: image (T, C, X, Y, Z), label (T, X, Y, Z), labelled (T,)."""
        rng = np.random.default_rng([self.seed, number])
        study = self.studies[self._study_of(number)]
        row = int(rng.integers(len(study.labelled_frames)))
        position = int(rng.integers(self.config.frames))
        frames = clip_frames(
            study.labelled_frames[row], position, self.config.frames, study.image.shape[1], self.cyclic
        )
        centre = self._centre(study, row, rng)
        start = [c - n // 2 for c, n in zip(centre, self.crop_size, strict=True)]
        image = crop_padded(
            study.image[:, frames] if _wraps(frames) else study.image[:, frames[0] : frames[-1] + 1],
            start,
            self.crop_size,
        )
        rows = {frame: i for i, frame in enumerate(study.labelled_frames)}
        labelled = [t for t, frame in enumerate(frames) if int(frame) in rows]
        label = crop_padded(study.label[[rows[int(frames[t])] for t in labelled]], start, self.crop_size)
        return self._varied(image, label, labelled, study.case, int(rng.integers(2**32)))

    def _study_of(self, number: int) -> int:
        round_, place = divmod(number, len(self.studies))
        return int(np.random.default_rng([self.seed, 1, round_]).permutation(len(self.studies))[place])

    def _centre(self, study: CachedStudy, row: int, rng: np.random.Generator) -> list[int]:
        """A foreground voxel of a class drawn evenly among those in this labelled frame, or a place where the patch lies inside."""
        first, last = np.searchsorted(study.foreground[:, 0], [row, row + 1])
        inside = study.foreground[first:last]
        if rng.random() < self.config.foreground and len(inside):
            chosen = rng.choice(np.unique(inside[:, 1]))
            low, high = np.searchsorted(inside[:, 1], [chosen, chosen + 1])
            return [int(v) for v in inside[rng.integers(low, high), 2:]]
        return [_anywhere(full, n, rng) for full, n in zip(study.image.shape[2:], self.patch_size, strict=True)]

    def _varied(self, image: np.ndarray, label: np.ndarray, labelled: list[int], case: str, seed: int) -> Clip:
        """Augment (C, T, X, Y, Z) and its labels (L, X, Y, Z), and lay them out as a clip."""
        channels, frames = image.shape[:2]
        folded = {"image": torch.from_numpy(image.reshape(-1, *image.shape[2:])), "label": torch.from_numpy(label)}
        self.augment.set_random_state(seed)
        varied = self.augment(folded)
        pixels = torch.as_tensor(varied["image"], dtype=torch.float32).unflatten(0, (channels, frames)).movedim(0, 1)
        drawn = torch.zeros((frames, *self.patch_size), dtype=torch.int64)
        drawn[labelled] = torch.as_tensor(varied["label"]).to(torch.int64)
        mask = torch.zeros(frames, dtype=torch.bool)
        mask[labelled] = True
        return Clip(_plain(pixels), drawn, mask, case)


def _wraps(frames: np.ndarray) -> bool:
    """Whether the frames are anything but one consecutive run, which a memory map reads without indexing."""
    return bool((np.diff(frames) != 1).any())


def _anywhere(full: int, size: int, rng: np.random.Generator) -> int:
    """A centre along one axis such that the patch lies inside the study, or the study inside the patch."""
    low, high = sorted((size // 2, full - (size - size // 2)))
    return int(rng.integers(low, high + 1))


def _plain(pixels: Tensor) -> Tensor:
    """A contiguous tensor without MONAI's metadata, which would cost a tenth of every step."""
    return (pixels.as_tensor() if hasattr(pixels, "as_tensor") else pixels).contiguous()


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
        prefetch_factor=4 if workers else None,
    )
