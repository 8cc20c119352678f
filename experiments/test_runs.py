"""Run `make test` several times from fresh clones, some of them on a busy machine, and keep one row per run."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
LIMIT_S = 40 * 60
SPIN = "while True: pass"
WRITE = """
import os
while True:
    with open('busy.bin', 'wb') as file:
        for _ in range(8):
            file.write(os.urandom(1 << 23))
            file.flush()
            os.fsync(file.fileno())
    os.unlink('busy.bin')
"""


@contextlib.contextmanager
def child(command: list[str], **options):
    """Start a process in a group of its own, and kill the group at the end."""
    process = subprocess.Popen(command, start_new_session=True, **options)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def clone(folder: Path, venv: Path | None) -> None:
    """Clone this checkout's HEAD and install it; with `venv`, link the packages of that environment instead."""
    subprocess.run(["git", "clone", "--quiet", str(CHECKOUT), str(folder)], check=True)
    if venv is None:
        subprocess.run(["make", "setup"], cwd=folder, check=True)
        return
    (folder / ".venv").mkdir()
    for path in venv.resolve().iterdir():
        if path.name != ".installed":
            (folder / ".venv" / path.name).symlink_to(path)
    (folder / ".venv" / ".installed").touch()


def counts(report: Path) -> dict[str, object]:
    """Return from a JUnit XML file how many tests passed, failed and were skipped, and which one took longest."""
    row: dict[str, object] = {"passed": 0, "failed": 0, "skipped": 0, "longest_s": 0.0, "longest_test": ""}
    cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []  # a killed run writes none
    for case in cases:
        kinds = {part.tag for part in case}
        row["failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"] += 1
        if (seconds := float(case.get("time", 0))) > row["longest_s"]:
            row |= {"longest_s": round(seconds, 1), "longest_test": f"{case.get('classname')}::{case.get('name')}"}
    return row


def one_run(out: Path, number: int, loaded: bool, venv: Path | None) -> dict[str, object]:
    """Run the suite once from a fresh clone; return its row."""
    log, report = out / f"run_{number:02}.log", out / f"run_{number:02}.xml"
    report.unlink(missing_ok=True)
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="test-run-", ignore_cleanup_errors=True)))
        clone(scratch / "clone", venv)
        options = f"{os.environ.get('PYTEST_ADDOPTS', '')} --junit-xml={report} --durations=15"
        own = os.environ | {"PYTEST_ADDOPTS": options, "TMPDIR": str(scratch), "PYTHONPATH": str(scratch / "clone")}
        before, began = os.getloadavg()[0], time.monotonic()
        for source in (SPIN, SPIN, WRITE) if loaded else ():
            stack.enter_context(child([sys.executable, "-c", source], cwd=scratch))
        output = stack.enter_context(open(log, "wb"))
        suite = stack.enter_context(
            child(["make", "test"], cwd=scratch / "clone", env=own, stdout=output, stderr=output)
        )
        try:
            code: int | str = suite.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            code = f"killed after {LIMIT_S} s"
        seconds, after = time.monotonic() - began, os.getloadavg()[0]
    row = {"run": number, "beside": "2 busy loops, disk job" if loaded else "nothing", "exit_code": code}
    return row | {"seconds": round(seconds), "load": f"{before:.1f} to {after:.1f}"} | counts(report)


def table(rows: list[dict[str, object]]) -> str:
    """Return the rows as a Markdown table."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(map(str, row.values()) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(words: list[str]) -> int:
    """Do the runs, and write OUT/runs.json, OUT/runs.md, and the log and JUnit XML of each; return 0 if all passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder of the results")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument(
        "--loaded", type=int, default=0, help="how many of the runs, the last ones, have load beside them"
    )
    parser.add_argument("--venv", type=Path, help="environment to take packages from, instead of an install per clone")
    given = parser.parse_args(words)
    given.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(1, given.runs + 1):
        rows.append(one_run(given.out.resolve(), number, number > given.runs - given.loaded, given.venv))
        (given.out / "runs.json").write_text(json.dumps(rows, indent=1) + "\n")
        (given.out / "runs.md").write_text(table(rows))
        print(table(rows[-1:]), end="", flush=True)
    return int(any(row["exit_code"] != 0 for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
