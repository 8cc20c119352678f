"""Main memory: what is free, and what this process has."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
from collections.abc import Iterator
from pathlib import Path

LARGE_BLOCK_BYTES = 4 * 2**20
_M_MMAP_THRESHOLD = -3  # malloc.h


def resident_bytes(statm: Path = Path("/proc/self/statm")) -> int:
    """What this process holds in main memory now; 0 where the system does not say (only Linux does)."""
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


def return_freed_memory() -> None:
    """Have this process give large blocks back to the system as they are freed, from now on; costs a little time.

    glibc keeps them to hand them out again, ever larger ones the more it sees freed, and what it keeps counts as held. Elsewhere
    nothing changes.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)


def free_memory_bytes() -> float:
    """Memory that can still be taken: of the system, and of the control groups (a container, a batch job) around this process.

    Infinite where the system does not say (only Linux does).
    """
    return min((*_system_free(), *_groups_free()), default=math.inf)


def _system_free(meminfo: Path = Path("/proc/meminfo")) -> Iterator[int]:
    for name, amount in _pairs(meminfo):
        if name == "MemAvailable:":
            yield 1024 * amount


def _groups_free(own: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    """What each control group (version 2) from this process's own up to the root leaves; page cache counts as free."""
    if not own.exists():
        return
    mine = next((line[3:] for line in own.read_text().splitlines() if line.startswith("0::")), "/")
    folder = root / os.path.normpath(mine).lstrip("/")
    for group in (folder, *folder.parents):
        limit = group / "memory.max"
        if group.is_relative_to(root) and limit.exists() and (most := limit.read_text().strip()) != "max":
            pages = dict(_pairs(group / "memory.stat")).get("inactive_file", 0)
            yield int(most) - int((group / "memory.current").read_text()) + pages


def _pairs(path: Path) -> Iterator[tuple[str, int]]:
    """Name and number of each line of a file of the kernel's; none where it is missing."""
    for line in path.read_text().splitlines() if path.exists() else []:
        name, amount, *_ = line.split()
        yield name, int(amount)
