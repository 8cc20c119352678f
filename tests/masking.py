"""A pytest plugin that runs the package as on Windows, as far as Linux can show that: `python -m pytest -p tests.masking`.

Modules of the package see `os`, `signal`, `multiprocessing` and `importlib` without what Windows lacks, no `fcntl` or `resource`, a
stand-in of `msvcrt`, and neither /proc nor /dev. Files that are open or mapped are not replaced, and folders not opened.
All others, such as torch and pytest, see the machine as it is. Text is not translated, and paths stay those of this machine.
"""

from __future__ import annotations

import builtins
import importlib
import multiprocessing
import os
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

with suppress(ImportError):
    import fcntl  # for the stand-in of Windows's locks

NOWHERE = Path("/nowhere")
MISSING_MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "psutil")
"""Modules that Windows lacks, and psutil, which reads /proc here."""
MISSING = {
    "os": (
        "fork forkpty register_at_fork sched_getaffinity statvfs fstatvfs sysconf confstr uname getuid geteuid getgid getegid "
        "getgroups setsid getsid getpgid setpgid getpgrp killpg nice mkfifo mknod chown fchown lchown chroot wait wait3 wait4 "
        "waitid pread pwrite posix_fallocate posix_fadvise posix_spawn sendfile ctermid openpty ttyname getloadavg "
        "O_NONBLOCK O_NOFOLLOW O_DIRECTORY O_CLOEXEC O_SYNC O_DIRECT O_NOCTTY EX_OK EX_TEMPFAIL"
    ),
    "signal": (
        "SIGKILL SIGBUS SIGUSR1 SIGUSR2 SIGHUP SIGQUIT SIGALRM SIGCHLD SIGCONT SIGSTOP SIGTSTP SIGPIPE SIGXCPU SIG_BLOCK "
        "SIG_UNBLOCK SIG_SETMASK pthread_sigmask sigpending sigwait sigtimedwait pthread_kill alarm setitimer pause siginterrupt"
    ),
}
"""Names that Windows lacks in two modules, of all that a program like this one might use."""


def is_masked() -> bool:
    """Return whether this process has the mask, or is on Windows."""
    return isinstance(builtins.__import__, _Importer) or os.name == "nt"


class _View(ModuleType):
    """A module as its users in the package see it: without some names, and with others in their places."""

    def __init__(self, real: ModuleType, missing: str = "", **other: Any):
        super().__init__(real.__name__)
        self.__dict__.update(other, _real=real, _missing=frozenset(missing.split()))

    def __getattr__(self, name: str) -> Any:
        if name in self._missing:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}, as on Windows")
        return getattr(self._real, name)


class _Importer:
    """`__import__`, which gives modules of the package the views."""

    def __init__(self, usual: Any, views: dict[str, ModuleType]):
        self.usual, self.views = usual, views

    def __call__(self, name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        if (globals or {}).get("__name__", "").partition(".")[0] == "unet4d" and not level:
            if name.partition(".")[0] in MISSING_MODULES:
                raise ModuleNotFoundError(f"No module named {name!r}, as on Windows", name=name)
            if name in self.views:
                return self.views[name]
        return self.usual(name, globals, locals, fromlist, level)

    def import_module(self, name: str, package: str | None = None) -> ModuleType:
        """Import as `importlib.import_module` called by the package."""
        if name in MISSING_MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}, as on Windows", name=name)
        return self.views.get(name) or importlib.import_module(name, package)


def _open(path: Any, flags: int, mode: int = 0o777, **given: Any) -> int:
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", str(path))
    return os.open(path, flags, mode, **given)


def needs_posix(why: str) -> pytest.MarkDecorator:
    """Skip a test, or the tests of a module by `pytestmark`, where the package sees no POSIX."""
    return pytest.mark.skipif(is_masked(), reason=f"needs POSIX: {why}")


def _replace(source: Any, target: Any, **given: Any) -> None:
    """Replace as Windows does: neither a file that this process has open or mapped, nor a folder."""
    if os.path.isdir(target) or os.path.realpath(target) in {*_open_files(), *_mapped_files()}:
        raise PermissionError(13, "Access is denied", str(source), None, str(target))
    os.replace(source, target, **given)


def _open_files() -> list[str]:
    found = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{entry}"))
        except OSError:  # that of the listing itself
            continue
    return found


def _mapped_files() -> list[str]:
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    return [fields[5] for fields in (line.split(maxsplit=5) for line in lines) if len(fields) == 6]


def _locking(descriptor: int, mode: int, count: int) -> None:
    """Lock a byte, as `msvcrt.locking`; the byte must lie beyond the file, which others could not read otherwise."""
    assert count == 1
    assert os.lseek(descriptor, 0, os.SEEK_CUR) >= os.fstat(descriptor).st_size
    try:
        fcntl.flock(descriptor, fcntl.LOCK_UN if mode == 0 else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise PermissionError(13, "Permission denied") from None


def msvcrt_stand_in() -> Any:
    """Return a stand-in of Windows's module `msvcrt`."""
    return SimpleNamespace(locking=_locking, LK_UNLCK=0, LK_NBLCK=2)


def mask() -> None:
    """Hide what Windows lacks from the package, which must not be imported yet."""
    assert "unet4d" not in sys.modules, "the mask must come first"
    import signal

    import torch.utils.data  # noqa: F401 - its default start method is chosen below

    importer = _Importer(builtins.__import__, {})
    importer.views |= {
        "os": _View(os, MISSING["os"], open=_open, replace=_replace),
        "signal": _View(signal, MISSING["signal"]),
        "multiprocessing": _View(multiprocessing, get_all_start_methods=lambda: ["spawn"]),
        "importlib": _View(importlib, import_module=importer.import_module),
        "msvcrt": msvcrt_stand_in(),
    }
    builtins.__import__ = importer
    multiprocessing.set_start_method("spawn", force=True)
    from unet4d.system import operating_system

    operating_system.PROC = operating_system.CONTROL_GROUPS = operating_system.DEVICES = NOWHERE
    operating_system.SHARED_MEMORY, operating_system.IS_LINUX = str(NOWHERE), False


def pytest_report_header() -> str:
    """Name the mask at the top of a run."""
    return f"the package sees no {', '.join(MISSING_MODULES)}, and os and signal as on Windows"


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Put the mask on before a conftest.py imports the package."""
    mask()
