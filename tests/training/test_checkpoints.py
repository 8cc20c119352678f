"""A run's checkpoints: killed anywhere, on a full disk or damaged, a run resumes from a whole one, and reports from which."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from processes import exit_code

import unet4d.training.checkpoints
from tests.builders import collect_log, tiny_config
from unet4d.errors import InputError, Unet4DError
from unet4d.models.checkpoint import BEST, LAST, PREVIOUS, load_checkpoint
from unet4d.models.task import Task
from unet4d.training.checkpoints import Checkpoints

TASK = Task({"background": 0, "left ventricle": 1}, ("cine",), cyclic=True)


def save(checkpoints: Checkpoints, step: int) -> None:
    """Write a checkpoint of this step, with its number in every part."""
    network = torch.nn.Linear(40, 40)
    torch.nn.init.constant_(network.weight, step)
    checkpoints.save_last(
        tiny_config(), TASK, network, {"epoch": step // 2, "step": step, "sums": torch.full((9,), step)}
    )


def step_of(content) -> int:
    """Return the step of a whole content; its parts agree."""
    step = content["training"]["step"]
    assert content["network"]["weight"].unique().tolist() == [step]
    assert content["training"]["sums"].unique().tolist() == [step]
    return step


def whole(run: Path) -> dict[str, int]:
    """Return the steps of the whole checkpoints under their names."""
    found = {}
    for name in (LAST, PREVIOUS):
        if (run / name).exists():
            found[name] = step_of(load_checkpoint(run / name))
    return found


def newest(run: Path) -> tuple[int, list[str]]:
    """Return the step that a new process resumes from, and what it prints."""
    said = collect_log()
    return step_of(Checkpoints(run).newest()), said


@pytest.fixture
def run(tmp_path):
    """Write a run folder with the checkpoints of steps 3 and 4."""
    for step in range(1, 5):
        save(Checkpoints(tmp_path), step)
    return tmp_path


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


CORRUPTED = {
    "missing": (Path.unlink, "is missing"),
    "empty": (lambda path: path.write_bytes(b""), "is truncated, damaged or no checkpoint"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-1000]), "is truncated, damaged or no checkpoint"),
    "one bit": (flip_bit, "is truncated, damaged or no checkpoint"),
    "without state": (
        lambda path: (
            Checkpoints(path.parent).save_best(tiny_config(), TASK, torch.nn.Linear(1, 1))
            or os.replace(path.parent / BEST, path)
        ),
        "holds a model without the state of its training",
    ),
    "of others": (lambda path: torch.save({"state_dict": {}}, path), "holds 'something else'"),
    "hostile": (
        lambda path: torch.save({"training": time.sleep}, path),
        "holds more than tensors and plain values, which could run code and is not loaded",
    ),
}


def test_the_last_two_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path / "new" / "run")
    save(checkpoints, 1)
    assert whole(checkpoints.run) == {LAST: 1}
    for step in (2, 3, 4):
        save(checkpoints, step)
        assert whole(checkpoints.run) == {LAST: step, PREVIOUS: step - 1}
        assert newest(checkpoints.run) == (step, [])
    assert sorted(os.listdir(checkpoints.run)) == [LAST, PREVIOUS]


def test_only_the_checkpoint_of_another_process_is_read_before_it_is_renamed(run, monkeypatch):
    read = []
    monkeypatch.setattr(
        unet4d.training.checkpoints, "load_checkpoint", lambda path: read.append(path) or load_checkpoint(path)
    )
    checkpoints = Checkpoints(run)
    for step in (5, 6, 7):
        save(checkpoints, step)
    assert read == [run / LAST]
    assert whole(run) == {LAST: 7, PREVIOUS: 6}


def test_the_best_checkpoint_has_no_training_state_and_touches_no_other(run):
    Checkpoints(run).save_best(tiny_config(), TASK, torch.nn.Linear(1, 1))
    assert load_checkpoint(run / BEST)["training"] == {}
    assert whole(run) == {LAST: 4, PREVIOUS: 3}


@pytest.mark.parametrize("fault", CORRUPTED)
def test_a_last_one_that_is_unusable_falls_back_to_the_one_before_and_says_so(run, fault):
    spoil, reason = CORRUPTED[fault]
    spoil(run / LAST)
    step, (line,) = newest(run)
    assert step == 3
    assert line.startswith(f"{run / LAST} {reason}")
    assert line.endswith(f"; resuming from {run / PREVIOUS}, after step 3, epoch 1 done")
    assert "\n" not in line


@pytest.mark.parametrize("fault", CORRUPTED)
def test_an_unusable_one_does_not_push_out_the_one_before(run, fault):
    CORRUPTED[fault][0](run / LAST)
    checkpoints = Checkpoints(run)
    save(checkpoints, 40)
    assert whole(run) == {LAST: 40, PREVIOUS: 3}
    save(checkpoints, 50)
    assert whole(run) == {LAST: 50, PREVIOUS: 40}


@pytest.mark.parametrize("fault", CORRUPTED)
@pytest.mark.parametrize("name", [LAST, PREVIOUS])
def test_two_unusable_ones_are_an_error_that_names_both(run, fault, name):
    spoil, reason = CORRUPTED[fault]
    other = run / ({LAST, PREVIOUS} - {name}).pop()
    other.write_bytes(b"")
    spoil(run / name)
    with pytest.raises(InputError) as caught:
        newest(run)
    line = str(caught.value)
    assert f"{run / name} {reason}" in line
    assert f"{other} is truncated, damaged or no checkpoint; " in line
    assert line.endswith(" with a new --out")
    assert "\n" not in line


class Touch:
    """A pickle that makes a file when it is loaded carelessly."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("way", ["resume", "start_from"])
def test_train_refuses_a_hostile_checkpoint_and_does_not_run_it(command, phantom, tiny_options, run, tmp_path, way):
    touched, started = tmp_path / "touched", tmp_path / "started"
    for name in (LAST, PREVIOUS):
        torch.save(load_checkpoint(run / name) | {"training": Touch(touched)}, run / name)
    options = ["--out", run, "--resume"] if way == "resume" else ["--out", started, "--train.init_from", run / LAST]
    done = command("train", "--dataset", phantom, *tiny_options, *options)
    assert done.code == 2
    assert f"{run / LAST} holds more than tensors and plain values, which could run code and is not loaded" in done.line
    assert not touched.exists()
    assert not (started / LAST).exists()


class Killed(BaseException):
    """The process is no more; nothing after it is done."""


class Fuse:
    """File-system operations that work `calls` times; then the process is killed, before or after the next one is done."""

    def __init__(self, patch, calls: int, done: bool, kill: Callable[[], None] | None = None):
        self.calls, self.done, self.dead, self.kill = calls, done, False, kill
        for owner, name in (
            (os, "link"), (os, "replace"), (os, "fsync"), (os, "unlink"), (Path, "write_bytes"), (Path, "unlink"),
        ):  # fmt: skip
            patch.setattr(owner, name, self.guarded(getattr(owner, name)))

    def guarded(self, usual):
        def operation(*args, **options):
            if self.dead:
                raise OSError  # what cleans up suppresses this, and does nothing
            if self.calls:
                self.calls -= 1
                return usual(*args, **options)
            if self.done:
                usual(*args, **options)
            if self.kill:
                self.kill()
            self.dead = True
            raise Killed

        return operation


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "copies"])
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
def test_a_kill_between_any_two_operations_leaves_two_whole_ones(tmp_path, monkeypatch, links, done):
    if not links:
        monkeypatch.setattr(os, "link", refuse_links)
    for calls in range(100):
        run = tmp_path / str(calls)
        for step in (1, 2, 3):
            save(Checkpoints(run), step)
        with pytest.MonkeyPatch.context() as patch:
            fuse = Fuse(patch, calls, done)
            try:
                save(Checkpoints(run), 4)
            except Killed:
                pass
            except OSError:
                pytest.fail("something was done after the kill")
        found = whole(run)
        assert found in ({LAST: 3, PREVIOUS: 2}, {LAST: 4, PREVIOUS: 2}, {LAST: 4, PREVIOUS: 3})
        assert newest(run) == (found[LAST], [])
        save(Checkpoints(run), 5)
        assert whole(run) == {LAST: 5, PREVIOUS: found[LAST]}
        assert sorted(os.listdir(run)) == [LAST, PREVIOUS]  # what the kill left is gone
        if not fuse.dead:
            break
    assert calls > 5
    assert not fuse.dead


def refuse_links(source, target):
    raise PermissionError(errno.EPERM, "Operation not permitted")


def test_partial_files_of_other_names_stay(run):
    left = [run / ".0123abcd.partial.checkpoint_last.pt", run / ".0123abcd.partial.log.jsonl"]
    for path in left:
        path.touch()
    save(Checkpoints(run), 5)
    assert [path.exists() for path in left] == [False, True]


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "copies"])
def test_a_full_disk_leaves_both_and_nothing_else(run, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", refuse_links)
    before = {path: path.read_bytes() for path in run.iterdir()}
    usual = Path.write_bytes

    def fill(path, content):
        usual(path, bytes(content)[:500])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fill)
        with pytest.raises(Unet4DError, match=rf"could not write {run / LAST}: No space left on device; free space"):
            save(Checkpoints(run), 5)
    assert {path: path.read_bytes() for path in run.iterdir()} == before
    save(Checkpoints(run), 6)
    assert whole(run) == {LAST: 6, PREVIOUS: 4}


def test_a_disk_without_room_for_the_copy_is_reported(run, monkeypatch):
    before = {path: path.read_bytes() for path in run.iterdir()}

    def fill(source, target):
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", refuse_links)
    monkeypatch.setattr("shutil.copyfile", fill)
    with pytest.raises(Unet4DError, match="No space left on device"):
        save(Checkpoints(run), 5)
    assert {path: path.read_bytes() for path in run.iterdir()} == before


def killed_while_saving(run: Path, first: int, calls: int, report: int) -> None:
    """Write one checkpoint after the other and note each in `report`, until operation number `calls` kills this process."""
    checkpoints = Checkpoints(run)
    with pytest.MonkeyPatch.context() as patch:
        Fuse(patch, calls, bool(calls % 2), kill=lambda: os.kill(os.getpid(), signal.SIGKILL))
        for step in range(first, first + 100):
            save(checkpoints, step)
            os.pwrite(report, f"{step:06}".encode(), 0)


def lives_of_a_run(folder: Path) -> None:
    """Kill a process at each operation of its first checkpoints, see what it left, and have another one continue."""
    run, step, steps = folder / "run", 2, []
    for first in (1, 2):
        save(Checkpoints(run), first)
    report = os.open(folder / "saved", os.O_RDWR | os.O_CREAT)
    for calls in range(24):
        os.pwrite(report, f"{step:06}".encode(), 0)
        child = os.fork()
        if not child:
            try:
                killed_while_saving(run, step + 1, calls, report)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        saved, before = int(os.pread(report, 6, 0)), step
        step, said = newest(run)
        assert saved <= step <= saved + 1
        assert said == []
        assert len(set(whole(run).values())) == 2
        steps.append(step - before)
    assert min(steps) == 0
    assert max(steps) >= 2


def test_a_process_killed_at_any_operation_leaves_its_last_checkpoint(tmp_path):
    assert exit_code(lives_of_a_run, tmp_path) == 0
