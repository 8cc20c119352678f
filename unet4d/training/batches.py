"""The batches of a run's steps, made by worker processes while the network computes."""

from __future__ import annotations

import logging
import math
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from typing import Any

from torch._C import _remove_worker_pids

from unet4d.config import ResolvedConfig
from unet4d.errors import Unet4DError
from unet4d.models.task import Task
from unet4d.pipeline.cached_study import CachedStudy
from unet4d.pipeline.clip_dataset import PREFETCH_BATCHES, Batch, ClipDataset, clip_loader
from unet4d.system.byte_sizes import describe_bytes
from unet4d.system.distributed import ProcessGroup
from unet4d.system.operating_system import SHARED_MEMORY, free_shared_memory_bytes
from unet4d.system.signals import blocked_stop_signals
from unet4d.training.worker_failures import explain_worker_failure

logger = logging.getLogger(__name__)

USABLE_SHARE = 0.9
"""Share of its free space that may be filled."""
PATIENCE_S, TRIES = 10.0, 60
"""A worker hangs if this many waits of this length bring no batch; one long wait would be over for a job that was suspended. The
death of a worker that a fork server started is seen after one such wait."""
DEATH_NOTICE_S = 1.0
"""Time within which Python reports the death of a worker."""
_PRELOADED = ["__main__", "unet4d.pipeline.clip_dataset"]
"""Modules the fork server imports once, so that no worker has to."""


def training_clips(
    studies: Sequence[CachedStudy], config: ResolvedConfig, task: Task, labelled_only: bool = False
) -> ClipDataset:
    """Return the clips of a run's training studies; see `ClipDataset`."""
    compared = config.train.consistency_frames if config.train.consistency_weight else 0
    return ClipDataset(
        studies, config.data, task.cyclic, config.seed, task.channel_kinds, compared, labelled_only, task.region_classes
    )


class BatchLoader:
    """A context manager: the batches of a run's steps for this rank, made by worker processes while the network computes.

    With A batches per step and B clips per batch, batch a of step s has the clips from number (s * A + a) * B on; a rank takes its
    share of each. A worker's death can surface anywhere in the main process, so every error that leaves the context is examined.

    Args:
        clips: the numbered clips.
        config: of the run.
        steps: the steps to come, counted from 0.
        ranks: those that share each batch.
        pin: put batches into pinned memory, for a GPU.
        check: called again and again while no batch comes; what it raises ends the wait.

    Attributes:
        waited_s: seconds for which `next_step` has waited so far.

    Raises:
        Unet4DError: on leaving, where a worker was killed, hangs or failed, see `explain_worker_failure`.
    """

    def __init__(
        self,
        clips: ClipDataset,
        config: ResolvedConfig,
        steps: range,
        ranks: ProcessGroup,
        pin: bool,
        check: Callable[[], None] = lambda: None,
    ):
        self.clips, self.steps, self.pin, self.waited_s, self.check = clips, steps, pin, 0.0, check
        self.batch_size, self.accumulate = config.train.batch_size, config.train.accumulate_batches
        self._share, self._taken, self._epoch = ranks.share(self.batch_size), 0, config.train.steps_per_epoch
        self.workers = self._workers_that_fit(config, ranks)
        self._start_method = _start_method(ranks) if self.workers else None

    def __enter__(self) -> BatchLoader:
        before = set(active_children())
        try:
            if self._start_method:
                _prepare_fork_server()
            with blocked_stop_signals():
                self._batches = iter(
                    clip_loader(self.clips, self._numbers(), self.workers, self.pin, PATIENCE_S, self._start_method)
                )
        except OSError as error:
            _kill(set(active_children()) - before)
            raise Unet4DError(
                f"could not start {self.workers} workers ({error.strerror or error}); free memory, or lower data.num_workers; "
                f"{self._advice()}"
            ) from error
        self._processes = set(active_children()) - before
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        # The trace of an error keeps the loader alive, and workers that still run at the program's end would delay it.
        if any(worker.exitcode for worker in self._processes):
            _release_locks_of_the_dead(self._batches, self._processes)
        getattr(self._batches, "_shutdown_workers", lambda: None)()
        _kill(self._processes)
        if isinstance(error, Exception):
            explained = explain_worker_failure(error, self._processes, self.clips.studies, self.workers)
            if explained:
                raise type(explained)(f"{explained}; {self._advice()}") from error

    def next_step(self) -> list[Batch]:
        """Return the `accumulate_batches` batches of the next step, this rank's share of each."""
        began_s = time.perf_counter()
        batches = [self._next() for _ in range(self.accumulate)]
        self.waited_s += time.perf_counter() - began_s
        self._taken += 1
        return batches

    def cases(self, step: int) -> list[str]:
        """Return the cases of all clips of a step, of all ranks, in order, each once; nothing is read."""
        clips = self.accumulate * self.batch_size
        return list(dict.fromkeys(self.clips.case(step * clips + i) for i in range(clips)))

    def _numbers(self) -> Iterator[range]:
        """Yield the numbers of each batch's clips."""
        for batch in range(self.steps.start * self.accumulate, self.steps.stop * self.accumulate):
            first = batch * self.batch_size
            yield range(first + self._share.start, first + self._share.stop)

    def _next(self) -> Batch:
        for tries_left in reversed(range(TRIES)):
            try:
                return next(self._batches)
            except RuntimeError as error:
                if not tries_left or "DataLoader timed out" not in str(error):
                    raise
                self.check()
            except (ConnectionError, EOFError, FileNotFoundError):
                time.sleep(DEATH_NOTICE_S)  # within which a worker's death is reported, if that is why
                for process in self._processes:
                    if not process.is_alive():
                        raise RuntimeError(f"DataLoader worker (pid {process.pid}) exited unexpectedly") from None
                raise
        raise AssertionError("the last try returns or raises")

    def _workers_that_fit(self, config: ResolvedConfig, ranks: ProcessGroup) -> int:
        """Return as many of the configured workers as /dev/shm has room for; report it where it is not all of them."""
        asked, free = config.data.num_workers, free_shared_memory_bytes()
        if not asked or free is None:
            return asked
        voxels = math.prod(config.data.patch_size) * config.data.frames
        channels = len(self.clips.studies[0].image)
        batch = len(self._share) * voxels * (4 * channels + 1)  # float32 and a label
        # Those of a step, and of the one before until they are released; of pinned ones only what is being copied.
        in_use = 1 if self.pin else 2 * self.accumulate

        def needed(workers: int) -> int:
            """Return the bytes that all processes of this machine need."""
            return ranks.local_size * batch * (PREFETCH_BATCHES * workers + in_use) if workers else 0

        fitting = next(n for n in range(asked, -1, -1) if needed(n) <= USABLE_SHARE * free)
        if fitting < asked:
            each = f" in each of {ranks.local_size} processes" if ranks.local_size > 1 else ""
            size = math.ceil(needed(asked) / USABLE_SHARE / 2**30)
            logger.warning(
                f"{SHARED_MEMORY} has {describe_bytes(free)} free, and {asked} workers{each} fill up to "
                f"{describe_bytes(needed(asked))}: using {fitting}, which is slower and changes no result; for all of them: "
                f"docker run --ipc=host, or --shm-size={size}g"
            )
        return fitting

    def _advice(self) -> str:
        """Return how to continue: a checkpoint is written after every epoch."""
        has_checkpoint = self.steps.start or self._taken >= self._epoch
        return "then continue with --resume" if has_checkpoint else "then start it again, because no epoch is done yet"


def _release_locks_of_the_dead(batches: Any, workers: set[BaseProcess]) -> None:
    """Let the shutdown of torch's loader pass the event for its workers, because one killed while it read the event holds its lock.

    The others, which would wait for that event, are killed; torch's handler of ended workers must not know them any more.
    """
    if batches._worker_pids_set:
        _remove_worker_pids(id(batches))
        batches._worker_pids_set = False
    _kill(workers)
    batches._workers_done_event = threading.Event()


def _kill(workers: set[BaseProcess]) -> None:
    """Kill the workers that are still alive: they hang, and the program would wait for them at its end."""
    for worker in workers:
        if worker.is_alive():
            worker.kill()
            worker.join(DEATH_NOTICE_S)


def _start_method(ranks: ProcessGroup) -> str | None:
    """Return "forkserver" for workers that come from a fork server, which must be prepared, and None for the system's way.

    NCCL's threads and sockets do not survive a fork: workers of several ranks come from a process that never had them. On Linux
    those of one rank come from there from Python 3.14 on, too.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():  # Windows
        return None
    return "forkserver" if ranks.size > 1 or multiprocessing.get_start_method() == "forkserver" else None


def _prepare_fork_server() -> None:
    """Set up what the fork server is started with; call it before the signals are blocked that it must not die of.

    The fork server starts with its first worker and inherits the signals that are blocked then. Starting the resource tracker,
    which Python does on the way, would unblock them again; so it is started first.
    """
    from multiprocessing import resource_tracker

    multiprocessing.set_forkserver_preload(_PRELOADED)
    resource_tracker.ensure_running()
