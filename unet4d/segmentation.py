"""One study segmented, by one network or by several together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from unet4d.config import Precision
from unet4d.data.channels import mirror_signs, unsigned
from unet4d.data.dataset import to_values
from unet4d.data.grid import WorkingGrid
from unet4d.data.image4d import Image4D
from unet4d.data.normalisation import normalised
from unet4d.data.study import Study
from unet4d.errors import InputError, Unet4DError
from unet4d.model.checkpoint import TrainedModel
from unet4d.model.device import resolve_precision
from unet4d.model.ensemble import check_alike, mean_logits
from unet4d.model.inference import sliding_window

Models = Sequence[TrainedModel]


@dataclass(frozen=True)
class Settings:
    """How studies are segmented; None is what the model was trained with.

    Attributes:
        time: "cyclic" or "open"; None is what the study says, else what the model was trained with.
        overlap: share of a window its neighbour covers.
        sw_batch_size: windows computed at once.
        mirror_axes: axes (0 = X, 1 = Y, 2 = Z) to mirror along, too; twice the work for each.
        cyclic_shifts: of a cyclic study, the answers from this many first frames, evenly spread, are averaged; that many times the
            work.
        memory_bytes: main memory to stay within; None: what is free.
        precision: "auto", "bf16", "fp16", "tf32" or "fp32".
        probabilities: give each class's probability, too.
    """

    time: str | None = None
    overlap: float | None = None
    sw_batch_size: int | None = None
    mirror_axes: tuple[int, ...] | None = None
    cyclic_shifts: int = 1
    memory_bytes: int | None = None
    precision: Precision = "auto"
    probabilities: bool = False

    def __post_init__(self) -> None:
        """Raises InputError for what is no order of frames."""
        if self.time not in (None, "cyclic", "open"):
            raise InputError(f"time is {self.time!r}; wanted cyclic or open")


@dataclass(frozen=True, eq=False)
class Prepared:
    """A study read and brought to the network's grid; nothing of it needs a GPU yet.

    Attributes:
        like: the study, whose header the answer is written under.
        time: "cyclic" or "open", as it will be run.
    """

    like: Image4D
    time: str

    def close(self) -> None:
        """Let go of what it holds on disk; it cannot be answered any more."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What was found in a study.

    Attributes:
        label: (T, X, Y, Z) uint8, label values, on the study's own grid.
        probabilities: (K, T, X, Y, Z) float32 of every class, background first; None unless asked for.
    """

    label: np.ndarray
    probabilities: np.ndarray | None = None


def prepare(models: Models, study: Study, settings: Settings) -> Prepared:
    """Read a study. May run in a thread of its own while another study is answered.

    Raises:
        InputError: it cannot be read, or does not fit the models.
    """
    return Prepared(study.image(), settings.time or study.time or ("cyclic" if models[0].task.cyclic else "open"))


def answer(models: Models, prepared: Prepared, settings: Settings) -> Answer:
    """Segment a study that was prepared for the same models and settings.

    Raises:
        InputError, Unet4DError: as `segment`.
    """
    return Answer(segment(models, prepared.like, time=prepared.time, precision=settings.precision))


def segment(
    model: TrainedModel | Models, image: Image4D, *, time: str | None = None, precision: Precision = "auto"
) -> np.ndarray:
    """Segment one study.

    Args:
        model: from `load_model`; computes on the device its network lies on. Of several that segment the same, the mean of their
            probabilities is taken, at the cost of one after the other and, beside one's answer, the memory of one more.
        image: the study; any number of frames.
        time: "cyclic" or "open"; None is what the model was trained with.
        precision: "auto", "bf16", "fp16" or "fp32".

    Returns:
        Label values (T, X, Y, Z) uint8 on the study's own grid.

    Raises:
        InputError: the study has other channels than the model was trained with, or not every velocity that turning it needs; the
            models differ in labels, channels, kinds, time, spacing or normalisation.
        Unet4DError: a network answers with infinite numbers or NaN.
    """
    models = [model] if isinstance(model, TrainedModel) else list(model)
    check_alike(models)
    first, data = models[0], models[0].config.data
    wanted = first.task.channel_names
    if image.channels != len(wanted):
        raise InputError(
            f"{image.source or 'the image'} has {image.channels} channels; the model wants {len(wanted)} ({', '.join(wanted)})"
        )
    check_time(time)
    grid = WorkingGrid.of(image.affine, image.grid, data.plane_spacing_mm, data.slice_spacing_mm)
    kinds = _kinds(first, image)
    values = grid.image(image.array, kinds, image.source or "the image")
    seen = torch.from_numpy(normalised(values, data.normalisation, kinds))
    cyclic = first.task.cyclic if time is None else time == "cyclic"
    logits = mean_logits(_answer(one, seen, cyclic, precision, kinds, image) for one in models)
    return to_values(grid.native_label(logits), tuple(first.task.labels.values()))


def _answer(
    model: TrainedModel, seen: torch.Tensor, cyclic: bool, precision: Precision, kinds: Sequence[str], image: Image4D
) -> torch.Tensor:
    """One network's logits (T, K, X, Y, Z) of `seen` (C, T, X, Y, Z), the image normalised on the working grid."""
    device = next(model.network.parameters()).device
    logits = sliding_window(
        model.network,
        seen,
        model.config.data.patch_size or (),
        model.config.inference,
        cyclic=cyclic,
        device=device,
        precision=resolve_precision(precision, device),
        signs=mirror_signs(kinds),
    )
    if not all(bool(frame.sum().isfinite()) for frame in logits):
        raise Unet4DError(
            f"the network's answer to {image.source or 'the image'} is not a number somewhere; wanted finite numbers; set "
            "precision fp32, or take another checkpoint"
        )
    return logits


def _kinds(model: TrainedModel, image: Image4D) -> tuple[str, ...]:
    """What the image's channels hold: as it says, else as the model's; a velocity may be declared backwards by either."""
    wanted = model.task.channel_kinds
    if image.kinds and wanted and unsigned(image.kinds) != unsigned(wanted):
        raise InputError(
            f"{image.source or 'the image'} has channels of the kinds {', '.join(image.kinds)}; the model wants "
            f"{', '.join(unsigned(wanted))}; correct channel_kinds"
        )
    return image.kinds or wanted


def check_time(time: str | None) -> None:
    """Raises InputError for what is no order of frames."""
    if time not in (None, "cyclic", "open"):
        raise InputError(f"time is {time!r}; wanted cyclic or open")
