"""One study after the other segmented into a folder; what is wrong with one does not stop the others."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from unet4d.datasets.study import Study
from unet4d.errors import Unet4DError
from unet4d.images.image4d import ImageInfo
from unet4d.images.time_axis import TimeAxis
from unet4d.inference.batch.case_records import Stamp, check_unchanged, inputs_in_record, stamps
from unet4d.inference.batch.formats import probability_bytes
from unet4d.inference.batch.output_folder import PredictionFolder
from unet4d.inference.batch.pipeline import overlapped
from unet4d.inference.postprocessing_steps import Step, apply
from unet4d.inference.prepare import PreprocessedStudy, prepare
from unet4d.inference.segment import SegmentationResult, answer
from unet4d.inference.settings import Models, Settings
from unet4d.system.byte_sizes import describe_bytes
from unet4d.system.disk_space import check_disk_space
from unet4d.system.failures import failure_of_study
from unet4d.system.memory import free_memory_bytes
from unet4d.system.memory_errors import is_out_of_gpu_memory, is_out_of_main_memory, memory_error_reason
from unet4d.system.progress_bar import ProgressBar, print_line
from unet4d.system.signals import deferred_stop
from unet4d.system.text import printable, shortened

Value = TypeVar("Value")
HASHED = "series-"
"""So studies are named of whose files nothing but a hash is to be told, see data/convert/dicom.py."""
BESIDE_SHARE = 0.1
"""Of the memory, what a study may take that is read or written while another one is computed; segmentation leaves a fifth."""
_COPIES, _UNPACKED = 8, 8
"""Of an image while it is read and resampled; bytes in memory for one on disk."""


@dataclass(frozen=True, eq=False)
class Job:
    """A study, and what it is to be made from.

    Attributes:
        models: that answer it together.
        made: what decides the answer, but for the inputs' stamps; see records.py.
        steps: of post-processing.
    """

    study: Study
    models: Models
    made: Mapping[str, Any]
    steps: Sequence[Step] = ()

    @property
    def name(self) -> str:
        """Of the case."""
        return self.study.name

    def made_of(self, inputs: Sequence[Stamp]) -> dict[str, Any]:
        """What decides the answer, with the inputs as they were stamped."""
        return {**self.made, "inputs": inputs_in_record(inputs)}


@dataclass(frozen=True, eq=False)
class _Read:
    """A study that was read; its stamps from before; how long it took."""

    prepared: PreprocessedStudy
    inputs: list[Stamp]
    seconds: float


@dataclass(frozen=True, eq=False)
class _Computed:
    """An answer, what it is written under, and how long that took."""

    answer: SegmentationResult
    like: ImageInfo
    time: TimeAxis
    inputs: list[Stamp]
    seconds: dict[str, float]


class Batch:
    """Studies one after the other into a folder.

    Attributes:
        written: the cases' files, or folders.
        failed: case to what went wrong with it.
    """

    def __init__(self, folder: PredictionFolder, settings: Settings, device: Mapping[str, Any], speaks: bool):
        self.folder, self.settings, self.device, self.speaks = folder, settings, device, speaks
        self.written: list[Path] = []
        self.failed: dict[str, Unet4DError] = {}

    def all(self, jobs: Sequence[Job]) -> None:
        """Segment and write each; who fails is noted, and the next one begun."""
        disable = None if self.speaks else True
        with ProgressBar(total=len(jobs), desc="segmenting", unit="study", disable=disable) as self.bar:
            try:
                overlapped(
                    jobs, self._read, self._compute, self._write, _close, self._may_be_ahead, self._may_be_behind
                )
            finally:
                with deferred_stop(), contextlib.suppress(Unet4DError):  # a full disk is reported already
                    self.finish(self.failed)

    def finish(self, failed: Mapping[str, Unet4DError]) -> None:
        """Bring the tables up to date, with what failed here or in another process."""
        self.folder.finish({name: _reason(name, error) for name, error in failed.items()})

    def _read(self, job: Job) -> _Read | Unet4DError:
        began, before = time.perf_counter(), stamps(job.study)
        prepared = _tried(lambda: prepare(job.models, job.study, self.settings))
        changed = _tried(lambda: check_unchanged(before, job.study))
        if isinstance(changed, Unet4DError):  # which may be why it could not be read
            _close(prepared)
            return changed
        if isinstance(prepared, Unet4DError):
            return prepared
        return _Read(prepared, before, time.perf_counter() - began)

    def _compute(self, job: Job, read: _Read | Unet4DError) -> _Computed | Unet4DError:
        if isinstance(read, Unet4DError):
            return read
        self.bar.set_postfix_str(shortened(job.name, 40))
        began = time.perf_counter()
        try:
            found = _tried(lambda: self._answered(job, read.prepared))
        finally:
            _close(read)
        if isinstance(found, Unet4DError):
            torch.cuda.empty_cache()
            return found
        seconds = {"reading": read.seconds, "computing": time.perf_counter() - began}
        return _Computed(found, read.prepared.like, read.prepared.time, read.inputs, seconds)

    def _answered(self, job: Job, prepared: PreprocessedStudy) -> SegmentationResult:
        self._tell_before(job, prepared)
        if self.settings.probabilities:
            self._check_room(job, prepared)
        return answer(job.models, prepared, self.settings, self._note, self.speaks)

    def _write(self, job: Job, computed: _Computed | Unet4DError) -> None:
        if isinstance(computed, Unet4DError):
            return self._fail(job, computed)
        done = _tried(lambda: self._added(job, computed))
        if isinstance(done, Unet4DError):
            return self._fail(job, done)
        self.written.append(done)
        self._tell(
            f"done\t{printable(job.name)}\tframes={computed.like.frames}\tseconds={sum(computed.seconds.values()):.2f}"
        )

    def _fail(self, job: Job, error: Unet4DError) -> None:
        self.failed[job.name] = error
        self._tell(f"failed\t{printable(job.name)}\t{' '.join(str(error).split())}")

    def _added(self, job: Job, computed: _Computed) -> Path:
        models = [str(one.path) for one in job.models]
        entry: dict[str, Any] = {"image": str(computed.like.source), "time": computed.time}
        entry |= {"model": models[0]} if len(models) == 1 else {"models": models}
        entry |= {name: job.made[name] for name in ("fold", "settings", "postprocessing") if job.made[name] is not None}
        label, probabilities = computed.answer.label, computed.answer.probabilities
        seconds, made = dict(computed.seconds), job.made_of(computed.inputs)
        if job.steps:
            began = time.perf_counter()
            label = apply(label, job.steps, self.folder.labels, computed.time == "cyclic")
            seconds["postprocessing"] = time.perf_counter() - began
        return self.folder.add(job.name, label, probabilities, computed.like, made, entry, seconds, self.device)

    def _may_be_ahead(self, job: Job) -> bool:
        """Whether it is so small that it may be read beside another study, which counts on all but a fifth of the memory."""
        return _reading_bytes(job.study) <= BESIDE_SHARE * (self.settings.memory_bytes or free_memory_bytes())

    def _may_be_behind(self, computed: _Computed | Unet4DError) -> bool:
        """Likewise, whether it may be written beside another one."""
        if isinstance(computed, Unet4DError):
            return True
        arrays = (computed.answer.label, computed.answer.probabilities)
        held = sum(array.nbytes for array in arrays if array is not None)
        return held <= BESIDE_SHARE * (self.settings.memory_bytes or free_memory_bytes())

    def _tell_before(self, job: Job, prepared: PreprocessedStudy) -> None:
        """Say what a user would want to know before the study is computed."""
        like, config = prepared.like, job.models[0].config
        trained = config.data.frames
        if like.frames == 1 and trained > 1 and np.any(config.model.lstm_channels):
            self._note(
                f"{job.name} has one frame, and the network was trained on clips of {trained}: it is segmented without "
                "others before and after"
            )

    def _check_room(self, job: Job, prepared: PreprocessedStudy) -> None:
        """Say how large the probabilities are, and see that the disk has room for them."""
        size = probability_bytes(prepared.like, len(self.folder.labels))
        self._note(
            f"{job.name}: probabilities of {len(self.folder.labels)} classes take up to {describe_bytes(size)} on disk"
        )
        check_disk_space(self.folder.path, size, "probabilities", "choose another folder, or leave --probabilities out")

    def _note(self, text: str) -> None:
        if self.speaks:
            print_line(text, sys.stderr)

    def _tell(self, line: str) -> None:
        """One more is done: the bar moves, or where there is none, a line says so."""
        self.bar.update()
        if self.bar.disable and self.speaks:
            print(line, flush=True)


def _tried(work: Callable[[], Value]) -> Value | Unet4DError:
    """Return what it gives, or what went wrong with this study; what ends the batch is raised, see `failure_of_study`."""
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


def _reason(case: str, error: Unet4DError) -> str:
    """Why a case failed, for a file: without the paths of DICOM that is not to be named."""
    return (
        "told on the terminal only, for the paths of DICOM may name patients" if case.startswith(HASHED) else str(error)
    )


def _reading_bytes(study: Study) -> float:
    """What reading a study may take of main memory: copies of its image, by its header, else by the size of its files."""
    if study.stream is None:
        return _COPIES * _UNPACKED * sum(size or 0 for _, size, _ in stamps(study))
    outline = _tried(study.stream.info)
    if isinstance(outline, Unet4DError):
        return 0  # reading it ends as soon
    return _COPIES * 4.0 * outline.channels * outline.frames * math.prod(outline.grid)


def _close(read: object) -> None:
    """Let go of what was read, if anything was."""
    if isinstance(read, _Read):
        read.prepared.close()
    elif isinstance(read, PreprocessedStudy):
        read.close()
