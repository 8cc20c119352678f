"""Candidates of a plan: every clip, batch and network that could train on the studies, and the memory that each needs."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
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
from unet4d.models.clstm_unet import can_be_chunked
from unet4d.models.topology import resolve_model
from unet4d.pipeline.fingerprint import Fingerprint
from unet4d.system.progress_bar import ProgressBar
from unet4d.system.signals import check_stop
from unet4d.training.resolve import resolve
from unet4d.training.step_memory import PlannedStep, StepCost, count_step_cost, recompute_schedules

PATCH_FRACTIONS = (1, 0.75, 0.5, 0.375, 0.25)
"""Edges of a patch, as fractions of the edges of the whole study."""
SMALLEST_PATCH_EDGE = 32
"""Voxels below which no edge of a patch is reduced, so a stack of fewer slices stays whole."""
FEWEST_CLIP_FRAMES = 8
"""Frames below which no clip is shortened."""
BATCHES = ((2, 1), (1, 2))
"""Clips of a batch, and batches that one optimizer step accumulates."""
LARGER_BATCH_SIZES = (8, 4)
"""Clips of a batch where a step sees all of a study, at no more work per clip..."""
BATCH_FRACTION = 0.05
"""... and where they are at most this fraction of the training studies, as in nnU-Net (Isensee et al. 2021)."""
OUTLIER = 1.5
"""A study is an outlier along an axis, or in time, where it is larger than this many times the median study..."""
OUTLIERS = 0.1
"""... and at most this fraction of the studies are."""
UNCERTAINTY = 0.5
"""Scaling assumes that all fixed memory is in use at the peak, and may be wrong by this fraction of it."""


def usual_largest(sizes: Sequence[int]) -> int:
    """Return the largest size that is no outlier."""
    usual = [n for n in sizes if n <= OUTLIER * median(sizes)]
    return max(usual if len(usual) >= (1 - OUTLIERS) * len(sizes) else sizes)


def whole_study(seen: Fingerprint) -> Size:
    """Return the voxels (X, Y, Z) that hold every study but outliers."""
    return triple(usual_largest(sizes) for sizes in zip(*seen.shapes, strict=True))


def list_candidates(config: Config, seen: Fingerprint, studies: int = 0) -> list[ResolvedConfig]:
    """Return all choices of patch, frames, batch and levels that keep what the configuration sets, the largest clips first.

    Of two with as many voxels in a clip, patch times frames, the larger batch comes first. A large batch is a
    candidate only where there are many training `studies`.
    """
    whole, given = whole_study(seen), config.data
    patches = [given.patch_size] if given.patch_size else [_shrink(whole, fraction) for fraction in PATCH_FRACTIONS]
    lengths = [min(given.frames, seen.frames)] if given.frames else _halve(usual_largest(seen.frame_counts))
    precision: Precision = "bf16" if config.train.precision == "auto" else config.train.precision
    found: list[ResolvedConfig] = []
    for patch, frames in itertools.product(patches, lengths):
        is_whole = (patch, frames) == (patches[0], lengths[0])
        model = planned_model(config.model, seen.spacing, patch)
        data = replace(given, patch_size=patch, frames=frames)
        for batch, accumulate in _batches(config, studies if is_whole else 0):
            train = replace(config.train, batch_size=batch, accumulate_batches=accumulate)
            candidate = resolve(replace(config, data=data, model=model, train=train), seen, precision)
            if candidate not in found:
                found.append(candidate)
    return sorted(found, key=lambda candidate: (-clip_voxels(candidate), -candidate.train.batch_size))


def group_by_view(candidates: Sequence[ResolvedConfig]) -> list[list[ResolvedConfig]]:
    """Group neighboring candidates with the same patch and frames, which differ in their batch alone."""
    views = itertools.groupby(candidates, key=lambda candidate: (candidate.data.patch_size, candidate.data.frames))
    return [list(view) for _, view in views]


def clip_voxels(config: ResolvedConfig) -> int:
    """Return the voxels of one clip, in all frames."""
    return math.prod(config.data.patch_size) * config.data.frames


def planned_model(model: ModelConfig, spacing: Sequence[float], patch: Size) -> ResolvedModelConfig:
    """Return the resolved network; of default channels, levels that would pool nothing are removed."""
    resolved = resolve_model(model, spacing, patch)
    if model.strides or model.kernel_size or resolved.channels != list(CHANNELS):
        return resolved
    fewest = max(2, len(model.lstm_channels) if isinstance(model.lstm_channels, list) else 0)
    while len(resolved.channels) > fewest and resolved.strides[-1] == (1, 1, 1):
        model = replace(model, channels=resolved.channels[:-1])
        resolved = resolve_model(model, spacing, patch)
    return resolved


def _batches(config: Config, studies: int) -> list[tuple[int, int]]:
    """Return possible clips per batch and batches per step, the largest batch first."""
    given = config.train
    if given.batch_size:
        return [(given.batch_size, given.accumulate_batches)]
    if given.accumulate_batches > 1:
        return [(batch, given.accumulate_batches) for batch, _ in BATCHES]
    return [*((batch, 1) for batch in LARGER_BATCH_SIZES if batch <= BATCH_FRACTION * studies), *BATCHES]


def _shrink(whole: Size, fraction: float) -> Size:
    return triple(max(min(n, SMALLEST_PATCH_EDGE), math.ceil(fraction * n)) for n in whole)


def _halve(frames: int) -> list[int]:
    """Return this number of frames, and halves of it down to the fewest."""
    lengths = [frames]
    while lengths[-1] > FEWEST_CLIP_FRAMES:
        lengths.append(max(FEWEST_CLIP_FRAMES, -(-lengths[-1] // 2)))
    return lengths


class StepMemoryEstimator:
    """Estimates of what training steps cost, against a budget. Counting one takes seconds, so few are counted.

    The cost of a step has a fixed part, of its weights, and one of its activations, which grows with voxels and batch. So one count
    of a network, a number of frames and a schedule serves every patch and batch that does not come near the budget.

    Args:
        in_channels: channels C of a frame.
        out_channels: classes K, or regions.
        labelled: from a number of frames to the most of them that are labelled in a clip.
        budget_bytes: memory for a training step.
        is_whole: whether every label is whole, see `count_step_cost`.
        regions: as in `TrainingStep`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        labelled: Callable[[int], int],
        budget_bytes: int,
        is_whole: bool = True,
        regions: Sequence[Sequence[int]] = (),
    ):
        self.in_channels, self.out_channels, self.labelled = in_channels, out_channels, labelled
        self.budget_bytes, self.is_whole, self.regions = budget_bytes, is_whole, regions
        self.bar = ProgressBar(desc="counting what steps need", unit="step", leave=False)
        self._counted: dict[str, StepCost] = {}
        self._like: dict[str, tuple[int, StepCost]] = {}

    def fits(self, step: PlannedStep) -> bool:
        """Return whether the step fits the budget."""
        return step.fits(self.budget_bytes)

    def fastest(self, config: ResolvedConfig) -> PlannedStep | None:
        """Return the fastest schedule of this configuration's step that fits; None if there is none."""
        schedules = self._schedules(config)
        middle = len(schedules) // 2
        if self.fits(self.estimate(config, schedules[middle])):
            # Each of the fast schedules needs less than the one before.
            first = bisect_left(schedules[:middle], True, key=lambda fast: self.fits(self.estimate(config, fast)))
            return self.estimate(config, schedules[first])
        if not self.fits(self.leanest(config)):
            return None
        tried = (self.estimate(config, schedule) for schedule in schedules[middle + 1 :])
        return next((step for step in tried if self.fits(step)), None)

    def leanest(self, config: ResolvedConfig) -> PlannedStep:
        """Return the schedule of this configuration's step that needs least memory."""
        return self.estimate(config, self._schedules(config)[-1])

    def estimate(self, config: ResolvedConfig, recompute: RecomputeConfig) -> PlannedStep:
        """Return the cost of a step with this schedule, scaled from the count of a similar one where that is safe."""
        key, accumulate = self._key(config, recompute), config.train.accumulate_batches
        if self._name(config, recompute) in self._counted:
            return self.count(config, recompute)
        if key not in self._like:
            single = replace(config, train=replace(config.train, accumulate_batches=1))
            counted = self.count(single, recompute)
            if accumulate == 1:
                return counted
        voxels, cost = self._like[key]
        ratio = _batch_voxels(config) / voxels
        # Fixed are weights, gradients, two moments and an average; between several batches the gradients are held.
        gradients = cost.fixed_bytes // (5 if config.train.ema_decay else 4) if accumulate > 1 else 0
        peak, working = (
            cost.fixed_bytes + gradients + math.ceil(ratio * (n - cost.fixed_bytes))
            for n in (cost.peak_bytes, cost.working_bytes)
        )
        elements, flops = math.ceil(ratio * cost.largest_elements), round(ratio * accumulate * cost.flops)
        step = PlannedStep(recompute, StepCost(peak, working, cost.fixed_bytes, flops, elements))
        uncertain = round(UNCERTAINTY * abs(1 - ratio) * cost.fixed_bytes + gradients)
        is_close = step.fits(self.budget_bytes - uncertain) != step.fits(self.budget_bytes + uncertain)
        # The largest tensor does not scale where frames are decoded in groups.
        is_close |= not step.is_indexable and step.planned_bytes <= self.budget_bytes
        return self.count(config, recompute) if is_close else step

    def count(self, config: ResolvedConfig, recompute: RecomputeConfig) -> PlannedStep:
        """Return the counted cost of a step with this schedule."""
        name = self._name(config, recompute)
        if name not in self._counted:
            check_stop()
            scheduled, labelled = replace(config, recompute=recompute), self.labelled(config.data.frames)
            given = scheduled, self.in_channels, self.out_channels, labelled, self.is_whole, self.regions
            cost = self._counted[name] = count_step_cost(*given)
            if config.train.accumulate_batches == 1:
                self._like.setdefault(self._key(config, recompute), (_batch_voxels(config), cost))
            self.bar.update()
        return PlannedStep(recompute, self._counted[name])

    def _schedules(self, config: ResolvedConfig) -> list[RecomputeConfig]:
        """Return the schedules that keep what the configuration sets; where it sets the width of chunks, that one alone."""
        schedules = recompute_schedules(config.recompute, config.data.frames, can_be_chunked(config.model))
        return schedules if config.recompute.chunk_frames is None else schedules[:1]

    def _key(self, config: ResolvedConfig, recompute: RecomputeConfig) -> str:
        return f"{config.model} {config.data.frames} {recompute}"

    def _name(self, config: ResolvedConfig, recompute: RecomputeConfig) -> str:
        train = config.train
        return f"{self._key(config, recompute)} {config.data.patch_size} {train.batch_size} {train.accumulate_batches}"


def _batch_voxels(config: ResolvedConfig) -> int:
    return clip_voxels(config) * config.train.batch_size
