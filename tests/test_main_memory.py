"""Main memory: what the kernel's files say is free, and what this process holds."""

from __future__ import annotations

import mmap
import subprocess
import sys
from pathlib import Path

import pytest

from unet4d import main_memory as module
from unet4d.main_memory import free_memory_bytes, resident_bytes


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
    (tmp_path / "memory.max").write_text("1")  # beyond the root, nobody's business
    (tmp_path / "cgroup").write_text("0::/../..\n")
    assert list(module._groups_free(tmp_path / "cgroup", tmp_path / "sys")) == [40]


def test_what_the_system_has_available_is_read_in_kibibytes(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemFree: 1 kB\nMemAvailable: 7 kB\nHugePages_Total: 0\n")
    assert list(module._system_free(tmp_path / "meminfo")) == [7 * 1024]
    assert list(module._system_free(tmp_path / "none")) == []


def test_free_memory_is_a_positive_number_here():
    assert free_memory_bytes() > 0


def test_what_this_process_takes_shows_in_what_it_holds(tmp_path):
    """Pages of its own, for an array may lie where another one was let go of."""
    before = resident_bytes()
    with mmap.mmap(-1, 64_000_000) as held:
        held.write(b"x" * 64_000_000)
        assert resident_bytes() - before > 50e6
    assert resident_bytes(tmp_path / "none") == 0


KEEPS = """
import sys
import numpy as np
from unet4d.main_memory import resident_bytes, return_freed_memory

if sys.argv[1] == "return":
    return_freed_memory()
np.ones(30_000_000, np.uint8)  # freed at once, from when on glibc keeps blocks of this size
before = resident_bytes()
blocks = [np.ones(20_000_000, np.uint8) for _ in range(6)]
kept = np.ones(100_000, np.uint8)
del blocks
print(resident_bytes() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells what a process holds")
def test_freed_blocks_are_given_back():
    held = [
        int(subprocess.run([sys.executable, "-c", KEEPS, how], capture_output=True, text=True, check=True).stdout)
        for how in ("keep", "return")
    ]
    assert held[1] < 5e6
    assert held[0] > 50e6, "glibc keeps them by itself no longer: then nothing need be done"


REUSES = """
import resource
import numpy as np
from unet4d.main_memory import give_back_freed_memory, keep_freed_memory, resident_bytes

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        np.ones(64_000_000, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before, anew = resident_bytes(), pages()
with keep_freed_memory():
    pages()
    kept = pages()
    held = resident_bytes() - before
    give_back_freed_memory()
    inside = resident_bytes() - before
    with keep_freed_memory():
        pages()
    kept = max(kept, pages())  # which the inner one has not ended
after = resident_bytes() - before
print(anew, kept, held, inside, after, pages())
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells what a process holds")
def test_freed_blocks_are_handed_out_again_and_then_given_back():
    run = subprocess.run([sys.executable, "-c", REUSES], capture_output=True, text=True, check=True)
    anew, kept, held, inside, after, later = map(int, run.stdout.split())
    assert kept < anew / 50  # no page is cleared a second time
    assert held > 60e6
    assert max(inside, after) < 5e6
    assert later > anew / 2, "afterwards blocks of this size are mapped anew"
