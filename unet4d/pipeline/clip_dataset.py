"""The dataset of training clips, in patches that favor foreground, and the loader that stacks them into batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from unet4d.config import ResolvedDataConfig
from unet4d.images.channels import SIGNAL
from unet4d.images.grid import IGNORE, is_thick
from unet4d.pipeline.augmentation.compose import augmentation_class
from unet4d.pipeline.augmentation.presets import TIME_PRESETS
from unet4d.pipeline.augmentation.spatial import crop_size
from unet4d.pipeline.cached_study import CachedStudy
from unet4d.pipeline.clip_frames import (
    ClipFrames,
    ClipPosition,
    TemporalWarp,
    clip_frames,
    clip_positions,
    even_runs,
    stratified_item,
)
from unet4d.pipeline.resources import one_torch_thread
from unet4d.system.signals import ignore_stop_signals

PREFETCH_BATCHES = 2
"""Batches that a worker prepares ahead."""


class Clip(NamedTuple):
    """One training sample: image (T, C, X, Y, Z), label (T, X, Y, Z), labelled and compared (T,), the case's name; see `Batch`.

    `weights` (T,) and `annotated` are of a label that is not whole.
    """

    image: Tensor
    label: Tensor
    labelled: Tensor
    case: str
    compared: Tensor
    weights: Tensor | None = None
    annotated: tuple[int, ...] | None = None


class Batch(NamedTuple):
    """The input of a training step.

    Attributes:
        image: (B, T, C, X, Y, Z) float32.
        label: (B, T, X, Y, Z) uint8 class indices, IGNORE in undrawn voxels; meaningless on frames that are not labelled.
        labelled: (B, T) bool, on the CPU: the frames with a label for the loss.
        cases: the B cases' names; may be empty.
        compared: (B, T) bool, on the CPU: evenly spaced neighbors, for the loss to compare their areas; None: none.
        weights: (B, T) float32, on the CPU: of the labelled frames in the loss; None: every label of the batch is whole.
        annotated: the foreground classes of each clip that were drawn, None for all; with `weights` alone.
    """

    image: Tensor
    label: Tensor
    labelled: Tensor
    cases: tuple[str, ...] = ()
    compared: Tensor | None = None
    weights: Tensor | None = None
    annotated: tuple[tuple[int, ...] | None, ...] = ()


def crop_padded(
    array: np.ndarray, frames: Sequence[int], start: Sequence[int], size: Sequence[int], outside: int = 0
) -> np.ndarray:
    """Return the frames, in this order, of the box of `size` from `start`, with zeros, or `outside`, outside the array.

    Args:
        array: (..., F, X, Y, Z); of a memory map only the box is read.
        frames: indices into F, any number of times each.
        start: first voxel (X, Y, Z).
        size: voxels (X, Y, Z).

    Returns:
        (..., len(frames), *size), a copy.
    """
    ends = [
        (min(max(s, 0), full), min(max(s + n, 0), full))
        for s, n, full in zip(start, size, array.shape[-3:], strict=True)
    ]
    x, y, z = (slice(low, high) for low, high in ends)
    to_x, to_y, to_z = (slice(low - s, high - s) for (low, high), s in zip(ends, start, strict=True))
    covered = all(high - low == n for (low, high), n in zip(ends, size, strict=True))
    out = (np.empty if covered or outside else np.zeros)((*array.shape[:-4], len(frames), *size), array.dtype)
    if outside and not covered:
        out.fill(outside)
    for row, frame in enumerate(frames):  # one copy; an index of all frames at once takes several times as long
        out[..., row, to_x, to_y, to_z] = array[..., frame, x, y, z]
    return out


class ClipDataset(Dataset[Clip]):
    """An endless, numbered series of clips: number `i` is the same clip in any process and order.

    Each round of as many clips as there are studies has every study once. In L rounds each of a study's L labelled frames is the
    anchor of a clip once, each time at another of its `clip_positions`, until it had them all. In L * T rounds every labelled frame
    is at each of T positions, in twice as many if clips also run backwards: a loop is seen in every cyclic shift. Each clip has
    new random timing, patch center and augmentation.

    Args:
        studies: preprocessed studies, each with at least one labelled frame.
        config: how patches and clips are sampled.
        cyclic: whether the last frame leads into the first.
        seed: the run's seed.
        channel_kinds: the kind of each of the C channels, see images/channels.py; empty: all are signal.
        compared_frames: neighboring frames of a clip that are flagged as compared; 0: none.
        labelled_only: leave out frames that are not labelled; a clip then has as many frames as are labelled, and compares none.
        regions: class indices of each region that is trained; a patch is then centered on a region in place of a class.
    """

    def __init__(
        self,
        studies: Sequence[CachedStudy],
        config: ResolvedDataConfig,
        cyclic: bool,
        seed: int,
        channel_kinds: Sequence[str] = (),
        compared_frames: int = 0,
        labelled_only: bool = False,
        regions: Sequence[Sequence[int]] = (),
    ):
        self.studies, self.config, self.cyclic, self.seed = list(studies), config, cyclic, seed
        self.labelled_only, self.regions = labelled_only, regions
        self.compared_frames = 0 if labelled_only else min(compared_frames, config.frames)
        kinds = channel_kinds or (SIGNAL,) * len(self.studies[0].image)
        self.frames, self.patch_size = config.frames, config.patch_size
        augment = augmentation_class(config)
        self._augmentations = {tilt: augment(config, self.patch_size, tilt, kinds, cyclic) for tilt in (False, True)}

    def __getitem__(self, number: int) -> Clip:
        """Return the clip of this number."""
        rng = np.random.default_rng([self.seed, 0, number])
        study, row, (position, reverse) = self._anchor(number)
        timing = TemporalWarp.sample(rng, self.config, self.frames, reverse)
        anchor, study_frames = study.labelled_frames[row], study.image.shape[1]
        shown = clip_frames(anchor, position, self.frames, study_frames, self.cyclic, timing)
        rows = {study.labelled_frames[i]: i for i in study.taught_rows}
        labelled = [t for t in np.flatnonzero(~shown.padding).tolist() if shown.frames[t] in rows]
        if self.labelled_only:
            shown, labelled = ClipFrames(*(part[labelled] for part in shown)), list(range(len(labelled)))
        frames = shown.frames
        augmentation = self._augmentations[_can_tilt(study)]
        center = self._patch_center(study, row, rng)
        params = augmentation.sample(rng, len(frames))
        size = crop_size(params.warp, self.patch_size)
        start = [c - n // 2 for c, n in zip(center, size, strict=True)]
        image = crop_padded(study.image, frames.tolist(), start, size)
        taught = [rows[frames[t]] for t in labelled]
        label = crop_padded(study.label, taught, start, size, IGNORE if study.scope.ignores else 0)
        with one_torch_thread():  # as in a worker: the last bit of a mean depends on the number of threads
            pixels, classes = augmentation.apply(torch.from_numpy(image), torch.from_numpy(label), params)
        if self._is_rolled(study) and (classes == IGNORE).all(1).all(1).any():
            by = int(rng.integers(self.patch_size[2]))
            pixels, classes = pixels.roll(by, -1), classes.roll(by, -1)
        classes_of_all = torch.zeros((len(frames), *self.patch_size), dtype=torch.uint8)
        classes_of_all[labelled] = classes
        mask = torch.zeros(len(frames), dtype=torch.bool)
        mask[labelled] = True
        compared = self._compared(shown, study_frames, rng)  # drawn last, so that the clip is the same without
        clip = Clip(pixels.movedim(0, 1).contiguous(), classes_of_all, mask, study.case, compared)
        if study.scope.is_whole:
            return clip
        weights = torch.zeros(len(frames))
        weights[labelled] = torch.tensor([study.scope.weights[row] if study.scope.weights else 1.0 for row in taught])
        return clip._replace(weights=weights, annotated=study.scope.annotated)

    def case(self, number: int) -> str:
        """Return the case of the clip of this number; nothing is read."""
        return self._anchor(number)[0].case

    def _anchor(self, number: int) -> tuple[CachedStudy, int, ClipPosition]:
        """Return a clip's study, the row of its anchor among the study's labelled frames, and the anchor's position."""
        round_, index = stratified_item(number, len(self.studies), [self.seed, 1])
        study = self.studies[index]
        turn, taught = stratified_item(round_, len(study.taught_rows), [self.seed, 2, index])
        row = study.taught_rows[taught]
        both_ways = TIME_PRESETS[self.config.time_augmentation].both_ways
        anchor, study_frames = study.labelled_frames[row], study.image.shape[1]
        positions = clip_positions(anchor, self.frames, study_frames, self.cyclic, both_ways)
        _, chosen = stratified_item(turn, len(positions), [self.seed, 3, index, row])
        return study, row, positions[chosen]

    def _is_rolled(self, study: CachedStudy) -> bool:
        """Return whether patches with undrawn slices are rolled along Z: what leaves them at one end enters at the other.

        A patch of a whole stack would have the same undrawn slices again and again. A network that convolves across slices tells
        them by their place, and predicts anything there, also in new studies. A rolled patch keeps every slice and tells no place.
        Few features cross thick slices, so that the seam of the patch costs less. Other patches are shifted in `_patch_center`.
        """
        return study.scope.ignores and 1 < study.image.shape[-1] <= self.patch_size[2] and is_thick(study.spacing)

    def _compared(self, shown: ClipFrames, study_frames: int, rng: np.random.Generator) -> Tensor:
        """Return a random run of evenly spaced frames of a clip as a mask (T,); empty where there is none, or none is asked for."""
        mask = torch.zeros(len(shown.frames), dtype=torch.bool)
        if self.compared_frames and (runs := even_runs(shown, self.compared_frames, study_frames)):
            first = rng.choice(runs)
            mask[first : first + self.compared_frames] = True
        return mask

    def _patch_center(self, study: CachedStudy, row: int, rng: np.random.Generator) -> list[int]:
        """Return a random patch center: a foreground voxel of a random class, or region, of this labelled frame, or any voxel.

        Either way the patch is moved until it lies inside the study, or the study inside the patch, as a window at inference does:
        near the end of a short stack it would lose slices to padding. Where it would see no drawn voxel, one is its center.

        In a partly drawn study it is shifted along Z, too, unless it is rolled; see `_is_rolled`.
        """
        ranges = [_center_range(full, n) for full, n in zip(study.image.shape[2:], self.patch_size, strict=True)]
        depth, shift = self.patch_size[2], 0
        if study.scope.ignores and study.image.shape[-1] > 1 and not self._is_rolled(study):
            most = max(1, depth // 4)
            shift = int(rng.integers(-most, most + 1))

        def moved_inside(voxel: Sequence[int]) -> list[int]:
            center = [min(max(v, span[0]), span[-1]) for v, span in zip(voxel, ranges, strict=True)]
            if 0 <= voxel[2] - (center[2] + shift - depth // 2) < depth:  # else it would not see the voxel
                center[2] += shift
            return center

        first, last = np.searchsorted(study.foreground[:, 0], [row, row + 1])
        inside = study.foreground[first:last]
        if rng.random() < self.config.foreground_fraction and len(inside):
            if self.regions:
                present = [mask for region in self.regions if (mask := np.isin(inside[:, 1], region)).any()]
                voxel = inside[rng.choice(np.flatnonzero(present[rng.integers(len(present))])), 2:].tolist()
            else:
                chosen = rng.choice(np.unique(inside[:, 1]))
                low, high = np.searchsorted(inside[:, 1], [chosen, chosen + 1])
                voxel = inside[rng.integers(low, high), 2:].tolist()
            return moved_inside(voxel)
        center = [int(rng.integers(span[0], span[-1] + 1)) for span in ranges]
        center[2] += shift
        if study.scope.ignores:
            start = [c - n // 2 for c, n in zip(center, self.patch_size, strict=True)]
            if (crop_padded(study.label, [row], start, self.patch_size, IGNORE) == IGNORE).all():
                drawn = np.argwhere(study.label[row] != IGNORE)
                voxel = drawn[rng.integers(len(drawn))].tolist() if len(drawn) else center
                return moved_inside(voxel)
        return center


def _can_tilt(study: CachedStudy) -> bool:
    """Return whether patches may be rotated out of the plane: neither across thick slices nor out of a single one."""
    return study.image.shape[-1] > 1 and not is_thick(study.spacing)


def _center_range(full: int, size: int) -> range:
    """Return the centers along one axis with which the patch lies inside the study, or the study inside the patch."""
    low, high = sorted((size // 2, full - (size - size // 2)))
    return range(low, high + 1)


def collate(clips: Sequence[Clip]) -> Batch:
    """Stack clips into a batch; a worker stacks them in shared memory, where the main process sees them.

    Shorter clips are filled up to the longest with frames of zeros, which are not labelled.
    """
    *parts_of_all, weights, annotated = zip(*clips, strict=True)
    images, labels, labelled, cases, compared = map(list, parts_of_all)
    longest = max(map(len, labelled))
    image, label, mask, neighbors = (
        default_collate([_filled(part, longest) for part in parts]) for parts in (images, labels, labelled, compared)
    )
    batch = Batch(image, label, mask, tuple(cases), neighbors)
    if all(row is None for row in weights):
        return batch
    rows = [flags.float() if row is None else row for flags, row in zip(labelled, weights, strict=True)]
    return batch._replace(weights=default_collate([_filled(row, longest) for row in rows]), annotated=annotated)


def _filled(clip: Tensor, frames: int) -> Tensor:
    """Return a tensor (T, ...) filled up with zeros to this many frames; itself if it has them."""
    missing = frames - len(clip)
    return torch.cat((clip, clip.new_zeros(missing, *clip.shape[1:]))) if missing else clip


def clip_loader(
    clips: ClipDataset,
    batches: Iterable[Sequence[int]],
    workers: int,
    pin: bool,
    patience_s: float = 0.0,
    start_method: str | None = None,
) -> DataLoader[Clip]:
    """Return the batches of clips, in this order, as one series over all epochs, so that workers never pause between them.

    Args:
        clips: the numbered clips.
        batches: the numbers of each batch's clips; consumed as they are needed.
        workers: processes; they leave the signals that ask a training to stop to the main process.
        pin: use memory that a GPU can copy from while it computes.
        patience_s: how long to wait for workers' next batch before RuntimeError is raised; 0 waits for ever.
        start_method: of multiprocessing, such as "forkserver"; None is the system's.
    """
    return DataLoader(
        clips,
        batch_sampler=batches,  # type: ignore[arg-type]
        collate_fn=collate,
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=PREFETCH_BATCHES if workers else None,
        timeout=patience_s if workers else 0,
        multiprocessing_context=start_method if workers else None,
        worker_init_fn=ignore_stop_signals,
        generator=torch.Generator(),  # leaves the global one alone
    )
