"""`unet4d plan`: from a dataset and the size of a GPU to the settings of a training that fits it, and why."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from unet4d.config import Config, DataConfig, ModelConfig, RecomputeConfig, ResolvedConfig
from unet4d.datasets.cases import Case
from unet4d.datasets.dataset import choose_cache_dir
from unet4d.datasets.folds import split_cases
from unet4d.datasets.verify.load_verified import load_verified_dataset
from unet4d.errors import InputError
from unet4d.models.device import find_device
from unet4d.pipeline.clip_frames import most_labelled_frames
from unet4d.pipeline.fingerprint import Fingerprint, compute_fingerprint
from unet4d.planning.candidates import StepMemoryEstimator, group_by_view, list_candidates
from unet4d.planning.checks import check_plan, gpu_size_gb
from unet4d.planning.explain import (
    GIVEN,
    describe_clip,
    describe_unused_memory,
    describe_work,
    explain_settings,
    format_gb,
    settings_table,
)
from unet4d.planning.plan_file import write_plan
from unet4d.system.gpu_memory import CONTEXT_BYTES, GB, NCCL_BYTES, free_bytes, sufficient_bytes, usable_bytes
from unet4d.system.text import count
from unet4d.training.step_memory import StepFit, describe_recompute

ALIKE = 1.01
"""Work that differs by less is the same."""


@dataclass(frozen=True)
class Candidate:
    """A configuration, complete but for how its step is cut, and the way to cut it with what that takes."""

    config: ResolvedConfig
    fit: StepFit


@dataclass(frozen=True)
class Plan:
    """What was chosen, and what lies beside it.

    Attributes:
        config: what `unet4d train` is to be run with.
        fit: how its step is cut, and what that takes of a GPU; of several each takes its share of the batch.
        budget_bytes: what there is for it.
        larger: the next choice that sees more, cut in the leanest way, which does not fit; None if there is no larger one.
        smaller: the next choice that sees less and fits, cut in its fastest way; None if there is none.
        text: the plan in words.
        path: the YAML file.
    """

    config: Config
    fit: StepFit
    budget_bytes: int
    larger: Candidate | None
    smaller: Candidate | None
    text: str
    path: Path


@dataclass(frozen=True)
class _Card:
    """A GPU: its size in words, and what of it there is for a training step."""

    words: str
    budget_bytes: int
    is_named: bool
    warning: str = ""


def plan(
    dataset: str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: Config,
    gpu_memory: str | float = "auto",
    skip_verify: bool = False,
    gpus: int = 1,
) -> Plan:
    """Choose what sees most of the studies and fits the GPU, and write it as YAML.

    Of several GPUs each is to hold its share of the batch; the batch that is written is that of all.

    Args:
        dataset: folder with dataset.json.
        out: the YAML file; a new one, or an older plan.
        config: what it sets is kept; what it leaves out is chosen.
        gpu_memory: the GPU's size in GB, or "auto" for what is free of the GPU here now.
        skip_verify: do not look for faults; of the studies only the headers are read.
        gpus: how many GPUs of this size train together.

    Raises:
        InputError: the dataset, the configuration, the number of GPUs or the size is not usable, or nothing fits.
        Unet4DError: the file cannot be written.
    """
    out = Path(out)
    check_plan(dataset, out, gpu_memory, gpus)
    card, share = _card(gpu_memory, gpus), _share(config, gpus)
    studies, known = load_verified_dataset(dataset, choose_cache_dir, skip_verify)
    training, held_out = split_cases(studies, config.fold, config.data.folds, config.seed, config.data.val_subjects)
    cases = (*training, *held_out)
    seen = compute_fingerprint(cases, config.data, known)
    options = list_candidates(share, seen, len(training) // gpus)
    labelled = partial(_labelled, cases, seen, cyclic=studies.cyclic, config=config.data)
    counts = StepMemoryEstimator(len(studies.channel_names), len(studies.labels), labelled, card.budget_bytes)
    with counts.bar:
        views = group_by_view(options)
        place, choice = _chosen(views, counts, card, share)
        fit = choice.fit
        larger = Candidate(views[place - 1][-1], counts.leanest(views[place - 1][-1])) if place else None
        smaller = _smaller([option for view in views[place + 1 :] for option in view], counts)
        plain = counts.fit(choice.config, RecomputeConfig(0, lstm="gates"))
        instead = _larger_batch(views[place], choice, counts)
    chosen = _of_all(choice.config, config, fit.recompute, gpus)
    written = _to_write(chosen, config)
    reasons = explain_settings(chosen, config, seen, instead) | _shared_in_words(chosen, config, gpus)
    spare = format_gb(card.budget_bytes - usable_bytes(card.budget_bytes))
    peak = f"expected peak {format_gb(fit.planned_bytes)} of {card.words}"
    on_each = " on each GPU" * (gpus > 1)
    beside = [
        f"next larger{on_each}: {_larger_in_words(larger, chosen, config)}",
        f"next smaller{on_each}: {_smaller_in_words(smaller)}",
    ]
    name = " ".join(studies.name.split())
    write_plan(out, written, [f"for {name}: {peak}", *beside], reasons)
    lines = [
        *filter(None, [card.warning]),
        f"{name}, {count(len(cases), 'study', 'studies')}, for {card.words}",
        *settings_table(written, reasons),
        f"{peak}{f', and {format_gb(CONTEXT_BYTES)} for driver and libraries' * card.is_named}"
        f"{f', {format_gb(NCCL_BYTES)} for the exchange between GPUs' * (gpus > 1)}; {spare} are kept spare",
        *describe_unused_memory(chosen, config, fit.planned_bytes / card.budget_bytes, larger is None, len(training)),
        "on each GPU " * (gpus > 1) + describe_work(fit, plain),
        *beside,
    ]
    return Plan(written, fit, card.budget_bytes, larger, smaller, "\n".join(lines), out)


def _share(config: Config, gpus: int) -> Config:
    """The configuration of one of so many GPUs: of a batch that is given, the largest share.

    Raises:
        InputError: there is no GPU, or one without a clip.
    """
    batch = config.train.batch_size
    if batch is not None and batch < gpus:
        raise InputError(
            f"--train.batch_size is {batch} and {gpus} GPUs share it; wanted {gpus} or more, or leave it out and have it "
            "planned"
        )
    return replace(config, train=replace(config.train, batch_size=batch and -(-batch // gpus)))


def _of_all(share: ResolvedConfig, given: Config, memory: RecomputeConfig, gpus: int) -> ResolvedConfig:
    """Return the configuration of all GPUs from that of one."""
    batch = given.train.batch_size or share.train.batch_size * gpus
    return replace(share, train=replace(share.train, batch_size=batch), recompute=memory)


def _to_write(chosen: ResolvedConfig, given: Config) -> Config:
    """Return what was given with what was chosen; precision, folds and workers are left to the machine that trains."""
    data, train = chosen.data, chosen.train
    return replace(
        given,
        data=replace(
            given.data,
            in_plane_spacing_mm=data.in_plane_spacing_mm,
            patch_size=data.patch_size,
            frames=data.frames,
        ),
        model=ModelConfig(**vars(chosen.model)),
        train=replace(given.train, batch_size=train.batch_size, accumulate_batches=train.accumulate_batches),
        recompute=chosen.recompute,
    )


def _shared_in_words(chosen: ResolvedConfig, given: Config, gpus: int) -> dict[str, str]:
    """Why the batch is what it is where several GPUs share it."""
    if gpus == 1:
        return {}
    most = -(-chosen.train.batch_size // gpus)
    if given.train.batch_size:
        return {"train.batch_size": f"{GIVEN}: clips of a step, of which each of {gpus} GPUs takes {most} at most"}
    return {"train.batch_size": f"clips of a step, of which each of {gpus} GPUs takes {most}"}


def _card(gpu_memory: str | float, gpus: int) -> _Card:
    """What a training may take of the GPU, or of each of several alike."""
    here = torch.device("cuda") if torch.cuda.is_available() else None
    exchange_bytes = NCCL_BYTES if gpus > 1 else 0
    if gpu_memory == "auto":
        if here is None:
            raise InputError("--gpu-memory auto was asked for and no CUDA GPU is here; name a size: --gpu-memory 24")
        free = free_bytes(find_device("cuda"))
        alike = f", one of {gpus} alike" * (gpus > 1)
        return _Card(f"the {format_gb(free)} that are free of the GPU here{alike}", free - exchange_bytes, False)
    size_gb = gpu_size_gb(gpu_memory)
    warning = ""
    # A GPU that cannot be used now is no hindrance to planning for one.
    with contextlib.suppress(RuntimeError):
        if here is not None and (free := free_bytes(here)) < size_gb * GB - CONTEXT_BYTES:
            warning = f"the GPU here has {format_gb(free)} free, less than the {size_gb:g} GB planned for"
    words = f"a GPU of {size_gb:g} GB" if gpus == 1 else f"each of {gpus} GPUs of {size_gb:g} GB"
    return _Card(words, int(size_gb * GB) - CONTEXT_BYTES - exchange_bytes, True, warning)


def _labelled(cases: tuple[Case, ...], seen: Fingerprint, frames: int, cyclic: bool, config: DataConfig) -> int:
    """The most frames of a clip of any study that are labelled."""
    known = [
        n if case.labelled_frames is None else len(case.labelled_frames)
        for case, n in zip(cases, seen.frame_counts, strict=True)
    ]
    return max(
        most_labelled_frames(frames, n, labelled, cyclic, config)
        for n, labelled in zip(seen.frame_counts, known, strict=True)
    )


def _chosen(
    views: Sequence[list[ResolvedConfig]], counts: StepMemoryEstimator, card: _Card, given: Config
) -> tuple[int, Candidate]:
    """Return the index of the first view with an option that fits, and its cheapest option for a clip, in the fastest way.

    Args:
        views: the options, grouped as `group_by_view` does.
        counts: what they take.
        card: the GPU, for the error.
        given: what the user set, for the error.

    Raises:
        InputError: none fits; reports what would.
    """
    for place, view in enumerate(views):
        if choice := _cheapest(view, counts):
            return place, choice
    every = [Candidate(option, counts.leanest(option)) for view in views for option in view]
    last = min(every, key=lambda one: one.fit.planned_bytes)
    exact = counts.exact(last.config, last.fit.recompute)
    needed = exact.planned_bytes
    if not exact.is_indexable:
        raise InputError(
            f"the smallest choice has a tensor of {exact.cost.largest_elements} elements, got {describe_clip(last.config)}; "
            "expected less than 2**31; lower --data.patch_size or --train.batch_size"
        )
    size = math.ceil((sufficient_bytes(needed) + CONTEXT_BYTES + NCCL_BYTES * ("each of" in card.words)) / GB)
    names = {"data.patch_size": given.data.patch_size, "data.frames": given.data.frames}
    names |= {"train.batch_size": given.train.batch_size, "recompute.chunk_frames": given.recompute.chunk_frames}
    kept = [f"--{name}" for name, value in names.items() if value is not None]
    raise InputError(
        f"the smallest choice needs {format_gb(needed)}: {describe_clip(last.config)}, {describe_recompute(last.fit.recompute)}; "
        f"{card.words} has {format_gb(max(0, card.budget_bytes))} for it; name a GPU of {size} GB or more, or lower "
        f"{', '.join([*kept, '--model.channels'])}"
    )


def _cheapest(view: Sequence[ResolvedConfig], counts: StepMemoryEstimator) -> Candidate | None:
    """Return the option that fits and computes least for a clip; of equal ones the first. None where none fits."""
    while found := [Candidate(option, fit) for option in view if (fit := counts.fastest(option)) is not None]:
        least = min(map(_clip_flops, found))
        best = next(choice for choice in found if _clip_flops(choice) <= ALIKE * least)
        exact = counts.exact(best.config, best.fit.recompute)
        if counts.fits(exact):
            return Candidate(best.config, exact)
    return None


def _clip_flops(choice: Candidate) -> float:
    """Return the floating-point operations for a clip."""
    train = choice.config.train
    return choice.fit.cost.flops / (train.batch_size * train.accumulate_batches)


def _larger_batch(view: Sequence[ResolvedConfig], choice: Candidate, counts: StepMemoryEstimator) -> float | None:
    """Return how many times the chosen work a step of as many clips in one batch takes; None where none fits or is chosen."""
    if choice.config.train.accumulate_batches == 1:
        return None
    clips = choice.config.train.batch_size * choice.config.train.accumulate_batches
    at_once = [one for one in view if (one.train.batch_size, one.train.accumulate_batches) == (clips, 1)]
    fit = counts.fastest(at_once[0]) if at_once else None
    return None if fit is None else fit.cost.flops / choice.fit.cost.flops


def _smaller(options: list[ResolvedConfig], counts: StepMemoryEstimator) -> Candidate | None:
    """The first of these that fits."""
    fits = (Candidate(option, fit) for option in options if (fit := counts.fastest(option)) is not None)
    return next(fits, None)


def _larger_in_words(larger: Candidate | None, chosen: ResolvedConfig, given: Config) -> str:
    if larger is not None:
        needed, way = format_gb(larger.fit.planned_bytes), describe_recompute(larger.fit.recompute)
        return f"{describe_clip(larger.config)} would need {needed}, {way}"
    if given.data.patch_size or given.data.frames:
        return "none that keeps what was given"
    frames = chosen.data.frames
    return f"none: this is the whole study{f' with all {frames} frames' * (frames > 1)}"


def _smaller_in_words(smaller: Candidate | None) -> str:
    if smaller is None:
        return "none"
    return f"{describe_clip(smaller.config)}: {format_gb(smaller.fit.planned_bytes)}, {describe_recompute(smaller.fit.recompute)}"
