"""Main memory: how much is free, and how much this process has."""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from unet4d.errors import InputError
from unet4d.system.byte_sizes import describe_bytes
from unet4d.system.operating_system import CONTROL_GROUPS, PROC, call_glibc, own_memory_bytes, system_memory

LARGE_BLOCK_BYTES = 4 * 2**20
"""From this size on, a block goes back to the system as it is freed, once that was asked for."""
_GLIBC_LARGE_BLOCK_BYTES = 32 * 2**20
"""The limit that glibc reaches when nothing is set."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # malloc.h
_OWN_GROUP, _OWN_MEMORY, _SYSTEM_MEMORY = PROC / "self/cgroup", PROC / "self/statm", PROC / "meminfo"
_NEVER, _MAPPED_BLOCKS = -1, 65536
_lock = threading.Lock()
_keeping = 0
_large_block_bytes = _GLIBC_LARGE_BLOCK_BYTES


def resident_bytes(statm: Path = _OWN_MEMORY) -> int:
    """Return the main memory of this process in bytes; 0 where neither Linux nor psutil tells it."""
    return int(statm.read_text(encoding="utf-8").split()[1]) * mmap.PAGESIZE if statm.exists() else own_memory_bytes()


def return_large_blocks_when_freed() -> None:
    """Give large blocks back to the system as they are freed, from now on; this costs a little time.

    glibc keeps them to hand them out again, ever larger ones the more it sees freed, and what it keeps counts as held. Elsewhere
    nothing changes.
    """
    global _large_block_bytes
    _large_block_bytes = LARGE_BLOCK_BYTES
    call_glibc("mallopt", _M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)


@contextlib.contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Keep and reuse the memory that this process frees inside, and give all of it back at the end.

    glibc maps a large block anew whenever it is asked for one, and the system clears it page by page: on a CPU about half of the
    time a network takes. What is kept can be given back inside, too, by `trim_freed_memory`. Elsewhere nothing changes.

    It holds for all threads until the last one leaves. From then on glibc goes on as after a block of 32 MB was freed, whatever its
    environment variables said: what is smaller may be kept.
    """
    global _keeping
    with _lock:
        _keeping += 1
        call_glibc("mallopt", _M_MMAP_MAX, 0)
        call_glibc("mallopt", _M_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        with _lock:
            _keeping -= 1
            if not _keeping:
                _keep_no_longer()


def _keep_no_longer() -> None:
    call_glibc("mallopt", _M_MMAP_MAX, _MAPPED_BLOCKS)
    call_glibc("mallopt", _M_MMAP_THRESHOLD, _large_block_bytes)
    call_glibc("mallopt", _M_TRIM_THRESHOLD, 2 * _large_block_bytes)
    trim_freed_memory()


def trim_freed_memory() -> None:
    """Give back to the system what was freed and kept."""
    call_glibc("malloc_trim", 0)


def free_memory_bytes() -> float:
    """Return the free memory of the system and of the control groups (a container, a batch job) around this process.

    On other systems than Linux psutil tells it; infinite where neither does.
    """
    known = [*_system_free(), *_groups_free()] or (system_memory() or ())[:1]
    return min(known, default=math.inf)


def total_memory_bytes() -> float:
    """Return the memory of the system, or of the smallest control group around this process; infinite where it is unknown."""
    known = [*_system_free(name="MemTotal:"), *(most for _, most in _group_limits())] or (system_memory() or ())[1:]
    return min(known, default=math.inf)


def check_fits(size: int, path: str | os.PathLike[str]) -> None:
    """Raise InputError for voxels that cannot fit into memory; the system would end the process.

    Up to half of all memory is let through, because files that the system keeps in memory may count as used.
    """
    most = max(free_memory_bytes(), total_memory_bytes() / 2)
    if size > most:
        raise InputError(
            f"{path}: its voxels take {describe_bytes(size)} of main memory, expected at most {describe_bytes(most)}; give a "
            "smaller study, or more memory"
        )


def _system_free(meminfo: Path = _SYSTEM_MEMORY, name: str = "MemAvailable:") -> Iterator[int]:
    for line, amount in _pairs(meminfo):
        if line == name:
            yield 1024 * amount


def _groups_free(own: Path = _OWN_GROUP, root: Path = CONTROL_GROUPS) -> Iterator[int]:
    """Yield what each control group leaves; page cache counts as free."""
    for group, most in _group_limits(own, root):
        pages = dict(_pairs(group / "memory.stat")).get("inactive_file", 0)
        yield most - int((group / "memory.current").read_text()) + pages


def _group_limits(own: Path = _OWN_GROUP, root: Path = CONTROL_GROUPS) -> Iterator[tuple[Path, int]]:
    """Yield each control group (version 2) that has a limit, from this process's own up to the root, and the limit."""
    if not own.exists():
        return
    mine = next((line[3:] for line in own.read_text(encoding="utf-8").splitlines() if line.startswith("0::")), "/")
    folder = root / os.path.normpath(mine).lstrip("/")
    for group in (folder, *folder.parents):
        limit = group / "memory.max"
        if group.is_relative_to(root) and limit.exists() and (most := limit.read_text().strip()) != "max":
            yield group, int(most)


def _pairs(path: Path) -> Iterator[tuple[str, int]]:
    """Yield name and number of each line of a file of the kernel; nothing where it is missing."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        name, amount, *_ = line.split()
        yield name, int(amount)
