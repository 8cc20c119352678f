"""The errors a user can meet, and `Stopped`. Each message is one line: what was got, what was expected, what to do."""

from __future__ import annotations

from pathlib import Path

from unet4d.system.text import printable


class Unet4DError(Exception):
    """Something failed that is not the input's fault (a full disk, no memory). Ends the command with exit code 1."""

    exit_code = 1

    def __str__(self) -> str:
        """Return the message without characters that could steer a terminal."""
        return printable(super().__str__(), keep="\n\t")


class InputError(Unet4DError, ValueError):
    """The input or its usage is wrong. Ends the command with exit code 2."""

    exit_code = 2


class Stopped(BaseException):
    """A signal asked to stop; what is written is whole: train again with --resume, predict with --continue. Ends with exit code 75.

    75 is EX_TEMPFAIL of sysexits.h, "try again later", so that a scheduler's script can tell it from failure. It is no `Exception`,
    as KeyboardInterrupt is none: nothing that catches whatever may go wrong may catch it.
    """

    exit_code = 75


class ReportedByOtherRank(Unet4DError):
    """An error that another process reports; this one ends with the same exit code and prints nothing."""

    def __init__(self, exit_code: int):
        super().__init__(exit_code)
        self.exit_code = exit_code


def not_installed(error: ModuleNotFoundError) -> str:
    """Return the line for a package that unet4d needs and Python does not find, as in a checkout that was never installed."""
    root = Path(__file__).resolve().parent.parent
    fix = (
        f"run make setup in {root}, or pip install {root}"
        if (root / "pyproject.toml").is_file()
        else "install it again"
    )
    return f"the Python package {error.name} is missing; unet4d needs it and is not fully installed here; {fix}"
