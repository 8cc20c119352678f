"""Tests: free main memory by the files of the kernel, and the memory of this process."""

from __future__ import annotations

import mmap
import subprocess
import sys
from pathlib import Path

import pytest

from unet4d.errors import InputError
from unet4d.system import memory as module
from unet4d.system.memory import check_fits, free_memory_bytes, resident_bytes, total_memory_bytes


def groups(root, limits):
    """A tree of control groups, outermost first: (name, limit, used, pages that can be dropped)."""
    folder = root
    for name, limit, used, pages in limits:
        folder = folder / name
        folder.mkdir(exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 5\ninactive_file {pages}\n")
    return folder


def test_a_control_groups_limit_counts_and_that_of_those_around_it(tmp_path):
    own, root = tmp_path / "cgroup", tmp_path / "sys"
    root.mkdir()
    groups(root, [("job", 100, 60, 10), ("step", "max", 60, 10), ("task", 80, 30, 4)])
    own.write_text("1:name=systemd:/x\n0::/job/step/task\n")
    assert list(module._groups_free(own, root)) == [54, 50]
    own.write_text("0::/\n")
    assert list(module._groups_free(own, root)) == []
    assert list(module._groups_free(tmp_path / "none", root)) == []


def test_a_group_outside_of_what_is_seen_is_the_root(tmp_path):
    groups(tmp_path, [("sys", 100, 60, 0)])
    (tmp_path / "memory.max").write_text("1")  # beyond the root, ignored
    (tmp_path / "cgroup").write_text("0::/../..\n")
    assert list(module._groups_free(tmp_path / "cgroup", tmp_path / "sys")) == [40]


def test_what_the_system_has_available_is_read_in_kibibytes(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemFree: 1 kB\nMemAvailable: 7 kB\nHugePages_Total: 0\n")
    assert list(module._system_free(tmp_path / "meminfo")) == [7 * 1024]
    assert list(module._system_free(tmp_path / "none")) == []


def test_free_memory_is_a_positive_number_here():
    assert 0 < free_memory_bytes() <= total_memory_bytes()


def test_the_total_is_what_the_system_and_the_control_groups_have(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemFree: 1 kB\nMemAvailable: 7 kB\nHugePages_Total: 0\n")
    assert list(module._system_free(tmp_path / "meminfo", "MemTotal:")) == [100 * 1024]
    groups(tmp_path, [("job", 100, 60, 10), ("step", "max", 60, 10), ("task", 80, 30, 4)])
    (tmp_path / "cgroup").write_text("0::/job/step/task\n")
    assert [most for _, most in module._group_limits(tmp_path / "cgroup", tmp_path)] == [80, 100]


@pytest.mark.parametrize(("free", "total", "most"), [(60, 100, 60), (10, 100, 50)])
def test_what_cannot_fit_into_memory_is_refused(free, total, most, monkeypatch):
    """Cached files may count as used: half of all memory is let through."""
    monkeypatch.setattr(module, "free_memory_bytes", lambda: free)
    monkeypatch.setattr(module, "total_memory_bytes", lambda: total)
    check_fits(most, "a.nii")
    with pytest.raises(InputError, match="main memory"):
        check_fits(most + 1, "a.nii")


def test_what_this_process_holds_is_its_resident_pages(tmp_path, monkeypatch):
    (tmp_path / "statm").write_text("900 25 7 1 0 300 0\n")
    assert resident_bytes(tmp_path / "statm") == 25 * mmap.PAGESIZE
    monkeypatch.setattr(module, "own_memory_bytes", lambda: 7)
    assert resident_bytes(tmp_path / "none") == 7  # as psutil tells
    if module._OWN_MEMORY.exists():
        assert resident_bytes() > 10e6


BLOCKS = """
import ctypes
import sys
import numpy as np
from unet4d.system.memory import trim_freed_memory, keep_freed_memory, return_large_blocks_when_freed

def block(size):
    \"\"\"A new block, and the share of it that holds what was written into an earlier one: pages of the system are zero.\"\"\"
    new = np.empty(size, np.uint8)
    share = np.count_nonzero(new == 7) / size
    new[:] = 7
    return new, round(share, 1)

def resident(address, size):
    \"\"\"The share of these pages that the process holds; none of what is not mapped.\"\"\"
    start, held = -(-address // 4096) * 4096, 0
    flags, mincore = np.zeros(1, np.uint8), ctypes.CDLL(None).mincore
    for page in range(start, address + size - 4096, 4096):
        found = mincore(ctypes.c_void_p(page), ctypes.c_size_t(4096), ctypes.c_void_p(flags.ctypes.data))
        held += found == 0 and int(flags[0] & 1)
    return round(4096 * held / size, 1)
"""

KEEPS = """
if sys.argv[1] == "return":
    return_large_blocks_when_freed()
block(30_000_000)  # freed at once, from when on glibc keeps blocks of this size
blocks = [block(20_000_000)[0] for _ in range(6)]
kept = np.ones(100_000, np.uint8)  # above them in the heap, so that it does not shrink
del blocks
print(*(block(20_000_000)[1] for _ in range(2)))
"""


def shares(code: str, *words: str) -> list[float]:
    """The numbers that a process of its own prints. Nothing else that the machine does changes what a page holds."""
    command = [sys.executable, "-c", BLOCKS + code, *words]
    return list(
        map(float, subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout.split())
    )


linux = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="glibc's behavior")


@linux
def test_freed_blocks_are_given_back():
    assert shares(KEEPS, "return") == [0, 0]
    assert shares(KEEPS, "keep") == [1, 1], "glibc no longer keeps them: then nothing need be done"


REUSES = """
size, found = 64_000_000, []

def again():
    new, share = block(size)
    found.append(share)
    return new.ctypes.data

again()
again()
with keep_freed_memory():
    again()
    address = again()
    trim_freed_memory()
    found.append(resident(address, size))
    again()
    with keep_freed_memory():
        again()
    address = again()  # which the inner one has not ended
found.append(resident(address, size))
again()
again()
print(*found)
"""


@linux
def test_freed_blocks_are_handed_out_again_and_then_given_back():
    found = shares(REUSES)
    assert found[:2] == [0, 0], "blocks of this size are mapped anew"
    assert found[2:4] == [0, 1], "kept from then on"
    assert found[4:6] == [0, 0], "given back inside"
    assert found[6:8] == [1, 1], "and kept again, also after an inner context"
    assert found[8:] == [0, 0, 0], "afterwards given back, and mapped anew"
