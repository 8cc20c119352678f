"""A study read and brought to the network's grid: in memory where it fits, else in a file."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from unet4d.datasets.study import Study
from unet4d.errors import InputError
from unet4d.images.channels import unsigned_kinds
from unet4d.images.grid import WorkingGrid
from unet4d.images.image4d import Image4D, ImageInfo
from unet4d.images.time_axis import TimeAxis, time_axis
from unet4d.inference.settings import Models, Settings
from unet4d.inference.window_memory import generous_bytes, window_memory
from unet4d.inference.windows import Pixels
from unet4d.models.checkpoint import TrainedModel
from unet4d.models.device import resolve_precision
from unet4d.models.ensemble import check_compatible
from unet4d.pipeline.disk_image import DiskImage
from unet4d.pipeline.normalization import IntensityScale
from unet4d.system.memory import return_freed_memory
from unet4d.system.text import count


@dataclass(frozen=True, eq=False)
class PreprocessedStudy:
    """A study read and brought to the network's grid; nothing of it needs a GPU yet. To be closed.

    Attributes:
        like: the study, whose header the answer is written under.
        time: "cyclic" or "open", as it will be run.
        grid: the network's.
        image: (C, T, X, Y, Z) float32, normalised, on that grid.
        kinds: what each channel holds, see data/channels.py.
        scale: that its intensities were brought to.
    """

    like: ImageInfo
    time: TimeAxis
    grid: WorkingGrid
    image: Pixels
    kinds: tuple[str, ...]
    scale: IntensityScale

    @property
    def is_on_disk(self) -> bool:
        """Whether it was too large for main memory."""
        return isinstance(self.image, DiskImage)

    def close(self) -> None:
        """Let go of what it holds on disk; it cannot be answered any more."""
        if isinstance(self.image, DiskImage):
            self.image.close()


def prepare(models: Models, study: Study, settings: Settings) -> PreprocessedStudy:
    """Read a study. May run in a thread of its own while another study is answered.

    Raises:
        InputError: it cannot be read, or does not fit the models.
        Unet4DError: it fits neither into memory nor on the disk.
    """
    check_compatible(models)
    if settings.memory_bytes is not None:
        return_freed_memory()
    if study.stream is not None:
        outline, data = study.stream.info(), models[0].config.data
        kinds, grid = _checked_kinds(models[0], outline), _grid(models[0], outline)
        if not _fits(models, outline, grid, settings):
            image = DiskImage(study.stream, outline, grid, data.normalization, kinds, settings.scratch_dir)
            return PreprocessedStudy(outline, _time(models[0], study.time, settings), grid, image, kinds, image.scale)
    return prepare_image(models, study.image(), settings, study.time)


def prepare_image(
    models: Models, whole: Image4D, settings: Settings, time: TimeAxis | None = None
) -> PreprocessedStudy:
    """Prepare a study that is in memory; `time` is what it says itself. Raises InputError as `prepare`."""
    check_compatible(models)
    outline, data = whole.info, models[0].config.data
    kinds, grid = _checked_kinds(models[0], outline), _grid(models[0], outline)
    values = grid.image(whole.array, kinds, outline.source or "the image")
    scale = IntensityScale.from_frames(lambda: values.swapaxes(0, 1), values.shape, data.normalization, kinds)
    scale.apply(values)
    return PreprocessedStudy(outline, _time(models[0], time, settings), grid, torch.from_numpy(values), kinds, scale)


def _grid(model: TrainedModel, outline: ImageInfo) -> WorkingGrid:
    data = model.config.data
    return WorkingGrid.of(outline.affine, outline.grid, data.in_plane_spacing_mm, data.slice_spacing_mm)


def _time(model: TrainedModel, said: TimeAxis | None, settings: Settings) -> TimeAxis:
    return settings.time or said or time_axis(model.task.cyclic)


def _checked_kinds(model: TrainedModel, image: ImageInfo) -> tuple[str, ...]:
    """What the image's channels hold: as it says, else as the model's; a velocity may be declared backwards by either."""
    names, wanted = model.task.channel_names, model.task.channel_kinds
    if image.channels != len(names):
        raise InputError(
            f"{image.source or 'the image'} has {count(image.channels, 'channel')}; the model wants {len(names)} "
            f"({', '.join(names)})"
        )
    if image.kinds and wanted and unsigned_kinds(image.kinds) != unsigned_kinds(wanted):
        raise InputError(
            f"{image.source or 'the image'} has channels of the kinds {', '.join(image.kinds)}; the model wants "
            f"{', '.join(unsigned_kinds(wanted))}; correct channel_kinds"
        )
    return image.kinds or wanted


def label_bytes(model: TrainedModel, outline: ImageInfo, settings: Settings) -> int:
    """What a label map takes, and the probabilities, if they are wanted."""
    voxels = outline.frames * math.prod(outline.grid)
    return voxels * (1 + (4 * len(model.task.labels) if settings.probabilities else 0))


def _fits(models: Models, outline: ImageInfo, grid: WorkingGrid, settings: Settings) -> bool:
    """Whether a study may be read whole: as read and resampled; then beside its label map, a row of logits and a window's least."""
    frames = outline.channels * outline.frames
    native, working = (4 * frames * math.prod(size) for size in (outline.grid, grid.shape))
    reading = native + working + (native if grid.shape != tuple(outline.grid[axis] for axis in grid.order) else 0)
    budget = settings.budget_bytes()
    beside = budget - working - label_bytes(models[0], outline, settings) - working // outline.channels
    return reading <= budget and all(_window_fits(model, outline, settings, beside) for model in models)


def _window_fits(model: TrainedModel, outline: ImageInfo, settings: Settings, budget: float) -> bool:
    """Whether a window fits beside a study, one frame at a time if need be; on a GPU it takes none of the main memory."""
    device = next(model.network.parameters()).device
    if budget <= 0 or device.type != "cpu":
        return budget > 0
    windows = settings.sw_batch_size or model.config.inference.sw_batch_size
    network = (model.config.model, outline.channels, len(model.task.labels), model.config.data.patch_size)
    if generous_bytes(*network, outline.frames * windows) <= budget:
        return True
    memory = window_memory(*network, resolve_precision(settings.precision, device))
    return windows * memory.needed(outline.frames, 1) <= budget
