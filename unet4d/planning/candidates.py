"""What a training step could see of the studies, and what each choice would take of a GPU."""

from __future__ import annotations

import dataclasses
import itertools
import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from statistics import median

from unet4d.config import (
    CHANNELS,
    Config,
    ModelConfig,
    Precision,
    RecomputeConfig,
    ResolvedConfig,
    ResolvedModelConfig,
    Size,
    triple,
)
from unet4d.models.topology import resolve_model
from unet4d.pipeline.fingerprint import Fingerprint
from unet4d.system.progress_bar import ProgressBar
from unet4d.system.signals import check_stop
from unet4d.training.resolve import resolve
from unet4d.training.step_memory import StepCost, StepFit, count_step_cost, recompute_schedules

SHARES = (1, 0.75, 0.5, 0.375, 0.25)
"""A patch has this share of the whole study's edges."""
SMALLEST_PATCH_EDGE = 32
"""No edge of a patch is cut below this many voxels, so a stack of so many slices stays whole."""
FEWEST_CLIP_FRAMES = 8
"""No clip is cut below this many frames."""
BATCHES = ((2, 1), (1, 2))
"""Clips of a batch, and batches that one optimizer step accumulates."""
LARGER_BATCH_SIZES = (8, 4)
"""Clips of a batch where a step sees all of a study and they cost nothing more..."""
BATCH_SHARE = 0.05
"""... and are no more than this share of the training studies, as in nnU-Net (Isensee et al. 2021)."""
OUTLIER = 1.5
"""A study is taken for an outlier along an axis, or in time, where it is larger than this many times the median one..."""
OUTLIERS = 0.1
"""... and no more than this share of the studies are."""
UNSURE = 0.5
"""Scaling takes all that is fixed to be there at the peak; it may be wrong by this share of that."""


def usual_largest(sizes: Sequence[int]) -> int:
    """The largest of these sizes that is no outlier."""
    usual = [n for n in sizes if n <= OUTLIER * median(sizes)]
    return max(usual if len(usual) >= (1 - OUTLIERS) * len(sizes) else sizes)


def whole_study(seen: Fingerprint) -> Size:
    """Voxels (X, Y, Z) that hold every study but outliers."""
    return triple(usual_largest(sizes) for sizes in zip(*seen.shapes, strict=True))


def list_candidates(config: Config, seen: Fingerprint, studies: int = 0) -> list[ResolvedConfig]:
    """Return every choice of patch, frames, batch and levels that keeps what the configuration sets; what sees most comes first.

    What a choice sees are the voxels of a clip, patch times frames; of two that see as much, the larger batch comes first.

    Args:
        config: what it sets is kept.
        seen: the studies.
        studies: how many are trained on; a large batch is a choice only where there are many.
    """
    whole, longest = whole_study(seen), usual_largest(seen.frame_counts)
    given = config.data.patch_size
    patches = [given] if given else [_shrunk(whole, share) for share in SHARES]
    lengths = [min(config.data.frames, seen.frames)] if config.data.frames else _halved(longest)
    precision: Precision = "bf16" if config.train.precision == "auto" else config.train.precision
    found: list[ResolvedConfig] = []
    for patch, frames in itertools.product(patches, lengths):
        is_whole = (patch, frames) == (patches[0], lengths[0])
        model = planned_model(config.model, seen.spacing, patch)
        data = dataclasses.replace(config.data, patch_size=patch, frames=frames)
        for batch, accumulate in _batches(config, studies if is_whole else 0):
            steps = dataclasses.replace(config.train, batch_size=batch, accumulate_batches=accumulate)
            one = resolve(dataclasses.replace(config, data=data, model=model, train=steps), seen, precision)
            if one not in found:
                found.append(one)
    return sorted(found, key=lambda one: (-clip_voxels(one), -one.train.batch_size))


def group_by_view(options: Sequence[ResolvedConfig]) -> list[list[ResolvedConfig]]:
    """Group neighboring choices that see the same patch and frames and differ in their batch alone."""
    views = itertools.groupby(options, key=lambda one: (one.data.patch_size, one.data.frames))
    return [list(view) for _, view in views]


def _batches(config: Config, studies: int) -> list[tuple[int, int]]:
    """Return the clips of a batch and the batches of a step to choose from, the largest batch first."""
    given = config.train
    if given.batch_size:
        return [(given.batch_size, given.accumulate_batches)]
    if given.accumulate_batches > 1:
        return [(batch, given.accumulate_batches) for batch, _ in BATCHES]
    return [*((batch, 1) for batch in LARGER_BATCH_SIZES if batch <= BATCH_SHARE * studies), *BATCHES]


def clip_voxels(config: ResolvedConfig) -> int:
    """Voxels of one clip, in all frames."""
    return math.prod(config.data.patch_size) * config.data.frames


def planned_model(model: ModelConfig, spacing: Sequence[float], patch: Size) -> ResolvedModelConfig:
    """As `resolve_model`; of channels left at their default, levels that would pool nothing are cut off."""
    filled = resolve_model(model, spacing, patch)
    if model.strides or model.kernel_size or model.channels != list(CHANNELS) or isinstance(model.lstm_channels, list):
        return filled
    while len(filled.channels) > 2 and filled.strides[-1] == (1, 1, 1):
        model = dataclasses.replace(model, channels=model.channels[:-1])
        filled = resolve_model(model, spacing, patch)
    return filled


def _shrunk(whole: Size, share: float) -> Size:
    return triple(max(min(n, SMALLEST_PATCH_EDGE), math.ceil(share * n)) for n in whole)


def _halved(frames: int) -> list[int]:
    """So many frames, and half as many again and again, down to the fewest."""
    lengths = [frames]
    while lengths[-1] > FEWEST_CLIP_FRAMES:
        lengths.append(max(FEWEST_CLIP_FRAMES, -(-lengths[-1] // 2)))
    return lengths


class StepMemoryEstimator:
    """What training steps take, against a budget. Running one on tensors without content takes seconds, so few are run.

    What a step takes is that of its weights, which is fixed, and that of its activations, which rises with voxels and batch. So one
    count of a network, a number of frames and a way to cut them serves every patch and batch that does not come near the budget.

    Args:
        in_channels: channels C of a frame.
        out_channels: classes K.
        labelled: the most frames of a clip of so many that are labelled.
        budget_bytes: what there is.
    """

    def __init__(self, in_channels: int, out_channels: int, labelled: Callable[[int], int], budget_bytes: int):
        self.in_channels, self.out_channels, self.labelled = in_channels, out_channels, labelled
        self.budget_bytes = budget_bytes
        self.bar = ProgressBar(desc="counting what steps take", unit="step", leave=False)
        self._exact: dict[str, StepCost] = {}
        self._counted: dict[str, tuple[int, StepCost]] = {}

    def fits(self, fit: StepFit) -> bool:
        """Return whether the step fits the budget."""
        return fit.fits(self.budget_bytes)

    def fastest(self, config: ResolvedConfig) -> StepFit | None:
        """Return the fastest schedule of this configuration's step that fits; None if there is none."""
        schedules = self._schedules(config)
        middle = len(schedules) // 2
        if self.fits(self.fit(config, schedules[middle])):
            # Each of the fast schedules needs less than the one before.
            first = bisect_left(schedules[:middle], True, key=lambda schedule: self.fits(self.fit(config, schedule)))
            return self.fit(config, schedules[first])
        if not self.fits(self.leanest(config)):
            return None
        tried = (self.fit(config, schedule) for schedule in schedules[middle + 1 :])
        return next((fit for fit in tried if self.fits(fit)), None)

    def leanest(self, config: ResolvedConfig) -> StepFit:
        """Return the schedule of this configuration's step that needs least memory."""
        return self.fit(config, self._schedules(config)[-1])

    def _schedules(self, config: ResolvedConfig) -> list[RecomputeConfig]:
        """Return the schedules that keep what the configuration sets; where it sets the width of chunks, that one alone."""
        schedules = recompute_schedules(config.recompute, config.data.frames)
        return schedules if config.recompute.chunk_frames is None else schedules[:1]

    def fit(self, config: ResolvedConfig, memory: RecomputeConfig) -> StepFit:
        """What a step takes that is cut so: scaled from a like one's count where that will do."""
        key, accumulate = self._key(config, memory), config.train.accumulate_batches
        if self._name(config, memory) in self._exact:
            return self.exact(config, memory)
        if key not in self._counted:
            alone = dataclasses.replace(config, train=dataclasses.replace(config.train, accumulate_batches=1))
            exact = self.exact(alone, memory)
            if accumulate == 1:
                return exact
        size, step = self._counted[key]
        share = _size(config) / size
        # All that is fixed is weights, their gradients, two moments and an average; of several batches the gradients are held.
        gradients = step.fixed_bytes // (5 if config.train.ema_decay else 4) if accumulate > 1 else 0
        peak, working = (
            step.fixed_bytes + gradients + math.ceil(share * (n - step.fixed_bytes))
            for n in (step.peak_bytes, step.working_bytes)
        )
        elements = math.ceil(share * step.largest_elements)
        flops = round(share * accumulate * step.flops)
        scaled = dataclasses.replace(
            step, peak_bytes=peak, working_bytes=working, flops=flops, largest_elements=elements
        )
        fit = StepFit(memory, scaled)
        unsure = round(UNSURE * abs(1 - share) * step.fixed_bytes + gradients)
        is_close = fit.fits(self.budget_bytes - unsure) != fit.fits(self.budget_bytes + unsure)
        # The largest tensor does not scale where frames are decoded in groups.
        is_close |= not fit.is_indexable and fit.planned_bytes <= self.budget_bytes
        return self.exact(config, memory) if is_close else fit

    def exact(self, config: ResolvedConfig, memory: RecomputeConfig) -> StepFit:
        """What a step takes that is cut so: counted."""
        name = self._name(config, memory)
        if name not in self._exact:
            check_stop()
            cut = dataclasses.replace(config, recompute=memory)
            labelled = self.labelled(config.data.frames)
            step = count_step_cost(cut, self.in_channels, self.out_channels, labelled)
            self._exact[name] = step
            if config.train.accumulate_batches == 1:
                self._counted.setdefault(self._key(config, memory), (_size(config), step))
            self.bar.update()
        return StepFit(memory, self._exact[name])

    def _key(self, config: ResolvedConfig, memory: RecomputeConfig) -> str:
        return f"{config.model} {config.data.frames} {memory}"

    def _name(self, config: ResolvedConfig, memory: RecomputeConfig) -> str:
        return f"{self._key(config, memory)} {config.data.patch_size} {config.train.batch_size} {config.train.accumulate_batches}"


def _size(config: ResolvedConfig) -> int:
    """Voxels of a batch."""
    return clip_voxels(config) * config.train.batch_size
