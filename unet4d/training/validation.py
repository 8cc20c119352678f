"""Validation: whole studies, segmented and scored, shared by the processes that train together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from unet4d.config import ResolvedConfig
from unet4d.errors import Unet4DError
from unet4d.images.grid import IGNORE, WorkingGrid
from unet4d.images.image4d import ImageInfo
from unet4d.images.time_axis import time_axis
from unet4d.inference.memory_budget import MemoryBudget
from unet4d.inference.options import InferenceOptions
from unet4d.inference.prepare import PreprocessedStudy
from unet4d.inference.segment import segment_study
from unet4d.metrics.overlap import count_voxels, dice
from unet4d.metrics.regions import label_values
from unet4d.metrics.statistics import summary_statistics
from unet4d.metrics.volume_curves import extreme_frames, volumes_ml, voxel_volume_ml
from unet4d.models.checkpoint import TrainedModel
from unet4d.models.clstm_unet import CLSTMUNet
from unet4d.models.task import Task
from unet4d.pipeline.cached_study import CachedStudy
from unet4d.report.pictures.contour_sheet import draw_contour_sheet
from unet4d.report.pictures.curve_plot import draw_curves
from unet4d.report.pictures.render import class_color
from unet4d.system.distributed import ProcessGroup
from unet4d.system.memory_errors import is_out_of_gpu_memory, memory_error_reason
from unet4d.system.progress_bar import ProgressBar
from unet4d.system.text import format_number


@dataclass(frozen=True)
class ValidationResult:
    """The result of a validation, the same on all processes and for any number of them.

    Attributes:
        values: `dice` {class: mean over the labelled frames of all studies}, `mean_foreground_dice` (mean of those), `case_dice`
            {case: the same within it}, and {class: voxels} on the labelled frames, `predicted_voxels` and `reference_voxels`. A
            value that is defined nowhere is None.
        pictures: (H, W, 3) uint8 by name, of the best and of the worst study: "validation/best contours" and the like.
    """

    values: dict[str, Any]
    pictures: dict[str, np.ndarray]


@dataclass(frozen=True)
class _Scored:
    """A study's score: `dice (L, K)` of its evaluated frames, and voxels `(K,)` on them, of K foreground classes.

    Only drawn voxels count; a class that was not drawn has no Dice and no voxels.
    """

    index: int
    dice: np.ndarray
    predicted: np.ndarray
    reference: np.ndarray

    @property
    def mean(self) -> float | None:
        """Return the mean foreground Dice over the labelled frames; None where it is undefined."""
        return _mean([summary_statistics(of_class)["mean"] for of_class in self.dice.T])


class Validation:
    """Dice on whole studies. Each process takes every size-th study; the values do not depend on how many there are.

    Args:
        studies: all of them, in the same order on every process; one or more.
        config: of the run.
        task: classes and time.
        device: where to compute.
        ranks: this process among the others.
    """

    def __init__(
        self,
        studies: Sequence[CachedStudy],
        config: ResolvedConfig,
        task: Task,
        device: torch.device,
        ranks: ProcessGroup,
    ):
        self.studies, self.config, self.task, self.device, self.ranks = studies, config, task, device, ranks
        self.indices = task.of_indices()
        self.classes = self.indices.classes

    def __call__(self, network: CLSTMUNet, check: Callable[[], None]) -> ValidationResult:
        """Segment and score every study; all processes call it together.

        Args:
            network: the same weights on all processes; left in evaluation mode.
            check: called before each round of studies, equally often by every process, and by one that is alone after every
                window, too; what it raises ends the validation.

        Raises:
            Unet4DError: the GPU's memory is too small.
        """
        network.eval()
        with _explain_memory():
            mine, kept = self._score_mine(network, check)
        scored = sorted((one for part in self.ranks.all_gather(mine) for one in part), key=lambda one: one.index)
        return ValidationResult(self._values(scored), self._pictures(scored, kept))

    def _score_mine(self, network: CLSTMUNet, check: Callable[[], None]) -> tuple[list[_Scored], dict[int, np.ndarray]]:
        """Return this process's scores; and its predictions `(T, X, Y, Z)` uint8 of its best and its worst study, by index."""
        total, size = len(self.studies), self.ranks.size
        scored: list[_Scored] = []
        kept: dict[int, np.ndarray] = {}
        hidden = None if self.ranks.is_first else True
        with ProgressBar(total=total, desc="validating", unit="study", leave=False, disable=hidden) as bar:
            for first in range(0, total, size):
                check()
                index = first + self.ranks.rank
                if index < total:
                    predicted = self._segment(network, self.studies[index], check)
                    scored.append(self._score(index, predicted))
                    kept[index] = predicted
                    kept = {one: kept[one] for one in _best_and_worst(scored).values()}
                bar.update(min(size, total - first))
        return scored, kept

    def sample(self, network: CLSTMUNet, frames: int) -> float:
        """Segment a few frames of a study, to be timed; return the fraction of this process's validation that they are.

        Raises:
            Unet4DError: the GPU's memory is too small.
        """
        mine = self.studies[self.ranks.rank :: self.ranks.size]
        if not mine:
            return 1.0
        few = replace(mine[0], image=mine[0].image[:, :frames])
        network.eval()
        with _explain_memory():
            self._segment(network, few, lambda: None)
        return few.image.size / sum(study.image.size for study in mine)

    def _segment(self, network: CLSTMUNet, study: CachedStudy, check: Callable[[], None]) -> np.ndarray:
        """Return class indices (T, X, Y, Z) uint8 of a whole study on the working grid, segmented as `predict` does."""
        channels, frames, x, y, z = study.image.shape
        kinds, shape = self.task.channel_kinds, (x, y, z)
        info = ImageInfo(nib.Nifti1Header(), channels, frames, shape, None, Path(study.case), kinds)
        grid = WorkingGrid(shape, (0, 1, 2), (False, False, False), shape, study.spacing)
        result = segment_study(
            [TrainedModel(network, self.config, self.indices, Path())],
            PreprocessedStudy(info, time_axis(self.task.cyclic), grid, ReadOnDemand(study.image), kinds),
            InferenceOptions(precision=self.config.train.precision),
            MemoryBudget.of_process(None, self.ranks.local_size),
            shows_progress=False,
            check=check if self.ranks.size == 1 else (lambda: None),
            allow_nan=True,
        )
        return result.label

    def _score(self, index: int, predicted: np.ndarray) -> _Scored:
        study = self.studies[index]
        rows, classes = study.evaluated_rows, list(self.classes.values())
        reference, found = np.asarray(study.label)[rows], predicted[[study.labelled_frames[row] for row in rows]]
        if study.scope.ignores:
            found = np.where(reference == IGNORE, IGNORE, found)
        counts, is_drawn = count_voxels(reference, found, classes), self._is_drawn(study)
        scores = np.where(is_drawn, dice(counts), np.nan)
        return _Scored(index, scores, *((counts.tp + part).sum(0) * is_drawn for part in (counts.fp, counts.fn)))

    def _is_drawn(self, study: CachedStudy) -> np.ndarray:
        """Return which of the K foreground classes were drawn in a study, bool; of a region all its parts were."""
        drawn = study.scope.annotated
        return np.array([drawn is None or set(label_values([value])) <= set(drawn) for value in self.classes.values()])

    def _values(self, scored: Sequence[_Scored]) -> dict[str, Any]:
        every = np.concatenate([one.dice for one in scored])
        classes = {name: summary_statistics(every[:, k])["mean"] for k, name in enumerate(self.classes)}
        predicted, reference = (sum(getattr(one, name) for one in scored) for name in ("predicted", "reference"))
        return {
            "dice": classes,
            "mean_foreground_dice": _mean(list(classes.values())),
            "predicted_voxels": dict(zip(self.classes, map(int, predicted), strict=True)),
            "reference_voxels": dict(zip(self.classes, map(int, reference), strict=True)),
            "case_dice": {self.studies[one.index].case: one.mean for one in scored},
        }

    def _pictures(self, scored: Sequence[_Scored], kept: dict[int, np.ndarray]) -> dict[str, np.ndarray]:
        """Draw the best and the worst study in the process that has each, and hand the pictures to all."""
        mine: dict[str, np.ndarray] = {}
        for which, index in _best_and_worst(scored).items():
            if index % self.ranks.size == self.ranks.rank:
                title = f"{self.studies[index].case}: Dice {format_number(scored[index].mean, 3)}"
                drawn = self._draw(self.studies[index], kept[index], title)
                mine |= {f"validation/{which} {what}": picture for what, picture in drawn.items()}
        return {name: picture for part in self.ranks.all_gather(mine) for name, picture in part.items()}

    def _draw(self, study: CachedStudy, predicted: np.ndarray, title: str) -> dict[str, np.ndarray]:
        """Draw contours of the frames of largest and smallest volume; of several frames also the volume curves."""
        affine, rows = np.diag([*study.spacing, 1.0]), study.evaluated_rows
        labelled, label = [study.labelled_frames[row] for row in rows], np.asarray(study.label)[rows]
        reference = np.zeros_like(predicted)
        reference[labelled] = np.where(label == IGNORE, 0, label)
        voxel_ml, classes = voxel_volume_ml(affine), list(self.classes.values())
        curves, known = (volumes_ml(label, classes, voxel_ml) for label in (predicted, reference))  # (T, K)
        extremes = extreme_frames(curves)
        frames = {*extremes, *(labelled[t] for t in extreme_frames(known[labelled]))}
        drawn = {
            "contours": draw_contour_sheet(
                study.image[0],
                predicted,
                affine,
                reference=reference,
                class_names={value: name for name, value in self.classes.items()},
                frames=sorted(frames),
                extremes=extremes,
                title=title,
            )
        }
        if len(predicted) > 1:
            whole = [t for t, frame in zip(labelled, label, strict=True) if not (frame == IGNORE).any()]
            known[[t for t in range(len(known)) if t not in whole]] = np.nan  # part of a frame has no volume
            known[:, ~self._is_drawn(study)] = np.nan
            predicted_ml, reference_ml = (dict(zip(self.classes, each.T, strict=True)) for each in (curves, known))
            colors = {name: class_color(value) for name, value in self.classes.items()}
            drawn["volumes"] = draw_curves(predicted_ml, colors=colors, reference=reference_ml, title=title)
        return drawn


@contextlib.contextmanager
def _explain_memory() -> Iterator[None]:
    """Turn an error for want of GPU memory into an Unet4DError with advice."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_gpu_memory(error):
            raise
        raise Unet4DError(
            f"validation ran out of GPU memory ({memory_error_reason(error)}); free memory of the GPU, or set a lower "
            "--inference.chunk_frames, and continue with --resume"
        ) from error


class ReadOnDemand:
    """An image (C, T, X, Y, Z) in a memory map, of which windows are read."""

    def __init__(self, array: np.ndarray):
        self.array, self.shape = array, array.shape

    def __getitem__(self, box: tuple[slice, ...]) -> torch.Tensor:
        """Return (C, T, x, y, z) of five slices, in memory."""
        return torch.from_numpy(np.array(self.array[box]))


def _best_and_worst(scored: Sequence[_Scored]) -> dict[str, int]:
    """Return the index of the best and of the worst study: the first of equally good ones, the last of equally bad ones."""
    known = [(one.mean, -one.index) for one in scored if one.mean is not None]
    if not known:
        return {}
    best, worst = -max(known)[1], -min(known)[1]
    return {"best": best, "worst": worst} if worst != best else {"best": best}


def _mean(values: Sequence[Any]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
