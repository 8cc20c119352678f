"""Reasons for the settings of a plan, as a table, descriptions of what a training step sees and costs, and a plan for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from unet4d.config import Config, ResolvedConfig, Size
from unet4d.images.grid import is_thick
from unet4d.models.topology import rounded_up, total_stride
from unet4d.pipeline.fingerprint import Fingerprint
from unet4d.planning.candidates import usual_largest, whole_study
from unet4d.planning.plan_file import AS_GIVEN
from unet4d.training.step_memory import PlannedStep, describe_recompute

if TYPE_CHECKING:
    from unet4d.planning.plan import Candidate, Plan

TERA = 10**12


def by(sizes: Sequence[float]) -> str:
    """Return sizes per axis as text: "256 x 256 x 12"."""
    return " x ".join(f"{n:g}" for n in sizes)


def describe_clip(config: ResolvedConfig) -> str:
    """Return what a training step sees, as text."""
    frames, train = config.data.frames, config.train
    batches = f", {train.accumulate_batches} batches a step" * (train.accumulate_batches > 1)
    return f"patch {by(config.data.patch_size)}, {frames} frame{'s' * (frames > 1)}, batch {train.batch_size}{batches}"


def describe_work(step: PlannedStep, plain: PlannedStep) -> str:
    """Return the floating-point operations of a step, alone and relative to the same step with nothing recomputed."""
    return (
        f"{step.cost.flops / TERA:.3g} TFLOP a step, {step.cost.flops / plain.cost.flops:.2f} times its plain step: "
        f"{describe_recompute(step.recompute)}"
    )


def settings_table(config: Config, reasons: dict[str, str]) -> list[str]:
    """Return a line for each setting that has a reason: its name, its value, the reason."""
    values = {name: attrgetter(name)(config) for name in reasons}
    shown = {name: _format(value) for name, value in values.items()}
    width, wide = max(map(len, shown)), max(map(len, shown.values()))
    return [f"  {name:<{width}}  {text:<{wide}}  {reasons[name]}" for name, text in shown.items()]


def _format(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(by(item) if isinstance(item, tuple) else str(item) for item in value).replace(" x ", "x")
    return "-" if value is None else str(value).lower()


def explain_settings(config: ResolvedConfig, given: Config, seen: Fingerprint, gpus: int = 1) -> dict[str, str]:
    """Return the reason for each setting by its dotted name."""
    data, model, train, recompute = config.data, config.model, config.train, config.recompute
    multiple, whole, longest = total_stride(model.strides), whole_study(seen), usual_largest(seen.frame_counts)
    clips = "clips of a step" + f", at most {-(-train.batch_size // gpus)} on each of {gpus} GPUs" * (gpus > 1)
    is_whole = data.patch_size == rounded_up(whole, multiple)
    derived = {
        "data.in_plane_spacing_mm": "median pixel of the studies",
        "data.slice_spacing_mm": f"each study keeps its own, {round(seen.spacing[2], 2):g} mm in the median",
        "data.patch_size": f"{'the whole study' if is_whole else 'as much as fits of the whole study'}, {by(whole)}",
        "data.frames": "all of the longest study" if data.frames == longest else f"as many as fit, of up to {longest}",
        "model.channels": f"{len(model.channels)} levels, until nothing is left to pool",
        "model.lstm_channels": "default fraction of each level's channels, none at full resolution",
        "model.strides": _explain_slices(model.strides, seen, "pooled"),
        "model.kernel_size": _explain_slices(model.kernel_size, seen, "convolved"),
        "train.batch_size": clips,
        "train.accumulate_batches": "batches of a step: less work per clip than one larger batch, if that fits at all",
        "train.precision": "counted as bf16; fp16 takes as much",
        "recompute.chunk_frames": describe_recompute(recompute),
        "recompute.group_chunks": "chunks between which only states are kept",
        "recompute.stages": "whether inner layers of the encoder are recomputed",
        "recompute.lstm": "what the ConvLSTMs keep for their backward pass",
    }
    notes = {
        "data.patch_size": f", padded to multiples of the strides' {by(multiple)}"
        * (data.patch_size != given.data.patch_size),
        "data.frames": ", and no study has more" * (data.frames != given.data.frames),
        "train.batch_size": f": {clips}" * (gpus > 1),
    }
    if train.accumulate_batches == 1:
        del derived["train.accumulate_batches"]
    default = Config()
    reasons = {}
    for name, reason in derived.items():
        is_given = attrgetter(name)(given) not in (attrgetter(name)(default), None)
        reasons[name] = f"{AS_GIVEN}{notes.get(name, '')}" if is_given else reason
    if data.frames == 1 and max(model.lstm_channels) > 0:
        reasons["model.lstm_channels"] += (
            "; one frame has no recurrence: --model.lstm_channels 0 is the frame-wise baseline"
        )
    return reasons


def _explain_slices(sizes: Sequence[Size], seen: Fingerprint, action: str) -> str:
    """Return from which level on slices are pooled (strides) or convolved across (kernels)."""
    first = next((level for level, size in enumerate(sizes, 1) if size[2] > 1), None)
    when = f"{action} across slices from level {first} on" if first else f"not {action} across slices"
    pixel, slices = (round(spacing, 2) for spacing in seen.spacing[1:])
    return f"slices of {slices:g} mm beside pixels of {pixel:g} mm: {when}" if is_thick(seen.spacing) else when


def describe_unused_memory(
    config: ResolvedConfig, given: Config, used: float, is_largest: bool, studies: int
) -> list[str]:
    """Return a line on why most of the GPU stays empty; none where `used`, a fraction of its memory, is half or more."""
    if used >= 0.5:
        return []
    if not is_largest:
        why = "the next larger choice does not fit"
    elif given.train.batch_size:
        why = "--train.batch_size was given; raise it, or --model.channels, to use more"
    else:
        why = (
            f"a step sees whole clips, and its {config.train.batch_size} clips are enough for {studies} training studies; "
            "raise --train.batch_size or --model.channels to use more"
        )
    return [f"{1 - used:.0%} of the GPU's memory stays empty: {why}"]


def plan_values(plan: Plan) -> dict[str, Any]:
    """Return a plan in plain values, as the schema plan.json describes them."""
    return {
        "dataset": plan.dataset,
        "gpu": plan.gpu,
        "gpus": plan.gpus,
        "file": None if plan.path is None else str(plan.path),
        "budget_bytes": plan.budget_bytes,
        "peak_bytes": plan.step.planned_bytes,
        "step_flops": plan.step.cost.flops,
        "settings": plan.config.as_dict(),
        "reasons": dict(plan.reasons),
        "larger": plan.larger and _candidate_values(plan.larger),
        "smaller": plan.smaller and _candidate_values(plan.smaller),
        "warnings": list(plan.warnings),
    }


def _candidate_values(candidate: Candidate) -> dict[str, Any]:
    """Return what a step sees, and its peak memory."""
    data, train = candidate.config.data, candidate.config.train
    return {
        "patch_size": list(data.patch_size),
        "frames": data.frames,
        "batch_size": train.batch_size,
        "accumulate_batches": train.accumulate_batches,
        "peak_bytes": candidate.step.planned_bytes,
    }
