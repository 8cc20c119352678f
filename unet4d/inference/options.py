"""Options of a prediction: what a caller asks for beyond what the models were trained with."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unet4d.config import MOST, MOST_SMOOTHING, InferenceConfig, Precision
from unet4d.errors import InputError
from unet4d.images.time_axis import TimeAxis, check_time_axis
from unet4d.models.checkpoint import TrainedModel
from unet4d.system.text import short_repr

logger = logging.getLogger(__name__)

Models = Sequence[TrainedModel]


@dataclass(frozen=True)
class InferenceOptions:
    """Options of a prediction; None is what the model was trained with.

    Attributes:
        time: "cyclic" or "open"; None is what the study's dataset or header says, where `predict` reads it, else the model's.
        overlap: share of a window that its neighbor covers.
        sw_batch_size: windows computed at once.
        mirror_axes: axes (0 = X, 1 = Y, 2 = Z) to mirror along, too; twice the work for each.
        priming_frames: frames of a cyclic study over which recurrence runs first; those of the study and more: a whole round.
        temporal_smoothing: width in frames of the filter that smooths logits over time; 0: none; None: that of the first model.
        cyclic_shifts: logits of a cyclic study are averaged over this many first frames, evenly spread; that many times the work.
        max_memory_bytes: main memory the process stays within; None: what is free. See `MemoryBudget`.
        precision: "auto", "bf16", "fp16", "tf32" or "fp32".
        probabilities: return each class's probability, too.
        scratch_dir: folder for a study that does not fit into memory; None: the system's folder for temporary files.
    """

    time: TimeAxis | None = None
    overlap: float | None = None
    sw_batch_size: int | None = None
    mirror_axes: tuple[int, ...] | None = None
    priming_frames: int | None = None
    temporal_smoothing: float | None = None
    cyclic_shifts: int = 1
    max_memory_bytes: int | None = None
    precision: Precision = "auto"
    probabilities: bool = False
    scratch_dir: Path | None = None

    def __post_init__(self) -> None:
        """Raise InputError for a value out of range."""
        if self.time is not None:
            check_time_axis(self.time, "time", "correct it")
        if self.overlap is not None and not 0 <= self.overlap < 1:
            raise InputError(f"got overlap {self.overlap}, expected a share from 0 to below 1; correct it")
        ranges = {"cyclic_shifts": (1, MOST), "sw_batch_size": (1, MOST), "priming_frames": (0, MOST)}
        for name, (least, most) in {**ranges, "temporal_smoothing": (0, MOST_SMOOTHING)}.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise InputError(f"got {name} {short_repr(value)}, expected {least} to {most}; correct it")
        if not set(self.mirror_axes or ()) <= {0, 1, 2}:
            raise InputError(
                f"got mirror_axes {list(self.mirror_axes or ())}, expected axes among 0, 1 and 2; correct it"
            )

    def window_config(self, trained: InferenceConfig) -> InferenceConfig:
        """Return the sliding window of a model's config with what these options set in its place."""
        asked = {
            "overlap": self.overlap,
            "sw_batch_size": self.sw_batch_size,
            "priming_frames": self.priming_frames,
            "temporal_smoothing": self.temporal_smoothing,
            "mirror_axes": None if self.mirror_axes is None else list(self.mirror_axes),
        }
        return replace(trained, **{name: value for name, value in asked.items() if value is not None})  # type: ignore[arg-type]


def warn_of_untrained_mirroring(models: Models, options: InferenceOptions) -> None:
    """Log a warning where a study is mirrored along an axis that was not mirrored in training, which costs accuracy."""
    for model in models:
        data, asked = model.config.data, options.window_config(model.config.inference).mirror_axes
        if untrained := sorted(set(asked) - set(data.mirrored_axes)):
            logger.warning(
                f"{model.path}: mirroring along axes {untrained}, and training mirrored {data.mirrored_axes}; expect worse "
                "results, or train with data.flip_axes"
            )
