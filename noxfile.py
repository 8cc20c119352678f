"""The suite on other Pythons, with other versions of torch, and as on Windows; `nox -l` lists the sessions.

Needs nox (`pip install nox`) and the Pythons. All versions are pinned in constraints.txt alone. What follows `--` goes to pytest:
`nox -s tests-3.13 -- tests/system`.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import nox

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
IN_PARALLEL = ("-n", "auto", "--dist", "loadfile")

nox.options.sessions = ["tests"]
nox.options.error_on_missing_interpreters = False


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the suite with the pinned versions."""
    session.install("-c", "constraints.txt", "-e", ".[dev]")
    session.run("pytest", *IN_PARALLEL, *session.posargs)


@nox.session(python=PYTHONS[0])
@nox.parametrize("version", ["oldest", "newest"])
def torch(session: nox.Session, version: str) -> None:
    """Run the suite with the oldest torch that is allowed, or with the newest that can be had."""
    pins = Path("constraints.txt").read_text(encoding="utf-8")
    free = Path(session.create_tmp(), "constraints.txt").resolve()
    free.write_text(re.sub(r"^torch==.*\n", "", pins, flags=re.M), encoding="utf-8")
    allowed = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    least = next(found[1] for one in allowed if (found := re.match(r"torch>=([\d.]+)", one)))
    wanted = f"torch=={least}.*" if version == "oldest" else "torch"
    session.install("--upgrade", "-c", str(free), wanted, "-e", ".[dev]")
    session.run("python", "-c", "import torch; print('torch', torch.__version__)")
    session.run("pytest", *IN_PARALLEL, *session.posargs)


@nox.session(python=PYTHONS[0])
def portable(session: nox.Session) -> None:
    """Check the types as Windows and macOS have them, and run the suite with all hidden that Windows lacks."""
    session.install("-c", "constraints.txt", "-e", ".[dev]")
    for platform in ("win32", "darwin"):
        session.run("mypy", "--platform", platform, "--cache-dir", f".mypy_cache/{platform}")
    session.run(
        "python", "-m", "pytest", "-p", "tests.masking", "-o", "timeout_method=thread", *IN_PARALLEL, *session.posargs
    )
