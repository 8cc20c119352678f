"""Exceptions of one study or of a whole batch, and the advice for each refusal of a disk."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path

from unet4d.errors import InputError, ReportedByOtherRank, Unet4DError
from unet4d.system.memory_errors import is_out_of_main_memory, memory_error_reason
from unet4d.system.text import count

DEBUG = "UNET4D_DEBUG"
"""Environment variable: where it is set, an unexpected exception is printed with its traceback."""
REPORT = f"if this is a fault of unet4d, report it with the traceback that {DEBUG}=1 prints"
DISK_ENDS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors of the disk that every study would meet, not one alone."""
_BAD_PATH = {
    errno.ENAMETOOLONG: "choose shorter names",
    errno.ENOTDIR: "a part of the path is a file; choose another path",
    errno.EISDIR: "it is a folder; choose another path",
    errno.EEXIST: "something of this name is there; choose another path",
    errno.ELOOP: "its links lead in a circle; choose another path",
    errno.EILSEQ: "the file system does not take this name; choose another one",
    errno.EINVAL: "the file system does not take this name; choose another one",
}
_REFUSED = {
    errno.ENOSPC: "free space or choose another folder",
    errno.EDQUOT: "free space of your quota or choose another folder",
    errno.EFBIG: "free space or choose a folder on a file system that takes larger files",
    errno.EACCES: "get permission to write there or choose another folder",
    errno.EPERM: "get permission to write there or choose another folder",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ESTALE: "the network disk is gone; mount it again or choose another folder",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine; close some",
}


def advice(error: OSError) -> str | None:
    """Return what to do about what the disk refused; None where it is no refusal of a disk."""
    return _BAD_PATH.get(error.errno or 0) or _REFUSED.get(error.errno or 0)


def is_bad_path(error: OSError) -> bool:
    """Return whether the path is at fault, and neither the disk nor its permissions."""
    return error.errno in _BAD_PATH


def os_failure(error: OSError) -> str:
    """Return what the system refused, of which path, and what to do."""
    reason = error.strerror or str(error) or type(error).__name__
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))]
    found = advice(error)
    return f"{': '.join([*names[:1], reason])}{f'; {found}' if found else ''}"


def failure_of_study(error: Exception) -> Unet4DError:
    """Return an exception as the failure of the one study that it came from; raise it again if it ends the batch.

    The failure holds no memory of the study. The message about an unexpected exception has the name of its class.

    Raises:
        Exception: `error` itself: a failure of another process, a full disk, a device that answers nothing more.
    """
    if isinstance(error, ReportedByOtherRank) or _ends_batch(error):
        raise error
    if isinstance(error, Unet4DError):
        return type(error)(str(error))
    if is_out_of_main_memory(error):
        return Unet4DError(f"the main memory is too small ({memory_error_reason(error)}); use a machine with more")
    show_traceback(error)
    if isinstance(error, OSError):
        if is_bad_path(error):
            return InputError(os_failure(error))
        return Unet4DError(f"{os_failure(error)}; {REPORT}")
    words = " ".join(str(error).split())
    return Unet4DError(f"unexpected {type(error).__name__}{f': {words[:300]}' if words else ''}; {REPORT}")


def raise_failed(
    failed: Mapping[str, object], studies: int, done: str, where: Path, kind: type[Unet4DError] = InputError
) -> None:
    """Raise an error that lists the studies that failed and so were not `done` ("scored", say); the others are written by then."""
    if not failed:
        return
    first = next(iter(failed.values()))
    cause = first if isinstance(first, Unet4DError) else None
    if studies == 1:
        raise kind(str(first)) from cause
    rest = f"the other {studies - len(failed)} are in {where}" if len(failed) < studies else "nothing was written"
    listed = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
    raise kind(
        f"{len(failed)} of {count(studies, 'study', 'studies')} could not be {done}, {rest}: {listed}"
    ) from cause


def show_traceback(error: Exception) -> None:
    """Print the traceback of an unexpected exception where the user asked for it."""
    if os.environ.get(DEBUG):
        traceback.print_exception(error, file=sys.stderr)


def _ends_batch(error: Exception) -> bool:
    for one in (error, error.__cause__):
        if isinstance(one, OSError):
            return one.errno in DISK_ENDS
    torch = sys.modules.get("torch")
    broken = torch is not None and isinstance(error, getattr(torch, "AcceleratorError", ()))
    return broken or (isinstance(error, RuntimeError) and str(error).startswith("CUDA error"))
