"""The loader gives each rank its clips, explains a worker's death, and uses no more workers than shared memory has room for."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from processes import exit_code

from tests.builders import cached_study, collect_log, tiny_config
from tests.masking import needs_posix
from unet4d.config import DataConfig, ResolvedConfig
from unet4d.errors import InputError, Stopped, Unet4DError
from unet4d.pipeline.cached_study import CachedStudy
from unet4d.pipeline.clip_dataset import ClipDataset
from unet4d.system.distributed import ProcessGroup
from unet4d.system.signals import ignore_stop_signals
from unet4d.training import batches as batches_module
from unet4d.training.batches import BatchLoader

PATCH = (8, 6, 4)
ALONE = ProcessGroup()


OTHERS: set = set()
"""Processes that earlier tests have left."""


@pytest.fixture(autouse=True)
def no_worker_is_left():
    OTHERS.clear()
    OTHERS.update(multiprocessing.active_children())
    yield
    assert workers() == []


def clips(kind: type[ClipDataset] = ClipDataset, studies=None) -> ClipDataset:
    return kind(
        studies or [cached_study(c, 5, seed=ord(c)) for c in "abcde"],
        DataConfig(patch_size=PATCH, frames=3, augmentation="off"),
        True,
        0,
    )


def config(workers: int = 0, batch_size: int = 4, accumulate: int = 1, steps_per_epoch: int = 10) -> ResolvedConfig:
    loop = {"epochs": 10**6, "steps_per_epoch": steps_per_epoch, "batch_size": batch_size}
    return tiny_config(patch_size=PATCH, frames=3, num_workers=workers, accumulate_batches=accumulate, **loop)


def make_loader(
    kind: type[ClipDataset] = ClipDataset,
    steps: range = range(20),
    ranks: ProcessGroup = ALONE,
    **loop,
) -> BatchLoader:
    return BatchLoader(clips(kind), config(**loop), steps, ranks, False)


# which clips


def test_a_step_has_the_clips_of_its_number_and_ranks_share_them():
    alone, numbered = [], clips()
    with make_loader(steps=range(3, 7), accumulate=2) as loader:
        alone = [loader.next_step() for _ in range(4)]
    for at, step in enumerate(range(3, 7)):
        assert len(alone[at]) == 2
        for a, batch in enumerate(alone[at]):
            wanted = [numbered[(step * 2 + a) * 4 + i] for i in range(4)]
            assert torch.equal(batch.image, torch.stack([clip.image for clip in wanted]))
            assert batch.cases == tuple(clip.case for clip in wanted)
    for size in (2, 3):
        shares = []
        for rank in range(size):
            with make_loader(steps=range(3, 7), accumulate=2, ranks=ProcessGroup(rank, size)) as loader:
                shares.append([loader.next_step() for _ in range(4)])
        for at in range(4):
            for a in range(2):
                parts = [share[at][a] for share in shares]
                assert torch.equal(torch.cat([part.image for part in parts]), alone[at][a].image)
                assert sum((part.cases for part in parts), ()) == alone[at][a].cases


def test_the_cases_of_a_step_are_those_of_all_its_clips_each_once():
    with make_loader(accumulate=2, ranks=ProcessGroup(1, 2)) as loader, make_loader(accumulate=2) as alone:
        for step in range(6):
            seen = [case for batch in alone.next_step() for case in batch.cases]
            assert loader.cases(step) == list(dict.fromkeys(seen))
            assert len(seen) == 8 > len(loader.cases(step))


def test_a_run_of_ten_million_steps_begins_at_once():
    """Neither a list of its steps is made, nor are they counted through."""
    numbered = []

    class Numbered(BatchLoader):
        def _numbers(self):
            for numbers in super()._numbers():
                numbered.append(numbers)
                yield numbers

    tracemalloc.start()
    try:
        with Numbered(clips(), config(workers=1), range(5, 10**7), ALONE, False) as loader:
            assert len(loader.next_step()) == 1
        assert tracemalloc.get_traced_memory()[1] < 20e6  # a list of them takes more than 80 MB
    finally:
        tracemalloc.stop()
    assert len(numbered) < 10


def test_workers_change_no_batch_and_leave_the_global_generator_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with make_loader(workers=2) as two, make_loader() as none:
        for _ in range(5):
            (one,), (other,) = two.next_step(), none.next_step()
            assert torch.equal(one.image, other.image)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def server():
    """Return the pid of the fork server, once one is started."""
    from multiprocessing import forkserver

    return lambda: forkserver._forkserver._forkserver_pid


@needs_posix("a fork server")
def test_workers_of_several_ranks_come_from_a_fork_server_and_change_no_batch(tmp_path, server):
    """NCCL's threads do not survive a fork of the process that has them."""
    cached = clips(studies=[mapped(tmp_path, "a"), mapped(tmp_path, "b")])
    for made in (clips(), cached):
        several = BatchLoader(made, config(workers=2), range(20), ProcessGroup(1, 2), False)
        none = BatchLoader(made, config(workers=0), range(20), ProcessGroup(1, 2), False)
        with several, none:
            assert {process._start_method for process in several._processes} == {"forkserver"}
            for _ in range(4):
                (one,), (other,) = several.next_step(), none.next_step()
                assert torch.equal(one.image, other.image)
                assert torch.equal(one.label, other.label)
                assert one.cases == other.cases
    parents = {int(Path(f"/proc/{server()}/status").read_text(encoding="utf-8").split("PPid:")[1].split()[0])}
    assert parents == {os.getpid()}


@needs_posix("a fork server")
@pytest.mark.parametrize(("usual", "chosen"), [("fork", None), ("spawn", None), ("forkserver", "forkserver")])
def test_one_rank_starts_its_workers_as_the_system_does_and_prepares_a_fork_server(usual, chosen, monkeypatch):
    """None is the system's way; the fork server is that of Linux from Python 3.14 on."""
    prepared = Mock()
    monkeypatch.setattr(batches_module, "_prepare_fork_server", prepared)
    monkeypatch.setattr("multiprocessing.get_start_method", lambda: usual)
    monkeypatch.setattr(batches_module, "clip_loader", Mock(return_value=[]))
    with make_loader(workers=1):
        assert batches_module.clip_loader.call_args.args[-1] == chosen
    assert prepared.called == bool(chosen)


@needs_posix("a fork server")
def test_a_signal_to_the_whole_group_ends_neither_fork_server_nor_its_workers(server):
    with make_loader(workers=2, steps=range(40), ranks=ProcessGroup(0, 2)) as loader:
        loader.next_step()
        for pid in (server(), *workers()):
            for number in (signal.SIGINT, signal.SIGTERM):
                os.kill(pid, number)
        for _ in range(39):
            loader.next_step()
        assert len(workers()) == 2


@needs_posix("a fork server")
def test_a_killed_worker_of_a_fork_server_is_named(monkeypatch):
    monkeypatch.setattr(batches_module, "PATIENCE_S", 1.0)
    text = str(
        failure(
            make_loader(workers=1, ranks=ProcessGroup(0, 2), steps=range(200)),
            lambda: os.kill(workers()[0], signal.SIGKILL),
            200,
        )
    )
    assert "killed" in text
    assert "memory" in text


class Slow(ClipDataset):
    """Each clip takes a quarter of a second by a clock that nothing else moves."""

    now = 0.0

    def __getitem__(self, number: int):
        Slow.now += 0.25
        return super().__getitem__(number)


def test_the_wait_for_batches_is_counted_and_no_other_time(monkeypatch):
    monkeypatch.setattr(Slow, "now", 0.0)
    monkeypatch.setattr(batches_module, "time", SimpleNamespace(perf_counter=lambda: Slow.now))
    with make_loader(Slow) as loader:
        assert loader.waited_s == 0
        loader.next_step()
        assert loader.waited_s == 4 * 0.25
        Slow.now += 100
        assert loader.waited_s == 1
        loader.next_step()
        assert loader.waited_s == 2


# what became of a worker


def workers() -> list[int]:
    return [process.pid for process in multiprocessing.active_children() if process not in OTHERS]


def kill_a_worker() -> int:
    """Kill one and wait until it is dead, where the news of it may be raised; gives its number."""
    worker = next(process for process in multiprocessing.active_children() if process not in OTHERS)
    sentinel = worker.sentinel
    os.kill(worker.pid, signal.SIGKILL)
    assert connection.wait([sentinel], 60), "it outlived SIGKILL"
    return worker.pid


def run(loader: BatchLoader, do=lambda: None, steps: int = 20) -> None:
    """Take the loader's steps, and do this after the first."""
    with loader:
        loader.next_step()
        do()
        for _ in range(steps - 1):
            loader.next_step()


def failure(loader: BatchLoader, do=lambda: None, steps: int = 20) -> Unet4DError:
    """Return the error that it ends with."""
    with pytest.raises(Unet4DError) as caught:
        run(loader, do, steps)
    assert "\n" not in str(caught.value)
    return caught.value


@needs_posix("SIGKILL")
def test_a_killed_worker_is_reported_with_the_usual_cause():
    text = str(failure(make_loader(workers=2, steps_per_epoch=1), kill_a_worker))
    assert "killed" in text
    assert "memory" in text
    assert "lower data.num_workers, now 2" in text
    assert text.endswith("--resume")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_killed_while_it_reads_the_event_of_the_end_holds_up_nothing(workers: int, monkeypatch):
    """Its lock would be held for ever: torch's shutdown waited for it without end."""
    loader = make_loader(workers=workers)

    def kill_one_that_holds_the_lock():
        event = loader._batches._workers_done_event
        monkeypatch.setattr(event, "set", lambda: pytest.fail("a dead worker may hold its lock"))
        kill_a_worker()

    assert "start it again" in str(failure(loader, kill_one_that_holds_the_lock))


def test_before_the_first_checkpoint_the_advice_is_to_start_again():
    text = str(failure(make_loader(workers=1), kill_a_worker))
    assert text.endswith("no epoch is done yet")
    text = str(failure(make_loader(workers=1, steps=range(10, 30)), kill_a_worker))
    assert text.endswith("--resume")


class BusError(ClipDataset):
    def __getitem__(self, number: int):
        if number >= 12:
            os.kill(os.getpid(), signal.SIGBUS)
        return super().__getitem__(number)


class Exit(ClipDataset):
    def __getitem__(self, number: int):
        if number >= 12:
            os._exit(3)
        return super().__getitem__(number)


class Segfault(ClipDataset):
    def __getitem__(self, number: int):
        if number >= 12:
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().__getitem__(number)


class NoSharedMemory(ClipDataset):
    def __getitem__(self, number: int):
        if number >= 12:
            raise RuntimeError(
                "unable to allocate shared memory(shm) for file </torch_7_1>: No space left on device (28)"
            )
        return super().__getitem__(number)


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        pytest.param(
            BusError,
            ["/dev/shm is full", "docker run --ipc=host", "--shm-size", "lower data.num_workers"],
            marks=needs_posix("SIGBUS"),
        ),
        pytest.param(NoSharedMemory, ["/dev/shm is full"], marks=needs_posix("/dev/shm")),
        (Exit, ["ended unexpectedly", "--data.num_workers 0"]),
        (Segfault, ["SIGSEGV", "lower data.num_workers, now 1"]),
    ],
)
def test_the_cause_of_a_workers_death_is_named(kind, parts):
    text = str(failure(make_loader(kind, workers=1)))
    assert [part for part in parts if part not in text] == []


class Hanging(ClipDataset):
    def __getitem__(self, number: int):
        if number >= 12:
            threading.Event().wait()
        return super().__getitem__(number)


def test_a_worker_that_hangs_is_reported_and_killed(monkeypatch):
    monkeypatch.setattr(batches_module, "PATIENCE_S", 0.1)
    monkeypatch.setattr(batches_module, "TRIES", 5)
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)  # how long it is asked to leave
    text = str(failure(make_loader(Hanging, workers=1)))
    assert "a worker hangs" in text
    assert "disk" in text
    assert workers() == []


def test_a_stop_does_not_wait_for_a_worker_that_hangs(monkeypatch):
    def stop() -> None:
        raise Stopped("stopped")

    monkeypatch.setattr(batches_module, "PATIENCE_S", 0.1)
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)
    loader = BatchLoader(clips(Hanging), config(workers=1), range(20), ALONE, False, stop)
    with pytest.raises(Stopped), loader:
        for _ in iter(loader.next_step, None):
            pass
    assert workers() == []


class Wrong(ClipDataset):
    error: Exception

    def __getitem__(self, number: int):
        if number >= 12:
            raise self.error from KeyError("frames")
        return super().__getitem__(number)


def failing(error: Exception, workers: int) -> BatchLoader:
    """Return a loader of clips that fail; the error is the dataset's own, so that a worker that is started anew has it, too."""
    loader = make_loader(Wrong, workers=workers)
    loader.clips.error = error
    return loader


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("kind", [InputError, Unet4DError])
def test_an_error_of_ours_in_a_worker_stays_itself_on_one_line(kind, count):
    caught = failure(failing(kind("study.nii.gz: has 3 frames; expected 4; correct it"), count))
    assert type(caught) is kind
    assert str(caught).startswith("study.nii.gz: has 3 frames; expected 4; correct it")
    assert str(caught).endswith("correct it" if count == 0 else "no epoch is done yet")


@pytest.mark.parametrize("count", [0, 1])
def test_a_mistake_of_the_program_keeps_its_trace(count):
    error = IndexError("index 7 is out of bounds")
    with pytest.raises(IndexError, match="index 7 is out of bounds") as caught:
        run(failing(error, count))
    assert caught.value is error if count == 0 else "in __getitem__" in str(caught.value)


def test_errors_that_are_none_of_the_workers_pass_as_they_are():
    def fail() -> None:
        raise error

    error = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(torch.OutOfMemoryError) as caught:
        run(make_loader(workers=1), fail)
    assert caught.value is error


def mapped(root: Path, case: str) -> CachedStudy:
    """Return a study as the cache does."""
    (root / case).mkdir()
    one = cached_study(case, 5, seed=ord(case))
    arrays = {}
    for name in ("image", "label", "foreground"):
        np.save(root / case / f"{name}.npy", getattr(one, name))
        arrays[name] = np.load(root / case / f"{name}.npy", mmap_mode="r")
    (root / case / "study.json").write_text('{"labelled_frames": [1, 4], "spacing": [1, 1, 8]}')
    return CachedStudy(case, arrays["image"], arrays["label"], (1, 4), arrays["foreground"], (1, 1, 8))


def test_a_study_cut_short_during_training_is_named(tmp_path):
    made = clips(studies=[mapped(tmp_path, "a"), mapped(tmp_path, "b")])
    loader = BatchLoader(made, config(workers=1), range(100), ALONE, False)
    cut = tmp_path / "b" / "image.npy"
    text = str(failure(loader, lambda: os.truncate(cut, 64), steps=100))
    assert text.startswith(f"{cut} was removed or cut short")
    assert "delete its folder" in text


def test_training_continues_with_a_study_that_is_deleted_meanwhile(tmp_path):
    """Mapped files stay until they are closed."""
    made = clips(studies=[mapped(tmp_path, "a")])
    with BatchLoader(made, config(workers=1), range(20), ALONE, False) as loader:
        batches = loader.next_step()  # a worker that is started anew has opened the study by now
        for file in (tmp_path / "a").iterdir():
            file.unlink()
        for step in range(20):
            (batch,) = batches
            batches = loader.next_step() if step < 19 else []
            assert torch.equal(batch.image[0], made[4 * step].image)


# signals and the end


@needs_posix("signals that a worker's start blocks")
def test_a_signal_to_the_whole_group_ends_no_worker():
    with make_loader(workers=2, steps=range(40)) as loader:
        loader.next_step()
        for pid in workers():
            os.kill(pid, signal.SIGINT)
        done = subprocess.run(
            [sys.executable, "-c", f"import os; [os.kill(p, {int(signal.SIGTERM)}) for p in {workers()}]"]
        )
        assert done.returncode == 0
        for _ in range(39):  # more than the workers had begun, so that they made some after the signals
            loader.next_step()
        assert len(workers()) == 2


def test_signals_to_the_group_as_the_workers_start_end_none_of_them():
    """Pins workers that died of one before they had said that they leave it to the main process."""
    assert exit_code(_feed_under_signals) == 0


def _feed_under_signals() -> None:
    """Take batches while SIGTERM is sent to the own process group again and again; only this process survives it by a handler."""
    main = os.getpid()

    def note(number: int, frame: object) -> None:
        if os.getpid() != main:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, note)
    if not (sender := os.fork()):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while os.getppid() == main:
            os.killpg(0, signal.SIGTERM)
            time.sleep(0.002)
        os._exit(0)
    try:
        with make_loader(workers=2, steps=range(20)) as loader:
            for _ in range(20):
                loader.next_step()
    finally:
        os.kill(sender, signal.SIGKILL)
        os.waitpid(sender, 0)


@pytest.mark.parametrize("taken", [0, 1, 20])
def test_leaving_ends_the_workers_without_killing_them(taken, monkeypatch):
    left = []
    monkeypatch.setattr(BaseProcess, "kill", lambda self: left.append(self.pid))
    with make_loader(workers=2) as loader:
        for _ in range(taken):
            loader.next_step()
    assert workers() == []
    assert left == []


def test_leaving_by_an_error_ends_them_too_although_its_trace_is_kept():
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as kept:
        run(make_loader(workers=2), interrupt)
    assert workers() == []
    assert kept.value


# shared memory


def room(monkeypatch, free_bytes: int) -> None:
    monkeypatch.setattr(batches_module, "free_shared_memory_bytes", lambda: free_bytes)


BATCH_BYTES = 4 * 3 * 8 * 6 * 4 * 5
"""Four clips of three frames of 8 x 6 x 4 voxels of 4 bytes and a label."""


@pytest.mark.parametrize(
    ("batches", "used"), [(18, 8), (17.9, 7), (16, 7), (15.9, 6), (4, 1), (3.9, 0), (0, 0), (10**6, 8)]
)
def test_no_more_workers_are_used_than_shared_memory_has_room_for(monkeypatch, batches, used):
    """Each has two batches under way, and two are given out."""
    room(monkeypatch, int(batches * BATCH_BYTES / batches_module.USABLE_SHARE) + 512)
    said = collect_log()
    assert make_loader(workers=8).workers == used
    assert len(said) == (used < 8)


def test_room_is_shared_by_the_processes_of_a_machine_each_with_its_share_of_the_batch(monkeypatch):
    room(monkeypatch, int(10 * BATCH_BYTES / batches_module.USABLE_SHARE) + 512)
    assert make_loader(workers=8).workers == 4
    assert make_loader(workers=8, ranks=ProcessGroup(0, 2, 0, 1)).workers == 8
    assert make_loader(workers=8, ranks=ProcessGroup(0, 2, 0, 2)).workers == 4
    assert make_loader(workers=8, ranks=ProcessGroup(0, 2, 0, 2), accumulate=2).workers == 3


def test_missing_room_is_reported_with_the_remedy(monkeypatch):
    monkeypatch.setattr(batches_module, "free_shared_memory_bytes", lambda: 16384 * 4096)
    large, said = config(workers=8), collect_log()
    large.data.patch_size = (128, 96, 16)
    BatchLoader(clips(), large, range(9), ALONE, False)
    [line] = said
    for words in ("67.1 MB free", "8 workers fill up to 212 MB", "using 1", "--ipc=host", "--shm-size=1g"):
        assert words in line


def test_where_there_is_no_shared_memory_to_look_at_all_workers_are_used(monkeypatch):
    monkeypatch.setattr("unet4d.system.operating_system.SHARED_MEMORY", "/nowhere")
    assert make_loader(workers=3).workers == 3


def test_nothing_is_asked_without_workers(monkeypatch):
    room(monkeypatch, 0)
    said = collect_log()
    with make_loader() as loader:
        loader.next_step()
    assert said == []


def test_workers_that_cannot_be_started_are_reported(monkeypatch):
    def refused(*_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(batches_module, "clip_loader", refused)
    with (
        pytest.raises(Unet4DError, match=r"could not start 2 workers \(Cannot allocate memory\); free memory"),
        make_loader(workers=2),
    ):
        pass


def test_of_workers_that_cannot_all_be_started_none_stays(monkeypatch):
    def refused(*_: object) -> None:
        context = multiprocessing.get_context("fork")
        ready = context.Event()
        context.Process(target=deaf, args=(ready,), daemon=True).start()
        assert ready.wait(90)
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(batches_module, "clip_loader", refused)
    with pytest.raises(Unet4DError, match="could not start 2 workers"), make_loader(workers=2):
        pass
    assert workers() == []


def deaf(ready) -> None:
    ignore_stop_signals()
    ready.set()
    threading.Event().wait()
