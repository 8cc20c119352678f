"""Differences of Linux, macOS and Windows, as stand-ins show them, and psutil beside the files of the kernel."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.masking import MISSING, MISSING_MODULES, msvcrt_stand_in, needs_posix
from unet4d.errors import InputError
from unet4d.system import operating_system as module
from unet4d.system.files import write_json
from unet4d.system.lock import exclusive_lock, lock_run
from unet4d.system.memory import free_memory_bytes, resident_bytes, total_memory_bytes

linux = pytest.mark.skipif(sys.platform != "linux", reason="the stand-ins are made of parts of Linux")
posix = needs_posix("it shows what a system without does, beside one that has it")


@pytest.fixture
def windows(monkeypatch):
    """Locks and names as on Windows; the rest by `tests.masking`."""
    usual = os.open

    def opened(path, *given, **named):
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        return usual(path, *given, **named)

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", msvcrt_stand_in())
    monkeypatch.setattr(module.os, "open", opened)


# Locks


@linux
@posix
def test_a_byte_of_a_file_is_locked_where_there_is_no_flock(windows, tmp_path):
    with exclusive_lock(tmp_path / "lock") as first:
        with exclusive_lock(tmp_path / "lock", patience_s=0) as second:
            assert (first, second) == (True, False)
        assert (tmp_path / "lock").read_bytes() == b""  # nothing is written, and what is there may be read
    with exclusive_lock(tmp_path / "lock", patience_s=0) as again:
        assert again


@linux
@posix
def test_a_file_in_a_folder_stands_for_it_where_folders_are_not_opened(windows, tmp_path):
    with lock_run(tmp_path / "run"):
        assert os.listdir(tmp_path / "run") == [module.FOLDER_LOCK]
        with exclusive_lock(tmp_path / "run", patience_s=0) as second:
            assert second is False
    with lock_run(tmp_path / "run"):
        pass


@posix
def test_a_system_without_locks_is_known_as_such(monkeypatch, tmp_path):
    for name in ("fcntl", "msvcrt"):
        monkeypatch.setitem(sys.modules, name, None)
    with exclusive_lock(tmp_path / "lock") as first, exclusive_lock(tmp_path / "lock") as second:
        assert (first, second) == (None, None)


# Files


@linux
@pytest.mark.parametrize("refusals", [2, 10**9])
def test_a_file_that_somebody_reads_is_replaced_when_he_is_done(windows, monkeypatch, tmp_path, refusals):
    usual, left = os.replace, [refusals]

    def refused(source, target):
        if left[0] > 0:
            left[0] -= 1
            raise PermissionError(13, "Access is denied", str(target))
        usual(source, target)

    monkeypatch.setattr(module.os, "replace", refused)
    monkeypatch.setattr(module, "REPLACE_PATIENCE_S", 5 if refusals == 2 else 0.05)
    (tmp_path / "new").write_text("new")
    (tmp_path / "old").write_text("old")
    if refusals == 2:
        module.replace_file(tmp_path / "new", tmp_path / "old")
        assert (tmp_path / "old").read_text() == "new"
    else:
        with pytest.raises(PermissionError):
            module.replace_file(tmp_path / "new", tmp_path / "old")
        assert (tmp_path / "old").read_text() == "old"


@linux
@posix
def test_a_refused_replacement_is_not_tried_again_where_open_files_are_replaced(monkeypatch, tmp_path):
    tried = []

    def refused(source, target):
        tried.append(target)
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module.os, "replace", refused)
    with pytest.raises(PermissionError):
        module.replace_file(tmp_path / "a", tmp_path / "b")
    assert len(tried) == 1


@pytest.mark.parametrize("name", ["a:b.json", "con", "CON.nii.gz", "Com7.txt", "a?.csv", "a. ", "a.", 'a"b', "nul .x"])
def test_names_that_windows_takes_for_something_else(name):
    assert module.is_refused_name(name)


@pytest.mark.parametrize(
    "name", ["a.json", "console.csv", "COM10.txt", "com.nii", ".unet4d", "patient 3.nii.gz", "ü;=,.x"]
)
def test_names_that_every_system_takes(name):
    assert not module.is_refused_name(name)


@linux
def test_no_stream_of_another_file_is_written_under_windows(windows, tmp_path):
    with pytest.raises(InputError, match=r"a:b\.json, expected one that Windows takes; rename"):
        write_json(tmp_path / "a:b.json", {})
    write_json(tmp_path / "a-b.json", {})
    assert os.listdir(tmp_path) == ["a-b.json"]


def test_letters_of_upper_and_lower_case_are_told_apart_as_the_folder_does(tmp_path):
    folder = tmp_path / "Out"
    folder.mkdir()
    apart = not (tmp_path / "oUT").exists()
    assert module.ignores_case(folder) is not apart
    assert module.ignores_case(folder / "new" / "newer") is not apart
    if apart:  # a file system on which both names lead to the same folder
        (tmp_path / "oUT").symlink_to(folder)
        assert module.ignores_case(folder)
    assert module.ignores_case(Path("/")) is False


# Signals


def test_without_masks_of_signals_nothing_is_blocked_and_nothing_fails(monkeypatch):
    monkeypatch.delattr(signal, "pthread_sigmask", raising=False)
    before_s = time.monotonic()
    with module.blocked_signals(module.STOP_SIGNALS):
        module.unblock_signals(module.STOP_SIGNALS)
        module.drop_repeated_signals(module.STOP_SIGNALS, within_s=60)
    assert time.monotonic() - before_s < 60


def test_a_signal_that_the_system_lacks_has_no_number(monkeypatch):
    monkeypatch.delattr(signal, "SIGKILL", raising=False)
    assert module.signal_number("SIGKILL") is None
    assert module.signal_number("SIGTERM") == signal.SIGTERM


# Memory, cores and time


@linux
@posix
def test_psutil_tells_of_memory_what_the_kernel_does(monkeypatch):
    pytest.importorskip("psutil")
    available, total = module.system_memory()
    meminfo = dict(line.split()[:2] for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines())
    assert total == 1024 * int(meminfo["MemTotal:"])
    assert available == pytest.approx(1024 * int(meminfo["MemAvailable:"]), rel=0.5)
    assert module.own_memory_bytes() == pytest.approx(resident_bytes(), rel=0.5)


def test_memory_that_nobody_tells_is_unlimited_and_not_guessed(monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    monkeypatch.setattr("unet4d.system.memory._system_free", lambda **_: [])
    monkeypatch.setattr("unet4d.system.memory._group_limits", lambda *_: [])
    assert free_memory_bytes() == total_memory_bytes() == float("inf")
    assert resident_bytes(Path("/nowhere")) == 0


def test_memory_is_that_of_psutil_where_the_kernel_shows_no_files(monkeypatch):
    monkeypatch.setattr("unet4d.system.memory._system_free", lambda **_: [])
    monkeypatch.setattr("unet4d.system.memory._group_limits", lambda *_: [])
    monkeypatch.setattr("unet4d.system.memory.system_memory", lambda: (3, 8))
    assert (free_memory_bytes(), total_memory_bytes()) == (3, 8)


def test_cores_are_all_of_the_machine_where_the_system_gives_no_share(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert module.usable_cores() == 6


def _burn(ready, end):
    while time.process_time() < 0.5:  # the kernel counts in ticks
        pass
    ready.set()
    end.wait(60)


@linux
@posix
def test_psutil_counts_the_seconds_of_living_children_where_there_is_no_proc(monkeypatch):
    pytest.importorskip("psutil")
    context = multiprocessing.get_context("spawn")
    ready, end = context.Event(), context.Event()
    before_s = module.living_children_s()
    child = context.Process(target=_burn, args=(ready, end))
    child.start()
    try:
        assert ready.wait(60)
        by_kernel_s = module.living_children_s() - before_s
        monkeypatch.setattr(module, "PROC", Path("/nowhere"))
        monkeypatch.setattr(module, "_children_s_of", lambda process: pytest.fail("looked into /proc"))
        assert by_kernel_s >= 0.3
        assert module.living_children_s() >= 0.3
        monkeypatch.setitem(sys.modules, "psutil", None)
        assert module.living_children_s() == 0
    finally:
        end.set()
        child.join()


# The whole package under the mask

UNDER_MASK = """
import importlib, pkgutil
from tests.masking import mask
mask()
import unet4d
from unet4d.cli.main import run
names = [one.name for one in pkgutil.walk_packages(unet4d.__path__, "unet4d.") if not one.name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
assert len(names) > 100
import unet4d.system.lock as lock, unet4d.system.operating_system as system
for attribute in ("sched_getaffinity", "statvfs"):
    assert not hasattr(system.os, attribute)
assert system.optional_module("fcntl") is None and system.signal_number("SIGKILL") is None
code = run(["phantom", "--out", "hearts", "--subjects", "2", "--frames", "3"])
code += run(["verify", "hearts"])
code += run(["train", "--dataset", "hearts", "--out", "run", "--model.channels", "[2,2]", "--data.patch_size", "[16,16,4]",
    "--data.frames", "2", "--data.num_workers", "0", "--data.folds", "2", "--train.epochs", "1", "--train.steps_per_epoch", "1",
    "--train.batch_size", "1", "--train.precision", "fp32", "--device", "cpu"])
code += run(["predict", "run", "-i", "hearts", "-o", "predicted", "--device", "cpu"])
print("codes", code)
"""


@linux
@pytest.mark.slow
def test_a_study_is_made_trained_on_and_segmented_without_posix(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", UNDER_MASK], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "codes 0", done.stdout + done.stderr
    assert {path.name for path in (tmp_path / "predicted").glob("*.nii.gz")}
    assert (tmp_path / "run" / module.FOLDER_LOCK).is_file()


def test_the_mask_hides_what_this_system_has():
    """Pins a mask that hides nothing because a name in it is misspelled: each is one of Linux."""
    if sys.platform != "linux":
        pytest.skip("the mask is for Linux")
    have = {"os": os, "signal": signal}
    assert [name for of, names in MISSING.items() for name in names.split() if not hasattr(have[of], name)] == []
    assert "fcntl" in MISSING_MODULES
