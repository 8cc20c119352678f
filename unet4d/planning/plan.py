"""`unet4d plan`: from a dataset and the size of a GPU to the settings of a training that fits it, with reasons."""

from __future__ import annotations

import contextlib
import logging
import math
import operator
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from unet4d.config import Config, DataConfig, ModelConfig, RecomputeConfig, ResolvedConfig
from unet4d.datasets.cases import Case
from unet4d.datasets.dataset import choose_cache_dir
from unet4d.datasets.subject_folds import split_cases
from unet4d.datasets.verify.load_verified import load_verified_dataset
from unet4d.errors import InputError
from unet4d.metrics.regions import region_classes
from unet4d.models.device import find_device
from unet4d.pipeline.clip_frames import most_labelled_frames
from unet4d.pipeline.fingerprint import Fingerprint, compute_fingerprint
from unet4d.planning.candidates import StepMemoryEstimator, group_by_view, list_candidates
from unet4d.planning.checks import check_plan
from unet4d.planning.explain import (
    describe_clip,
    describe_unused_memory,
    describe_work,
    explain_settings,
    settings_table,
)
from unet4d.planning.plan_file import write_plan
from unet4d.system.byte_sizes import GB, bytes_of, describe_bytes
from unet4d.system.distributed import ALONE, ProcessGroup
from unet4d.system.gpu_memory import CONTEXT_BYTES, NCCL_BYTES, free_bytes, sufficient_bytes, usable_bytes
from unet4d.system.text import count
from unet4d.training.own_classes import import_own_classes
from unet4d.training.step_memory import PlannedStep, describe_recompute

logger = logging.getLogger(__name__)

EQUAL_WORK = 1.01
"""Ratio of work below which two steps count as equal."""


@dataclass(frozen=True)
class Candidate:
    """A configuration with a recompute schedule and what its step costs."""

    config: ResolvedConfig
    step: PlannedStep

    @property
    def clip_flops(self) -> float:
        """Return the floating-point operations for one clip."""
        return self.step.cost.flops / (self.config.train.batch_size * self.config.train.accumulate_batches)

    def __str__(self) -> str:
        return f"{describe_clip(self.config)}: {describe_bytes(self.step.planned_bytes)}, {describe_recompute(self.step.recompute)}"


@dataclass(frozen=True)
class Plan:
    """The chosen configuration, and its neighbors.

    Attributes:
        config: for `unet4d train`.
        step: its recompute schedule, and what it costs on a GPU; each of several takes its part of the batch.
        budget_bytes: memory for a training step.
        larger: the next candidate with larger clips, on its leanest schedule, which does not fit; None if there is none.
        smaller: the next candidate with smaller clips that fits, on its fastest schedule; None if there is none.
        text: the plan as text.
        path: the YAML file; None where none was written.
        gpu: the GPU in words.
        reasons: for the settings, by dotted name.
        dataset: its name.
        gpus: number of GPUs.
        warnings: what people should know of the GPU.
    """

    config: Config
    step: PlannedStep
    budget_bytes: int
    larger: Candidate | None
    smaller: Candidate | None
    text: str
    path: Path | None
    gpu: str
    reasons: Mapping[str, str]
    dataset: str
    gpus: int
    warnings: Sequence[str]


@dataclass(frozen=True)
class _GpuBudget:
    """The memory of a GPU: its description, the bytes for a training step, and the smaller number that are free of it now."""

    words: str
    budget_bytes: int
    is_named: bool
    warning: str = ""


def plan(
    dataset: str | os.PathLike[str],
    out: str | os.PathLike[str] | None,
    config: Config,
    gpu_memory: str | float = "auto",
    skip_verify: bool = False,
    gpus: int = 1,
    device: str = "cuda",
) -> Plan:
    """Choose the largest clips that fit the GPU, and write the configuration as YAML.

    Several GPUs each take a part of the batch; the batch that is written is that of all.

    Args:
        dataset: folder with dataset.json.
        out: the YAML file; a new one, or an older plan. None: write none.
        config: what it sets is kept; what it leaves out is chosen.
        gpu_memory: the GPU's size in GB, or "auto" for what is free on the GPU here now.
        skip_verify: do not look for faults, and read only the headers of the studies.
        gpus: number of GPUs of this size that train together.
        device: the GPU that "auto" asks, "cuda" or "cuda:N".

    Raises:
        InputError: the dataset, the configuration, the number of GPUs or the size is not usable, or nothing fits.
        Unet4DError: the file cannot be written.
    """
    out = None if out is None else Path(out)
    check_plan(dataset, out, gpu_memory, gpus, out and config.train.init_from)  # a run that is resumed does without
    import_own_classes(config)
    gpu, share = _gpu_budget(gpu_memory, gpus, device), _config_of_one_gpu(config, gpus)
    studies, known = load_verified_dataset(dataset, choose_cache_dir, skip_verify)
    training, validation = split_cases(studies, config.fold, config.data.folds, config.seed, config.data.val_subjects)
    cases = (*training, *validation)
    seen = compute_fingerprint(cases, config.data, known)
    labelled = partial(_most_labelled, cases, seen, cyclic=studies.cyclic, config=config.data)
    regions = region_classes(dict(studies.labels), studies.regions)
    counts = len(studies.channel_names), len(regions) or len(studies.labels)
    estimator = StepMemoryEstimator(*counts, labelled, gpu.budget_bytes, studies.has_whole_labels, regions)
    views = group_by_view(list_candidates(share, seen, len(training) // gpus))
    with estimator.bar:
        place, choice = _choose(views, estimator, gpu, share)
        larger = Candidate(views[place - 1][-1], estimator.leanest(views[place - 1][-1])) if place else None
        smaller = next(filter(None, (_fastest(c, estimator) for view in views[place + 1 :] for c in view)), None)
        plain = estimator.estimate(choice.config, RecomputeConfig(0, lstm="gates"))
    chosen, step = _config_of_all_gpus(choice, config, gpus), choice.step
    written, reasons = _config_to_write(chosen, config), explain_settings(chosen, config, seen, gpus)
    name, on_each = " ".join(studies.name.split()), " on each GPU" * (gpus > 1)
    peak = f"expected peak {describe_bytes(step.planned_bytes)} of {gpu.words}"
    neighbors = [
        f"next larger{on_each}: {_describe_larger(larger, chosen, config)}",
        f"next smaller{on_each}: {smaller or 'none'}",
    ]
    if out is not None:
        write_plan(out, written, [f"for {name}: {peak}", *neighbors], reasons)
    lines = [
        *filter(None, [gpu.warning]),
        f"{name}, {count(len(cases), 'study', 'studies')}, for {gpu.words}",
        *settings_table(written, reasons),
        f"{peak}{f', and {describe_bytes(CONTEXT_BYTES)} for driver and libraries' * gpu.is_named}"
        f"{f', {describe_bytes(NCCL_BYTES)} for the exchange between GPUs' * (gpus > 1)}; "
        f"{describe_bytes(gpu.budget_bytes - usable_bytes(gpu.budget_bytes))} are kept spare",
        *describe_unused_memory(chosen, config, step.planned_bytes / gpu.budget_bytes, larger is None, len(training)),
        "on each GPU " * (gpus > 1) + describe_work(step, plain),
        *neighbors,
    ]
    about = (reasons, studies.name, gpus, list(filter(None, [gpu.warning])))
    return Plan(written, step, gpu.budget_bytes, larger, smaller, "\n".join(lines), out, gpu.words, *about)


def plan_run(
    dataset: str | os.PathLike[str], config: Config, device: str = "auto", ranks: ProcessGroup = ALONE
) -> Config:
    """Return the configuration of a training with all that `plan` chooses for the free memory of the GPU it will run on.

    Nothing is changed on a CPU, see `training.resolve.fit_cpu`, nor where patch, frames and batch are set, as a plan sets them.
    All ranks call it together; the first one plans.

    Raises:
        InputError: the dataset, the configuration or the GPU is not usable, or nothing fits.
    """
    chosen = config.data.patch_size, config.data.frames, config.train.batch_size
    name = ranks.device_name(device)
    if None not in chosen or name == "cpu" or not torch.cuda.is_available():
        return config

    def choose() -> Config:
        made = plan(dataset, None, config, skip_verify=True, gpus=ranks.size, device="cuda" if name == "auto" else name)
        data, train = made.config.data, made.config.train
        logger.info(
            f"sizes planned for {made.gpu}: --data.patch_size '{list(data.patch_size or ())}', --data.frames {data.frames}, "
            f"--train.batch_size {train.batch_size}, {describe_recompute(made.step.recompute)}; give others to override them; "
            "unet4d plan gives the reasons"
        )
        return made.config

    return ranks.broadcast_from_rank0(choose)


def _config_of_one_gpu(config: Config, gpus: int) -> Config:
    """Return the configuration of one of several GPUs: of a given batch, the largest part.

    Raises:
        InputError: a GPU would have no clip.
    """
    batch = config.train.batch_size
    if batch is not None and batch < gpus:
        raise InputError(
            f"got --train.batch_size {batch} for {gpus} GPUs, expected {gpus} or more; raise it, or leave it out to have it planned"
        )
    return replace(config, train=replace(config.train, batch_size=batch and -(-batch // gpus)))


def _config_of_all_gpus(choice: Candidate, given: Config, gpus: int) -> ResolvedConfig:
    """Return the configuration of all GPUs from that of one."""
    batch = given.train.batch_size or choice.config.train.batch_size * gpus
    train = replace(choice.config.train, batch_size=batch)
    return replace(choice.config, train=train, recompute=choice.step.recompute)


def _config_to_write(chosen: ResolvedConfig, given: Config) -> Config:
    """Return what was given with what was chosen; precision, folds and workers are left to the machine that trains."""
    data = {name: getattr(chosen.data, name) for name in ("in_plane_spacing_mm", "patch_size", "frames")}
    train = {name: getattr(chosen.train, name) for name in ("batch_size", "accumulate_batches")}
    return replace(
        given,
        data=replace(given.data, **data),
        model=ModelConfig(**vars(chosen.model)),
        train=replace(given.train, **train),
        recompute=chosen.recompute,
    )


def _gpu_budget(gpu_memory: str | float, gpus: int, device: str) -> _GpuBudget:
    """Return what a training may take of the GPU, or of each of several."""
    here = torch.device("cuda") if torch.cuda.is_available() else None
    exchange_bytes = NCCL_BYTES if gpus > 1 else 0
    if gpu_memory == "auto":
        if here is None:
            raise InputError("got --gpu_memory auto, and no CUDA GPU is here; name a size: --gpu_memory 24")
        free = free_bytes(find_device(device))
        alike = f", one of {gpus} alike" * (gpus > 1)
        return _GpuBudget(
            f"the {describe_bytes(free)} that are free of the GPU here{alike}", free - exchange_bytes, False
        )
    size, warning = bytes_of(str(gpu_memory), "--gpu_memory"), ""
    # A GPU that cannot be used now is no hindrance to planning for one.
    with contextlib.suppress(RuntimeError):
        if here is not None and (free := free_bytes(here)) < size - CONTEXT_BYTES:
            warning = f"the GPU here has {describe_bytes(free)} free, less than the {size / GB:g} GB planned for"
    words = f"a GPU of {size / GB:g} GB" if gpus == 1 else f"each of {gpus} GPUs of {size / GB:g} GB"
    return _GpuBudget(words, size - CONTEXT_BYTES - exchange_bytes, True, warning)


def _most_labelled(cases: tuple[Case, ...], seen: Fingerprint, frames: int, cyclic: bool, config: DataConfig) -> int:
    """Return the most frames of a clip of any study that are labelled."""
    return max(
        most_labelled_frames(
            frames, n, n if case.labelled_frames is None else len(case.labelled_frames), cyclic, config
        )
        for case, n in zip(cases, seen.frame_counts, strict=True)
    )


def _choose(
    views: Sequence[list[ResolvedConfig]], estimator: StepMemoryEstimator, gpu: _GpuBudget, given: Config
) -> tuple[int, Candidate]:
    """Return the index of the first view with a candidate that fits, and its cheapest candidate for a clip.

    Raises:
        InputError: none fits; reports what would.
    """
    for place, view in enumerate(views):
        if choice := _cheapest(view, estimator):
            return place, choice
    leanest = (Candidate(config, estimator.leanest(config)) for view in views for config in view)
    last = min(leanest, key=lambda candidate: candidate.step.planned_bytes)
    last = Candidate(last.config, estimator.count(last.config, last.step.recompute))
    if not last.step.is_indexable:
        elements = last.step.cost.largest_elements
        raise InputError(
            f"got a tensor of {elements} elements ({last}), expected less than 2**31; lower --data.patch_size"
        )
    exchange_bytes = NCCL_BYTES * ("each of" in gpu.words)
    size = math.ceil((sufficient_bytes(last.step.planned_bytes) + CONTEXT_BYTES + exchange_bytes) / GB)
    names = ("data.patch_size", "data.frames", "train.batch_size", "recompute.chunk_frames")
    options = [f"--{name}" for name in names if operator.attrgetter(name)(given) is not None]
    raise InputError(
        f"the smallest choice does not fit ({last}): {gpu.words} has {describe_bytes(max(0, gpu.budget_bytes))} for it; name a GPU "
        f"of {size} GB or more, or lower {', '.join([*options, '--model.channels'])}"
    )


def _fastest(config: ResolvedConfig, estimator: StepMemoryEstimator) -> Candidate | None:
    """Return the candidate with its fastest schedule that fits; None where none fits."""
    step = estimator.fastest(config)
    return None if step is None else Candidate(config, step)


def _cheapest(view: Sequence[ResolvedConfig], estimator: StepMemoryEstimator) -> Candidate | None:
    """Return the candidate that fits and computes least for a clip; of equal ones the first. None where none fits."""
    while found := [candidate for config in view if (candidate := _fastest(config, estimator))]:
        least = min(candidate.clip_flops for candidate in found)
        best = next(candidate for candidate in found if candidate.clip_flops <= EQUAL_WORK * least)
        counted = Candidate(best.config, estimator.count(best.config, best.step.recompute))
        if estimator.fits(counted.step):
            return counted
    return None


def _describe_larger(larger: Candidate | None, chosen: ResolvedConfig, given: Config) -> str:
    if larger is not None:
        return f"{larger}, which does not fit"
    if given.data.patch_size or given.data.frames:
        return "none that keeps what was given"
    return f"none: this is the whole study{f' with all {chosen.data.frames} frames' * (chosen.data.frames > 1)}"
