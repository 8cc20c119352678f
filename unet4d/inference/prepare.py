"""A study read and preprocessed for the network: in memory where it fits, else in a file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from unet4d.datasets.study import Study
from unet4d.errors import InputError
from unet4d.images.channels import unsigned_kinds
from unet4d.images.grid import WorkingGrid
from unet4d.images.image4d import Image4D, ImageInfo
from unet4d.images.time_axis import TimeAxis, time_axis
from unet4d.inference.memory_budget import MemoryBudget
from unet4d.inference.memory_plan import study_fits
from unet4d.inference.options import InferenceOptions, Models
from unet4d.inference.windows import Pixels
from unet4d.models.checkpoint import TrainedModel
from unet4d.models.ensemble import check_compatible
from unet4d.pipeline.disk_image import DiskImage
from unet4d.pipeline.normalization import IntensityScale
from unet4d.system.memory import return_large_blocks_when_freed
from unet4d.system.text import count


@dataclass(frozen=True, eq=False)
class PreprocessedStudy:
    """A study on the network's grid; nothing of it needs a GPU yet. To be closed.

    Attributes:
        info: the study's header, under which its label map is written.
        time: "cyclic" or "open".
        grid: the network's.
        image: (C, T, X, Y, Z) float32, normalized, on that grid.
        kinds: what each channel holds, see images/channels.py.
    """

    info: ImageInfo
    time: TimeAxis
    grid: WorkingGrid
    image: Pixels
    kinds: tuple[str, ...]

    def close(self) -> None:
        """Free its space on the disk; it cannot be segmented any more."""
        if isinstance(self.image, DiskImage):
            self.image.close()


def prepare_study(models: Models, study: Study, options: InferenceOptions, budget: MemoryBudget) -> PreprocessedStudy:
    """Read and preprocess a study. May run in a thread of its own while another study is segmented.

    Raises:
        InputError: it cannot be read, or does not fit the models.
        Unet4DError: it fits neither into memory nor on the disk.
    """
    check_compatible(models)
    if budget.limit_bytes is not None:
        return_large_blocks_when_freed()
    if study.stream is not None:
        model, info = models[0], study.stream.info()
        kinds, grid = _checked_kinds(model, info), _working_grid(model, info)
        if not study_fits(models, info, grid, options, budget):
            normalization = model.config.data.normalization
            image = DiskImage(study.stream, info, grid, normalization, kinds, options.scratch_dir)
            return PreprocessedStudy(info, _time(model, study.time, options), grid, image, kinds)
    return prepare_image(models, study.image(), options, study.time)


def prepare_image(
    models: Models, image: Image4D, options: InferenceOptions, time: TimeAxis | None = None
) -> PreprocessedStudy:
    """Preprocess a study that is in memory; `time` is what its dataset or header says. Raise InputError as `prepare_study`."""
    check_compatible(models)
    grid, kinds, values, scale = scaled_image(models[0], image)
    scale.apply(values)
    return PreprocessedStudy(image.info, _time(models[0], time, options), grid, torch.from_numpy(values), kinds)


def scaled_image(
    model: TrainedModel, image: Image4D
) -> tuple[WorkingGrid, tuple[str, ...], np.ndarray, IntensityScale]:
    """Return the working grid, the channels' kinds, the image (C, T, X, Y, Z) on that grid and its scale, not applied yet."""
    info, normalization = image.info, model.config.data.normalization
    kinds, grid = _checked_kinds(model, info), _working_grid(model, info)
    values = grid.image(image.array, kinds, info.source or "the image")
    return (
        grid,
        kinds,
        values,
        IntensityScale.from_frames(lambda: values.swapaxes(0, 1), values.shape, normalization, kinds),
    )


def _working_grid(model: TrainedModel, info: ImageInfo) -> WorkingGrid:
    data = model.config.data
    spacing_mm = data.in_plane_spacing_mm, data.slice_spacing_mm
    return WorkingGrid.of(info.affine, info.grid, *spacing_mm, data.interpolation)


def _time(model: TrainedModel, known: TimeAxis | None, options: InferenceOptions) -> TimeAxis:
    return options.time or known or time_axis(model.task.cyclic)


def _checked_kinds(model: TrainedModel, info: ImageInfo) -> tuple[str, ...]:
    """Return what the image's channels hold: by its header, else by the model; either may declare a velocity backwards."""
    names, expected = model.task.channel_names, model.task.channel_kinds
    if info.channels != len(names):
        raise InputError(
            f"{info.source or 'the image'}: got {count(info.channels, 'channel')}, expected {len(names)} ({', '.join(names)}); "
            "give a study with the channels of the model"
        )
    if info.kinds and expected and unsigned_kinds(info.kinds) != unsigned_kinds(expected):
        raise InputError(
            f"{info.source or 'the image'}: got channels of the kinds {', '.join(info.kinds)}, expected "
            f"{', '.join(unsigned_kinds(expected))}; correct channel_kinds"
        )
    return info.kinds or expected
