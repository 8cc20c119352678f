"""Everything in which Linux, macOS and Windows differ: locks, signals, renaming, memory, cores and files of the kernel.

No other module imports `fcntl`, reads /proc, or uses a part of `os` or `signal` that one of the three lacks; a test holds that.
What is missing is looked up when it is used. What a system cannot tell is None or nothing, never a guess.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

IS_LINUX = sys.platform == "linux"
PROC, CONTROL_GROUPS, DEVICES = Path("/proc"), Path("/sys/fs/cgroup"), Path("/dev")
"""Folders in which Linux shows processes and memory, control groups, and devices."""
SHARED_MEMORY = "/dev/shm"
"""The folder of Linux in which workers put batches for the main process."""
STOP_SIGNALS = tuple(
    signal.Signals[name] for name in ("SIGTERM", "SIGINT", "SIGBREAK") if name in signal.Signals.__members__
)
"""Signals that ask a process to stop. SIGBREAK is Windows's Ctrl-Break; nothing sends SIGTERM there but this process itself."""
FOLDER_LOCK = ".lock"
"""The file in a folder that stands for it in a lock, where the system opens no folders."""
REPLACE_PATIENCE_S = 2.0
"""Longest wait until no process has a file open that is to be replaced, on Windows."""
_LOCKED_BYTE = 2**30
"""Position of the byte that Windows locks, beyond the end of every file locked here: others may not read what is locked."""
_FORBIDDEN = frozenset('<>:"|?*')
_DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))})


def optional_module(name: str) -> Any:
    """Return a module that not every system has; None where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


# Files


def open_to_lock(path: Path) -> int:
    """Open a file, which is created where it is missing, or a folder, for `try_lock`; return the descriptor.

    Network file systems lock only what is open for writing. Windows opens no folders: a file in it stands for it, `FOLDER_LOCK`.
    """
    if path.is_dir():
        if optional_module("fcntl"):
            return os.open(path, os.O_RDONLY)
        path /= FOLDER_LOCK
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file or folder; return whether that worked, or None where the system or the file system has no locks."""
    if fcntl := optional_module("fcntl"):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # of a file system without locks
            return None
        return True
    return _lock_byte(descriptor, "LK_NBLCK")


def unlock(descriptor: int) -> None:
    """Release a lock before its file is closed: Windows else does it when it finds the time."""
    if not optional_module("fcntl"):
        _lock_byte(descriptor, "LK_UNLCK")


def _lock_byte(descriptor: int, mode: str) -> bool | None:
    msvcrt = optional_module("msvcrt")
    if msvcrt is None:
        return None
    try:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, getattr(msvcrt, mode), 1)
    except PermissionError:  # another process holds it
        return False
    except OSError:
        return None
    return True


def sync_folder(folder: Path) -> None:
    """Have the names in a folder outlast a power cut, where the system and the file system can promise that; Windows cannot."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder may be written to and not read; Windows opens none
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def replace_file(source: Path, target: Path) -> None:
    """Rename a file over another one at once.

    Windows refuses that while any process has the other one open, such as a reader or a virus scanner: there this waits for up to
    `REPLACE_PATIENCE_S`.
    """
    end_s = monotonic() + (REPLACE_PATIENCE_S if optional_module("msvcrt") else 0)
    while True:
        try:
            return os.replace(source, target)
        except PermissionError:
            if monotonic() >= end_s:
                raise
        sleep(0.02)


def open_without_waiting(path: str, flags: int) -> int:
    """Open a file without waiting for the other end of a pipe; an `opener` of `open`."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def is_refused_name(name: str) -> bool:
    """Return whether Windows takes a file name for something else: a device, a stream of another file, or a shorter name."""
    reserved = name.partition(".")[0].rstrip(" ").lower() in _DEVICES
    return reserved or not _FORBIDDEN.isdisjoint(name) or name.endswith((".", " "))


def refuses_names() -> bool:
    """Return whether this system is the one of `is_refused_name`."""
    return optional_module("msvcrt") is not None


def ignores_case(folder: Path) -> bool:
    """Return whether names that differ in upper and lower case alone are one file there, as usual on macOS and Windows."""
    for path in (folder.absolute(), *folder.absolute().parents):
        other = path.with_name(path.name.swapcase()) if path.name else path
        if path.exists() and other != path:
            return other.exists() and other.samefile(path)
    return False


def free_shared_memory_bytes() -> int | None:
    """Return what is free in `SHARED_MEMORY`; None where there is no such folder: other systems have no limit of its own."""
    try:
        found = os.statvfs(SHARED_MEMORY)  # type: ignore[attr-defined,unused-ignore]
    except (OSError, AttributeError):
        return None
    return int(found.f_bavail * found.f_frsize)


# Signals


def signal_number(name: str) -> int | None:
    """Return the number of a signal such as "SIGKILL"; None where the system has none of this name."""
    return getattr(signal, name, None)


@contextlib.contextmanager
def blocked_signals(numbers: Iterable[signal.Signals]) -> Iterator[None]:
    """Block signals: one that comes meanwhile is delivered afterwards. Windows, which sends none to workers, blocks nothing."""
    mask = getattr(signal, "pthread_sigmask", None)
    before = mask and mask(_how("SIG_BLOCK"), numbers)
    try:
        yield
    finally:
        if mask:
            mask(_how("SIG_SETMASK"), before)


def unblock_signals(numbers: Iterable[signal.Signals]) -> None:
    """Have these signals delivered to this process from now on."""
    if mask := getattr(signal, "pthread_sigmask", None):
        mask(_how("SIG_UNBLOCK"), numbers)


def drop_repeated_signals(numbers: Iterable[signal.Signals], within_s: float) -> None:
    """Drop signals that come within this time; where the system blocks none, drop nothing."""
    if not hasattr(signal, "pthread_sigmask"):
        return
    with blocked_signals(numbers):
        sleep(within_s)
        pending, wait = getattr(signal, "sigpending"), getattr(signal, "sigwait")  # noqa: B009 - Windows has neither
        while repeated := pending() & set(numbers):
            wait(repeated)


def after_fork(forget: Callable[[], object]) -> None:
    """Call this in every process that is forked from this one, where the system forks."""
    if register := getattr(os, "register_at_fork", None):
        register(after_in_child=forget)


def _how(name: str) -> int:
    return int(getattr(signal, name))


# Memory, cores and time


def usable_cores() -> int:
    """Return the cores that this process may use, where the system reports them (Linux does), else all."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def system_memory() -> tuple[int, int] | None:
    """Return the free and the total memory in bytes as psutil knows them; None where psutil is missing. Linux needs none of it."""
    psutil = optional_module("psutil")
    if psutil is None:
        return None
    found = psutil.virtual_memory()
    return int(found.available), int(found.total)


def own_memory_bytes() -> int:
    """Return the main memory of this process as psutil knows it; 0 where psutil is missing. Linux needs none of it."""
    psutil = optional_module("psutil")
    return int(psutil.Process().memory_info().rss) if psutil else 0


def living_children_s() -> float:
    """Return the CPU seconds of the living children of this process, with all that they have started.

    Linux shows those of the main thread. Elsewhere psutil knows them; without it the answer is 0.
    """
    if (PROC / "self").exists():
        return _children_s_of(os.getpid())
    psutil = optional_module("psutil")
    total = 0.0
    for child in psutil.Process().children(recursive=True) if psutil else ():
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            used = child.cpu_times()
            total += used.user + used.system
    return total


def _children_s_of(process: int) -> float:
    try:
        children = (PROC / f"{process}/task/{process}/children").read_text().split()
    except OSError:
        return 0.0
    total = 0.0
    for child in map(int, children):
        try:
            fields = (PROC / f"{child}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        # Fields 14 to 17 of proc(5): user and system time of itself, and of the children it has waited for.
        ticks = getattr(os, "sysconf")("SC_CLK_TCK")  # noqa: B009 - Windows has none, and no /proc
        total += sum(map(int, fields[11:15])) / ticks + _children_s_of(child)
    return total


def call_glibc(name: str, *numbers: int) -> None:
    """Call a function of glibc with whole numbers; other C libraries are left alone."""
    with contextlib.suppress(OSError, AttributeError):
        getattr(ctypes.CDLL("libc.so.6"), name)(*numbers)
