"""Tests: files, messages and settings of docs/how-to/training.md exist; the scripts of slurm.md work."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from limits import wait_until

from unet4d.cli.main import INTERRUPTED
from unet4d.errors import InputError, Stopped, Unet4DError
from unet4d.training.prepare_run import MAY_CHANGE_ON_RESUME

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "training.md").read_text(encoding="utf-8")
SCRIPTS = re.findall(r"```sh\n(#!.*?)```", (ROOT / "docs" / "how-to" / "slurm.md").read_text(encoding="utf-8"), re.S)
RUN_FILES = PAGE.split("## What is written")[1].split("## ")[0]
MESSAGES = re.findall(r"^\| `([^`]+)` \|", PAGE.split("## Messages")[1].split("## ")[0], re.M)


def test_the_files_of_a_run_are_those_it_names(trained):
    named = set(re.findall(r"^\| `([\w.]+)/?` \|", RUN_FILES, re.M))
    assert named == {path.name for path in trained.iterdir() if path.name != ".lock"}  # which Windows needs


def strings_of(path: Path) -> str:
    """The text that a source holds in its strings, an ellipsis for what is filled in, a line a string."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(p.value) if isinstance(p, ast.Constant) else "…" for p in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return "\n".join(found)


SOURCES = "\n".join(strings_of(path) for path in (ROOT / "unet4d").rglob("*.py"))


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_is_one_of_the_program(message):
    """Its pieces, in this order, within one string; where a string is made of several, in any."""
    pieces = [piece.strip(" ,;:") for piece in message.split("…")]
    missing = [piece for piece in pieces if piece not in SOURCES]
    assert not missing


def test_many_messages_are_explained():
    assert len(MESSAGES) >= 15


def test_exit_codes_are_those_of_the_program():
    codes = set(map(int, re.findall(r"^\| (\d+) \|", PAGE, re.M)))
    assert codes == {0, Unet4DError.exit_code, InputError.exit_code, Stopped.exit_code, INTERRUPTED}


def test_what_may_change_on_resume_is_all_there():
    listed = PAGE.split("These alone may change:")[1].split("\n\n")[0].split("\n|")[0]
    named = re.findall(r"`([\w.]+)`", listed)
    assert sorted(named) == sorted(name.rstrip(".") for name in MAY_CHANGE_ON_RESUME)


def stand_in(folder: Path, name: str, body: str) -> None:
    (folder / "bin").mkdir(exist_ok=True)
    path = folder / "bin" / name
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)


@contextmanager
def started(folder: Path, script: str) -> Iterator[subprocess.Popen]:
    """A script in a process group that ends with the context."""
    environment = os.environ | {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_NNODES": "2",
        "SLURM_JOB_NODELIST": "a[1-2]",
    }  # fmt: skip
    job = subprocess.Popen(["bash", "-c", script], cwd=folder, env=environment, start_new_session=True)
    try:
        yield job
    finally:
        with suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        job.wait(10)


def handles(process: int, number: signal.Signals) -> bool:
    """Return whether a process has a handler for a signal."""
    caught = re.search(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{process}/status").read_text(encoding="utf-8"), re.M)
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


SCONTROL = 'case $1 in show) echo node1; echo node2;; *) echo "$@" >> scontrol.txt;; esac'


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (1, False), (2, False), (75, True)])
def test_the_script_of_one_machine_puts_a_stopped_job_back(tmp_path, code, requeued):
    stand_in(tmp_path, "scontrol", SCONTROL)
    stand_in(tmp_path, "unet4d", f'echo "$@" > given.txt; exit {code}')
    with started(tmp_path, SCRIPTS[0]) as job:
        assert job.wait(90) == code
    assert (tmp_path / "scontrol.txt").exists() == requeued
    assert (tmp_path / "given.txt").read_text() == "train --dataset DATASET --out RUN --config plan.yaml\n"


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only Linux lists the signals that a process handles"
)
def test_the_script_of_one_machine_hands_the_signal_on_and_resumes(tmp_path):
    (tmp_path / "RUN").mkdir()
    (tmp_path / "RUN" / "checkpoint_last.pt").touch()
    stand_in(tmp_path, "scontrol", SCONTROL)
    stopping = (
        "trap 'stop=1' TERM; echo \"$@\" > given.txt; while [ -z $stop ]; do sleep 0.05; done; sleep 0.3; exit 75"
    )
    stand_in(tmp_path, "unet4d", stopping)
    with started(tmp_path, SCRIPTS[0]) as job:
        wait_until(lambda: (tmp_path / "given.txt").exists(), "the training")
        wait_until(lambda: handles(job.pid, signal.SIGTERM), "the script's trap")
        job.send_signal(signal.SIGTERM)
        assert job.wait(90) == 75
    assert (tmp_path / "scontrol.txt").read_text() == "requeue 7\n"
    assert (tmp_path / "given.txt").read_text().endswith(" --resume\n")


@pytest.mark.parametrize(
    ("state", "code", "requeued"), [("stopped", 1, True), ("failed", 1, False), ("finished", 0, False)]
)
def test_the_script_of_several_machines_puts_a_stopped_job_back(tmp_path, state, code, requeued):
    """torchrun ends with 1 whatever its processes end with; the run's summary tells."""
    (tmp_path / "RUN").mkdir()
    (tmp_path / "RUN" / "summary.json").write_text(f'{{\n "state": "{state}"\n}}\n')
    stand_in(tmp_path, "scontrol", SCONTROL)
    stand_in(tmp_path, "srun", f'echo "$@" > given.txt; exit {code}')
    with started(tmp_path, SCRIPTS[1]) as job:
        assert job.wait(90) == code
    assert (tmp_path / "scontrol.txt").exists() == requeued
    assert "--rdzv-endpoint node1:29500" in (tmp_path / "given.txt").read_text()
    assert "--nnodes 2" in (tmp_path / "given.txt").read_text()
