"""The loop over many studies: each is read, segmented, post-processed and written; one that fails does not stop the others."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from unet4d.datasets.study import Study
from unet4d.errors import InputError, Unet4DError
from unet4d.evaluation.signal_curves import CurveOptions, measure_curves
from unet4d.images.image4d import ImageInfo
from unet4d.images.time_axis import TimeAxis
from unet4d.inference.batch.case_records import InputStamp, check_unchanged, describe_inputs, input_stamps
from unet4d.inference.batch.output_folder import PredictionFolder
from unet4d.inference.batch.pipeline import run_pipeline
from unet4d.inference.memory_budget import MemoryBudget
from unet4d.inference.options import InferenceOptions, Models
from unet4d.inference.postprocessing_steps import Step, apply_steps
from unet4d.inference.prepare import PreprocessedStudy, prepare_study
from unet4d.inference.segment import SegmentationResult, segment_study
from unet4d.report.dicom.result import Algorithm, DicomResult, check_source
from unet4d.report.dicom.terms import Term
from unet4d.system.byte_sizes import describe_bytes
from unet4d.system.failures import failure_of_study, raise_failed
from unet4d.system.files import check_disk_space
from unet4d.system.memory_errors import (
    empty_gpu_caches,
    is_out_of_gpu_memory,
    is_out_of_main_memory,
    memory_error_reason,
)
from unet4d.system.progress_bar import RESULT, ProgressBar
from unet4d.system.signals import deferred_stop
from unet4d.system.text import printable, shortened

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")
_COPIES, _UNPACKED = 8, 8
"""Copies of an image while it is read and resampled; bytes in memory per byte on disk."""


@dataclass(frozen=True, eq=False)
class StudyJob:
    """A study, and what its label map is made from.

    Attributes:
        models: that segment it together.
        made: what decides the label map, but for the inputs' stamps; see case_records.py.
        steps: of post-processing.
        conditions: what a fair comparison must know, see `prediction_conditions`.
        terms: codes of classes in DICOM, by class, where the user gave them.
    """

    study: Study
    models: Models
    made: Mapping[str, Any]
    steps: Sequence[Step] = ()
    conditions: Mapping[str, Any] = field(default_factory=dict)
    terms: Mapping[str, Term] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return the name of the case."""
        return self.study.name

    def made_from(self, inputs: Sequence[InputStamp]) -> dict[str, Any]:
        """Return what decides the label map, with these stamps of the inputs."""
        return {**self.made, "inputs": describe_inputs(inputs)}


@dataclass(frozen=True, eq=False)
class _ReadStudy:
    """A study that was read, the stamps of its files from before, and the seconds it took."""

    study: PreprocessedStudy
    inputs: list[InputStamp]
    seconds: float


@dataclass(frozen=True, eq=False)
class _SegmentedStudy:
    """A label map, what it is written under, and the seconds of each step."""

    result: SegmentationResult
    info: ImageInfo
    time: TimeAxis
    inputs: list[InputStamp]
    seconds: dict[str, float]


class BatchPredictor:
    """A prediction of many studies into a folder; one process of several `reports` what happens.

    Attributes:
        written: the cases' files, or folders.
        failed: case to its error.
    """

    def __init__(
        self,
        folder: PredictionFolder,
        options: InferenceOptions,
        budget: MemoryBudget,
        hardware: Mapping[str, Any],
        reports: bool,
        curves: CurveOptions | None = None,
    ):
        self.curves = curves or CurveOptions()
        self.folder, self.options, self.budget, self.hardware, self.reports = folder, options, budget, hardware, reports
        self.written: list[Path] = []
        self.failed: dict[str, Unet4DError] = {}

    def run(self, jobs: Sequence[StudyJob]) -> None:
        """Segment and write each study; note those that fail."""
        disable = None if self.reports else True
        with ProgressBar(total=len(jobs), desc="segmenting", unit="study", disable=disable) as self.bar:
            try:
                run_pipeline(
                    jobs, self._read, self._compute, self._write, _close, self._may_read_ahead, self._may_write_behind
                )
            finally:
                with deferred_stop(), contextlib.suppress(Unet4DError):  # a full disk is reported already
                    self.folder.finish()

    def _read(self, job: StudyJob) -> _ReadStudy | Unet4DError:
        begin_s, before = time.perf_counter(), input_stamps(job.study)
        study = _error_or(lambda: self._prepare(job))
        changed = _error_or(lambda: check_unchanged(before, job.study))
        if isinstance(changed, Unet4DError):  # which may be why it could not be read
            if isinstance(study, PreprocessedStudy):
                study.close()
            return changed
        if isinstance(study, Unet4DError):
            return study
        return _ReadStudy(study, before, time.perf_counter() - begin_s)

    def _prepare(self, job: StudyJob) -> PreprocessedStudy:
        """Read and preprocess a study. Raises InputError where it cannot be written as DICOM, and is to be."""
        if self.folder.writes_dicom and job.study.dicom is not None:
            check_source(job.study.dicom)
        study = prepare_study(job.models, job.study, self.options, self.budget)
        if self.folder.writes_dicom and job.study.dicom is None:
            study.close()
            raise InputError(f"{job.name} came as no DICOM, expected DICOM for --format dicom-seg; leave it out")
        return study

    def _compute(self, job: StudyJob, read: _ReadStudy | Unet4DError) -> _SegmentedStudy | Unet4DError:
        if isinstance(read, Unet4DError):
            return read
        self.bar.set_postfix_str(shortened(job.name, 40))
        begin_s, study = time.perf_counter(), read.study
        try:
            result = _error_or(lambda: self._segment(job, study))
        finally:
            study.close()
        if isinstance(result, Unet4DError):
            empty_gpu_caches()
            return result
        seconds = {"reading": read.seconds, "computing": time.perf_counter() - begin_s}
        return _SegmentedStudy(result, study.info, study.time, read.inputs, seconds)

    def _segment(self, job: StudyJob, study: PreprocessedStudy) -> SegmentationResult:
        config, clip_frames = job.models[0].config, job.models[0].config.data.frames
        if study.info.frames == 1 and clip_frames > 1 and np.any(config.model.lstm_channels):
            self._note(
                f"{job.name} has one frame, and the network was trained on clips of {clip_frames}: it is segmented without others "
                "before and after"
            )
        if self.options.probabilities:
            classes = len(self.folder.outputs_by_name)
            size = 4 * classes * study.info.frames * math.prod(study.info.grid)
            self._note(f"{job.name}: probabilities of {classes} classes take up to {describe_bytes(size)} on disk")
            check_disk_space(
                self.folder.path, size, "probabilities", "choose another folder, or leave --probabilities out"
            )
        return segment_study(job.models, study, self.options, self.budget, shows_progress=self.reports)

    def _write(self, job: StudyJob, segmented: _SegmentedStudy | Unet4DError) -> None:
        written = segmented if isinstance(segmented, Unet4DError) else _error_or(lambda: self._add(job, segmented))
        if isinstance(written, Unet4DError) or isinstance(segmented, Unet4DError):
            assert isinstance(written, Unet4DError)
            self.failed[job.name] = written
            return self._report(f"failed\t{printable(job.name)}\t{' '.join(str(written).split())}")
        self.written.append(written)
        seconds = sum(segmented.seconds.values())
        self._report(f"done\t{printable(job.name)}\tframes={segmented.info.frames}\tseconds={seconds:.2f}")
        if self.reports:
            logger.log(RESULT, self.folder.describe(job.name))

    def _add(self, job: StudyJob, segmented: _SegmentedStudy) -> Path:
        models = [str(model.path) for model in job.models]
        entry: dict[str, Any] = {"image": str(segmented.info.source), "time": segmented.time}
        entry |= {"model": models[0]} if len(models) == 1 else {"models": models}
        entry |= {name: job.made[name] for name in ("fold", "settings", "postprocessing") if job.made[name] is not None}
        entry["conditions"] = dict(job.conditions)
        if self.curves.kinds:
            entry["curves"] = self.curves.as_dict(job.study.velocity_unit)
        label, seconds = segmented.result.label, dict(segmented.seconds)
        if job.steps:
            begin_s = time.perf_counter()
            label = apply_steps(label, job.steps, self.folder.classes, segmented.time == "cyclic")
            seconds["postprocessing"] = time.perf_counter() - begin_s
        about = {
            "made": job.made_from(segmented.inputs),
            "entry": entry,
            "vitals": job.study.vitals.known(),
            "seconds": {step: round(duration, 3) for step, duration in seconds.items()},
            "hardware": dict(self.hardware),
            **self._measure_curves(job, segmented.info, label),
        }
        dicom = None
        if self.folder.writes_dicom and job.study.dicom is not None:
            algorithm = Algorithm({name: value for name, value in job.made.items() if name != "version"})
            cyclic, roles = segmented.time == "cyclic", self.folder.roles
            dicom = DicomResult(label, job.study.dicom, self.folder.classes, algorithm, job.terms, roles, cyclic)
        return self.folder.add(job.name, label, segmented.result.probabilities, segmented.info, about, dicom)

    def _measure_curves(self, job: StudyJob, info: ImageInfo, label: np.ndarray) -> dict[str, Any]:
        """Return the curves of a study for its record; its image is read again, frame by frame where it can be."""
        if not self.curves.kinds:
            return {}
        study, task = job.study, job.models[0].task
        channels = dict(zip(task.channel_names, info.kinds or task.channel_kinds, strict=True))
        classes = self.folder.classes
        found = measure_curves(study.frames(), label, classes, channels, info.affine, self.curves, study.velocity_unit)
        return {**found, "channel_kinds": channels, "baseline_frames": self.curves.baseline_frames}

    def _may_read_ahead(self, job: StudyJob) -> bool:
        """Return whether a study is so small that it may be read beside another one."""
        return self.budget.has_room_beside(_reading_bytes(job.study))

    def _may_write_behind(self, segmented: _SegmentedStudy | Unet4DError) -> bool:
        """Return whether a label map is so small that it may be written beside another study."""
        if isinstance(segmented, Unet4DError):
            return True
        arrays = (segmented.result.label, segmented.result.probabilities)
        return self.budget.has_room_beside(sum(array.nbytes for array in arrays if array is not None))

    def _note(self, text: str) -> None:
        if self.reports:
            logger.warning(text)

    def _report(self, line: str) -> None:
        """Advance the bar; where there is none, print a line."""
        self.bar.update()
        if self.bar.disable and self.reports:
            logger.info(line)


def check_failed(failed: Mapping[str, Unet4DError], studies: int, out_dir: Path) -> None:
    """Raise the errors of the studies that failed as one, once all others are done."""
    kind = InputError if any(isinstance(error, InputError) for error in failed.values()) else Unet4DError
    raise_failed(failed, studies, "segmented", out_dir, kind)


def _error_or(work: Callable[[], _Result]) -> _Result | Unet4DError:
    """Return the result, or the error of this study; raise what ends the batch, see `failure_of_study`."""
    try:
        return work()
    except Exception as error:
        if is_out_of_gpu_memory(error):
            reason = memory_error_reason(error)
            return Unet4DError(f"the GPU is out of memory ({reason}); use --device cpu, or another GPU")
        if is_out_of_main_memory(error):
            reason = memory_error_reason(error)
            return Unet4DError(f"the main memory is too small ({reason}); set --max_memory, or use a machine with more")
        return failure_of_study(error)


def _reading_bytes(study: Study) -> float:
    """Return the main memory that reading a study may take: copies of its image, by its header, else by the size of its files."""
    if study.stream is None:
        return _COPIES * _UNPACKED * sum(size or 0 for _, size, _ in input_stamps(study))
    info = _error_or(study.stream.info)
    if isinstance(info, Unet4DError):
        return 0  # reading it ends as soon
    return _COPIES * 4.0 * info.channels * info.frames * math.prod(info.grid)


def _close(read: _ReadStudy | Unet4DError) -> None:
    """Free a study that was read and will not be segmented."""
    if isinstance(read, _ReadStudy):
        read.study.close()
