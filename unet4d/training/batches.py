"""The batches a training step takes, and what became of the workers that make them, in words."""

from __future__ import annotations

import math
import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np

from unet4d.config import ResolvedConfig
from unet4d.errors import Unet4DError
from unet4d.pipeline.cache import CachedStudy
from unet4d.pipeline.clip_dataset import PREFETCH_BATCHES, Batch, ClipDataset, clip_loader
from unet4d.system.distributed import ProcessGroup
from unet4d.system.fork_server import has_fork_server, prepare_fork_server
from unet4d.system.gpu_memory import GB
from unet4d.system.signals import blocked_stop_signals

SHARED_MEMORY = "/dev/shm"
"""Where workers put batches for the main process to see."""
USABLE = 0.9
"""Share of what is free there that is counted on."""
PATIENCE_S, TRIES = 10.0, 60
"""A worker hangs if this many waits of this length bring no batch; one long wait would be over for a job that was suspended. The
death of a worker that a fork server started is seen after one such wait."""
NEWS_S = 1.0
"""After so long the news of a worker's death, which is raised as it comes in, is no longer on its way."""


class BatchLoader:
    """The batches of a run's steps for this rank, made by worker processes while the network computes: a context manager.

    With A batches a step and B clips a batch, batch a of step s has the clips from number (s * A + a) * B on; a rank takes its
    share. A worker's death reaches the main process wherever that is, so every error that leaves the context is looked at.

    Args:
        clips: where they come from.
        config: of the run.
        steps: the steps to come, counted from 0.
        ranks: those who share each batch.
        pin: put batches where a GPU can fetch them from while it computes.
        say: where a line for the user goes.
        check: called again and again while no batch comes; what it raises ends the wait.

    Attributes:
        waited_s: seconds `next_step` has waited for batches so far.

    Raises:
        Unet4DError: on leaving, where a worker was killed, hangs or failed; where it failed with an Unet4DError, one of that kind.
    """

    def __init__(
        self,
        clips: ClipDataset,
        config: ResolvedConfig,
        steps: range,
        ranks: ProcessGroup,
        pin: bool,
        say: Callable[[str], None],
        check: Callable[[], None] = lambda: None,
    ):
        self.clips, self.steps, self.pin, self.waited_s, self.check = clips, steps, pin, 0.0, check
        self.batch_size, self.accumulate = config.train.batch_size, config.train.accumulate_batches
        self._share, self._taken, self._epoch = ranks.share(self.batch_size), 0, config.train.steps_per_epoch
        self.workers = self._fitting_workers(config, ranks, say)
        # NCCL's threads and sockets do not survive a fork: workers of several ranks come from a process that never had them.
        self._start_method = "forkserver" if ranks.size > 1 and self.workers and has_fork_server() else None

    def __enter__(self) -> BatchLoader:
        before = set(active_children())
        try:
            if self._start_method:
                prepare_fork_server()
            with blocked_stop_signals():
                self._batches = iter(
                    clip_loader(self.clips, self._numbers(), self.workers, self.pin, PATIENCE_S, self._start_method)
                )
        except OSError as error:
            _kill(set(active_children()) - before)
            raise Unet4DError(
                f"could not start {self.workers} workers ({error.strerror or error}); free memory, or lower data.num_workers; "
                f"{self._again()}"
            ) from error
        self._processes = set(active_children()) - before
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        # The trace of an error keeps the loader alive, and workers that still run at the program's end would hold it up.
        getattr(self._batches, "_shutdown_workers", lambda: None)()
        _kill(self._processes)
        told = self._told(error) if isinstance(error, Exception) else None
        if told is not None:
            raise told from error

    def next_step(self) -> list[Batch]:
        """The `accumulate` batches of the next step, this rank's share of each."""
        began = time.perf_counter()
        batches = [self._next() for _ in range(self.accumulate)]
        self.waited_s += time.perf_counter() - began
        self._taken += 1
        return batches

    def cases(self, step: int) -> list[str]:
        """The cases of all clips of a step, of all ranks, in order, each once; nothing is read."""
        clips = self.accumulate * self.batch_size
        return list(dict.fromkeys(self.clips.case(step * clips + i) for i in range(clips)))

    def _numbers(self) -> Iterator[range]:
        """The numbers of each batch's clips."""
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
                self._raise_a_death()
                raise
        raise AssertionError("the last try returns or raises")

    def _raise_a_death(self) -> None:
        """A batch cannot be fetched whose worker died meanwhile; raise that, unless the news of it is faster."""
        time.sleep(NEWS_S)
        for process in self._processes:
            if not process.is_alive():
                raise RuntimeError(f"DataLoader worker (pid {process.pid}) exited unexpectedly")

    def _fitting_workers(self, config: ResolvedConfig, ranks: ProcessGroup, say: Callable[[str], None]) -> int:
        """As many of the configured workers as /dev/shm has room for; says so where it is not all of them."""
        asked, free = config.data.num_workers, _free_shared_memory()
        if not asked or free is None:
            return asked
        voxels = math.prod(config.data.patch_size) * config.data.frames
        channels = len(self.clips.studies[0].image)
        batch = len(self._share) * voxels * (4 * channels + 1)  # float32 and a label
        # Those of a step, and of the one before until they are let go; of pinned ones only what is being copied.
        given_out = 1 if self.pin else 2 * self.accumulate

        def needed(workers: int) -> int:
            """By all processes of this machine."""
            return ranks.local_size * batch * (PREFETCH_BATCHES * workers + given_out) if workers else 0

        fitting = next(n for n in range(asked, -1, -1) if needed(n) <= USABLE * free)
        if fitting < asked:
            each = f" in each of {ranks.local_size} processes" if ranks.local_size > 1 else ""
            size = math.ceil(needed(asked) / USABLE / 2**30)
            say(
                f"{SHARED_MEMORY} has {free / GB:.3g} GB free, and {asked} workers{each} fill up to {needed(asked) / GB:.3g} GB: "
                f"going on with {fitting}, which takes longer and changes no result; for all of them raise it: "
                f"docker run --ipc=host, or --shm-size={size}g"
            )
        return fitting

    def _told(self, error: Exception) -> Unet4DError | None:
        """What a failure of the workers comes to for the user; None if it is none of theirs."""
        text = str(error)
        if isinstance(error, Unet4DError):
            if "in DataLoader worker process" not in text:
                return None
            line = text.rstrip().rsplit("\n", 1)[-1].partition(": ")[2]  # of the worker's traceback, its own message
            return type(error)(f"{line}; {self._again()}")
        reason = self._reason(text)
        return None if reason is None else Unet4DError(f"{reason}; {self._again()}")

    def _reason(self, text: str) -> str | None:
        """What happened and what to do, from what PyTorch's loader says and what the workers left with."""
        fewer = f"lower data.num_workers, now {self.workers}"
        number = re.search(r"DataLoader worker \(pid(?:\(s\))? (\d+)", text)
        worker = f"a worker that makes batches (process {number[1]})" if number else "a worker that makes batches"
        code = next((p.exitcode or 0 for p in self._processes if number and p.pid == int(number[1])), 0)
        if code == -signal.SIGKILL:
            return f"{worker} was killed, most often by the system because memory ran out; free memory, or {fewer}"
        if "DataLoader timed out" in text:
            return (
                f"no batch came for {PATIENCE_S * TRIES:g} s: {worker} hangs, most often on a disk that does not answer; look at "
                f"{_folder(self.clips.studies)}"
            )
        if "Too many open files" in text or "received 0 items of ancdata" in text:
            return (
                f"the workers opened more files than this process may; raise the limit with ulimit -n 65536, or {fewer}"
            )
        if not number and "in DataLoader worker process" not in text:
            return None
        if damaged := _damaged(self.clips.studies):
            return f"{damaged} was removed or cut short while it was learnt from; delete its folder, and it will be built again"
        if code == -signal.SIGBUS or "</torch_" in text:
            more = "docker run --ipc=host, or with a larger --shm-size"
            return f"{worker} found {SHARED_MEMORY} full; raise it ({more}), or {fewer}"
        if code < 0:
            return f"{worker} was ended by the signal {signal.Signals(-code).name}; if nobody sent it, {fewer}"
        if number:
            return f"{worker} ended unexpectedly; it may have said why above, and --data.num_workers 0 shows the error itself"
        return None

    def _again(self) -> str:
        """How to go on: a checkpoint is written after every epoch."""
        is_kept = self.steps.start or self._taken >= self._epoch
        return "then continue with --resume" if is_kept else "then start it again, for no epoch is done yet"


def _kill(workers: Iterable[BaseProcess]) -> None:
    """End those that are still there, for they hang; nothing less ends them, and the program would wait for them at its end."""
    for worker in workers:
        if worker.is_alive():
            worker.kill()
            worker.join(NEWS_S)


def _free_shared_memory() -> int | None:
    """Bytes; None where there is no such place."""
    try:
        found = os.statvfs(SHARED_MEMORY)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def _damaged(studies: Sequence[CachedStudy]) -> Path | None:
    """A file of a study that is not there or not as long as what was mapped of it."""
    for study in studies:
        for array in (study.image, study.label, study.foreground):
            if isinstance(array, np.memmap) and array.filename is not None:
                path = Path(array.filename)
                if not path.exists() or path.stat().st_size < array.offset + array.nbytes:
                    return path
    return None


def _folder(studies: Sequence[CachedStudy]) -> str:
    """Where the studies lie."""
    image = studies[0].image
    return str(Path(image.filename).parents[1]) if isinstance(image, np.memmap) and image.filename else "it"
