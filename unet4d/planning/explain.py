"""Why a plan is what it is, in words: setting by setting, and what its step costs."""

from __future__ import annotations

from collections.abc import Sequence

from unet4d.config import CHANNELS, Config, RecomputeConfig, ResolvedConfig, triple
from unet4d.images.grid import is_thick
from unet4d.models.topology import rounded_up, total_stride
from unet4d.pipeline.fingerprint import Fingerprint
from unet4d.planning.candidates import usual_largest, whole_study
from unet4d.system.gpu_memory import GB
from unet4d.training.step_memory import StepFit, describe_recompute

GIVEN = "as given"
TERA = 10**12


def by(sizes: Sequence[float]) -> str:
    """Sizes per axis: "256 x 256 x 12"."""
    return " x ".join(f"{n:g}" for n in sizes)


def format_gb(size_bytes: float) -> str:
    """Bytes in GB, to three digits."""
    return f"{size_bytes / GB:.3g} GB"


def describe_clip(config: ResolvedConfig) -> str:
    """What a training step sees."""
    frames, batch = config.data.frames, config.train.batch_size
    batches = f", {config.train.accumulate_batches} batches a step" * (config.train.accumulate_batches > 1)
    return f"patch {by(config.data.patch_size)}, {frames} frame{'s' * (frames > 1)}, batch {batch}{batches}"


def describe_work(fit: StepFit, plain: StepFit) -> str:
    """The step's floating-point operations, and how many times those of the same step with nothing computed again."""
    ratio = fit.cost.flops / plain.cost.flops
    if fit.recompute.chunk_frames:
        why = f"frames are computed again{', some more than once' * (fit.recompute.group_chunks > 1)}"
    elif fit.recompute.stages:
        why = "the encoder's inner layers and the recurrence are computed again"
    else:
        why = "nothing is computed again" if ratio < 1.01 else "only the recurrence is computed again"
    return f"{fit.cost.flops / TERA:.3g} TFLOP a step, {ratio:.2f} times its plain step: {why}"


def settings_table(config: Config, reasons: dict[str, str]) -> list[str]:
    """A line for each setting that has a reason: its name, its value, why."""
    values = {name: getattr(getattr(config, name.split(".")[0]), name.split(".")[1]) for name in reasons}
    shown = {name: _shown(value) for name, value in values.items()}
    width, wide = max(map(len, shown)), max(map(len, shown.values()))
    return [f"  {name:<{width}}  {text:<{wide}}  {reasons[name]}" for name, text in shown.items()]


def _shown(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(by(item) if isinstance(item, tuple) else str(item) for item in value).replace(" x ", "x")
    return "-" if value is None else str(value).lower()


def explain_settings(
    config: ResolvedConfig, given: Config, seen: Fingerprint, at_once: float | None = None
) -> dict[str, str]:
    """Why each setting is what it is, by its dotted name.

    Args:
        config: what was chosen.
        given: what the user set.
        seen: the studies.
        at_once: how many times the work a step with all its clips in one batch would take; None if that does not fit.
    """
    return {
        "data.in_plane_spacing_mm": GIVEN if given.data.in_plane_spacing_mm else "the median pixel of the studies",
        "data.slice_spacing_mm": GIVEN
        if given.data.slice_spacing_mm
        else f"each study keeps its own slices, {round(seen.spacing[2], 2):g} mm in the median",
        "data.patch_size": _why_patch(config, given, seen),
        "data.frames": _why_frames(config, given, seen),
        "model.channels": _why_channels(config, given),
        "model.lstm_channels": _why_lstm(given, config.data.frames),
        "model.strides": GIVEN if given.model.strides else _why_strides(config, seen),
        "model.kernel_size": GIVEN if given.model.kernel_size else _why_kernels(config, seen),
        "train.batch_size": GIVEN if given.train.batch_size else "clips of a batch",
        **_why_accumulate(config, given, at_once),
        "train.precision": GIVEN
        if given.train.precision != "auto"
        else "counted as bf16, which GPUs since A30 and A100 compute in; fp16 on older ones, of the same size",
        "inference.overlap": "of windows of the patch's size, each with all frames of the study",
        **{f"recompute.{name}": why for name, why in _why_memory(config.recompute, given.recompute).items()},
    }


def _why_accumulate(config: ResolvedConfig, given: Config, at_once: float | None) -> dict[str, str]:
    """Return why one step takes several batches, where it does."""
    if config.train.accumulate_batches == 1:
        return {}
    if given.train.accumulate_batches > 1:
        return {"train.accumulate_batches": GIVEN}
    instead = "does not fit" if at_once is None else f"takes {at_once:.2f} times the work to fit"
    return {"train.accumulate_batches": f"batches of a step, one after the other: a batch of all their clips {instead}"}


def describe_unused_memory(
    config: ResolvedConfig, given: Config, used: float, is_largest: bool, studies: int
) -> list[str]:
    """Return why most of the GPU stays empty, as a line; none where at least half of it is used.

    Args:
        config: what was chosen.
        given: what the user set.
        used: the share of the memory that the step is planned to take.
        is_largest: there is no choice that sees more.
        studies: how many are trained on.
    """
    if used >= 0.5:
        return []
    empty = f"{1 - used:.0%} of the GPU's memory stays empty"
    if not is_largest:
        return [f"{empty}: the next larger choice does not fit"]
    if given.train.batch_size:
        return [f"{empty}: --train.batch_size was given; raise it, or --model.channels, to use more"]
    return [
        f"{empty}: a step sees whole clips, and its {config.train.batch_size} clips are enough for {studies} training "
        "studies; raise --train.batch_size or --model.channels to use more"
    ]


def _why_memory(memory: RecomputeConfig, given: RecomputeConfig) -> dict[str, str]:
    group, kept = (
        memory.group_chunks,
        {
            "gates": "all that a ConvLSTM's backward pass needs is kept",
            "hidden": "a ConvLSTM's inputs and hidden states are kept, its gates computed again",
            "borders": "a ConvLSTM's inputs are kept, and its states every few frames",
        },
    )
    between = "all chunks" if group == 1 else f"groups of {group} chunks"
    reasons = {
        "chunk_frames": describe_recompute(memory),
        "group_chunks": f"states are kept between {between}" if memory.chunk_frames else "there are no chunks to group",
        "stages": f"inner layers of the encoder are {'computed again' if memory.stages else 'kept'}",
        "lstm": kept[memory.lstm],
    }
    plain = RecomputeConfig()
    return {
        name: why if getattr(given, name) == getattr(plain, name) else f"{GIVEN}: {why}"
        for name, why in reasons.items()
    }


def _why_patch(config: ResolvedConfig, given: Config, seen: Fingerprint) -> str:
    patch, spacing = config.data.patch_size, seen.spacing
    multiple = total_stride(config.model.strides)
    extent = f"{by([round(n * s) for n, s in zip(patch, spacing, strict=True)])} mm"
    if given.data.patch_size:
        if patch == given.data.patch_size:
            return GIVEN
        return (
            f"{extent}; {by(given.data.patch_size)} was given, and padded to multiples of the strides' {by(multiple)}"
        )
    whole = whole_study(seen)
    if patch == whole:
        words = f"{extent}: the whole study"
    elif patch == rounded_up(whole, multiple):
        words = f"{extent}: the whole study, {by(whole)}, padded to multiples of the strides' {by(multiple)}"
    else:
        words = f"{extent}: of the whole study, {by(whole)}, as much as fits"
    most = triple(max(sizes) for sizes in zip(*seen.shapes, strict=True))
    if most != whole:
        words += f"; the few studies of up to {by(most)} are seen in parts, for the median one is {by(seen.shape)}"
    return words


def _why_frames(config: ResolvedConfig, given: Config, seen: Fingerprint) -> str:
    frames = config.data.frames
    if seen.frames == 1:
        return "the studies are single frames"
    if given.data.frames:
        return GIVEN if frames == given.data.frames else f"{given.data.frames} were given, and no study has more"
    longest = usual_largest(seen.frame_counts)
    words = "all of the longest study" if frames == longest else f"of the longest study's {longest}, as many as fit"
    return words if longest == seen.frames else f"{words} but few, which have up to {seen.frames}"


def _why_channels(config: ResolvedConfig, given: Config) -> str:
    levels, left = len(config.model.channels), len(given.model.channels)
    if levels < left:
        return f"{levels} of the default's {left} levels: the patch is too small to be pooled further"
    return f"{levels} levels{f', {GIVEN}' * (config.model.channels != list(CHANNELS))}"


def _why_lstm(given: Config, frames: int) -> str:
    words = "the default share of each level's channels" if given.model.lstm_channels is None else GIVEN
    if frames == 1 and max(given.model.lstm_channels_per_level()) > 0:
        words += "; with one frame recurrence has nothing to carry: --model.lstm_channels 0 is the frame-wise twin"
    return words


def _why_strides(config: ResolvedConfig, seen: Fingerprint) -> str:
    strides = config.model.strides
    pooled = [level for level, stride in enumerate(strides) if stride[2] > 1]
    if not is_thick(seen.spacing):
        return (
            f"voxels of {by([round(s, 2) for s in seen.spacing])} mm: an axis is pooled while 8 voxels of it are left"
        )
    _, pixel, slices = (round(s, 2) for s in seen.spacing)
    here = f"slices of {slices:g} mm beside pixels of {pixel:g} mm"
    if not pooled:
        return f"{here} are not pooled"
    return f"{here} are pooled once pixels are {_pixel_mm(config, seen, pooled[0]):g} mm"


def _why_kernels(config: ResolvedConfig, seen: Fingerprint) -> str:
    across = [level for level, kernel in enumerate(config.model.kernel_size) if kernel[2] > 1]
    if not across:
        return "nothing lies across the slices to convolve"
    if across[0] == 0:
        return "across all axes from the first level on"
    return f"across slices from level {across[0] + 1} on, once pixels are {_pixel_mm(config, seen, across[0]):g} mm"


def _pixel_mm(config: ResolvedConfig, seen: Fingerprint, level: int) -> float:
    """The finest pixel spacing at a level, from 0."""
    factors = total_stride(config.model.strides[:level])
    return round(min(s * f for s, f in zip(seen.spacing[:2], factors[:2], strict=True)), 2)
